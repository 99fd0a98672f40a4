//! Requests that have not arrived whole: they are begun when they have, so that one that was cut has not run. Only as
//! much is gathered as a stream's window; what is larger goes to its backend as it comes.

use std::collections::BTreeMap;

use towline_protocols::link::Event;

pub(super) struct Gathering {
    held: BTreeMap<u64, Vec<Event>>,
    bytes: usize,
    bytes_max: usize,
}

impl Gathering {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { held: BTreeMap::new(), bytes: 0, bytes_max }
    }

    /// Takes an event of a request, and gives back what is to be followed now.
    pub(super) fn take_in(&mut self, event: Event) -> Vec<Event> {
        match &event {
            Event::Request { seq, end: false, .. } => {
                self.held.insert(*seq, vec![event]);
                Vec::new()
            }
            Event::MessagePart { seq, end, .. } => self.add(*seq, *end, event),
            Event::End { seq } | Event::Trailers { seq, .. } => self.add(*seq, true, event),
            _ => vec![event],
        }
    }

    /// Drops what is held of a request, and gives it back.
    pub(super) fn forget(&mut self, seq: u64) -> Option<Vec<Event>> {
        let held = self.held.remove(&seq)?;
        self.bytes -= held.iter().map(bytes_of).sum::<usize>();
        Some(held)
    }

    fn add(&mut self, seq: u64, is_whole: bool, event: Event) -> Vec<Event> {
        let Some(held) = self.held.get_mut(&seq) else { return vec![event] };
        self.bytes += bytes_of(&event);
        held.push(event);
        if is_whole {
            return self.forget(seq).unwrap_or_default();
        }
        if self.bytes < self.bytes_max {
            return Vec::new();
        }
        self.bytes = 0;
        std::mem::take(&mut self.held).into_values().flatten().collect()
    }
}

fn bytes_of(event: &Event) -> usize {
    match event {
        Event::MessagePart { bytes, .. } => bytes.len(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use towline_protocols::link::RequestHead;

    use super::*;

    fn request(seq: u64) -> Event {
        Event::Request { seq, head: RequestHead::default(), end: false }
    }

    fn part(seq: u64, length: usize, end: bool) -> Event {
        let bytes: bytes::Bytes = vec![0; length].into();
        Event::MessagePart {
            seq,
            message_bytes: None,
            wire_bytes: bytes.len(),
            bytes,
            end_of_message: end,
            end,
        }
    }

    #[test]
    fn a_request_is_handed_on_when_it_is_whole() {
        let mut gathering = Gathering::new(100);
        assert_eq!(gathering.take_in(request(1)), []);
        assert_eq!(gathering.take_in(request(2)), []);
        assert_eq!(gathering.take_in(part(1, 60, false)), []);
        assert_eq!(gathering.take_in(part(2, 10, true)), [request(2), part(2, 10, true)]);
        assert_eq!(
            gathering.take_in(Event::End { seq: 1 }),
            [request(1), part(1, 60, false), Event::End { seq: 1 }]
        );
        assert_eq!((gathering.bytes, gathering.held.len()), (0, 0));
    }

    #[test]
    fn what_is_larger_than_the_bound_goes_on_with_all_that_is_held() {
        let mut gathering = Gathering::new(100);
        gathering.take_in(request(1));
        gathering.take_in(request(2));
        gathering.take_in(part(2, 50, false));
        assert_eq!(gathering.take_in(part(1, 50, false)).len(), 4);
        assert_eq!(gathering.take_in(part(1, 50, false)), [part(1, 50, false)], "it is under way");
        assert_eq!(gathering.bytes, 0);
    }

    #[test]
    fn what_the_client_takes_back_is_given_back() {
        let mut gathering = Gathering::new(100);
        gathering.take_in(request(1));
        gathering.take_in(part(1, 50, false));
        assert_eq!(gathering.forget(1).map(|held| held.len()), Some(2));
        assert_eq!((gathering.forget(1), gathering.bytes), (None, 0));
    }
}
