//! PROXY protocol headers: decided in time, for good, and from no more than the header's own octets.

use towline_protocols::proxy::{HEADER_OCTETS_MAX, parse};

const BEGINNINGS: [&[u8]; 5] = [
    b"",
    b"PROXY TCP4 192.0.2.7 ",
    b"\r\n\r\n\0\r\nQUIT\n",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0",
];

pub(crate) fn run(data: &[u8]) {
    let Some((&which, rest)) = data.split_first() else { return };
    let bytes = [BEGINNINGS[usize::from(which) % BEGINNINGS.len()], rest].concat();
    let mut decided = None;
    for length in 0..=bytes.len() {
        let parsed = parse(&bytes[..length]);
        match (&decided, parsed) {
            (None, Ok(None)) => assert!(length < HEADER_OCTETS_MAX, "{length} octets are not enough"),
            (None, answer) => {
                if let Ok(Some(header)) = answer {
                    assert!(header.octets <= length, "{} octets of {length}", header.octets);
                    assert_eq!(parse(&bytes[..header.octets]), answer);
                }
                decided = Some(answer);
            }
            (Some(before), answer) => assert_eq!(*before, answer, "after {length} octets"),
        }
    }
}
