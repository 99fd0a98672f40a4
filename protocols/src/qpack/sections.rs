//! Header sections that were sent and are not acknowledged: what they refer to must stay in the table.

use std::collections::{BTreeMap, VecDeque};

/// Beyond this many, sections are sent without references to the dynamic table, so that a peer that does
/// not acknowledge costs no more memory.
const SECTIONS_MAX: usize = 512;

/// A section that refers to the dynamic table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Section {
    /// Insert count that its decoder needs: one more than the newest entry that it refers to.
    pub(super) required: u64,
    /// The oldest entry that it refers to.
    pub(super) oldest: u64,
}

impl Section {
    pub(super) fn new() -> Self {
        Self { required: 0, oldest: u64::MAX }
    }

    pub(super) fn refer(&mut self, entry: u64) {
        self.required = self.required.max(entry + 1);
        self.oldest = self.oldest.min(entry);
    }
}

/// Sections by stream, in the order in which they were sent.
#[derive(Debug, Default)]
pub(super) struct Sections {
    by_stream: BTreeMap<u64, VecDeque<Section>>,
    count: usize,
}

impl Sections {
    pub(super) fn is_full(&self) -> bool {
        self.count >= SECTIONS_MAX
    }

    pub(super) fn add(&mut self, stream: u64, section: Section) {
        self.by_stream.entry(stream).or_default().push_back(section);
        self.count += 1;
    }

    /// The oldest section of the stream was decoded.
    pub(super) fn acknowledge(&mut self, stream: u64) -> Option<Section> {
        let sections = self.by_stream.get_mut(&stream)?;
        let section = sections.pop_front();
        if sections.is_empty() {
            self.by_stream.remove(&stream);
        }
        self.count -= usize::from(section.is_some());
        section
    }

    /// None of the stream's sections will be decoded any more.
    pub(super) fn cancel(&mut self, stream: u64) {
        let sections = self.by_stream.remove(&stream).unwrap_or_default();
        self.count -= sections.len();
    }

    /// The oldest entry that any section refers to.
    pub(super) fn oldest(&self) -> u64 {
        let all = self.by_stream.values().flatten();
        all.map(|section| section.oldest).min().unwrap_or(u64::MAX)
    }

    /// Whether a section of `stream` may wait for insertions that the decoder is not known to have: it does
    /// already, or fewer than `blocked_max` others do.
    pub(super) fn may_block(&self, stream: u64, received: u64, blocked_max: usize) -> bool {
        let is_at_risk = |sections: &VecDeque<Section>| sections.iter().any(|sent| sent.required > received);
        blocked_max > 0
            && (self.by_stream.get(&stream).is_some_and(is_at_risk)
                || self.by_stream.values().filter(|sections| is_at_risk(sections)).count() < blocked_max)
    }
}
