//! What publishers have on its way to subscribers of the same worker.
//!
//! A closed loop of QoS 0 has no acknowledgement to wait for, and one of QoS 1 waits for the broker only: both fill a
//! slow broker's queues until it drops. With windows a publisher goes on when its messages have *arrived*, so that
//! every broker does the same work.
//!
//! ```text
//!  publish --sent(lane, copies)--> under way --arrived(lane), from the payload--> room: the publisher is woken
//! ```

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use tokio::sync::Notify;

/// Octets of a payload that name the publisher, behind the send time.
pub(super) const LANE_BYTES: usize = 4;

/// One lane for each publisher.
#[derive(Debug, Default)]
pub struct Windows(RefCell<Vec<Rc<Lane>>>);

/// One publisher's.
#[derive(Debug, Default)]
pub struct Lane {
    under_way: Cell<u64>,
    arrived: Cell<u64>,
    room: Notify,
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
        let named = payload.get(size_of::<u64>()..).and_then(|rest| rest.first_chunk::<LANE_BYTES>());
        let lanes = self.0.borrow();
        if let Some(lane) = named.and_then(|index| lanes.get(u32::from_be_bytes(*index) as usize)) {
            lane.under_way.set(lane.under_way.get().saturating_sub(1));
            lane.arrived.set(lane.arrived.get() + 1);
            lane.room.notify_one();
        }
    }
}

impl Lane {
    /// So many copies of a publish have left.
    pub fn sent(&self, copies: u64) {
        self.under_way.set(self.under_way.get() + copies);
    }

    /// Whether another publish of `copies` fits, if `in_flight` may be under way.
    pub fn has_room(&self, in_flight: usize, copies: u64) -> bool {
        self.under_way.get() + copies <= in_flight as u64 * copies
    }

    /// Waits until something has arrived.
    pub async fn changed(&self) {
        self.room.notified().await;
    }

    /// What has not arrived since the last look never will: it was lost.
    pub fn give_up(&self) {
        if self.arrived.replace(0) == 0 {
            self.under_way.set(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_publisher_has_room_when_its_own_copies_have_arrived() {
        let windows = Windows::default();
        let (lane, other) = (windows.lane(1), windows.lane(0));
        lane.sent(2);
        assert!(!lane.has_room(1, 2) && other.has_room(1, 2));
        let payload = [[0; 8].as_slice(), &1_u32.to_be_bytes(), b"..."].concat();
        windows.arrived(&payload);
        assert!(!lane.has_room(1, 2), "half of it is under way");
        windows.arrived(&payload);
        assert!(lane.has_room(1, 2));
        windows.arrived(b"not ours");
    }

    #[test]
    fn what_was_lost_does_not_hold_its_publisher_up() {
        let lane = Windows::default().lane(0);
        lane.sent(3);
        lane.arrived.set(1);
        lane.give_up();
        assert!(!lane.has_room(1, 3), "something came meanwhile");
        lane.give_up();
        assert!(lane.has_room(1, 3));
    }
}
