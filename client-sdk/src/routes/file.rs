//! The file beside the identity file.
//!
//! ```text
//! towline-routes 1
//! network 00112233445566aa 1790000300 1
//! way tcp edge.example:443 192.0.2.7:443 5 1789999000 1790000000 0 0
//! name 00112233445566aa edge.example 1790000000 192.0.2.7 2001:db8::7
//! ```
//!
//! Of each network its key, until when QUIC is banned there (0: it is not), and how often it was; behind it the ways
//! that were tried there: the gateway and its address (`-` where a dialer finds it), the last outcomes in bits, when it
//! got through (0: never), when it was tried, until when it is banned, and how often it was. Then names with when they
//! were found. Times are seconds since 1970; a clock that was set back makes them younger, never invalid.

use std::{
    fmt::Write as _,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use towline_protocols::policy::{NameRecord, Names, NetworkKey, Transport, Way, WayRecord, Ways};

const FIRST_LINE: &str = "towline-routes 1";
/// More than all that is remembered can fill.
pub(super) const BYTES_MAX: usize = 256 << 10;
/// Networks, their ways, and names.
const LINES_MAX: usize = 16 * 33 + 64;

pub(super) fn text(ways: &Ways, names: &Names, today: SystemTime, now: Instant) -> String {
    let seconds = |at: SystemTime| at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let past = |ago: Duration| seconds(today.checked_sub(ago).unwrap_or(UNIX_EPOCH));
    let future = |left: Duration| if left.is_zero() { 0 } else { seconds(today + left) };
    let mut text = format!("{FIRST_LINE}\n");
    // Writing to a string cannot fail. What was used last comes last, as it is read.
    for (network, (left, times), ways) in ways.records(now).into_iter().rev() {
        let _ = writeln!(text, "network {network} {} {times}", future(left));
        for WayRecord { way, history, won_ago, tried_ago, ban_left, bans } in ways {
            let address = way.address.map_or_else(|| "-".to_owned(), |address| address.to_string());
            let (transport, gateway) = (way.transport.name(), way.gateway);
            let (won, tried, ban) = (won_ago.map_or(0, past), past(tried_ago), future(ban_left));
            let _ =
                writeln!(text, "way {transport} {gateway} {address} {history} {won} {tried} {ban} {bans}");
        }
    }
    for NameRecord { network, host, addresses, found_ago } in names.records(now).into_iter().rev() {
        let _ = write!(text, "name {network} {host} {}", past(found_ago));
        addresses.iter().for_each(|address| _ = write!(text, " {address}"));
        text.push('\n');
    }
    text
}

pub(super) fn parse(text: &str, today: SystemTime, now: Instant) -> Option<(Ways, Names)> {
    let mut lines = text.lines();
    if lines.next() != Some(FIRST_LINE) {
        return None;
    }
    let today = today.duration_since(UNIX_EPOCH).unwrap_or_default();
    let past = |seconds: &str| Some(today.saturating_sub(Duration::from_secs(seconds.parse().ok()?)));
    let left = |seconds: &str| Some(Duration::from_secs(seconds.parse().ok()?).saturating_sub(today));
    let (mut ways, mut names) = (Ways::default(), Names::default());
    let mut open: Option<(NetworkKey, (Duration, u32), Vec<WayRecord>)> = None;
    for line in lines.take(LINES_MAX) {
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["network", key, until, times] => {
                if let Some((key, quic, records)) = open.take() {
                    ways.restore(key, quic, records, now);
                }
                open = Some((network(key)?, (left(until)?, times.parse().ok()?), Vec::new()));
            }
            ["way", transport, gateway, address, history, won, tried, until, bans] => {
                let way = Way {
                    gateway: gateway.into(),
                    address: if address == "-" { None } else { Some(address.parse().ok()?) },
                    transport: [Transport::Quic, Transport::Tcp]
                        .into_iter()
                        .find(|it| it.name() == transport)?,
                };
                open.as_mut()?.2.push(WayRecord {
                    way,
                    history: history.parse().ok()?,
                    won_ago: if won == "0" { None } else { Some(past(won)?) },
                    tried_ago: past(tried)?,
                    ban_left: left(until)?,
                    bans: bans.parse().ok()?,
                });
            }
            ["name", key, host, found, ref addresses @ ..] => {
                let addresses: Result<Vec<std::net::IpAddr>, _> =
                    addresses.iter().map(|it| it.parse()).collect();
                let (network, found_ago) = (network(key)?, past(found)?);
                let host = host.to_owned();
                names.restore(NameRecord { network, host, addresses: addresses.ok()?, found_ago }, now);
            }
            _ => return None,
        }
    }
    if let Some((key, quic, records)) = open.take() {
        ways.restore(key, quic, records, now);
    }
    Some((ways, names))
}

fn network(key: &str) -> Option<NetworkKey> {
    u64::from_str_radix(key, 16).ok().map(NetworkKey)
}

#[cfg(test)]
mod tests {
    use towline_protocols::policy::{Network, NetworkKind, RacePolicy, Verdict};

    use super::*;

    #[test]
    fn what_is_written_is_read_and_what_is_bent_is_not() {
        let (now, today) = (Instant::now(), UNIX_EPOCH + Duration::from_secs(1_790_000_000));
        let (mut ways, mut names, policy) = (Ways::default(), Names::default(), RacePolicy::default());
        let way = |transport, address: Option<&str>| Way {
            gateway: "edge.example:443".into(),
            address: address.map(|address| address.parse().unwrap()),
            transport,
        };
        for label in ["home", "office"] {
            let said = [
                (way(Transport::Quic, Some("[2001:db8::7]:443")), Verdict::Failed),
                (way(Transport::Tcp, Some("[2001:db8::7]:443")), Verdict::Won),
                (way(Transport::Tcp, None), Verdict::Open),
            ];
            let key = Network::new(NetworkKind::Wifi, label).place();
            ways.learn(&policy, key, &said, now);
            names.learn(key, "edge.example", vec!["192.0.2.7".parse().unwrap()], now);
        }
        let written = text(&ways, &names, today, now);
        let (read_ways, read_names) = parse(&written, today, now).unwrap();
        assert_eq!(read_ways.records(now), ways.records(now));
        assert_eq!(read_names.records(now), names.records(now));
        assert!(!written.contains("home"), "where the user was is nobody's business");

        // A minute later, all is a minute older.
        let (later, _) = parse(&written, today + Duration::from_secs(60), now).unwrap();
        let (_, (left, _), records) = later.records(now).remove(0);
        assert_eq!(left, policy.ban_min - Duration::from_secs(60));
        assert_eq!(records[0].tried_ago, Duration::from_secs(60));

        assert!(parse(&written.replacen("way tcp", "way sctp", 1), today, now).is_none());
        assert!(parse("towline-routes 2\n", today, now).is_none());
        assert!(parse("towline-routes 1\nway tcp e:1 - 0 0 0 0 0\n", today, now).is_none(), "of no network");
    }
}
