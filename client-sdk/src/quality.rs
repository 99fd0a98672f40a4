//! What the client sees of the network in use, the limits that follow from it, and what is remembered of networks across
//! runs of the app.

mod file;

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::watch;
use towline_protocols::{
    compress::Effort,
    link::{LevelReported, QualitySnapshot},
    policy::{
        Arrival, Event, Handshakes, Impressions, KeyExchange, Level, Meter, Network, Quality, ShortWaits,
        Step, Strategies, Wanted,
    },
};

use crate::{core::now, disk::Disk, wall::since_1970};

/// The machines, behind a lock that is held for a step, and that is taken before the strategies are borrowed: a borrow
/// waits behind whoever changes them, who waits for the other borrows.
pub(crate) struct Observed {
    machines: Mutex<Machines>,
    strategies: watch::Receiver<Strategies>,
    pub(crate) level: watch::Sender<Option<Level>>,
    disk: Option<Arc<Disk>>,
    /// What compressors follow.
    pub(crate) effort: Effort,
}

struct Machines {
    quality: Quality,
    /// What answers to calls bring.
    received: Meter,
    /// Of the network in use.
    handshakes: Handshakes,
    /// Sees whether the parameters are others.
    strategies: watch::Receiver<Strategies>,
}

/// Something that is waited for no longer than its limit.
pub(crate) struct Wait<'a> {
    observed: &'a Observed,
    step: Step,
    began: Instant,
    pub(crate) limit: Duration,
    /// The limit is the deadline of whoever waits.
    is_deadline: bool,
}

impl Observed {
    /// What cannot be read of an earlier run is learnt again.
    pub(crate) fn open(identity_file: Option<&Path>, strategies: &watch::Sender<Strategies>) -> Self {
        let disk = identity_file.map(|path| Disk::beside(path, ".networks"));
        let records = disk.as_ref().and_then(file::read).unwrap_or_default();
        let policy = strategies.borrow().quality.clone();
        let quality = Quality::remembering(policy, Impressions::restore(records, since_1970().as_secs()));
        let machines = Machines {
            quality,
            received: Meter::default(),
            handshakes: Handshakes::default(),
            strategies: strategies.subscribe(),
        };
        Self {
            machines: Mutex::new(machines),
            strategies: strategies.subscribe(),
            level: watch::Sender::new(None),
            disk: disk.map(Arc::new),
            effort: Effort::default(),
        }
    }

    /// Begins to wait, for `highest` at most.
    pub(crate) fn wait(&self, step: Step, highest: Duration) -> Wait<'_> {
        self.wait_for(&Wanted::of(step, highest))
    }

    /// Begins to wait.
    pub(crate) fn wait_for(&self, wanted: &Wanted) -> Wait<'_> {
        let began = now();
        let machines = self.machines.lock();
        let limit = self.strategies.borrow().timeouts.limit_of(began, wanted, &machines.quality);
        Wait { observed: self, step: wanted.step, began, limit, is_deadline: wanted.left == Some(limit) }
    }

    /// What is known of the network in use, for the gateway.
    pub(crate) fn snapshot(&self) -> QualitySnapshot {
        let (machines, now) = (self.machines.lock(), now());
        let quality = &machines.quality;
        let level = match quality.level() {
            None => LevelReported::Unspecified,
            Some(Level::Poor) => LevelReported::Poor,
            Some(Level::Weak) => LevelReported::Weak,
            Some(Level::Fair) => LevelReported::Fair,
            Some(Level::Good) => LevelReported::Good,
        };
        let ms = |time: Duration| u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
        // A float that is no u32 becomes the nearest one.
        let permille = |share: f64| (share * 1000.0).round() as u32;
        let kbps = |rate: f64| (rate * 8.0 / 1000.0).round() as u32;
        QualitySnapshot {
            level: level.into(),
            round_trip_ms: quality.round_trip(now).map(ms),
            jitter_ms: quality.jitter(now).map(ms),
            loss_permille: quality.loss(now).map(permille),
            receive_kbps: quality.receive_rate(now).map(kbps),
            send_kbps: quality.send_rate(now).map(kbps),
            failures_permille: quality.failure_share(now).map(permille),
        }
    }

    /// What connecting usually takes on the network in use, or on networks of its kind, if that is known.
    pub(crate) fn expected_connect(&self) -> Option<Duration> {
        self.machines.lock().quality.expected_connect(now())
    }

    /// The same on another network.
    pub(crate) fn expected_connect_on(&self, network: &Network) -> Option<Duration> {
        let arrival = Arrival::at(network, since_1970().as_secs());
        self.machines.lock().quality.expected_connect_on(arrival)
    }

    /// The key exchange to offer on the network in use.
    pub(crate) fn key_exchange(&self) -> KeyExchange {
        let (mut machines, now) = (self.machines.lock(), now());
        let (level, rate) = (machines.quality.level(), machines.quality.expected_send_rate(now));
        machines.handshakes.offer(&self.strategies.borrow().handshake, level, rate)
    }

    /// The same on another network.
    pub(crate) fn key_exchange_on(&self, network: &Network) -> KeyExchange {
        let (machines, arrival) = (self.machines.lock(), Arrival::at(network, since_1970().as_secs()));
        let rate = machines.quality.expected_send_rate_on(arrival);
        Handshakes::default().offer(&self.strategies.borrow().handshake, None, rate)
    }

    /// How long calls wait before they go by POST, where the next link carries calls `early`; `absent_max` and `answer_max`
    /// are the longest.
    pub(crate) fn short_waits(&self, early: bool, absent_max: Duration, answer_max: Duration) -> ShortWaits {
        let (machines, strategies) = (self.machines.lock(), self.strategies.borrow());
        strategies.short.waits(&machines.quality, early, &strategies.timeouts, absent_max, answer_max, now())
    }

    pub(crate) fn on(&self, event: Event) {
        self.step(|machines, now| machines.quality.on(now, event));
    }

    /// The device is on that network from now on.
    pub(crate) fn arrived(&self, network: &Network) {
        let arrival = Arrival::at(network, since_1970().as_secs());
        self.step(|machines, now| {
            machines.handshakes = Handshakes::default();
            machines.quality.on(now, Event::NetworkChanged(arrival))
        });
    }

    /// So many bytes of an answer have come; `is_last`: with them its end.
    pub(crate) fn received(&self, bytes: usize, is_last: bool) {
        self.step(|machines, now| {
            let Machines { quality, received, .. } = machines;
            let rate = received.moved(now, bytes as u64, quality.expected_round_trip(now));
            let rate = rate.or_else(|| if is_last { received.end() } else { None })?;
            quality.on(now, Event::Received(rate))
        });
    }

    /// What the share of answers came within that counts for hedging, if enough are known.
    pub(crate) fn answered(&self) -> Option<Duration> {
        let (machines, strategies) = (self.machines.lock(), self.strategies.borrow());
        let hedge = &strategies.hedge;
        machines.quality.answer_quantile(now(), hedge.answered_share, hedge.samples_min)
    }

    /// The round trip, as far as anything is known of it.
    pub(crate) fn expected_round_trip(&self) -> Option<Duration> {
        self.machines.lock().quality.expected_round_trip(now())
    }

    /// The same on another network.
    pub(crate) fn expected_round_trip_on(&self, network: &Network) -> Option<Duration> {
        let arrival = Arrival::at(network, since_1970().as_secs());
        self.machines.lock().quality.expected_round_trip_on(arrival)
    }

    /// The app may end at any time from now on: what is known goes to disk.
    pub(crate) fn keep(&self) {
        self.step(|machines, now| {
            machines.quality.note(now);
            None
        });
    }

    /// One step of the machines, which may say another level.
    fn step(&self, step: impl FnOnce(&mut Machines, Instant) -> Option<Option<Level>>) {
        let mut machines = self.machines.lock();
        let now = now();
        let mut changed = None;
        if machines.strategies.has_changed().unwrap_or(false) {
            let policy = machines.strategies.borrow_and_update().quality.clone();
            changed = machines.quality.set_policy(now, policy);
        }
        if let Some(level) = step(&mut machines, now).or(changed) {
            tracing::debug!(?level, "the network is judged anew");
            self.level.send_replace(level);
        }
        let rate = machines.quality.expected_send_rate(now);
        self.effort.set(self.strategies.borrow().compression.pace(rate));
        if let (Some(records), Some(disk)) = (machines.quality.changed_records(), &self.disk) {
            disk.put(file::text(records).into_bytes());
        }
    }
}

impl Wait<'_> {
    pub(crate) fn came(&self) {
        let after = now().saturating_duration_since(self.began);
        self.observed.on(Event::Came(self.step, after));
    }

    /// It failed: at its limit, or before. That a call's time was over says nothing of the network.
    pub(crate) fn failed(&self) {
        let is_expired = now().saturating_duration_since(self.began) >= self.limit;
        match is_expired {
            true if self.is_deadline => {}
            true => self.observed.on(Event::Expired(self.step)),
            false => self.observed.on(Event::Failed),
        }
    }
}
