//! The file beside the identity file.
//!
//! ```text
//! towline-networks 1
//! 5a3c0d2e11f09b77 1790000000 66000 4100 97000 0.002 331000 - 180000 120000 -
//! ```
//!
//! A line for each network, the one used last first: its key, when it was used, the round trip, its jitter and that of
//! requests (microseconds), the share of packets lost, the rates both ways (bytes per second, first what comes), and what
//! 99 of 100 connections, first bytes and gaps took (microseconds). `-` is not known.

use std::{fmt::Write as _, time::Duration};

use towline_protocols::policy::{Impression, Impressions, NETWORKS_MAX, NetworkKey, Remembered};

use crate::disk::Disk;

const FIRST_LINE: &str = "towline-networks 1";
/// Far more than the networks that are remembered can fill.
const FILE_BYTES_MAX: usize = 64 << 10;

/// What an earlier run has left.
pub(super) fn read(disk: &Disk) -> Option<Vec<Remembered>> {
    let bytes = disk.read(FILE_BYTES_MAX)?;
    let remembered = String::from_utf8(bytes).ok().and_then(|text| parse(&text));
    if remembered.is_none() {
        tracing::warn!("what was remembered of networks cannot be read, and is learnt again");
    }
    remembered
}

pub(super) fn text(records: &Impressions) -> String {
    let mut text = format!("{FIRST_LINE}\n");
    for Remembered { network, used_s, impression: it } in records.iter() {
        // Writing to a string cannot fail.
        let _ = write!(text, "{network} {used_s}");
        let times = [it.round_trip, it.jitter, it.request].map(micros);
        let [connect, first_byte, gap] = it.highest.map(micros);
        let numbers = [it.loss, it.receive_rate, it.send_rate].map(number);
        for field in times.into_iter().chain(numbers).chain([connect, first_byte, gap]) {
            let _ = write!(text, " {field}");
        }
        text.push('\n');
    }
    text
}

fn micros(time: Option<Duration>) -> String {
    time.map_or_else(|| "-".to_owned(), |time| time.as_micros().to_string())
}

fn number(number: Option<f64>) -> String {
    number.map_or_else(|| "-".to_owned(), |number| number.to_string())
}

fn parse(text: &str) -> Option<Vec<Remembered>> {
    let mut lines = text.lines();
    if lines.next() != Some(FIRST_LINE) {
        return None;
    }
    lines.take(NETWORKS_MAX).map(remembered).collect()
}

fn remembered(line: &str) -> Option<Remembered> {
    let [network, used_s, round_trip, jitter, request, loss, receive, send, connect, first_byte, gap] =
        line.split(' ').collect::<Vec<_>>()[..]
    else {
        return None;
    };
    let impression = Impression {
        round_trip: known(round_trip, time)?,
        jitter: known(jitter, time)?,
        request: known(request, time)?,
        loss: known(loss, share)?,
        receive_rate: known(receive, rate)?,
        send_rate: known(send, rate)?,
        highest: [known(connect, time)?, known(first_byte, time)?, known(gap, time)?],
    };
    let network = NetworkKey(u64::from_str_radix(network, 16).ok()?);
    Some(Remembered { network, used_s: used_s.parse().ok()?, impression })
}

/// `-`, or what `parse` takes.
fn known<T>(field: &str, parse: impl Fn(&str) -> Option<T>) -> Option<Option<T>> {
    if field == "-" { Some(None) } else { parse(field).map(Some) }
}

fn time(field: &str) -> Option<Duration> {
    let micros = field.parse().ok().filter(|micros| *micros <= MICROS_MAX)?;
    Some(Duration::from_micros(micros))
}

fn share(field: &str) -> Option<f64> {
    field.parse().ok().filter(|share| (0.0..=1.0).contains(share))
}

fn rate(field: &str) -> Option<f64> {
    field.parse().ok().filter(|rate| (1.0..=RATE_MAX).contains(rate))
}

/// Nothing that is waited for takes longer than an hour.
const MICROS_MAX: u64 = 3_600_000_000;
/// No network of a device is faster than 100 Gbit/s.
const RATE_MAX: f64 = 1.25e10;

#[cfg(test)]
mod tests {
    use tokio::sync::watch;
    use towline_protocols::policy::{Event, Network, NetworkKind, Strategies};

    use crate::quality::Observed;

    #[tokio::test(start_paused = true)]
    async fn a_network_is_known_after_a_restart_and_rubbish_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let identity = folder.path().join("identity");
        let strategies = watch::Sender::new(Strategies::default());
        let home = Network::new(NetworkKind::Wifi, "home");
        let open = || {
            let observed = Observed::open(Some(&identity), &strategies);
            observed.arrived(&home);
            observed.snapshot()
        };
        assert_eq!(open().round_trip_ms, None);
        let first = Observed::open(Some(&identity), &strategies);
        first.arrived(&home);
        for _ in 0..20 {
            tokio::time::advance(std::time::Duration::from_secs(1)).await;
            first.on(Event::RoundTrip(std::time::Duration::from_millis(320)));
            first.on(Event::Received(50_000.0));
        }
        let file = folder.path().join("identity.networks");
        // Without a runtime's threads, which would write in their own time.
        std::thread::scope(|scope| scope.spawn(|| first.keep()).join().unwrap());
        let known = open();
        assert_eq!((known.round_trip_ms, known.receive_kbps), (Some(320), Some(400)));
        assert_eq!(known.level, first.snapshot().level);
        let good = std::fs::read_to_string(&file).unwrap();
        let key = home.place();
        for rubbish in [
            String::new(),
            good.replace("networks 1", "networks 2"),
            good.replace("320000", "x"),
            good.replace("320000", "99999999999"),
            format!("towline-networks 1\n{key} 1790000000 1 1 1 nan 1 1 1 1 1\n"),
            format!("{good}{key}\n"),
            "x".repeat(100_000),
        ] {
            std::fs::write(&file, &rubbish).unwrap();
            assert_eq!(open().round_trip_ms, None, "{rubbish:.80}");
        }
    }
}
