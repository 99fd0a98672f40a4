//! Which pushes a client has received, taken and acknowledged.

use crate::link::{Priority, PushesTaken, Welcome};

/// Urgencies that there are.
const URGENCIES: usize = 8;

/// A push id for each urgency: pushes of one urgency come in the order of their ids.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PushMarks([u64; URGENCIES]);

impl PushMarks {
    /// Of these ids, by urgency; what is missing is 0.
    pub fn new(ids: &[u64]) -> Self {
        let mut marks = Self::default();
        marks.0.iter_mut().zip(ids).for_each(|(mark, id)| *mark = *id);
        marks
    }

    /// The id of one urgency.
    pub const fn get(&self, priority: Priority) -> u64 {
        self.0[priority.urgency() as usize]
    }

    /// Sets the id of one urgency if that raises it, and says whether it did.
    pub fn raise(&mut self, priority: Priority, id: u64) -> bool {
        let mark = &mut self.0[usize::from(priority.urgency())];
        let is_higher = id > *mark;
        *mark = id.max(*mark);
        is_higher
    }

    /// The ids by urgency, without zeros at the end.
    pub fn ids(&self) -> &[u64] {
        let end = self.0.iter().rposition(|id| *id > 0).map_or(0, |last| last + 1);
        &self.0[..end]
    }

    /// The largest id.
    pub fn max(&self) -> u64 {
        self.0.into_iter().max().unwrap_or_default()
    }
}

/// The client's side of a session's pushes.
///
/// ```text
///  arrives --received--> handed to the application --taken--> PUSH_ACK --told
/// ```
#[derive(Debug, Default)]
pub(super) struct Pushes {
    /// The numbering that the marks belong to; 0 before the first WELCOME.
    line: u64,
    received: PushMarks,
    taken: PushMarks,
    told: PushMarks,
}

impl Pushes {
    /// Those of an earlier run of the program.
    pub(super) fn restored(line: u64, taken: PushMarks) -> Self {
        Self { line, received: taken, taken, told: taken }
    }

    pub(super) fn taken(&self) -> (u64, PushMarks) {
        (self.line, self.taken)
    }

    /// For HELLO, which tells the server as PUSH_ACK would.
    pub(super) fn hello(&mut self) -> Option<PushesTaken> {
        self.told = self.taken;
        (self.line != 0).then(|| PushesTaken { push_line: self.line, ids: self.taken.ids().to_vec() })
    }

    pub(super) fn on_welcome(&mut self, welcome: &Welcome) {
        if self.line != welcome.push_line {
            *self = Self { line: welcome.push_line, ..Self::default() };
        }
    }

    /// Whether a push is new.
    pub(super) fn on_push(&mut self, priority: Priority, id: u64) -> bool {
        self.received.raise(priority, id)
    }

    pub(super) fn on_taken(&mut self, priority: Priority, id: u64) {
        self.taken.raise(priority, id.min(self.received.get(priority)));
    }

    /// What the server has not been told.
    pub(super) fn take_ack(&mut self) -> Option<(Priority, u64)> {
        (0..).map(Priority::new).take(URGENCIES).find_map(|priority| {
            let id = self.taken.get(priority);
            self.told.raise(priority, id).then_some((priority, id))
        })
    }
}
