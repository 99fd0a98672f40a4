//! Networks by name.

use std::time::Duration;

use towline_protocols::policy::NetworkKind;

use super::model::{DnsFault, Hostile, LinkConfig, Loss, NatConfig, Outages, Way};

/// A network.
#[derive(Clone, Copy, Debug)]
pub struct Profile {
    /// What it is called on the command line.
    pub name: &'static str,
    /// What it is like, and where its figures come from.
    pub about: &'static str,
    /// The link.
    pub link: LinkConfig,
    /// The quiet time between requests, where the network shows what it is only then.
    pub quiet: Option<Duration>,
}

impl Profile {
    /// The round trip of a small packet on an idle link, without jitter and transmission.
    pub fn round_trip(&self) -> Duration {
        self.link.up.delay + self.link.down.delay
    }

    /// What a phone's operating system would call it.
    pub fn kind(&self) -> NetworkKind {
        match self.name {
            name if name.starts_with("wifi") => NetworkKind::Wifi,
            name if name.starts_with("edge") || name == "2g" => NetworkKind::Cellular2g,
            "3g" => NetworkKind::Cellular3g,
            name if name.starts_with("4g") => NetworkKind::Cellular4g,
            _ => NetworkKind::Cellular,
        }
    }
}

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Kilobits per second and milliseconds, as the sources of profiles say.
const fn way(kbps: u64, delay: u64) -> Way {
    Way::new(kbps * 1000, ms(delay))
}

/// The carriers' translation where nothing else is said: patient enough not to be met within a run.
const PATIENT: NatConfig = NatConfig { udp_idle: s(300), tcp_idle: s(3600), drops_stale_udp: false };

const fn link(down: Way, up: Way) -> LinkConfig {
    let hostile = Hostile { udp_blocked: false, portal: false, dns: DnsFault::None, lasts: None };
    LinkConfig { up, down, outages: None, nat: Some(PATIENT), hostile }
}

const fn lossy(way: Way, jitter: u64, loss: Loss) -> Way {
    Way { jitter: ms(jitter), loss, ..way }
}

const fn profile(name: &'static str, about: &'static str, link: LinkConfig) -> Profile {
    Profile { name, about, link, quiet: None }
}

const LTE: LinkConfig =
    link(lossy(way(12_000, 30), 3, Loss::random(0.005)), lossy(way(6000, 30), 3, Loss::random(0.005)));

const fn hostile(hostile: Hostile) -> LinkConfig {
    LinkConfig { hostile, ..LTE }
}

const NO_FAULT: Hostile = Hostile { udp_blocked: false, portal: false, dns: DnsFault::None, lasts: None };

const WIFI_GOOD: Profile = profile(
    "wifi",
    "good Wi-Fi and fibre: 50/20 Mbit/s, 20 ms",
    link(lossy(way(50_000, 10), 1, Loss::NONE), lossy(way(20_000, 10), 1, Loss::NONE)),
);

const WIFI_FAR: Profile = profile(
    "wifi-far",
    "Wi-Fi from two rooms away: 2 % in bursts of 5, jitter 15 ms",
    link(
        lossy(way(8000, 15), 15, Loss::bursts(0.005, 0.2, 0.8)),
        lossy(way(3000, 15), 15, Loss::bursts(0.005, 0.2, 0.8)),
    ),
);

const FOUR_G: Profile = profile("4g", "4G: 12/6 Mbit/s, 60 ms, 0.5 % each way", LTE);

const FOUR_G_WEAK: Profile = profile(
    "4g-weak",
    "weak 4G: 2/1 Mbit/s, 150 ms and jitter 20 ms each way, 2 % each way",
    link(lossy(way(2000, 75), 20, Loss::random(0.02)), lossy(way(1000, 75), 20, Loss::random(0.02))),
);

const THREE_G: Profile =
    profile("3g", "3G average (ATC): 780/330 kbit/s, 200 ms", link(way(780, 100), way(330, 100)));

const UBER: Profile = profile(
    "population",
    "the median of a population of phones (Uber, 2019): 350 ms, jitter, 3.5 % in bursts of 2",
    link(
        lossy(way(2000, 150), 25, Loss::bursts(0.018, 0.5, 1.0)),
        lossy(way(1000, 150), 25, Loss::bursts(0.018, 0.5, 1.0)),
    ),
);

const EDGE: Profile = profile(
    "edge",
    "EDGE: 200/80 kbit/s, 500 ms, 2 % each way",
    link(lossy(slow(200, 250), 0, Loss::random(0.02)), lossy(slow(80, 250), 0, Loss::random(0.02))),
);

const EDGE_LOSSY: Profile = profile(
    "edge-lossy",
    "EDGE lossy (ATC): 240/200 kbit/s, 840 ms, 1 % each way",
    link(lossy(slow(240, 400), 0, Loss::random(0.01)), lossy(slow(200, 440), 0, Loss::random(0.01))),
);

const TWO_G: Profile = profile(
    "2g",
    "2G rural (ATC): 20/18 kbit/s, 1300 ms, 2 % each way",
    link(lossy(slow(20, 650), 0, Loss::random(0.02)), lossy(slow(18, 650), 0, Loss::random(0.02))),
);

/// Slow radios have deep queues.
const fn slow(kbps: u64, delay: u64) -> Way {
    Way { queue: s(3), ..way(kbps, delay) }
}

const VERY_BAD: Profile = profile(
    "very-bad",
    "very bad network (Apple's conditioner): 1 Mbit/s, 1000 ms, 10 % each way",
    link(lossy(way(1000, 500), 0, Loss::random(0.1)), lossy(way(1000, 500), 0, Loss::random(0.1))),
);

const SUBWAY: Profile = profile(
    "subway",
    "subway: 100 ms, losses in bursts (Gilbert-Elliott, 1 %, rows of 4, 75 %), 3 to 8 s without any network every 90 s",
    LinkConfig {
        outages: Some(Outages { every: s(90), min: s(3), max: s(8), holds: false, moves: false }),
        ..link(
            lossy(way(4000, 50), 10, Loss::bursts(0.01, 0.25, 0.75)),
            lossy(way(2000, 50), 10, Loss::bursts(0.01, 0.25, 0.75)),
        )
    },
);

const ELEVATOR: Profile = profile(
    "elevator",
    "elevator: 4G that is gone for 15 to 40 s about every 2 minutes, then there with another address",
    LinkConfig {
        outages: Some(Outages { every: s(120), min: s(15), max: s(40), holds: false, moves: true }),
        ..LTE
    },
);

const RAIL: Profile = profile(
    "rail",
    "high-speed rail: 90 ms and jitter, losses in bursts, every 15 s a hand-over that holds packets for 0.3 to 1.5 s",
    LinkConfig {
        outages: Some(Outages { every: s(15), min: ms(300), max: ms(1500), holds: true, moves: false }),
        ..link(deep(way(8000, 45)), deep(way(3000, 45)))
    },
);

/// What radios hold back while they are handed over.
const fn deep(way: Way) -> Way {
    Way { queue: s(2), ..lossy(way, 15, Loss::bursts(0.004, 0.3, 0.7)) }
}

const HAND_OVERS: Profile = profile(
    "walking",
    "between Wi-Fi and 4G: another address every 20 s, after 50 to 500 ms without any",
    LinkConfig {
        outages: Some(Outages { every: s(20), min: ms(50), max: ms(500), holds: false, moves: true }),
        ..LTE
    },
);

const NAT: Profile = Profile {
    quiet: Some(s(70)),
    ..profile(
        "nat",
        "4G behind a translation that forgets UDP after 30 s and TCP after 60 s; requests 70 s apart",
        LinkConfig {
            nat: Some(NatConfig { udp_idle: s(30), tcp_idle: s(60), drops_stale_udp: false }),
            ..LTE
        },
    )
};

const NAT_STRICT: Profile = Profile {
    quiet: Some(s(70)),
    ..profile(
        "nat-strict",
        "the same, and UDP from a port that was forgotten is dropped",
        LinkConfig {
            nat: Some(NatConfig { udp_idle: s(30), tcp_idle: s(60), drops_stale_udp: true }),
            ..LTE
        },
    )
};

const UDP_BLOCKED: Profile = profile(
    "udp-blocked",
    "4G where UDP to port 443 goes nowhere",
    hostile(Hostile { udp_blocked: true, ..NO_FAULT }),
);

const PORTAL: Profile = profile(
    "portal",
    "4G behind a captive portal (wrong certificate, HTTP redirect) that lets go after 6 s",
    hostile(Hostile { portal: true, lasts: Some(s(6)), ..NO_FAULT }),
);

const DNS_LATE: Profile = profile(
    "dns-late",
    "4G whose resolver takes 3 s to answer",
    hostile(Hostile { dns: DnsFault::Late(s(3)), ..NO_FAULT }),
);

const DNS_FAILS: Profile = profile(
    "dns-fails",
    "4G whose resolver knows no name for 4 s",
    hostile(Hostile { dns: DnsFault::NoSuchName, lasts: Some(s(4)), ..NO_FAULT }),
);

const ACK_LOSS: Profile = profile(
    "ack-loss",
    "4G where a third of the phone's pure acknowledgements is lost, and a fiftieth of packets overtakes",
    LinkConfig { up: Way { ack_loss: 0.33, ..LTE.up }, down: Way { reorder: 0.02, ..LTE.down }, ..LTE },
);

/// All networks, the better ones first.
pub const PROFILES: [Profile; 21] = [
    WIFI_GOOD,
    WIFI_FAR,
    FOUR_G,
    FOUR_G_WEAK,
    THREE_G,
    UBER,
    EDGE,
    EDGE_LOSSY,
    TWO_G,
    VERY_BAD,
    SUBWAY,
    ELEVATOR,
    RAIL,
    HAND_OVERS,
    NAT,
    NAT_STRICT,
    UDP_BLOCKED,
    PORTAL,
    DNS_LATE,
    DNS_FAILS,
    ACK_LOSS,
];

/// The networks of these names; all of [`PROFILES`] without a name.
///
/// # Errors
/// A name is unknown.
pub fn chosen(names: &[String]) -> Result<Vec<Profile>, String> {
    if names.is_empty() {
        return Ok(PROFILES.to_vec());
    }
    let find = |name: &String| {
        let listed = || PROFILES.iter().map(|profile| profile.name).collect::<Vec<_>>().join(", ");
        let found = PROFILES.iter().find(|profile| profile.name == name).copied();
        found.ok_or_else(|| format!("there is no profile `{name}`; known are {}", listed()))
    };
    names.iter().map(find).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_found() {
        let mut names: Vec<String> = PROFILES.iter().map(|profile| profile.name.to_owned()).collect();
        assert_eq!(chosen(&names).unwrap().len(), names.len());
        names.sort();
        names.dedup();
        assert_eq!(names.len(), PROFILES.len());
        let error = chosen(&["5g".to_owned()]).unwrap_err();
        assert!(error.contains("`5g`") && error.contains("4g-weak"), "{error}");
    }

    #[test]
    fn losses_are_what_the_descriptions_say() {
        let check = |name: &str, expected: f64| {
            let profile = chosen(&[name.to_owned()]).unwrap()[0];
            let mean = profile.link.down.loss.mean();
            assert!((mean - expected).abs() < 0.002, "{name}: {mean}");
        };
        check("4g-weak", 0.02);
        check("population", 0.035);
        check("subway", 0.029);
        check("very-bad", 0.1);
    }
}
