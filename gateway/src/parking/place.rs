//! One parked connection, and the race between those who park it and those who call it.

use std::{
    io,
    sync::{Arc, Weak},
    task::Wake,
};

use parking_lot::Mutex;

use super::{Idle, Patience, lot::Inner};

/// A place in the lot. Its waker calls the connection.
///
/// ```text
///             settle: the session knows the waker       commit
///  Arriving ----------------------------------------------------> Parked
///     |                                                             |
///     | wake                                                  wake  |  the lot
///     v          commit                                             v
///   Woken ------------------> given back to its task             Called --take--> Left
/// ```
///
/// Whoever has something for the connection does that first and wakes second; the connection looks for it
/// first and registers second. So either it is seen by `settle`, or the waker is there to be woken, and what
/// wakes it before `commit` is remembered until then.
pub(super) struct Place<T: Idle> {
    lot: Weak<Inner<T>>,
    inside: Mutex<Inside<T>>,
}

struct Inside<T> {
    connection: Option<T>,
    ticket: Ticket,
    /// [`Arrival`] in parts, which lie beside the stage without a gap.
    since_ms: u32,
    patience: Patience,
    stage: Stage,
}

/// How a connection came.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Arrival {
    pub(super) patience: Patience,
    /// Milliseconds since the lot began, in a circle of 49 days.
    pub(super) since_ms: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Arriving,
    Woken,
    Parked,
    Called,
    Left,
}

/// Where the lot keeps a place: its index in the low bits, and above them when it is due, milliseconds since
/// the lot began; 0 is never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ticket(u64);

impl Ticket {
    const INDEX_BITS: u32 = 24;
    /// Places of one lot: what the index can name.
    pub(super) const PLACES_MAX: usize = 1 << Self::INDEX_BITS;

    pub(super) fn new(index: usize, due_ms: u64) -> Self {
        Self(due_ms << Self::INDEX_BITS | index as u64)
    }

    pub(super) fn index(self) -> usize {
        (self.0 & (Self::PLACES_MAX as u64 - 1)) as usize
    }

    /// Milliseconds since the lot began; 0 is never.
    pub(super) fn due_ms(self) -> u64 {
        self.0 >> Self::INDEX_BITS
    }
}

impl<T: Idle> Place<T> {
    pub(super) fn new(lot: Weak<Inner<T>>) -> Self {
        let inside = Inside {
            connection: None,
            ticket: Ticket::default(),
            since_ms: 0,
            patience: Patience::default(),
            stage: Stage::Arriving,
        };
        Self { lot, inside: Mutex::new(inside) }
    }

    /// Takes the connection in, unless it was woken on the way. `admit` makes the lot watch it.
    pub(super) fn commit(
        &self,
        connection: T,
        arrival: Arrival,
        admit: impl FnOnce(&T) -> io::Result<Ticket>,
    ) -> Result<(), T> {
        let mut inside = self.inside.lock();
        let admitted = (inside.stage == Stage::Arriving).then(|| admit(&connection));
        let Some(Ok(ticket)) = admitted else {
            inside.stage = Stage::Left;
            return Err(connection);
        };
        let Arrival { patience, since_ms } = arrival;
        *inside = Inside { connection: Some(connection), ticket, since_ms, patience, stage: Stage::Parked };
        Ok(())
    }

    /// The connection, if it is still here, and how it came.
    pub(super) fn take(&self) -> Option<(T, Ticket, Arrival)> {
        let mut inside = self.inside.lock();
        let connection = inside.connection.take()?;
        inside.stage = Stage::Left;
        let arrival = Arrival { patience: inside.patience, since_ms: inside.since_ms };
        Some((connection, inside.ticket, arrival))
    }

    /// Whether the connection is here and wants to hear of a drain.
    pub(super) fn hears_drain(&self) -> bool {
        self.inside.lock().connection.as_ref().is_some_and(T::hears_drain)
    }
}

impl<T: Idle> Wake for Place<T> {
    /// May be called under a session's lock: takes no other than its own and that of the lot's list.
    fn wake(self: Arc<Self>) {
        let mut inside = self.inside.lock();
        match inside.stage {
            Stage::Arriving => inside.stage = Stage::Woken,
            Stage::Parked => {
                // Without a lot the runtime is ending, and nobody could serve it.
                let Some(lot) = self.lot.upgrade() else { return };
                inside.stage = Stage::Called;
                drop(inside);
                lot.call(self);
            }
            Stage::Woken | Stage::Called | Stage::Left => {}
        }
    }
}
