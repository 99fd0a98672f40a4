//! One run: a gateway that dies and comes back, an app that does, a bad network between them, and what all
//! of them did, written down.

use std::{
    collections::{BTreeMap, BTreeSet, hash_map::DefaultHasher},
    hash::{Hash as _, Hasher as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use bytes::Bytes;
use towline_client::{ShortCalls, Transports};
use towline_gateway::store::Memory;

use crate::{
    datagrams::Datagrams,
    determinism,
    gateway::{Identity, Incarnation},
    lists::Desk,
    model::{Habits, Model},
    network::{Cutter, Quality, Sees, Tap},
};

/// What may happen in a run; each seed has its own mixture, since faults that are always there hide others.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) quality: Quality,
    pub(crate) transports: Transports,
    /// Gateways that know nothing of each other, to all of which the apps go.
    pub(crate) gateways: usize,
    /// Apps, each a client of its own.
    pub(crate) apps: usize,
    /// Calls by POST, and after what time without a link.
    pub(crate) posts: ShortCalls,
    pub(crate) posts_after: Duration,
    /// Whether the apps' sessions have headers.
    pub(crate) session_headers: bool,
    /// Whether gateways publish header dictionaries.
    pub(crate) dictionaries: bool,
    /// Streams keep less than may have to be sent again.
    pub(crate) short_memory: bool,
    pub(crate) calls: usize,
    pub(crate) calls_per_s: f64,
    pub(crate) pushes: usize,
    /// Chance of a fault in a second.
    pub(crate) breaks: f64,
    pub(crate) gateway_deaths: f64,
    pub(crate) app_deaths: f64,
    pub(crate) drains: f64,
    pub(crate) replays: f64,
    /// Chance that a network begins to let TCP alone pass, and POSTs alone.
    pub(crate) udp_blocks: f64,
    pub(crate) link_blocks: f64,
    /// Chance that a gateway publishes another header dictionary.
    pub(crate) publications: f64,
    /// Chance that a connection carries early data.
    pub(crate) early: f64,
    /// Chance that a call goes to a durable route.
    pub(crate) durable: f64,
    /// Chance that the SDK is to keep a unary call, and that its disk is full.
    pub(crate) kept: f64,
    pub(crate) phone_faults: f64,
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
    /// The gateways' disks.
    pub(crate) memories: Vec<Memory>,
    pub(crate) datagrams: Arc<Datagrams>,
    /// Where gateways take QUIC.
    pub(crate) identity: Option<Identity>,
    /// Who signs lists of places.
    pub(crate) desk: Desk,
    /// What apps have on disk.
    pub(crate) folder: PathBuf,
    state: Mutex<State>,
}

pub(crate) struct State {
    pub(crate) chance: fastrand::Rng,
    pub(crate) model: Model,
    /// Each with the number of its life, while it lives.
    pub(crate) gateways: Vec<Option<(u32, Incarnation)>>,
    /// Of byte streams, and which gateway they lead to.
    pub(crate) connections: Vec<(usize, Cutter)>,
    /// First flights that somebody has written down on their way, each with the gateway's life: a ticket's early data
    /// is taken by the process that issued it alone.
    pub(crate) flights: Vec<(u32, Bytes)>,
    /// The same of connections with POSTs, each with the gateway.
    pub(crate) posts: Vec<(usize, Tap)>,
    /// Lives of gateways.
    pub(crate) lives: u32,
    /// Lives of apps, all counted together.
    pub(crate) app_lives: u32,
    /// Those that have not ended.
    pub(crate) living_apps: BTreeSet<u32>,
    /// What each has on disk of durable calls.
    pub(crate) phones: Vec<BTreeMap<String, Vec<u8>>>,
    /// Which version of itself each app runs.
    pub(crate) app_versions: Vec<u64>,
    /// The newest header dictionary of all gateways.
    pub(crate) dictionary: u64,
    /// The network lets no link pass.
    pub(crate) link_blocked: bool,
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
        let (link_blocks, publications) = (sometimes(0.4, 0.1), sometimes(0.5, 0.2));
        let (kept, phone_faults) = (sometimes(0.5, 0.8), sometimes(0.2, 0.3));
        let transports = match chance.u8(..10) {
            0..4 => Transports::Tcp,
            4..7 => Transports::Quic,
            _ => Transports::QuicAndTcp,
        };
        let posts = match chance.u8(..10) {
            0..5 => ShortCalls::Off,
            5..8 => ShortCalls::Fallback,
            _ => ShortCalls::Always,
        };
        let gateways = if chance.f64() < 0.2 { 2 } else { 1 };
        Self {
            gateways,
            apps: if chance.f64() < 0.2 { 2 } else { 1 },
            posts,
            posts_after: ms(chance.u64(0..5000)),
            session_headers: chance.f64() < 0.6,
            dictionaries: chance.f64() < 0.4,
            short_memory: chance.f64() < 0.1,
            link_blocks,
            publications,
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
            kept,
            phone_faults,
            disk_faults,
            disk_deaths,
            backend_deaths,
            calls: chance.usize(5..60),
            calls_per_s: 2.0,
            // Pushes of two gateways have no order among them.
            pushes: if gateways == 1 { chance.usize(0..40) } else { 0 },
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
    /// A world whose apps have their files in `folder`.
    pub(crate) fn new(plan: Plan, mut chance: fastrand::Rng, desk: Desk, folder: &Path) -> Arc<Self> {
        let identity = (plan.transports != Transports::Tcp).then(|| Identity::make(folder));
        let datagrams = Datagrams::new(plan.quality, chance.fork());
        let state = State {
            chance,
            model: Model::new(Habits::of(&plan)),
            gateways: (0..plan.gateways).map(|_| None).collect(),
            connections: Vec::new(),
            flights: Vec::new(),
            posts: Vec::new(),
            lives: 0,
            app_lives: 0,
            living_apps: BTreeSet::new(),
            phones: vec![BTreeMap::new(); plan.apps],
            app_versions: vec![1; plan.apps],
            dictionary: 1,
            link_blocked: false,
            at_peace: false,
            trace: DefaultHasher::new(),
        };
        let memories = (0..plan.gateways).map(|_| Memory::new().unwrap()).collect();
        let (folder, state) = (folder.to_owned(), Mutex::new(state));
        Arc::new(Self { plan, memories, datagrams, identity, desk, folder, state })
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

    /// A draw below `count`.
    pub(crate) fn pick(&self, count: usize) -> usize {
        self.state().chance.usize(..count)
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
        let mut state = self.state();
        (state.at_peace, state.link_blocked) = (true, false);
        drop(state);
        self.datagrams.make_peace();
    }

    /// Whether a fault of these odds happens now.
    pub(crate) fn happens(&self, odds: f64) -> bool {
        let mut state = self.state();
        odds > 0.0 && !state.at_peace && state.chance.f64() < odds
    }

    /// Breaks every connection that is up.
    pub(crate) fn cut_all(&self, client: Sees, gateway: Sees) {
        self.datagrams.cut_clients();
        self.cut_streams(None, client, gateway);
    }

    /// Breaks every byte stream, or those that lead to one gateway.
    pub(crate) fn cut_streams(&self, to: Option<usize>, client: Sees, gateway: Sees) {
        let mut state = self.state();
        state.model.cuts.push(determinism::elapsed());
        state.connections.retain(|(place, cutter)| {
            let is_cut = to.is_none_or(|to| to == *place);
            if is_cut {
                cutter.cut(client, gateway);
            }
            !is_cut
        });
    }

    /// What the gateway sees of a connection that breaks.
    pub(crate) fn draw_break(&self) -> Sees {
        const LATE_MAX: Duration = Duration::from_secs(20);
        match self.draw() {
            ..0.5 => Sees::Reset,
            ..0.8 => Sees::Silence,
            _ => Sees::Late(self.draw_time(LATE_MAX)),
        }
    }
}

/// Whether all that happens is printed.
pub(crate) fn is_traced() -> bool {
    std::env::var_os("TOWLINE_SIM_TRACE").is_some()
}

impl State {
    pub(crate) fn note(&mut self, what: &str) {
        let now = determinism::elapsed();
        (now, what).hash(&mut self.trace);
        if is_traced() {
            println!("{:>9.3} {what}", now.as_secs_f64());
        }
    }
}
