//! Room in a client's queue: publishers who can wait do so while it is scarce, instead of filling the queue until
//! something has to be dropped.

use std::{
    cell::{Cell, RefCell},
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// A client that takes nothing, or less than is published for it, holds its publishers up for this long, and not again
/// before most of its queue was free: the bounds of the queue do the rest.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// What publishers know of one client's queue. Made when it first fills.
///
/// ```text
///  queue:  0 .......... a quarter .......... half .......... full
///                           |                  |               |
///                        open()             fill()        something is dropped
/// ```
#[derive(Debug, Default)]
pub struct Room {
    /// Set while it is scarce: nobody waits beyond that.
    until: Mutex<Option<Instant>>,
    opened: Notify,
}

/// Where a delivery leaves the room of the queue that it went to, for a publisher who can wait.
#[derive(Debug, Default)]
pub struct Rooms {
    noted: RefCell<Option<Arc<Room>>>,
    has_new: Cell<bool>,
}

impl Room {
    /// The queue is half full, or more than that.
    pub(crate) fn fill(&self, now: Instant) {
        self.until.lock().get_or_insert(now + WAIT_MAX);
    }

    /// Most of the queue is free, or nobody is there to take of it.
    pub(crate) fn open(&self) {
        if self.until.lock().take().is_some() {
            self.opened.notify_waiters();
        }
    }

    /// Whether publishers had better wait.
    pub(crate) fn is_scarce(&self, now: Instant) -> bool {
        self.until.lock().is_some_and(|until| now < until)
    }

    /// Waits while it is scarce.
    pub(crate) async fn wait(self: Arc<Self>) {
        loop {
            let opened = self.opened.notified();
            let Some(until) = *self.until.lock() else { return };
            if tokio::time::timeout_at(until.into(), opened).await.is_err() {
                return;
            }
        }
    }
}

impl Rooms {
    /// Of several queues, the publisher waits for one in which room is scarce.
    pub(crate) fn note(&self, room: &Arc<Room>, now: Instant) {
        let mut noted = self.noted.borrow_mut();
        let is_better = |noted: &Arc<Room>| room.is_scarce(now) && !noted.is_scarce(now);
        if noted.as_ref().is_none_or(is_better) {
            *noted = Some(room.clone());
        }
    }

    /// One of them was made by this delivery: other publishers do not know of it.
    pub(crate) fn note_new(&self) {
        self.has_new.set(true);
    }

    /// Says too whether there is a new one.
    pub(super) fn into_room(self) -> (Option<Arc<Room>>, bool) {
        (self.noted.into_inner(), self.has_new.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mqtt::now;

    #[tokio::test(start_paused = true)]
    async fn publishers_wait_until_it_opens_and_no_longer_than_for_a_while() {
        let (room, begun) = (Arc::new(Room::default()), now());
        assert!(!room.is_scarce(now()));
        room.clone().wait().await;
        room.fill(now());
        assert!(room.is_scarce(now()));
        let opens = async {
            tokio::time::sleep(WAIT_MAX / 4).await;
            room.open();
        };
        tokio::join!(room.clone().wait(), opens);
        assert_eq!(now() - begun, WAIT_MAX / 4);
        room.fill(now());
        tokio::time::sleep(WAIT_MAX / 2).await;
        room.fill(now());
        room.clone().wait().await;
        assert_eq!(now() - begun, WAIT_MAX * 5 / 4, "since it became scarce");
        assert!(!room.is_scarce(now()), "it stays full, and nobody waits for it any more");
        room.clone().wait().await;
        assert_eq!(now() - begun, WAIT_MAX * 5 / 4);
    }

    #[test]
    fn of_several_rooms_the_scarce_one_is_kept() {
        let (rooms, plenty, scarce) = (Rooms::default(), Arc::<Room>::default(), Arc::<Room>::default());
        scarce.fill(now());
        for room in [&plenty, &scarce, &plenty] {
            rooms.note(room, now());
        }
        assert!(Arc::ptr_eq(&rooms.into_room().0.unwrap(), &scarce));
    }
}
