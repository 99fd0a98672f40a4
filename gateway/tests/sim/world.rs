//! One run: a gateway that dies and comes back, an app that does, a bad network between them, and what all
//! of them did, written down.

use std::{
    collections::hash_map::DefaultHasher,
    hash::{Hash as _, Hasher as _},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use bytes::Bytes;
use towline_client::Transports;
use towline_gateway::store::Memory;

use crate::{
    datagrams::Datagrams,
    determinism,
    gateway::{Identity, Incarnation},
    model::Model,
    network::{Cutter, Quality, Sees},
};

/// What may happen in a run; each seed has its own mixture, since faults that are always there hide others.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) quality: Quality,
    pub(crate) transports: Transports,
    pub(crate) calls: usize,
    pub(crate) pushes: usize,
    /// Chance of a fault in a second.
    pub(crate) breaks: f64,
    pub(crate) gateway_deaths: f64,
    pub(crate) app_deaths: f64,
    pub(crate) drains: f64,
    pub(crate) replays: f64,
    /// Chance that a network begins to let TCP alone pass.
    pub(crate) udp_blocks: f64,
    /// Chance that a connection carries early data.
    pub(crate) early: f64,
    /// Chance that a call goes to a durable route.
    pub(crate) durable: f64,
    pub(crate) backend_faults: f64,
    /// Chance that the disk refuses a write.
    pub(crate) disk_faults: f64,
    /// Chance that the gateway dies at a write, and at a step of the backend's.
    pub(crate) disk_deaths: f64,
    pub(crate) backend_deaths: f64,
    /// For how long anything goes wrong.
    pub(crate) lasts: Duration,
}

pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) memory: Memory,
    pub(crate) datagrams: Arc<Datagrams>,
    pub(crate) identity: Identity,
    state: Mutex<State>,
}

pub(crate) struct State {
    pub(crate) chance: fastrand::Rng,
    pub(crate) model: Model,
    pub(crate) gateway: Option<Incarnation>,
    pub(crate) connections: Vec<Cutter>,
    /// First flights that somebody has written down on their way, each with the gateway's life: a ticket's early data
    /// is taken by the process that issued it alone.
    pub(crate) flights: Vec<(u32, Bytes)>,
    /// The gateway's counter of lives.
    pub(crate) lives: u32,
    /// The app's counter of lives.
    pub(crate) app_lives: u32,
    /// Nothing goes wrong any more.
    pub(crate) at_peace: bool,
    trace: DefaultHasher,
}

impl Plan {
    pub(crate) fn draw(chance: &mut fastrand::Rng) -> Self {
        let ms = Duration::from_millis;
        let mut sometimes =
            |odds: f64, most: f64| if chance.f64() < odds { chance.f64() * most } else { 0.0 };
        let breaks = sometimes(0.8, 0.5);
        let gateway_deaths = sometimes(0.4, 0.15);
        let app_deaths = sometimes(0.3, 0.1);
        let drains = sometimes(0.2, 0.1);
        let replays = sometimes(0.5, 1.0);
        let early = sometimes(0.6, 1.0);
        let backend_faults = sometimes(0.3, 0.2);
        let (lost, doubled) = (sometimes(0.6, 0.2), sometimes(0.5, 0.2));
        let udp_blocks = sometimes(0.3, 0.1);
        let durable = sometimes(0.5, 1.0);
        let disk_faults = sometimes(0.1, 0.1);
        let (disk_deaths, backend_deaths) = (sometimes(0.3, 0.05), sometimes(0.3, 0.05));
        let transports = match chance.u8(..10) {
            0..4 => Transports::Tcp,
            4..7 => Transports::Quic,
            _ => Transports::QuicAndTcp,
        };
        Self {
            quality: Quality {
                delay: ms(chance.u64(1..300)),
                jitter: ms(chance.u64(0..500)),
                bytes_per_s: [2e6, 200e3, 20e3][chance.usize(..3)],
                lost,
                doubled,
            },
            transports,
            udp_blocks,
            durable,
            disk_faults,
            disk_deaths,
            backend_deaths,
            calls: chance.usize(5..60),
            pushes: chance.usize(0..40),
            breaks,
            gateway_deaths,
            app_deaths,
            drains,
            replays,
            early,
            backend_faults,
            lasts: Duration::from_secs(chance.u64(10..60)),
        }
    }
}

impl World {
    pub(crate) fn new(plan: Plan, mut chance: fastrand::Rng, identity: Identity) -> Arc<Self> {
        let datagrams = Datagrams::new(plan.quality, chance.fork());
        let state = State {
            chance,
            model: Model::default(),
            gateway: None,
            connections: Vec::new(),
            flights: Vec::new(),
            lives: 0,
            app_lives: 0,
            at_peace: false,
            trace: DefaultHasher::new(),
        };
        let memory = Memory::new().unwrap();
        Arc::new(Self { plan, memory, datagrams, identity, state: Mutex::new(state) })
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Writes down what happened, for who looks for a mistake and for who compares two runs.
    pub(crate) fn note(&self, what: impl AsRef<str>) {
        self.state().note(what.as_ref());
    }

    /// A draw in 0..1.
    pub(crate) fn draw(&self) -> f64 {
        self.state().chance.f64()
    }

    /// A time below `most`.
    pub(crate) fn draw_time(&self, most: Duration) -> Duration {
        most.mul_f64(self.draw())
    }

    /// All that was written down, as a number.
    pub(crate) fn fingerprint(&self) -> u64 {
        self.state().trace.finish()
    }

    /// From now on nothing goes wrong that has not begun to.
    pub(crate) fn make_peace(&self) {
        self.note("peace");
        self.state().at_peace = true;
        self.datagrams.block(false);
    }

    /// Whether a fault of these odds happens now.
    pub(crate) fn happens(&self, odds: f64) -> bool {
        let mut state = self.state();
        odds > 0.0 && !state.at_peace && state.chance.f64() < odds
    }

    /// Breaks every connection that is up.
    pub(crate) fn cut_all(&self, client: Sees, gateway: Sees) {
        self.datagrams.cut_clients();
        self.cut_streams(client, gateway);
    }

    pub(crate) fn cut_streams(&self, client: Sees, gateway: Sees) {
        let mut state = self.state();
        for cutter in state.connections.drain(..) {
            cutter.cut(client, gateway);
        }
    }
}

impl State {
    pub(crate) fn record_flight(&mut self, flight: &Bytes) {
        self.flights.push((self.lives, flight.clone()));
    }

    pub(crate) fn note(&mut self, what: &str) {
        let now = determinism::elapsed();
        (now, what).hash(&mut self.trace);
        if std::env::var_os("TOWLINE_SIM_TRACE").is_some() {
            println!("{:>9.3} {what}", now.as_secs_f64());
        }
    }
}
