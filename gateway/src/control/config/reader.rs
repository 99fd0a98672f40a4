//! Reads TOML tables key by key: a mistake is noted and the default goes on in its place, so that one
//! run finds them all.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    fmt::Display,
    ops::{Range, RangeInclusive},
    path::{Path, PathBuf},
    time::Duration,
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};
use towline_crypto::Providers;
use towline_protocols::policy::units::{parse_duration, parse_size, show_duration, show_size};

use super::mistakes::Mistake;

/// A key at most this many edits away is taken for a slip of the pen.
const SUGGESTION_EDITS_MAX: usize = 3;

/// Collects the mistakes of one file.
pub(super) struct Reader {
    base: PathBuf,
    providers: Providers,
    mistakes: RefCell<Vec<Mistake>>,
    /// Every key that was asked for, as `limits.streams_max`.
    asked: RefCell<BTreeSet<String>>,
}

impl Reader {
    pub(super) fn new(base: &Path, providers: &Providers) -> Self {
        Self {
            base: base.into(),
            providers: providers.clone(),
            mistakes: RefCell::default(),
            asked: RefCell::default(),
        }
    }

    /// The parsed file; syntax errors are noted.
    pub(super) fn document<'i>(&self, source: &'i str) -> Spanned<DeTable<'i>> {
        let (document, errors) = DeTable::parse_recoverable(source);
        for error in errors {
            let offset = error.span().map_or(0, |span| span.start);
            self.note(offset, format!("not valid TOML: {}", error.message().trim_end().replace('\n', "; ")));
        }
        document
    }

    pub(super) fn root<'r, 'i>(&'r self, table: &'r DeTable<'i>) -> Table<'r, 'i> {
        Table { reader: self, path: String::new(), table: Some(table), offset: 0, known: Vec::new() }
    }

    pub(super) fn is_clean(&self) -> bool {
        self.mistakes.borrow().is_empty()
    }

    pub(super) fn into_mistakes(self) -> Vec<Mistake> {
        self.mistakes.into_inner()
    }

    #[cfg(test)]
    pub(super) fn asked(&self) -> BTreeSet<String> {
        self.asked.borrow().clone()
    }

    pub(super) fn note(&self, offset: usize, text: String) {
        self.mistakes.borrow_mut().push(Mistake { offset, text });
    }
}

/// One table of the file; an absent one gives defaults.
pub(super) struct Table<'r, 'i> {
    reader: &'r Reader,
    /// `limits`, or `listeners` for each of them.
    path: String,
    table: Option<&'r DeTable<'i>>,
    /// Where the table begins.
    offset: usize,
    known: Vec<&'static str>,
}

impl<'r, 'i> Table<'r, 'i> {
    /// Notes a mistake at the value of `key`, or at the table if the key is absent.
    pub(super) fn mistake(&self, key: &str, text: impl Display) {
        let offset = self.span(key).map_or(self.offset, |span| span.start);
        self.reader.note(offset, format!("{}: {text}", self.name(key)));
    }

    /// Kinds of cryptography that may be named.
    pub(super) fn providers(&self) -> &'r Providers {
        &self.reader.providers
    }

    /// The folder that relative paths start from.
    pub(super) fn base(&self) -> &'r Path {
        &self.reader.base
    }

    /// Whether the file sets `key`.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.is_some_and(|table| table.contains_key(key))
    }

    /// A table below this one.
    pub(super) fn table(&mut self, key: &'static str) -> Table<'r, 'i> {
        let value = self.get(key);
        let table = value.and_then(|value| {
            let table = value.get_ref().as_table();
            if table.is_none() {
                self.wrong_type(key, value, "a table");
            }
            table
        });
        let offset = value.map_or(self.offset, |value| value.span().start);
        Table { reader: self.reader, path: self.name(key), table, offset, known: Vec::new() }
    }

    /// The tables of an array, such as `[[listeners]]`.
    pub(super) fn tables(&mut self, key: &'static str) -> Vec<Table<'r, 'i>> {
        let Some(value) = self.get(key) else { return Vec::new() };
        let Some(array) = value.get_ref().as_array() else {
            self.wrong_type(key, value, &format!("a list of tables: begin each with [[{key}]]"));
            return Vec::new();
        };
        let mut tables = Vec::new();
        for item in array.iter() {
            let Some(table) = item.get_ref().as_table() else {
                self.wrong_type(key, item, &format!("a table: begin it with [[{key}]]"));
                continue;
            };
            let path = self.name(key);
            tables.push(Table {
                reader: self.reader,
                path,
                table: Some(table),
                offset: item.span().start,
                known: Vec::new(),
            });
        }
        tables
    }

    /// A table, or several in a list.
    pub(super) fn one_or_more_tables(&mut self, key: &'static str) -> Vec<Table<'r, 'i>> {
        match self.table.and_then(|table| table.get(key)).map(|value| value.get_ref()) {
            None => {
                self.get(key);
                Vec::new()
            }
            Some(DeValue::Array(_)) => self.tables(key),
            Some(_) => vec![self.table(key)],
        }
    }

    pub(super) fn optional_string(&mut self, key: &'static str) -> Option<String> {
        let value = self.get(key)?;
        let text = value.get_ref().as_str();
        if text.is_none() {
            self.wrong_type(key, value, "a string in quotes");
        }
        text.map(str::to_owned)
    }

    pub(super) fn string(&mut self, key: &'static str, default: &str) -> String {
        self.optional_string(key).unwrap_or_else(|| default.to_owned())
    }

    /// A string that must be there; the mistake says what to write.
    pub(super) fn required_string(&mut self, key: &'static str, example: &str) -> String {
        if !self.has(key) {
            self.known.push(key);
            self.ask(key);
            self.mistake(key, format_args!("is missing; write for example {key} = \"{example}\""));
            return String::new();
        }
        self.string(key, "")
    }

    pub(super) fn strings(&mut self, key: &'static str) -> Vec<String> {
        let Some(value) = self.get(key) else { return Vec::new() };
        let Some(array) = value.get_ref().as_array() else {
            self.wrong_type(key, value, "a list of strings, as [\"a\", \"b\"]");
            return Vec::new();
        };
        let mut strings = Vec::new();
        for item in array.iter() {
            match item.get_ref().as_str() {
                Some(text) => strings.push(text.to_owned()),
                None => self.wrong_type(key, item, "a list of strings, as [\"a\", \"b\"]"),
            }
        }
        strings
    }

    /// A string, or several in a list.
    pub(super) fn one_or_more_strings(&mut self, key: &'static str) -> Vec<String> {
        match self.table.and_then(|table| table.get(key)).map(|value| value.get_ref()) {
            Some(DeValue::String(_)) => self.optional_string(key).into_iter().collect(),
            _ => self.strings(key),
        }
    }

    /// A number from 0 to 100.
    pub(super) fn percent(&mut self, key: &'static str) -> Option<f64> {
        let value = self.get(key)?;
        let text = match value.get_ref() {
            DeValue::Integer(number) => number.as_str(),
            DeValue::Float(number) => number.as_str(),
            _ => "",
        };
        let percent = text.parse().ok().filter(|percent| (0.0..=100.0).contains(percent));
        if percent.is_none() {
            self.wrong_type(key, value, "a number from 0 to 100");
        }
        percent
    }

    /// Everything in the table, for one whose keys are not known beforehand, with the place of each key.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&'r str, usize, &'r Spanned<DeValue<'i>>)> {
        let table = self.table.into_iter().flat_map(|table| table.iter());
        table.map(|(key, value)| (key.get_ref().as_ref(), key.span().start, value))
    }

    /// Notes a mistake at a place that [`Table::entries`] gave.
    pub(super) fn note(&self, offset: usize, text: impl Display) {
        self.reader.note(offset, text.to_string());
    }

    pub(super) fn boolean(&mut self, key: &'static str, default: bool) -> bool {
        let Some(value) = self.get(key) else { return default };
        value.get_ref().as_bool().unwrap_or_else(|| {
            self.wrong_type(key, value, "true or false");
            default
        })
    }

    /// One of a few words.
    pub(super) fn word<T: Copy>(&mut self, key: &'static str, default: T, words: &[(&str, T)]) -> T {
        let Some(text) = self.optional_string(key) else { return default };
        self.choose(key, &text, words).unwrap_or(default)
    }

    /// Finds `text` among `words`, or notes what may be written.
    pub(super) fn choose<T: Copy>(&self, key: &str, text: &str, words: &[(&str, T)]) -> Option<T> {
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        if found.is_none() {
            let words = listed(words.iter().map(|(word, _)| format!("\"{word}\"")));
            self.mistake(key, format_args!("\"{text}\" is not known; write {words}"));
        }
        found
    }

    pub(super) fn integer(&mut self, key: &'static str, default: i64, range: RangeInclusive<i64>) -> i64 {
        let Some(value) = self.get(key) else { return default };
        let number = value.get_ref().as_integer();
        let Some(number) = number.and_then(|n| i64::from_str_radix(n.as_str(), n.radix()).ok()) else {
            let (low, high) = (range.start(), range.end());
            self.wrong_type(key, value, &format!("a whole number from {low} to {high}"));
            return default;
        };
        self.within(key, number, default, &range, |n| n.to_string())
    }

    pub(super) fn count(&mut self, key: &'static str, default: usize, range: RangeInclusive<usize>) -> usize {
        let range = *range.start() as i64..=*range.end() as i64;
        self.integer(key, default as i64, range) as usize
    }

    pub(super) fn duration(
        &mut self,
        key: &'static str,
        default: Duration,
        range: RangeInclusive<Duration>,
    ) -> Duration {
        let Some(value) = self.get(key) else { return default };
        let Some(duration) = value.get_ref().as_str().and_then(parse_duration) else {
            self.wrong_type(key, value, "a duration, as \"500ms\", \"30s\", \"2m\", \"1h\" or \"7d\"");
            return default;
        };
        self.within(key, duration, default, &range, |duration| show_duration(*duration))
    }

    pub(super) fn optional_duration(
        &mut self,
        key: &'static str,
        range: RangeInclusive<Duration>,
    ) -> Option<Duration> {
        let set = self.has(key);
        let duration = self.duration(key, Duration::ZERO, range);
        set.then_some(duration)
    }

    /// A number of bytes: `65536` or `"64KiB"`.
    pub(super) fn size(&mut self, key: &'static str, default: usize, range: RangeInclusive<usize>) -> usize {
        let Some(value) = self.get(key) else { return default };
        let bytes = match value.get_ref() {
            DeValue::Integer(n) => u64::from_str_radix(n.as_str(), n.radix()).ok(),
            DeValue::String(text) => parse_size(text),
            _ => None,
        };
        let Some(bytes) = bytes.and_then(|bytes| usize::try_from(bytes).ok()) else {
            self.wrong_type(key, value, "a number of bytes, as 4096, \"64KiB\", \"4MiB\" or \"1GiB\"");
            return default;
        };
        self.within(key, bytes, default, &range, |bytes| show_size(*bytes as u64))
    }

    /// A path; a relative one starts from the configuration file's folder.
    pub(super) fn optional_path(&mut self, key: &'static str) -> Option<PathBuf> {
        let text = self.optional_string(key)?;
        if text.is_empty() {
            self.mistake(key, "is empty; write a path, or leave the key out");
        }
        Some(self.reader.base.join(text))
    }

    /// A path that has a default, which starts from the file's folder like one that is written.
    pub(super) fn path(&mut self, key: &'static str, default: &Path) -> PathBuf {
        self.optional_path(key).unwrap_or_else(|| self.reader.base.join(default))
    }

    pub(super) fn paths(&mut self, key: &'static str) -> Vec<PathBuf> {
        self.strings(key).into_iter().map(|text| self.reader.base.join(text)).collect()
    }

    /// Notes every key that nobody asked for.
    pub(super) fn finish(&self) {
        let Some(table) = self.table else { return };
        for (key, _) in table.iter().filter(|(key, _)| !self.known.contains(&key.get_ref().as_ref())) {
            let name = key.get_ref();
            let advice = match nearest(name, &self.known) {
                Some(near) => format!("did you mean `{near}`?"),
                None => {
                    format!("known here: {}", listed(self.known.iter().map(|known| format!("`{known}`"))))
                }
            };
            self.reader.note(key.span().start, format!("{}: unknown key; {advice}", self.name(name)));
        }
    }

    fn get(&mut self, key: &'static str) -> Option<&'r Spanned<DeValue<'i>>> {
        if !self.known.contains(&key) {
            self.known.push(key);
        }
        self.ask(key);
        self.table.and_then(|table| table.get(key))
    }

    fn ask(&self, key: &str) {
        self.reader.asked.borrow_mut().insert(self.name(key));
    }

    fn span(&self, key: &str) -> Option<Range<usize>> {
        Some(self.table?.get(key)?.span())
    }

    fn name(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    fn wrong_type(&self, key: &str, value: &Spanned<DeValue<'_>>, expected: &str) {
        let found = match value.get_ref() {
            DeValue::String(text) => format!("\"{text}\""),
            DeValue::Integer(number) => number.to_string(),
            DeValue::Boolean(value) => value.to_string(),
            other => format!("this {}", other.type_str()),
        };
        self.reader.note(value.span().start, format!("{}: {found} is not {expected}", self.name(key)));
    }

    fn within<T: PartialOrd>(
        &self,
        key: &str,
        value: T,
        default: T,
        range: &RangeInclusive<T>,
        show: impl Fn(&T) -> String,
    ) -> T {
        if range.contains(&value) {
            return value;
        }
        let (low, high) = (show(range.start()), show(range.end()));
        self.mistake(key, format_args!("{} is out of range; write {low} to {high}", show(&value)));
        default
    }
}

/// The known key that `unknown` was probably meant to be.
pub(super) fn nearest<'k>(unknown: &str, known: &[&'k str]) -> Option<&'k str> {
    let (edits, key) = known.iter().map(|key| (edits(unknown, key), *key)).min()?;
    (edits <= SUGGESTION_EDITS_MAX.min(unknown.len() / 2 + 1)).then_some(key)
}

/// Letters to insert, remove, replace, or swap with their neighbour to make `a` of `b`.
fn edits(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

/// `a, b or c`.
fn listed(words: impl Iterator<Item = String>) -> String {
    let words: Vec<_> = words.collect();
    match words.as_slice() {
        [] => String::new(),
        [only] => only.clone(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}
