//! What the link reads and rewrites of IPv4 packets: addresses, ports, and the checksums that cover them.

use std::net::{Ipv4Addr, SocketAddrV4};

/// IPv4's header without options.
const IP_HEADER: usize = 20;
const UDP_HEADER: usize = 8;
const TCP_HEADER: usize = 20;
/// Ways are counted from here on: a packet of more hops than a loop would survive.
const TTL: u8 = 64;

/// What is carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Protocol {
    Tcp,
    Udp,
}

/// What is read of a TCP or UDP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) protocol: Protocol,
    pub(super) source: SocketAddrV4,
    pub(super) target: SocketAddrV4,
    /// TCP: a first segment (SYN without ACK).
    pub(super) opens: bool,
    /// TCP: nothing but an acknowledgement.
    pub(super) is_ack: bool,
}

impl Head {
    /// `None`: neither TCP nor UDP over IPv4, a fragment behind the first, or cut short.
    pub(super) fn read(packet: &[u8]) -> Option<Self> {
        let start = transport_at(packet)?;
        let protocol = match packet[9] {
            6 => Protocol::Tcp,
            17 => Protocol::Udp,
            _ => return None,
        };
        let body = packet.get(start..)?;
        let least = if protocol == Protocol::Tcp { TCP_HEADER } else { UDP_HEADER };
        if body.len() < least || u16_at(packet, 6) & 0x1fff != 0 {
            return None;
        }
        let (opens, is_ack) = if protocol == Protocol::Tcp { tcp_kind(body) } else { (false, false) };
        let source = SocketAddrV4::new(address_at(packet, 12), u16_at(body, 0));
        let target = SocketAddrV4::new(address_at(packet, 16), u16_at(body, 2));
        Some(Self { protocol, source, target, opens, is_ack })
    }
}

/// FIN, SYN, RST and data make a segment more than an acknowledgement.
fn tcp_kind(body: &[u8]) -> (bool, bool) {
    let (flags, header) = (body[13], usize::from(body[12] >> 4) * 4);
    (flags & 0x12 == 0x02, flags & 0x17 == 0x10 && body.len() <= header)
}

/// Which end of a packet is rewritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Source,
    Target,
}

/// Gives a packet that [`Head::read`] has read another source or target.
pub(super) fn rewrite(packet: &mut [u8], end: End, to: SocketAddrV4) {
    let Some(start) = transport_at(packet) else { return };
    let is_udp = packet[9] == 17;
    let checksum = start + if is_udp { 6 } else { 16 };
    // RFC 768: a UDP checksum of zero says that there is none.
    let has_checksum = !is_udp || u16_at(packet, checksum) != 0;
    let (address, port) = if end == End::Source { (12, start) } else { (16, start + 2) };
    let octets = to.ip().octets();
    for (at, word) in [(address, [octets[0], octets[1]]), (address + 2, [octets[2], octets[3]])] {
        let (old, new) = (u16_at(packet, at), u16::from_be_bytes(word));
        replace(packet, 10, old, new);
        if has_checksum {
            replace(packet, checksum, old, new);
        }
        packet[at..at + 2].copy_from_slice(&word);
    }
    if has_checksum {
        let old = u16_at(packet, port);
        replace(packet, checksum, old, to.port());
        if is_udp && u16_at(packet, checksum) == 0 {
            packet[checksum..checksum + 2].copy_from_slice(&[0xff, 0xff]);
        }
    }
    packet[port..port + 2].copy_from_slice(&to.port().to_be_bytes());
}

/// RFC 1624, equation 3: the checksum after one of the words that it covers has changed.
fn replace(packet: &mut [u8], checksum: usize, old: u16, new: u16) {
    let sum = u32::from(!u16_at(packet, checksum)) + u32::from(!old) + u32::from(new);
    packet[checksum..checksum + 2].copy_from_slice(&(!fold(sum)).to_be_bytes());
}

/// The payload of a UDP packet.
pub(super) fn udp_payload(packet: &[u8]) -> Option<&[u8]> {
    packet.get(transport_at(packet)? + UDP_HEADER..)
}

/// A UDP packet, without a checksum of its payload, which RFC 768 allows.
pub(super) fn udp(source: SocketAddrV4, target: SocketAddrV4, payload: &[u8]) -> Vec<u8> {
    // Whoever calls has a payload that one packet holds.
    let size = |header: usize| u16::try_from(header + payload.len()).unwrap_or(u16::MAX).to_be_bytes();
    let mut packet = vec![0; IP_HEADER + UDP_HEADER];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&size(IP_HEADER + UDP_HEADER));
    (packet[8], packet[9]) = (TTL, 17);
    packet[12..16].copy_from_slice(&source.ip().octets());
    packet[16..20].copy_from_slice(&target.ip().octets());
    let checksum = !fold((0..IP_HEADER / 2).map(|word| u32::from(u16_at(&packet, 2 * word))).sum());
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet[20..22].copy_from_slice(&source.port().to_be_bytes());
    packet[22..24].copy_from_slice(&target.port().to_be_bytes());
    packet[24..26].copy_from_slice(&size(UDP_HEADER));
    packet.extend_from_slice(payload);
    packet
}

/// Where TCP or UDP begins in an IPv4 packet.
fn transport_at(packet: &[u8]) -> Option<usize> {
    let first = *packet.first()?;
    let header = usize::from(first & 0x0f) * 4;
    (first >> 4 == 4 && header >= IP_HEADER && packet.len() >= header).then_some(header)
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn address_at(bytes: &[u8], at: usize) -> Ipv4Addr {
    Ipv4Addr::new(bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3])
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A TCP segment with these flags and a checksum that is right.
    pub(in super::super) fn tcp(
        source: SocketAddrV4,
        target: SocketAddrV4,
        flags: u8,
        data: usize,
    ) -> Vec<u8> {
        let mut packet = udp(source, target, &vec![7; TCP_HEADER - UDP_HEADER + data]);
        packet[9] = 6;
        packet[10..12].fill(0);
        let sum = (0..10).map(|word| u32::from(u16_at(&packet, 2 * word))).sum();
        packet[10..12].copy_from_slice(&(!fold(sum)).to_be_bytes());
        (packet[32], packet[33]) = (0x50, flags);
        packet[36..38].fill(0);
        let sum = transport_sum(&packet);
        packet[36..38].copy_from_slice(&(!sum).to_be_bytes());
        packet
    }

    /// The sum over pseudo header and transport: all ones if a checksum in it is right.
    fn transport_sum(packet: &[u8]) -> u16 {
        let mut covered = packet[12..20].to_vec();
        covered.extend([0, packet[9]]);
        covered.extend(((packet.len() - 20) as u16).to_be_bytes());
        covered.extend(&packet[20..]);
        if covered.len() % 2 == 1 {
            covered.push(0);
        }
        fold((0..covered.len() / 2).map(|word| u32::from(u16_at(&covered, 2 * word))).sum())
    }

    fn header_sum(packet: &[u8]) -> u16 {
        fold((0..10).map(|word| u32::from(u16_at(packet, 2 * word))).sum())
    }

    fn at(text: &str) -> SocketAddrV4 {
        text.parse().unwrap()
    }

    #[test]
    fn rewriting_keeps_the_checksums_right() {
        let mut packet = tcp(at("10.91.0.2:40000"), at("10.99.0.1:443"), 0x18, 33);
        assert_eq!((header_sum(&packet), transport_sum(&packet)), (0xffff, 0xffff));
        for (end, to) in [(End::Source, at("198.51.100.77:61234")), (End::Target, at("10.99.0.4:8443"))] {
            rewrite(&mut packet, end, to);
            assert_eq!((header_sum(&packet), transport_sum(&packet)), (0xffff, 0xffff), "{end:?}");
        }
        let head = Head::read(&packet).unwrap();
        assert_eq!((head.source, head.target), (at("198.51.100.77:61234"), at("10.99.0.4:8443")));
    }

    #[test]
    fn a_udp_packet_without_checksum_keeps_none() {
        let mut packet = udp(at("10.91.0.1:53"), at("10.91.0.2:5353"), b"answer");
        rewrite(&mut packet, End::Target, at("10.91.0.3:5353"));
        assert_eq!((header_sum(&packet), u16_at(&packet, 26)), (0xffff, 0));
        assert_eq!(udp_payload(&packet), Some(&b"answer"[..]));
    }

    #[test]
    fn acknowledgements_and_openings_are_told_from_the_rest() {
        let check = |flags, data, opens, is_ack| {
            let head = Head::read(&tcp(at("1.1.1.1:1"), at("2.2.2.2:2"), flags, data)).unwrap();
            assert_eq!((head.opens, head.is_ack), (opens, is_ack), "{flags:#x} {data}");
        };
        check(0x02, 0, true, false);
        check(0x12, 0, false, false);
        check(0x10, 0, false, true);
        check(0x10, 1, false, false);
        check(0x18, 10, false, false);
        check(0x11, 0, false, false);
        check(0x14, 0, false, false);
    }

    #[test]
    fn what_is_cut_short_is_not_read() {
        let whole = tcp(at("1.1.1.1:1"), at("2.2.2.2:2"), 0x10, 0);
        for length in 0..whole.len() {
            assert_eq!(Head::read(&whole[..length]), None, "{length}");
        }
        assert_eq!(Head::read(&[0x60; 60]), None, "IPv6");
    }
}
