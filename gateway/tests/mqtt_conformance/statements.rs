//! The table of statements is true: what it names is there, and what is there is named.

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    path::{Path, PathBuf},
};

const TABLE: &str = include_str!("STATEMENTS.md");
/// What a statement without a test may say instead.
const EXCUSES: [&str; 3] = ["client: ", "does not apply: ", "no test of its own: "];
/// As many as the standard has, those on WebSocket among them.
const STATEMENTS: usize = 251;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mqtt_conformance")
}

/// The cells of each row.
fn rows() -> impl Iterator<Item = Vec<&'static str>> {
    let rows = TABLE.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| Statement"));
    rows.map(|row| row.trim_matches('|').split(" | ").map(str::trim).collect())
}

/// Tests that a cell names, as file and name.
fn tests(cell: &str) -> Vec<(&str, &str)> {
    cell.split('`').filter_map(|part| part.split_once("::")).collect()
}

/// Functions of a file that are marked as tests.
fn functions(file: &str) -> BTreeSet<String> {
    let path = folder().join(file);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let name = |line: &str| Some(line.split_once("fn ")?.1.split_once('(')?.0.to_owned());
    let lines: Vec<_> = text.lines().collect();
    lines
        .windows(2)
        .filter(|pair| pair[0].starts_with("#[tokio::test"))
        .filter_map(|pair| name(pair[1]))
        .collect()
}

#[test]
fn every_test_that_the_table_names_is_there() {
    let mut files = HashMap::new();
    for row in rows() {
        for (file, name) in tests(row.last().unwrap()) {
            let functions = files.entry(file).or_insert_with(|| functions(file));
            assert!(functions.contains(name), "{}: {file} has no test {name}", row[0]);
        }
    }
}

#[test]
fn every_statement_has_a_test_or_a_reason_why_not() {
    let mut statements = Vec::new();
    for row in TABLE.split("\n## ").next().unwrap().lines().filter(|line| line.starts_with("| MQTT-")) {
        let cells: Vec<_> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let [statement, _, cover] = cells[..] else { panic!("not three cells: {row}") };
        let is_excused = EXCUSES.iter().any(|excuse| cover.starts_with(excuse));
        assert!(is_excused || !tests(cover).is_empty(), "{statement}: neither a test nor a reason");
        let numbers = statement.trim_start_matches("MQTT-").split(['.', '-']);
        statements.push(numbers.map(|number| number.parse::<u32>().unwrap()).collect::<Vec<_>>());
    }
    assert!(statements.is_sorted_by(|a, b| a < b), "each once, in their order");
    assert_eq!(statements.len(), STATEMENTS);
}

#[test]
fn every_test_of_this_folder_is_named_in_the_table() {
    let named: BTreeSet<_> =
        rows().flat_map(|row| tests(row.last().unwrap())).map(|(_, name)| name.to_owned()).collect();
    for entry in fs::read_dir(folder()).unwrap() {
        let file = entry.unwrap().file_name().into_string().unwrap();
        if file.ends_with(".rs") {
            let missing: Vec<_> = functions(&file).difference(&named).cloned().collect();
            assert!(missing.is_empty(), "{file}: {missing:?}");
        }
    }
}
