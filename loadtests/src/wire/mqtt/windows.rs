//! What publishers have on its way to subscribers of the same worker.
//!
//! A closed loop of QoS 0 has no acknowledgement to wait for, and one of QoS 1 waits for the broker only: both fill a
//! slow broker's queues until it drops. With windows a publisher goes on when its messages have *arrived*, so that
//! every broker does the same work. A publish has arrived when the *last* subscriber has it: by the sum of all copies,
//! one subscriber could be behind by as many messages as all the others are ahead, and its queue would overflow.
//!
//! ```text
//!  publish --sent(due, copies)--> under way --arrived(lane, due), from the payload--> room: the publisher is woken
//! ```

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
};

use tokio::sync::Notify;

use crate::clock;

/// Octets of a payload that name the publisher, behind the send time.
pub(super) const LANE_BYTES: usize = 4;
/// What has not arrived so long after anything else did, nanoseconds, is lost. A busy machine may well keep a message for
/// a tenth of that, and what is given up too early is under way twice.
const LOST_AFTER: u64 = clock::SECOND;

/// One lane for each publisher.
#[derive(Debug, Default)]
pub struct Windows(RefCell<Vec<Rc<Lane>>>);

/// One publisher's.
#[derive(Debug, Default)]
pub struct Lane {
    /// In the order of sending.
    under_way: RefCell<VecDeque<UnderWay>>,
    /// When something last left or arrived.
    moved_at: Cell<u64>,
    room: Notify,
}

#[derive(Debug)]
struct UnderWay {
    due: u64,
    /// Copies that have not arrived.
    missing: u64,
}

impl Windows {
    /// The lane of publisher `index`.
    pub fn lane(&self, index: u32) -> Rc<Lane> {
        let mut lanes = self.0.borrow_mut();
        while lanes.len() <= index as usize {
            lanes.push(Rc::default());
        }
        lanes[index as usize].clone()
    }

    /// A subscriber has a message with this payload. One of another program names nobody.
    pub fn arrived(&self, payload: &[u8]) {
        let Some((due, rest)) = payload.split_first_chunk::<{ size_of::<u64>() }>() else { return };
        let Some(index) = rest.first_chunk::<LANE_BYTES>() else { return };
        if let Some(lane) = self.0.borrow().get(u32::from_be_bytes(*index) as usize) {
            lane.arrived(u64::from_be_bytes(*due));
        }
    }
}

impl Lane {
    /// The publish that was due then has left for so many subscribers.
    pub fn sent(&self, due: u64, copies: u64) {
        self.moved_at.set(due);
        self.under_way.borrow_mut().push_back(UnderWay { due, missing: copies });
    }

    /// Whether another publish fits, if `in_flight` may be under way.
    pub fn has_room(&self, in_flight: usize) -> bool {
        self.under_way.borrow().len() < in_flight
    }

    /// Waits until a publish has arrived everywhere.
    pub async fn changed(&self) {
        self.room.notified().await;
    }

    /// Forgets what is lost.
    pub fn give_up(&self, now: u64) {
        if now.saturating_sub(self.moved_at.get()) > LOST_AFTER {
            self.under_way.borrow_mut().clear();
        }
    }

    /// A copy of what was due then is there. What was given up counts no more.
    fn arrived(&self, due: u64) {
        self.moved_at.set(clock::now());
        let mut under_way = self.under_way.borrow_mut();
        let Some(at) = under_way.iter().position(|publish| publish.due == due) else { return };
        under_way[at].missing -= 1;
        if under_way[at].missing == 0 {
            under_way.remove(at);
            self.room.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(due: u64, lane: u32) -> Vec<u8> {
        [&due.to_be_bytes()[..], &lane.to_be_bytes(), b"..."].concat()
    }

    #[test]
    fn a_publisher_has_room_when_all_copies_of_one_of_its_publishes_have_arrived() {
        let windows = Windows::default();
        let (lane, other) = (windows.lane(1), windows.lane(0));
        lane.sent(7, 2);
        lane.sent(8, 2);
        assert!(!lane.has_room(2) && other.has_room(2));
        // One subscriber has both, the other none.
        windows.arrived(&payload(7, 1));
        windows.arrived(&payload(8, 1));
        assert!(!lane.has_room(2), "half of each is under way");
        windows.arrived(&payload(8, 1));
        assert!(lane.has_room(2) && !lane.has_room(1));
        windows.arrived(b"not ours");
    }

    #[test]
    fn what_was_lost_does_not_hold_its_publisher_up_and_what_is_late_counts_once() {
        let (windows, now) = (Windows::default(), clock::now());
        let lane = windows.lane(0);
        lane.sent(now, 1);
        lane.give_up(now + LOST_AFTER);
        assert!(!lane.has_room(1), "it may only be slow");
        lane.give_up(now + LOST_AFTER + 1);
        assert!(lane.has_room(1));
        lane.sent(now + 1, 1);
        windows.arrived(&payload(now, 0));
        assert!(!lane.has_room(1), "that was given up before");
    }
}
