//! NewSessionTicket (RFC 8446, section 4.6.1), as far as it is read here.
//!
//! ```text
//! 04 | length, 3 | lifetime, 4 | age_add, 4 | nonce, 1+ | ticket, 2+ | extensions, 2+
//! ```

use std::{collections::VecDeque, time::Duration};

const NEW_SESSION_TICKET: u8 = 4;
/// Type and length (RFC 8446, section 4).
const HEADER_BYTES: usize = 4;
/// A ticket may hold the client's certificates; larger ones are not kept.
pub(super) const MESSAGE_BYTES_MAX: usize = 16 << 10;
/// Messages of one record that are kept; rustls sends two, and takes eight of a host.
const MESSAGES_MAX: usize = 8;
/// RFC 8446, section 4.6.1: clients must not cache tickets for longer, whatever the lifetime.
pub(super) const LIFE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// Handshake messages in the order of their bytes, of which tickets are gathered.
#[derive(Default)]
pub(super) struct Messages {
    header: Vec<u8>,
    body: Vec<u8>,
    /// Of the message that is under way, once its header is here.
    left: Option<usize>,
}

impl Messages {
    /// Adds the bodies of tickets that are whole now.
    pub(super) fn read(&mut self, mut bytes: &[u8], whole: &mut VecDeque<Vec<u8>>) {
        loop {
            let left = match self.left {
                Some(left) => left,
                None => {
                    let Some(length) = self.read_header(&mut bytes) else { return };
                    length
                }
            };
            let (here, rest) = bytes.split_at(left.min(bytes.len()));
            bytes = rest;
            if self.is_kept() {
                self.body.extend_from_slice(here);
            }
            self.left = Some(left - here.len());
            if here.len() < left {
                return;
            }
            let body = std::mem::take(&mut self.body);
            if self.header.first() == Some(&NEW_SESSION_TICKET) && whole.len() < MESSAGES_MAX {
                // An empty one stands for what was too large, so that each key meets its own message.
                whole.push_back(body);
            }
            self.header.clear();
            self.left = None;
        }
    }

    /// The length of the body, once the header is whole.
    fn read_header(&mut self, bytes: &mut &[u8]) -> Option<usize> {
        let missing = HEADER_BYTES - self.header.len();
        let (here, rest) = bytes.split_at(missing.min(bytes.len()));
        *bytes = rest;
        self.header.extend_from_slice(here);
        self.length()
    }

    fn length(&self) -> Option<usize> {
        match self.header[..] {
            [_, a, b, c] => Some(u32::from_be_bytes([0, a, b, c]) as usize),
            _ => None,
        }
    }

    fn is_kept(&self) -> bool {
        self.header.first() == Some(&NEW_SESSION_TICKET)
            && self.length().is_some_and(|length| length <= MESSAGE_BYTES_MAX)
    }
}

/// What is read of a message's body.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NewTicket<'a> {
    /// How long it may be used from when it came.
    pub(super) life: Duration,
    pub(super) nonce: &'a [u8],
}

impl<'a> NewTicket<'a> {
    pub(super) fn parse(body: &'a [u8]) -> Option<Self> {
        let (lifetime, rest) = body.split_first_chunk()?;
        let (_age_add, rest) = rest.split_first_chunk::<4>()?;
        let (&nonce_bytes, rest) = rest.split_first()?;
        let life = Duration::from_secs(u32::from_be_bytes(*lifetime).into()).min(LIFE_MAX);
        Some(Self { life, nonce: rest.get(..nonce_bytes.into())? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket(nonce: &[u8], ticket_bytes: usize) -> Vec<u8> {
        let mut body = [&7200u32.to_be_bytes()[..], &[1; 4], &[nonce.len() as u8], nonce].concat();
        body.extend((ticket_bytes as u16).to_be_bytes());
        body.resize(body.len() + ticket_bytes, 9);
        body.extend([0, 0]);
        body
    }

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        [&[kind], &(body.len() as u32).to_be_bytes()[1..], body].concat()
    }

    #[test]
    fn tickets_are_found_among_other_messages_however_they_are_cut() {
        let (one, two) = (ticket(b"a", 300), ticket(b"bc", 20));
        let bytes = [message(11, &[4; 500]), message(4, &one), message(24, b"\0"), message(4, &two)].concat();
        for step in [1, 3, 4, 5, 250, bytes.len()] {
            let (mut messages, mut whole) = (Messages::default(), VecDeque::new());
            bytes.chunks(step).for_each(|part| messages.read(part, &mut whole));
            assert_eq!(whole, [one.clone(), two.clone()], "{step}");
        }
        let (mut messages, mut whole) = (Messages::default(), VecDeque::new());
        messages.read(&bytes[..bytes.len() - 1], &mut whole);
        assert_eq!(whole.len(), 1);
    }

    #[test]
    fn of_what_is_too_large_nothing_is_gathered_and_its_place_is_kept() {
        let huge = message(4, &ticket(b"a", MESSAGE_BYTES_MAX));
        let next = ticket(b"b", 1);
        let (mut messages, mut whole) = (Messages::default(), VecDeque::new());
        for part in [huge, message(4, &next)].concat().chunks(1000) {
            messages.read(part, &mut whole);
            assert!(messages.body.len() < MESSAGE_BYTES_MAX / 2);
        }
        assert_eq!(whole, [Vec::new(), next]);
        let many = message(4, &ticket(b"c", 1)).repeat(20);
        messages.read(&many, &mut whole);
        assert_eq!(whole.len(), MESSAGES_MAX);
    }

    #[test]
    fn a_ticket_says_its_nonce_and_no_life_above_a_week() {
        let body = ticket(b"nonce", 3);
        assert_eq!(
            NewTicket::parse(&body),
            Some(NewTicket { life: Duration::from_secs(7200), nonce: b"nonce" })
        );
        let long = [&[0xff; 4][..], &body[4..]].concat();
        assert_eq!(NewTicket::parse(&long).map(|it| it.life), Some(LIFE_MAX));
        assert_eq!(NewTicket::parse(&body[..10]), None);
        assert_eq!(NewTicket::parse(b""), None);
    }
}
