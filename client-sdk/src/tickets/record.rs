//! One session as it is kept.
//!
//! ```text
//! suite, 2 | group, 2 | received, 8: seconds since 1970 | message, 2+ | QUIC's parameters, 2+ | key
//! ```

use std::time::Duration;

use zeroize::Zeroizing;

use super::message::NewTicket;

/// A session, for whoever may open the file that it comes from.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Record {
    /// The cipher suite's number.
    pub(super) suite: u16,
    /// The group of the key exchange that the server took; 0 where that is not known.
    pub(super) group: u16,
    /// When the ticket came, since 1970.
    pub(super) received: Duration,
    /// The body of NewSessionTicket.
    pub(super) message: Vec<u8>,
    /// The server's transport parameters (RFC 9001, section 4.6.1); empty on TCP.
    pub(super) quic_parameters: Vec<u8>,
    /// The key that goes with the ticket.
    pub(super) psk: Zeroizing<Vec<u8>>,
}

impl Record {
    /// Whether it may be used: not where the clock was set back, since nobody knows how old it is.
    pub(super) fn lasts(&self, now: Duration) -> bool {
        let life = NewTicket::parse(&self.message).map_or(Duration::ZERO, |ticket| ticket.life);
        now.checked_sub(self.received).is_some_and(|age| age < life)
    }

    /// `None` for what is too long to be kept.
    pub(super) fn bytes(&self) -> Option<Zeroizing<Vec<u8>>> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(
            2 + 2 + 8 + 2 + self.message.len() + 2 + self.quic_parameters.len() + self.psk.len(),
        ));
        bytes.extend(self.suite.to_be_bytes());
        bytes.extend(self.group.to_be_bytes());
        bytes.extend(self.received.as_secs().to_be_bytes());
        for part in [&self.message, &self.quic_parameters] {
            bytes.extend(u16::try_from(part.len()).ok()?.to_be_bytes());
            bytes.extend(part);
        }
        bytes.extend_from_slice(&self.psk);
        Some(bytes)
    }

    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let (suite, rest) = bytes.split_first_chunk()?;
        let (group, rest) = rest.split_first_chunk()?;
        let (received, rest) = rest.split_first_chunk()?;
        let (message, rest) = part(rest)?;
        let (quic_parameters, psk) = part(rest)?;
        NewTicket::parse(message)?;
        Some(Self {
            suite: u16::from_be_bytes(*suite),
            group: u16::from_be_bytes(*group),
            received: Duration::from_secs(u64::from_be_bytes(*received)),
            message: message.to_vec(),
            quic_parameters: quic_parameters.to_vec(),
            psk: Zeroizing::new(psk.to_vec()),
        })
    }
}

fn part(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(u16::from_be_bytes(*length).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(life: u32) -> Record {
        let message = [&life.to_be_bytes()[..], &[0; 4], b"\x01n", b"\0\x06ticket", b"\0\0"].concat();
        let received = Duration::from_secs(1_790_000_000);
        let psk = Zeroizing::new(vec![7; 32]);
        Record { suite: 0x1301, group: 29, received, message, quic_parameters: vec![1, 2, 3], psk }
    }

    #[test]
    fn what_is_kept_is_read_again_and_what_is_cut_is_not() {
        let record = kept(60);
        let bytes = record.bytes().unwrap();
        assert!(Record::parse(&bytes) == Some(record));
        for length in 0..bytes.len() - 32 {
            assert!(Record::parse(&bytes[..length]).is_none(), "{length}");
        }
        let long = Record { quic_parameters: vec![0; 1 << 16], ..kept(60) };
        assert!(long.bytes().is_none());
    }

    #[test]
    fn it_lasts_from_when_it_came_for_as_long_as_the_server_said() {
        let check = |life: u32, age: i64, expected: bool| {
            let record = kept(life);
            let now = record.received.as_secs().checked_add_signed(age).unwrap();
            assert_eq!(record.lasts(Duration::from_secs(now)), expected, "{life} {age}");
        };
        check(60, 0, true);
        check(60, 59, true);
        check(60, 60, false);
        check(60, -1, false);
        check(0, 0, false);
        check(u32::MAX, 7 * 24 * 3600 - 1, true);
        check(u32::MAX, 7 * 24 * 3600, false);
    }
}
