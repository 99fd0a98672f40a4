//! What is known of the ways to gateways on each network: which got through, and the addresses of names. With an
//! identity file, for the next run of the app too.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use parking_lot::Mutex;
use towline_protocols::policy::{Found, Names, NetworkKey, RacePolicy, Ranked, Verdict, Way, Ways};

use crate::disk::Disk;

mod file;

/// The memory, behind a lock that is held for a step.
pub(crate) struct Routes {
    memory: Mutex<Memory>,
    disk: Option<Arc<Disk>>,
}

#[derive(Default)]
struct Memory {
    ways: Ways,
    names: Names,
    /// What won when the file was written last, and when that was.
    written: Option<(NetworkKey, Way, Instant)>,
}

/// What only grows older is written no more often: a phone may connect every minute.
const WRITE_PAUSE: Duration = Duration::from_secs(3600);

impl Routes {
    /// With what an earlier run of the app has learnt. What cannot be read is forgotten: it costs time only.
    pub(crate) fn open(identity_file: Option<&Path>, now: Instant) -> Self {
        let disk = identity_file.map(|path| Disk::beside(path, ".routes"));
        let bytes = disk.as_ref().and_then(|disk| disk.read(file::BYTES_MAX));
        let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
        let parsed = text.as_deref().and_then(|text| file::parse(text, SystemTime::now(), now));
        let (ways, names) = parsed.unwrap_or_default();
        Self { memory: Mutex::new(Memory { ways, names, written: None }), disk: disk.map(Arc::new) }
    }

    /// The ways, the best first.
    pub(crate) fn rank(
        &self,
        policy: &RacePolicy,
        network: NetworkKey,
        ways: Vec<Way>,
        now: Instant,
    ) -> Vec<Ranked> {
        self.memory.lock().ways.rank(policy, network, ways, now)
    }

    /// The gateway that was reached last on that network.
    pub(crate) fn last_gateway(
        &self,
        policy: &RacePolicy,
        network: NetworkKey,
        now: Instant,
    ) -> Option<String> {
        self.memory.lock().ways.last_gateway(policy, network, now).map(str::to_owned)
    }

    /// Whether QUIC is known not to pass there.
    pub(crate) fn is_quic_blocked(&self, policy: &RacePolicy, network: NetworkKey, now: Instant) -> bool {
        self.memory.lock().ways.is_quic_blocked(policy, network, now)
    }

    /// What a race that was won said.
    pub(crate) fn learn(
        &self,
        policy: &RacePolicy,
        network: NetworkKey,
        said: &[(Way, Verdict)],
        now: Instant,
    ) {
        let mut memory = self.memory.lock();
        memory.ways.learn(policy, network, said, now);
        let won = said.iter().find(|(_, verdict)| *verdict == Verdict::Won);
        let Some((won, _)) = won.filter(|_| policy.enabled) else { return };
        let is_same = memory.written.as_ref().is_some_and(|(of, way, at)| {
            *of == network && way == won && now.saturating_duration_since(*at) < WRITE_PAUSE
        });
        // Others were tried in vain, or another one won.
        if said.len() > 1 || !is_same {
            memory.written = Some((network, won.clone(), now));
            self.write(&memory, now);
        }
    }

    /// What was learnt of that network may be of another one.
    pub(crate) fn forget(&self, network: NetworkKey) {
        self.memory.lock().ways.forget(network);
    }

    /// The addresses of a name, as far as they are known.
    pub(crate) fn addresses(
        &self,
        policy: &RacePolicy,
        network: NetworkKey,
        host: &str,
        now: Instant,
    ) -> Option<Found> {
        self.memory.lock().names.get(policy, network, host, now)
    }

    /// DNS has answered. It is written with the next way that gets through.
    pub(crate) fn found(
        &self,
        network: NetworkKey,
        host: &str,
        addresses: Vec<std::net::IpAddr>,
        now: Instant,
    ) {
        self.memory.lock().names.learn(network, host, addresses, now);
    }

    /// Nothing got through to that name.
    pub(crate) fn doubt(&self, network: NetworkKey, host: &str) {
        self.memory.lock().names.doubt(network, host);
    }

    fn write(&self, memory: &Memory, now: Instant) {
        if let Some(disk) = &self.disk {
            disk.put(file::text(&memory.ways, &memory.names, SystemTime::now(), now).into_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use towline_protocols::policy::{Network, NetworkKind, Transport};

    use super::*;
    use crate::core::now;

    /// The next cold start on a network whose UDP is blocked loses no time on QUIC, and on another it begins with that.
    #[test]
    fn that_udp_is_blocked_on_a_network_outlives_the_app() {
        let folder = tempfile::tempdir().unwrap();
        let (identity, policy) = (folder.path().join("identity"), RacePolicy::default());
        let place = |label: &str| Network::new(NetworkKind::Wifi, label).place();
        let ways = [Transport::Quic, Transport::Tcp].map(|transport| Way {
            gateway: "edge:443".into(),
            address: Some(([192, 0, 2, 7], 443).into()),
            transport,
        });
        let first = |routes: &Routes, label: &str| {
            let ranked = routes.rank(&policy, place(label), ways.to_vec(), now());
            (ranked[0].way.transport, routes.is_quic_blocked(&policy, place(label), now()))
        };
        let routes = Routes::open(Some(&identity), now());
        assert_eq!(first(&routes, "office"), (Transport::Quic, false));
        let [quic, tcp] = ways.clone();
        let said = [(quic, Verdict::Failed), (tcp, Verdict::Won)];
        routes.learn(&policy, place("office"), &said, now());
        drop(routes);
        let next_run = Routes::open(Some(&identity), now());
        assert_eq!(first(&next_run, "office"), (Transport::Tcp, true));
        assert_eq!(first(&next_run, "home"), (Transport::Quic, false));
    }
}
