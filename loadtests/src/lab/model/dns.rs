//! The resolver of the link's network: a few names, and the faults that resolvers have.

use std::{net::Ipv4Addr, time::Duration};

use serde::{Deserialize, Serialize};

/// RFC 1035, section 4.1.1.
const HEADER: usize = 12;
const TYPE_A: u16 = 1;
/// Short, so that a client that asks again is seen to ask again.
const TTL_S: u32 = 5;

/// What is wrong with the resolver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum DnsFault {
    /// Nothing.
    #[default]
    None,
    /// No answer.
    Silent,
    /// NXDOMAIN, for every name.
    NoSuchName,
    /// Answers come so much later.
    Late(Duration),
}

impl DnsFault {
    /// What the resolver waits before it answers.
    pub(super) fn delay(self) -> Duration {
        if let Self::Late(delay) = self { delay } else { Duration::ZERO }
    }
}

/// The answer to a query, `None` if there is none to give.
pub(super) fn answer(query: &[u8], fault: DnsFault, names: &[(&str, Ipv4Addr)]) -> Option<Vec<u8>> {
    if fault == DnsFault::Silent || query.len() < HEADER || query[2] & 0x80 != 0 {
        return None;
    }
    let (name, end) = name_at(query, HEADER)?;
    let question = query.get(HEADER..end + 4)?;
    let kind = u16::from_be_bytes([query[end], query[end + 1]]);
    let known =
        names.iter().find(|(known, _)| known.eq_ignore_ascii_case(&name)).map(|(_, address)| *address);
    let known = known.filter(|_| fault != DnsFault::NoSuchName);
    let address = known.filter(|_| kind == TYPE_A);
    let code = if known.is_none() { 3 } else { 0 };
    let mut answer = query[..2].to_vec();
    // A response; recursion desired as asked, and available.
    answer.extend([0x80 | (query[2] & 0x01), 0x80 | code, 0, 1, 0, u8::from(address.is_some()), 0, 0, 0, 0]);
    answer.extend(question);
    if let Some(address) = address {
        // The name by a pointer to the question's.
        answer.extend([0xc0, HEADER as u8, 0, TYPE_A as u8, 0, 1]);
        answer.extend(TTL_S.to_be_bytes());
        answer.extend([0, 4]);
        answer.extend(address.octets());
    }
    Some(answer)
}

/// A name and where it ends; questions are not compressed.
fn name_at(query: &[u8], mut at: usize) -> Option<(String, usize)> {
    let mut name = String::new();
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        match length {
            0 => return Some((name, at)),
            1..=63 => {}
            _ => return None,
        }
        if !name.is_empty() {
            name.push('.');
        }
        name.push_str(std::str::from_utf8(query.get(at..at + length)?).ok()?);
        at += length;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [(&str, Ipv4Addr); 1] = [("edge.lab.test", Ipv4Addr::new(10, 99, 0, 1))];

    fn query(name: &str, kind: u8) -> Vec<u8> {
        let mut query = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            query.push(label.len() as u8);
            query.extend(label.as_bytes());
        }
        query.extend([0, 0, kind, 0, 1]);
        query
    }

    #[test]
    fn a_known_name_has_its_address() {
        let asked = query("Edge.lab.TEST", 1);
        let answered = answer(&asked, DnsFault::None, &NAMES).unwrap();
        assert_eq!(&answered[..12], [0xab, 0xcd, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
        assert_eq!(&answered[12..asked.len()], &asked[12..]);
        assert_eq!(&answered[asked.len()..], [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 10, 99, 0, 1]);
    }

    #[test]
    fn other_kinds_are_empty_and_other_names_unknown() {
        let check = |name, kind, fault, code, count| {
            let answered = answer(&query(name, kind), fault, &NAMES).unwrap();
            assert_eq!((answered[3] & 0x0f, answered[7]), (code, count), "{name} {kind} {fault:?}");
        };
        check("edge.lab.test", 28, DnsFault::None, 0, 0);
        check("other.lab.test", 1, DnsFault::None, 3, 0);
        check("edge.lab.test", 1, DnsFault::NoSuchName, 3, 0);
        check("edge.lab.test", 1, DnsFault::Late(Duration::from_secs(8)), 0, 1);
    }

    #[test]
    fn silence_and_nonsense_are_not_answered() {
        assert_eq!(answer(&query("edge.lab.test", 1), DnsFault::Silent, &NAMES), None);
        let whole = query("edge.lab.test", 1);
        for length in 0..whole.len() {
            assert_eq!(answer(&whole[..length], DnsFault::None, &NAMES), None, "{length}");
        }
    }
}
