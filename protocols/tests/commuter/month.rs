//! Where the phone is, and when nothing passes there: drawn once, so that any moment can be asked about.

use std::{ops::Range, time::Duration};

use towline_protocols::policy::{Network, NetworkKind, Transport};

/// A kind of place.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    pub name: &'static str,
    pub kind: NetworkKind,
    /// When its NAT forgets a quiet flow.
    udp_timeout: Duration,
    tcp_timeout: Duration,
    round_trip_ms: Range64,
    /// Mean times between blackouts, and of them; `None`: there are none.
    blackouts_s: Option<(f64, f64)>,
    /// Nothing gets through to the gateway.
    pub is_captive: bool,
    /// Timers are held back.
    pub dozes: bool,
}

type Range64 = (u64, u64);

const fn place(name: &'static str, kind: NetworkKind, nat_s: (u64, u64), round_trip_ms: Range64) -> Place {
    Place {
        name,
        kind,
        udp_timeout: Duration::from_secs(nat_s.0),
        tcp_timeout: Duration::from_secs(nat_s.1),
        round_trip_ms,
        blackouts_s: None,
        is_captive: false,
        dozes: false,
    }
}

const HOME: Place = place("home", NetworkKind::Wifi, (180, 1800), (15, 40));
const NIGHT: Place = Place { dozes: true, ..HOME };
const STREET: Place = place("street", NetworkKind::Cellular4g, (90, 300), (40, 120));
const SUBWAY: Place = Place { name: "subway", blackouts_s: Some((90.0, 25.0)), ..STREET };
const ELEVATOR: Place = Place { name: "elevator", blackouts_s: Some((15.0, 20.0)), ..STREET };
const OFFICE: Place = place("office", NetworkKind::Wifi, (30, 600), (10, 30));
const TRAIN: Place = Place {
    name: "train",
    blackouts_s: Some((180.0, 8.0)),
    ..place("train", NetworkKind::Cellular4g, (90, 300), (60, 400))
};
const CAFE: Place = Place { is_captive: true, ..place("cafe", NetworkKind::Wifi, (60, 300), (20, 80)) };

impl Place {
    /// Whether what is sent there arrives.
    pub fn is_calm(&self) -> bool {
        self.blackouts_s.is_none() && !self.is_captive
    }

    /// What the app says of it. Subway and elevator are the street's network.
    pub fn network(&self) -> Network {
        let key = if self.kind == NetworkKind::Wifi { self.name } else { "" };
        let carrier = self.kind.is_cellular().then(|| if self.name == "train" { "46011" } else { "46001" });
        Network { carrier: carrier.map(str::to_owned), ..Network::new(self.kind, key) }
    }

    /// What its NAT is counted under.
    pub fn network_name(&self) -> &'static str {
        match self.kind {
            NetworkKind::Cellular4g if self.name != "train" => "street",
            _ => self.name,
        }
    }

    pub fn nat_timeout(&self, transport: Transport) -> Duration {
        match transport {
            Transport::Quic => self.udp_timeout,
            Transport::Tcp => self.tcp_timeout,
        }
    }

    pub fn round_trip(&self, random: &mut fastrand::Rng) -> Duration {
        Duration::from_millis(random.u64(self.round_trip_ms.0..=self.round_trip_ms.1))
    }
}

/// A time at one place; times count from the month's beginning.
#[derive(Clone, Debug)]
pub struct Stay {
    pub until: Duration,
    pub place: Place,
    /// The cell changed on arrival, and the address with it.
    pub is_handover: bool,
    /// When the network of the next stay is there, which may be before this one goes.
    pub joined_from: Duration,
    blackouts: Vec<Range<Duration>>,
}

#[derive(Clone, Debug)]
pub struct Month {
    pub stays: Vec<Stay>,
}

const DAYS: u64 = 30;

impl Month {
    pub fn draw(seed: u64) -> Self {
        let mut month = Self { stays: Vec::new() };
        let mut random = fastrand::Rng::with_seed(seed);
        for day in 0..DAYS {
            month.day(day, &mut random);
        }
        // Drawn apart: the rest of a seed's month is as it is without.
        month.overlap(&mut fastrand::Rng::with_seed(seed ^ 0x6a6f_696e));
        month
    }

    /// Every other network is there some seconds before the one that it follows is gone.
    fn overlap(&mut self, random: &mut fastrand::Rng) {
        for next in 1..self.stays.len() {
            let is_other = self.stays[next].place.network() != self.stays[next - 1].place.network();
            if is_other && random.bool() {
                let stay = &mut self.stays[next - 1];
                stay.joined_from = stay.until - Duration::from_secs(random.u64(1..=40));
            }
        }
    }

    fn day(&mut self, day: u64, random: &mut fastrand::Rng) {
        let mut minutes = |least: u64, most: u64| random.u64(least..=most);
        let mut plan = vec![(NIGHT, minutes(380, 440)), (HOME, minutes(30, 60))];
        if day % 7 < 5 {
            plan.extend([(STREET, minutes(5, 15)), (SUBWAY, minutes(15, 40)), (ELEVATOR, 2)]);
            plan.extend([(OFFICE, minutes(200, 260)), (ELEVATOR, 2), (STREET, minutes(20, 40))]);
            plan.extend([(CAFE, minutes(5, 20)), (OFFICE, minutes(180, 240)), (ELEVATOR, 2)]);
            plan.extend((0..minutes(4, 10)).map(|_| TRAIN).map(|cell| (cell, 4)));
            plan.push((STREET, minutes(5, 15)));
        } else {
            plan.extend([(STREET, minutes(30, 120)), (TRAIN, 30), (STREET, minutes(60, 240))]);
        }
        let end = Duration::from_secs((day + 1) * 86_400);
        for (place, minutes) in plan {
            self.stay(place, Duration::from_secs(minutes * 60), random);
        }
        let left = end.saturating_sub(self.end());
        self.stay(HOME, left, random);
    }

    fn stay(&mut self, place: Place, time: Duration, random: &mut fastrand::Rng) {
        let (from, until) = (self.end(), self.end() + time);
        let mut blackouts = Vec::new();
        if let Some((apart_s, long_s)) = place.blackouts_s {
            let mut draw = |mean_s: f64| Duration::from_secs_f64(mean_s * (0.2 + 1.6 * random.f64()));
            let mut at = from + draw(apart_s);
            while at < until {
                let end = at + draw(long_s);
                blackouts.push(at..end.min(until));
                at = end + draw(apart_s);
            }
        }
        let before = self.stays.last();
        let is_handover = place.name == "train" && before.is_some_and(|it| it.place.name == "train");
        self.stays.push(Stay { until, place, is_handover, joined_from: until, blackouts });
    }

    pub fn end(&self) -> Duration {
        self.stays.last().map_or(Duration::ZERO, |stay| stay.until)
    }

    pub fn at(&self, time: Duration) -> &Stay {
        let index = self.stays.partition_point(|stay| stay.until <= time);
        &self.stays[index.min(self.stays.len() - 1)]
    }

    /// The next moment, not before `time`, at which something passes.
    pub fn passes_from(&self, time: Duration) -> Duration {
        let stay = self.at(time);
        if stay.place.is_captive {
            return stay.until;
        }
        let index = stay.blackouts.partition_point(|blackout| blackout.end <= time);
        let blackout = stay.blackouts.get(index).filter(|blackout| blackout.contains(&time));
        blackout.map_or(time, |blackout| blackout.end)
    }

    /// Whether everything passes in that time, in one place.
    pub fn is_up_during(&self, time: Range<Duration>) -> bool {
        let stay = self.at(time.start);
        let is_cut = |it: &Range<Duration>| it.start < time.end && time.start < it.end;
        stay.until >= time.end && !stay.place.is_captive && !stay.blackouts.iter().any(is_cut)
    }
}
