//! Figures of several servers side by side, for people and for programs.

use std::{
    fmt::{self, Write as _},
    io::Write,
    path::Path,
};

use serde::Serialize;

/// The server that the others stand beside.
pub(super) const TOWLINE: &str = "towline";

/// All tables of a run.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    version: &'static str,
    command: Vec<String>,
    cores: usize,
    /// Load averages of the machine when the run began and when it ended: others' work, too.
    load_before: String,
    load_after: String,
    tables: Vec<Table>,
}

/// One question's figures.
#[derive(Debug, Serialize)]
pub(super) struct Table {
    title: String,
    /// What the figures of a row are, with their units. The first one is compared.
    columns: Vec<String>,
    rows: Vec<Row>,
    /// What a reader must know of the figures.
    notes: Vec<String>,
}

/// One server in one case.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Row {
    pub(super) case: String,
    pub(super) server: String,
    /// As many as the table has columns, or none where the server is absent.
    pub(super) figures: Vec<f64>,
    /// Towline's first figure in the same case over this one.
    pub(super) towline_over_this: Option<f64>,
    /// Why there are no figures, or what is particular about them.
    pub(super) note: String,
}

impl Report {
    pub(super) fn begin() -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION"),
            command: std::env::args().collect(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            load_before: load_average(),
            load_after: String::new(),
            tables: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, table: Table) {
        self.tables.push(table.compared());
    }

    /// Whether Towline has a figure wherever it was asked for one.
    pub(super) fn is_complete(&self) -> bool {
        let mut rows = self.tables.iter().flat_map(|table| &table.rows);
        rows.all(|row| row.server != TOWLINE || !row.figures.is_empty())
    }

    /// The text goes to standard output, unless the JSON does.
    pub(super) fn publish(&mut self, json: Option<&Path>) -> Result<(), String> {
        self.load_after = load_average();
        let pretty = || serde_json::to_string_pretty(self).map_err(|error| error.to_string());
        let text = match json {
            Some(path) if path == Path::new("-") => pretty()? + "\n",
            Some(path) => {
                std::fs::write(path, pretty()? + "\n")
                    .map_err(|error| format!("--json {}: {error}", path.display()))?;
                self.to_string()
            }
            None => self.to_string(),
        };
        let written = std::io::stdout().lock().write_all(text.as_bytes());
        written.map_err(|error| format!("cannot write the report: {error}"))
    }
}

impl Table {
    pub(super) fn new(title: impl Into<String>, columns: &[&str]) -> Self {
        let columns = columns.iter().map(|&name| name.to_owned()).collect();
        Self { title: title.into(), columns, rows: Vec::new(), notes: Vec::new() }
    }

    pub(super) fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// A server's figures with a note, or why it has none.
    pub(super) fn row(&mut self, case: &str, server: &str, figures: Result<(Vec<f64>, String), String>) {
        let (figures, note) = figures.unwrap_or_else(|why| (Vec::new(), why));
        let (case, server) = (case.to_owned(), server.to_owned());
        self.rows.push(Row { case, server, figures, towline_over_this: None, note });
    }

    fn compared(mut self) -> Self {
        let first = |row: &Row| row.figures.first().copied();
        let towline = |case: &str, rows: &[Row]| {
            rows.iter().find(|row| row.case == case && row.server == TOWLINE).and_then(first)
        };
        let shares: Vec<_> = self
            .rows
            .iter()
            .map(|row| {
                let (ours, theirs) = (towline(&row.case, &self.rows)?, first(row)?);
                (row.server != TOWLINE && theirs > 0.0).then(|| ours / theirs)
            })
            .collect();
        self.rows.iter_mut().zip(shares).for_each(|(row, share)| row.towline_over_this = share);
        self
    }

    fn cells(&self, row: &Row) -> Vec<String> {
        let figures =
            (0..self.columns.len()).map(|at| row.figures.get(at).map_or("-".into(), |f| figure(*f)));
        let share = row.towline_over_this.map_or(String::new(), |share| format!("{share:.2}"));
        [row.case.clone(), row.server.clone()].into_iter().chain(figures).chain([share]).collect()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { version, cores, load_before, load_after, .. } = self;
        writeln!(f, "towline-load {version}, {cores} cores, load {load_before} before, {load_after} after")?;
        self.tables.iter().try_for_each(|table| write!(f, "\n{table}"))
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = ["case", "server"].into_iter().chain(self.columns.iter().map(String::as_str));
        let head: Vec<_> = head.chain(["towline/this"]).map(str::to_owned).collect();
        let lines: Vec<_> =
            std::iter::once(head).chain(self.rows.iter().map(|row| self.cells(row))).collect();
        let widths: Vec<_> =
            (0..lines[0].len()).map(|at| lines.iter().map(|line| line[at].chars().count()).max()).collect();
        let notes = std::iter::once("").chain(self.rows.iter().map(|row| row.note.as_str()));
        writeln!(f, "{}", self.title)?;
        for (line, note) in lines.iter().zip(notes) {
            let mut text = String::new();
            for (at, (cell, width)) in line.iter().zip(&widths).enumerate() {
                let width = width.unwrap_or(0);
                // Names to the left, figures to the right.
                if at < 2 { write!(text, "  {cell:<width$}")? } else { write!(text, "  {cell:>width$}")? }
            }
            writeln!(f, "{}", format!("{text}  {note}").trim_end())?;
        }
        self.notes.iter().try_for_each(|note| writeln!(f, "  {note}"))
    }
}

/// Three digits or so, which is what such measurements are good for.
fn figure(value: f64) -> String {
    match value.abs() {
        small if small < 10.0 => format!("{value:.2}"),
        middle if middle < 100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

fn load_average() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_ascii_whitespace().next().unwrap_or("unknown").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_row_is_compared_with_towline_in_the_same_case() {
        let mut table = Table::new("t", &["us", "per second"]);
        table.row("a", TOWLINE, Ok((vec![10.0, 3.0], String::new())));
        table.row("a", "nginx", Ok((vec![40.0, 2.0], "old".into())));
        table.row("b", "nginx", Ok((vec![40.0, 2.0], String::new())));
        table.row("b", TOWLINE, Err("does not start".into()));
        let table = table.compared();
        let shares: Vec<_> = table.rows.iter().map(|row| row.towline_over_this).collect();
        assert_eq!(shares, [None, Some(0.25), None, None]);
        let text = table.to_string();
        assert!(text.contains("a     nginx    40.0        2.00          0.25  old\n"), "{text}");
        assert!(text.contains("b     towline     -           -                does not start"), "{text}");
    }

    #[test]
    fn figures_have_three_digits() {
        let shown: Vec<_> = [0.123, 9.87, 12.34, 1234.5].map(figure).to_vec();
        assert_eq!(shown, ["0.12", "9.87", "12.3", "1234"]);
    }
}
