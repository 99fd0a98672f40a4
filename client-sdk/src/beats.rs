//! What was learnt of how long networks let a quiet connection live, across connections and runs of the app.

use std::{
    fmt::Write as _,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use towline_protocols::{
    link::{LearntBeat, report::BEATS_MAX},
    policy::{Filed, Heartbeat, Learnt, NETWORKS_MAX, NetworkKey, Records, Strategies, Transport},
};

use crate::{disk::Disk, wall::since_1970};

/// The strategy, and where it keeps what it learns.
pub(crate) struct Beats {
    pub(crate) heartbeat: Heartbeat,
    disk: Option<Arc<Disk>>,
}

impl Beats {
    /// What cannot be read is learnt again.
    pub(crate) fn open(identity_file: Option<&Path>, strategies: &Strategies) -> Self {
        let disk = identity_file.map(|path| Disk::beside(path, ".beats"));
        let bytes = disk.as_ref().and_then(|disk| disk.read(FILE_BYTES_MAX));
        let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
        let filed = text.as_deref().and_then(parse).unwrap_or_default();
        let records = Records::restore(filed, since_1970().as_secs());
        Self { heartbeat: Heartbeat::new(strategies.heartbeat.clone(), records), disk: disk.map(Arc::new) }
    }

    /// What is known of a network, for the gateway.
    pub(crate) fn learnt(&self, network: NetworkKey, now: Instant) -> Vec<LearntBeat> {
        let seconds = |time: Duration| u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
        let in_use = self.heartbeat.in_use();
        let here = self.heartbeat.records().iter().filter(|filed| filed.network == network);
        let learnt = here.map(|Filed { transport, learnt, .. }| LearntBeat {
            transport: *transport as u32,
            interval_s: match in_use == Some((network, *transport)) {
                true => seconds(self.heartbeat.interval(now)),
                false => 0,
            },
            survived_s: seconds(learnt.good),
            fatal_s: learnt.bad.map(seconds).unwrap_or_default(),
            observations: learnt.bad_times,
        });
        learnt.take(BEATS_MAX).collect()
    }

    /// What was learnt has changed.
    pub(crate) fn write(&self) {
        if let Some(disk) = &self.disk {
            disk.put(text(self.heartbeat.records()).into_bytes());
        }
    }
}

/// The file beside the identity file.
///
/// ```text
/// towline-beats 1
/// 5a3c0d2e11f09b77 tcp 1790000000 234000 240000 2 1789000000
/// ```
///
/// A line for each network and transport, the one used last first: its key, when it was used, the longest quiet time that
/// connections outlived and the shortest that they did not (milliseconds; 0: none), how often that failed and when.
const FIRST_LINE: &str = "towline-beats 1";
/// Far more than the networks that are remembered can fill.
const FILE_BYTES_MAX: usize = 64 << 10;

fn text(records: &Records) -> String {
    let mut text = format!("{FIRST_LINE}\n");
    for Filed { network, transport, used_s, learnt } in records.iter() {
        let (good, bad) = (learnt.good.as_millis(), learnt.bad.unwrap_or_default().as_millis());
        let (times, at) = (learnt.bad_times, learnt.bad_at_s);
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{network} {} {used_s} {good} {bad} {times} {at}", transport.name());
    }
    text
}

fn parse(text: &str) -> Option<Vec<Filed>> {
    let mut lines = text.lines();
    if lines.next() != Some(FIRST_LINE) {
        return None;
    }
    lines.take(NETWORKS_MAX).map(filed).collect()
}

fn filed(line: &str) -> Option<Filed> {
    let [network, transport, used_s, good, bad, times, at] = line.split(' ').collect::<Vec<_>>()[..] else {
        return None;
    };
    let millis = |text: &str| text.parse().ok().map(Duration::from_millis);
    let transport = [Transport::Tcp, Transport::Quic].into_iter().find(|it| it.name() == transport)?;
    let learnt = Learnt {
        good: millis(good)?,
        bad: millis(bad).map(|bad| Some(bad).filter(|bad| !bad.is_zero()))?,
        bad_times: times.parse().ok()?,
        bad_at_s: at.parse().ok()?,
        strikes: 0,
    };
    let network = NetworkKey(u64::from_str_radix(network, 16).ok()?);
    Some(Filed { network, transport, used_s: used_s.parse().ok()?, learnt })
}

#[cfg(test)]
mod tests {
    use towline_protocols::policy::Ground;

    use super::*;

    #[test]
    fn what_was_learnt_is_there_after_a_restart_and_rubbish_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let identity = folder.path().join("identity");
        let strategies = Strategies::default();
        let mut first = Beats::open(Some(&identity), &strategies);
        let (mut now, second) = (Instant::now(), Duration::from_secs(1));
        for (network, transport) in [(1, Transport::Tcp), (2, Transport::Quic)] {
            let ground = Ground {
                network: NetworkKey(network),
                transport,
                start: 30 * second,
                highest: Duration::ZERO,
                unix_s: since_1970().as_secs(),
            };
            first.heartbeat.begin(now, ground);
            for (quiet, is_lost) in [(30, false), (45, true)] {
                first.heartbeat.beat(now, quiet * second);
                if is_lost {
                    first.heartbeat.lost(now);
                    first.heartbeat.begin(now, ground);
                } else {
                    assert!(first.heartbeat.heard());
                }
                now += 60 * second;
            }
        }
        let told = first.learnt(NetworkKey(2), now);
        assert_eq!((told.len(), told[0].transport, told[0].interval_s), (1, 1, 37), "between 30 s and 45 s");
        assert_eq!(first.learnt(NetworkKey(1), now)[0].interval_s, 0, "the link is on another");
        first.write();
        let later = Beats::open(Some(&identity), &strategies);
        assert_eq!(later.heartbeat.records(), first.heartbeat.records());
        assert_eq!(later.heartbeat.records().iter().count(), 2);
        let file = folder.path().join("identity.beats");
        for rubbish in
            ["", "towline-beats 2\n", "towline-beats 1\n1 tcp 2\n", "towline-beats 1\nx tcp 1 1 1 1 1\n"]
        {
            std::fs::write(&file, rubbish).unwrap();
            assert_eq!(Beats::open(Some(&identity), &strategies).heartbeat.records().iter().count(), 0);
        }
    }
}
