//! Mistakes of a configuration file, as the operator gets to see them.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

/// One mistake: where, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Byte offset in the file.
    pub(super) offset: usize,
    /// What is wrong and what to write instead; begins with the key.
    pub(super) text: String,
}

/// Every mistake of a file, printed one a line as `file:line:column: text`.
#[derive(Debug)]
pub struct Mistakes {
    file: PathBuf,
    /// Line, column (both from 1) and text; no line for a file that could not be read.
    list: Vec<(Option<(usize, usize)>, String)>,
}

impl Mistakes {
    pub(super) fn new(file: &Path, source: &str, mut mistakes: Vec<Mistake>) -> Self {
        mistakes.sort_by_key(|mistake| mistake.offset);
        let list = mistakes
            .into_iter()
            .map(|mistake| (Some(position(source, mistake.offset)), mistake.text))
            .collect();
        Self { file: file.into(), list }
    }

    pub(super) fn of_file(file: &Path, error: &io::Error) -> Self {
        Self { file: file.into(), list: vec![(None, format!("cannot be read: {error}"))] }
    }

    /// How many there are; at least one.
    pub fn count(&self) -> usize {
        self.list.len()
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (position, text)) in self.list.iter().enumerate() {
            let newline = if index == 0 { "" } else { "\n" };
            match position {
                Some((line, column)) => {
                    write!(f, "{newline}{}:{line}:{column}: {text}", self.file.display())?
                }
                None => write!(f, "{newline}{}: {text}", self.file.display())?,
            }
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}

/// Line and column, both from 1; columns count characters.
fn position(source: &str, offset: usize) -> (usize, usize) {
    let before = source.get(..offset).unwrap_or(source);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}
