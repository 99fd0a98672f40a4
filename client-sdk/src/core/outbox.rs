//! The messages that a stream sends: those that wait for a line, and of those that were given to one the newest,
//! since another line may have to be given them again.
//!
//! ```text
//!   forgotten | kept: given to a line | waiting
//!             first                   next
//! ```
//!
//! The gateway says how far it is only when a connection follows another. Flow control keeps the line from being
//! ahead of it by more than a few windows, so that no word of the gateway is needed to forget what lies behind.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;

use crate::config::Limits;

/// Bytes that the streams of a client keep together.
pub(super) type Total = Arc<AtomicUsize>;

/// See the file's head.
pub(super) struct Outbox {
    /// From number `first` on.
    messages: VecDeque<Bytes>,
    first: u64,
    next: u64,
    /// Messages that a line was given at any time: a gateway may have them, though the request has begun again since.
    given: u64,
    /// What the app sends is dropped.
    is_closed: bool,
    waiting_bytes: usize,
    /// What the kept ones take.
    kept: usize,
    total: Total,
}

/// How much may be kept.
#[derive(Clone, Copy)]
pub(super) struct Room {
    /// Of one stream, beside its newest message and one more.
    pub(super) each: usize,
    pub(super) total: usize,
}

impl Room {
    pub(super) fn of(limits: &Limits) -> Self {
        Self { each: limits.upload_buffer_bytes, total: limits.upload_buffer_bytes_total }
    }
}

impl Outbox {
    pub(super) fn new(total: Total) -> Self {
        Self {
            messages: VecDeque::new(),
            first: 0,
            next: 0,
            given: 0,
            is_closed: false,
            waiting_bytes: 0,
            kept: 0,
            total,
        }
    }

    pub(super) fn push(&mut self, message: Bytes) {
        self.waiting_bytes += message.len();
        self.messages.push_back(message);
    }

    pub(super) fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    pub(super) fn has_waiting(&self) -> bool {
        self.kept_count() < self.messages.len()
    }

    /// The next message for the line.
    pub(super) fn peek(&self) -> Option<&Bytes> {
        self.messages.get(self.kept_count())
    }

    /// The same. It is kept.
    pub(super) fn next(&mut self) -> Option<Bytes> {
        let message = self.peek()?.clone();
        self.pass(1);
        Some(message)
    }

    /// Forgets what there is no room for, the oldest first.
    pub(super) fn trim(&mut self, room: Room) {
        while self.kept_count() > 0 && (self.exceeds(room.each) || self.total() > room.total) {
            let forgotten = self.messages.pop_front().map_or(0, |message| cost(&message));
            self.first += 1;
            self.shrink(forgotten);
        }
    }

    /// Whether nothing was forgotten, nor will be.
    pub(super) fn is_whole(&self) -> bool {
        self.first == 0 && !self.is_closed
    }

    /// Goes on behind the first `count` messages. False, with nothing changed, where the next of them is
    /// forgotten, or was never given to a line.
    pub(super) fn rewind(&mut self, count: u64) -> bool {
        if !(self.first..=self.given).contains(&count) {
            return false;
        }
        if let Some(ahead) = count.checked_sub(self.next) {
            self.pass(ahead as usize);
            return true;
        }
        let kept = (count - self.first) as usize;
        let (again, bytes) = self
            .messages
            .range(kept..self.kept_count())
            .fold((0, 0), |(again, bytes), message| (again + cost(message), bytes + message.len()));
        self.waiting_bytes += bytes;
        self.next = count;
        self.shrink(again);
        true
    }

    /// The next `count` messages are with a line, or with the gateway already.
    fn pass(&mut self, count: usize) {
        let passed = self.messages.range(self.kept_count()..).take(count);
        let (bytes, costs) =
            passed.fold((0, 0), |(bytes, costs), message| (bytes + message.len(), costs + cost(message)));
        self.next += count as u64;
        self.given = self.given.max(self.next);
        self.waiting_bytes -= bytes;
        self.grow(costs);
    }

    /// Nobody wants any of it, nor what the app would send behind it.
    pub(super) fn close(&mut self) {
        self.is_closed = true;
        // What was never given to a line is forgotten as well: no line begins with it any more.
        self.next += (self.messages.len() - self.kept_count()) as u64;
        self.messages = VecDeque::new();
        (self.first, self.given) = (self.next, self.next);
        self.waiting_bytes = 0;
        self.shrink(self.kept);
    }

    fn kept_count(&self) -> usize {
        (self.next - self.first) as usize
    }

    /// Whether more than `bytes` lie between the oldest message and the newest that was given to a line.
    fn exceeds(&self, bytes: usize) -> bool {
        let oldest = self.messages.front().map_or(0, cost);
        let newest = self.messages.get(self.kept_count() - 1).map_or(0, cost);
        self.kept_count() > 1 && self.kept - oldest - newest >= bytes
    }

    fn total(&self) -> usize {
        self.total.load(Ordering::Relaxed)
    }

    fn grow(&mut self, bytes: usize) {
        self.kept += bytes;
        self.total.fetch_add(bytes, Ordering::Relaxed);
    }

    fn shrink(&mut self, bytes: usize) {
        self.kept -= bytes;
        self.total.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.shrink(self.kept);
    }
}

/// Many small messages take more than their bytes.
fn cost(message: &Bytes) -> usize {
    message.len() + size_of::<Bytes>()
}

#[cfg(test)]
mod tests {
    use super::*;

    const COST: usize = 10 + size_of::<Bytes>();

    /// An outbox of messages of ten bytes, each its number, of which `given` went to a line.
    fn outbox(total: &Total, count: u8, given: usize) -> Outbox {
        let mut outbox = Outbox::new(Arc::clone(total));
        (0..count).for_each(|n| outbox.push(vec![n; 10].into()));
        (0..given).for_each(|n| assert_eq!(outbox.next().unwrap()[0], n as u8));
        outbox
    }

    fn rest(outbox: &mut Outbox) -> Vec<u8> {
        std::iter::from_fn(|| outbox.next()).map(|message| message[0]).collect()
    }

    #[test]
    fn what_was_given_is_given_again_from_where_the_gateway_says() {
        let total = Total::default();
        let mut outbox = outbox(&total, 5, 3);
        assert_eq!((outbox.waiting_bytes(), total.load(Ordering::Relaxed)), (20, 3 * COST));
        assert!(!outbox.rewind(4), "it was not given the fourth");
        assert!(outbox.rewind(1));
        assert_eq!((outbox.waiting_bytes(), total.load(Ordering::Relaxed)), (40, COST));
        assert_eq!(rest(&mut outbox), [1, 2, 3, 4]);
        assert!(outbox.rewind(5) && !outbox.has_waiting());
        drop(outbox);
        assert_eq!(total.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn what_a_gateway_has_from_before_it_began_again_is_passed_over() {
        let total = Total::default();
        let mut outbox = outbox(&total, 5, 3);
        assert!(outbox.rewind(0), "it begins again");
        assert!(!outbox.rewind(4), "nobody was given the fourth");
        assert!(outbox.rewind(2));
        assert_eq!((outbox.waiting_bytes(), total.load(Ordering::Relaxed)), (30, 2 * COST));
        assert_eq!(rest(&mut outbox), [2, 3, 4]);
    }

    #[test]
    fn the_oldest_is_forgotten_first_and_the_newest_is_kept() {
        let total = Total::default();
        let mut outbox = outbox(&total, 9, 8);
        outbox.trim(Room { each: 3 * COST, total: usize::MAX });
        assert!(!outbox.is_whole());
        assert!(!outbox.rewind(3) && outbox.rewind(4), "two, and three beside them, less what does not fit");
        assert_eq!(rest(&mut outbox), [4, 5, 6, 7, 8]);
        outbox.trim(Room { each: 0, total: usize::MAX });
        assert!(!outbox.rewind(7) && outbox.rewind(8));
        assert_eq!(rest(&mut outbox), [8]);
    }

    #[test]
    fn beyond_the_total_the_one_that_sends_forgets() {
        let total = Total::default();
        let mut other = outbox(&total, 3, 3);
        let mut sends = outbox(&total, 3, 3);
        let room = Room { each: usize::MAX, total: 4 * COST };
        sends.trim(room);
        assert!(!sends.rewind(1) && sends.rewind(2));
        assert!(other.rewind(0) && other.is_whole());
        sends.trim(Room { total: 0, ..room });
        assert!(!sends.is_whole());
        sends.close();
        other.close();
        assert_eq!((total.load(Ordering::Relaxed), other.waiting_bytes()), (0, 0));
    }

    #[test]
    fn what_is_closed_before_anything_was_given_is_not_whole() {
        let total = Total::default();
        let mut outbox = Outbox::new(total);
        assert!(outbox.is_whole());
        outbox.close();
        assert!(!outbox.is_whole(), "what the app sends behind it is lost");
    }
}
