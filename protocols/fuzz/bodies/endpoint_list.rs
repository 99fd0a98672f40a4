//! An endpoint list: what is read is written as it was, and what is signed is what the list says.

use towline_protocols::endpoints::{ListSignature, SignedEndpoints};

pub(crate) fn run(data: &[u8]) {
    check(data);
    // Random octets are hardly ever lines: these are.
    let entries: String = data.chunks(4).map(entry).collect();
    let signature = ListSignature { key: [1; 8], bytes: [2; 64] }.line();
    check(format!("towline endpoints 1\nserial 1\nissued 1\nexpires 2\n{entries}{signature}").as_bytes());
}

fn entry(octets: &[u8]) -> String {
    let octet = |place: usize| usize::from(octets.get(place).copied().unwrap_or_default());
    let host = ["a", "b.example", "[::1]", "192.0.2.7", "::", "-", "[x]", ""][octet(0) % 8];
    let transports = ["quic", "tcp", "quic,tcp", "tcp,quic"][octet(1) % 4];
    let rest = ["", " name=a", " region=eu", " name=a region=eu", " region=eu name=a", " x=y"][octet(2) % 6];
    format!("endpoint {host}:{} {transports} {} 1{rest}\n", octet(3), octet(2))
}

fn check(text: &[u8]) {
    let Ok(parsed) = SignedEndpoints::parse(text) else { return };
    let list = parsed.unverified().clone();
    let signatures: String = parsed.signatures().iter().map(ListSignature::line).collect();
    assert_eq!(format!("{}{signatures}", list.text()).as_bytes(), text);
    let verified = parsed.verified(text, |_, message| message == list.text().as_bytes());
    assert_eq!(verified, Some(list));
}
