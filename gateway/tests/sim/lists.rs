//! Signed lists of places: what an operator publishes by the gateways, what others would have clients believe, and
//! where clients knock because of either.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    ops::RangeInclusive,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::sleep;
use towline_client::{Client, ConnectionState, EndpointLists, NetworkKind};
use towline_crypto::signing::SigningKey;
use towline_gateway::{control::reload, settings::EndpointList as Published};
use towline_protocols::endpoints::{EndpointList, ListSignature, ListedEndpoint};

use crate::{
    app::CLIENT_IDS,
    datagrams::GATEWAYS,
    determinism,
    model::{Line, LineChange},
    world::{Plan, World},
};

/// Of so many worlds one has lists.
const WORLDS: f64 = 0.3;
/// Of so many of these all lists lead nowhere, and connections break as often at least: places fail again and again.
const DEAD_ENDS: f64 = 0.3;
const BREAKS_MIN: f64 = 0.15;
/// How often apps look at their list.
const LOOKED_AT_EVERY: Duration = Duration::from_millis(250);
/// A race knows the list that was held when it began; it lasts no longer (`connect_timeout`).
const RACE_MAX: Duration = Duration::from_secs(10);
/// How far a list of the future is ahead: clocks may differ by a day.
const AHEAD: Duration = Duration::from_secs(2 * 86_400);
/// So often may a place be tried in vain because of one list, within the shortest time that one is left alone for: it is
/// left alone after it has failed twice, but an attempt may be under way then, and one have ended before WELCOME.
const TRIED_IN_VAIN_MAX: usize = 4;
const LEFT_ALONE: Duration = Duration::from_secs(5 * 60);

/// Somewhere a client may be told to knock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    /// A gateway, where the app was built to go.
    Gateway(usize),
    /// The same gateway by another address, which takes TCP alone.
    Alias(usize),
    /// Nobody is there, and says so.
    Closed,
    /// Nobody is there.
    Silent,
    /// Only lists that nobody is to believe name it.
    Stranger,
}

impl Place {
    pub(crate) fn of(host: &str) -> Self {
        let gateways = (0..GATEWAYS.len()).flat_map(|it| [Self::Gateway(it), Self::Alias(it)]);
        let mut all = gateways.chain([Self::Closed, Self::Silent, Self::Stranger]);
        all.find(|place| place.to_string() == host).unwrap()
    }

    /// The gateway that answers there.
    pub(crate) fn gateway(self) -> Option<usize> {
        match self {
            Self::Gateway(number) | Self::Alias(number) => Some(number),
            Self::Closed | Self::Silent | Self::Stranger => None,
        }
    }
}

/// As lists name it.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gateway(number) => write!(f, "{}", GATEWAYS[*number].ip()),
            Self::Alias(number) => write!(f, "192.0.2.{}", 11 + number),
            Self::Closed => f.write_str("192.0.2.21"),
            Self::Silent => f.write_str("192.0.2.22"),
            Self::Stranger => f.write_str("192.0.2.66"),
        }
    }
}

/// All that is known of lists in a world.
pub(crate) struct Desk(Option<Mutex<State>>);

struct State {
    /// Its own, so that a world without lists is as it was.
    chance: fastrand::Rng,
    /// Chance of a publication in a second.
    odds: f64,
    /// Nobody is at any place of its lists.
    leads_nowhere: bool,
    folder: PathBuf,
    /// The key that apps trust, and another one.
    keys: [SigningKey; 2],
    /// The highest serial that was signed, by either key.
    serial: u64,
    /// What the operator has signed, by serial.
    signed: BTreeMap<u64, List>,
    /// What each gateway passes on.
    published: Vec<Option<(u64, Published)>>,
    held: Vec<Held>,
    knocks: Vec<Knock>,
}

#[derive(Debug)]
struct List {
    places: BTreeSet<Place>,
    expires: Duration,
}

/// A client was seen to hold a list.
#[derive(Debug)]
struct Held {
    client: usize,
    at: Duration,
    serial: u64,
    hosts: Vec<String>,
}

#[derive(Clone, Copy, Debug)]
struct Knock {
    client: usize,
    life: u32,
    /// A client remembers of each network apart what failed there.
    network: NetworkKind,
    at: Duration,
    place: Place,
}

/// Who signs a list, and what is wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Newer,
    /// One that was published before.
    Replayed,
    /// Signed by somebody else.
    Forged,
    /// Signed by the operator, and not to be used yet.
    Early,
}

impl Desk {
    pub(crate) fn open(seed: u64, gateways: usize, folder: PathBuf) -> Self {
        let mut chance = fastrand::Rng::with_seed(seed ^ 0x6c69_7374);
        if chance.f64() >= WORLDS {
            return Self(None);
        }
        let leads_nowhere = chance.f64() < DEAD_ENDS;
        let odds = if leads_nowhere { 0.03 } else { 0.01 + 0.08 * chance.f64() };
        let key = || SigningKey::generate().unwrap();
        Self(Some(Mutex::new(State {
            chance,
            odds,
            leads_nowhere,
            folder,
            keys: [key(), key()],
            serial: 0,
            signed: BTreeMap::new(),
            published: vec![None; gateways],
            held: Vec::new(),
            knocks: Vec::new(),
        })))
    }

    /// Clients fetch lists where no call is open, and those that they hold grow old.
    pub(crate) fn calms(&self, plan: &mut Plan) {
        if self.0.is_some() {
            plan.calls_per_s /= 5.0;
            plan.lasts *= 3;
        }
        if self.state().is_some_and(|state| state.leads_nowhere) {
            plan.breaks = plan.breaks.max(BREAKS_MIN);
        }
    }

    fn state(&self) -> Option<MutexGuard<'_, State>> {
        self.0.as_ref().map(|state| state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What apps take.
    pub(crate) fn lists(&self) -> EndpointLists {
        let keys = self.state().map(|state| vec![state.keys[0].public()]);
        EndpointLists { keys: keys.unwrap_or_default(), ..EndpointLists::default() }
    }

    /// What a gateway is configured to pass on.
    pub(crate) fn published(&self, gateway: usize) -> Option<Published> {
        let state = self.state()?;
        state.published[gateway].as_ref().map(|(_, published)| published.clone())
    }

    /// Every rule that is broken, as text; at the end of a run.
    pub(crate) fn mistakes(&self, lines: &[LineChange]) -> Vec<String> {
        let Some(state) = self.state() else { return Vec::new() };
        let knocks = state.knocks.iter().filter_map(|knock| state.check_knock(knock));
        let held = (0..CLIENT_IDS.len()).flat_map(|client| state.check_held(client));
        let vain = state.check_failing(lines);
        knocks.chain(held).chain(vain).chain(state.check_arrived(lines)).collect()
    }
}

impl State {
    fn draw(&mut self) -> Kind {
        match self.chance.f64() {
            ..0.2 if !self.signed.is_empty() => Kind::Replayed,
            0.2..0.3 => Kind::Forged,
            0.3..0.4 => Kind::Early,
            _ => Kind::Newer,
        }
    }

    /// Puts a list into a gateway's configuration.
    fn publish(&mut self, gateway: usize, kind: Kind, lasts: Duration) -> Published {
        let serial = match kind {
            Kind::Replayed => *self.chance.choice(self.signed.keys()).unwrap(),
            _ => {
                self.serial += self.chance.u64(1..4);
                self.serial
            }
        };
        let file = self.folder.join(format!("{serial}.endpoints"));
        if kind != Kind::Replayed {
            std::fs::write(&file, self.sign(serial, kind, lasts)).unwrap();
        }
        let published = Published { file, keys: self.keys.iter().map(SigningKey::public).collect() };
        self.published[gateway] = Some((serial, published.clone()));
        published
    }

    fn sign(&mut self, serial: u64, kind: Kind, lasts: Duration) -> String {
        let is_trusted = matches!(kind, Kind::Newer | Kind::Replayed);
        let places = if is_trusted { self.draw_places() } else { BTreeSet::from([Place::Stranger]) };
        let entries = places.iter().map(|place| self.entry(*place)).collect();
        let ahead = if kind == Kind::Early { AHEAD } else { Duration::ZERO };
        let issued_s = (determinism::wall() + ahead).as_secs();
        let list = EndpointList { serial, issued_s, expires_s: issued_s + lasts.as_secs().max(1), entries };
        if is_trusted {
            let expires = Duration::from_secs(list.expires_s).saturating_sub(determinism::START);
            self.signed.insert(serial, List { places, expires });
        }
        let (text, key) = (list.text(), &self.keys[usize::from(kind == Kind::Forged)]);
        let signature = ListSignature { key: key.public().id(), bytes: key.sign(text.as_bytes()) };
        text + &signature.line()
    }

    fn draw_places(&mut self) -> BTreeSet<Place> {
        let gateways = self.published.len();
        let first = if self.leads_nowhere { 5 } else { 0 };
        let places = (0..self.chance.usize(1..4)).map(|_| match self.chance.u8(first..8) {
            0..2 => Place::Gateway(self.chance.usize(..gateways)),
            2..5 => Place::Alias(self.chance.usize(..gateways)),
            5 => Place::Closed,
            _ => Place::Silent,
        });
        places.collect()
    }

    /// Certificates name gateways by where the app was built to go.
    fn entry(&mut self, place: Place) -> ListedEndpoint {
        let certificate = place.gateway().unwrap_or_default();
        ListedEndpoint {
            host: place.to_string(),
            port: GATEWAYS[0].port(),
            quic: !matches!(place, Place::Alias(_)),
            tcp: true,
            priority: self.chance.u16(..2),
            weight: self.chance.u16(1..4),
            name: Some(Place::Gateway(certificate).to_string()),
            region: None,
        }
    }

    /// What a client was seen to hold last.
    fn held_at(&self, client: usize, at: Duration) -> Option<&Held> {
        self.held.iter().rfind(|held| held.client == client && held.at <= at)
    }

    /// Whether a client may have known of that place from a list that it held, and that had not expired, while a race was
    /// on that is on now.
    fn may_be_tried(&self, knock: &Knock) -> bool {
        let (began, serials) = self.may_be_held(knock);
        let mut lists = self.signed.range(serials);
        lists.any(|(_, list)| list.places.contains(&knock.place) && list.expires > began)
    }

    /// When a race may have begun that is on now, and the lists that the client may have held since.
    fn may_be_held(&self, knock: &Knock) -> (Duration, RangeInclusive<u64>) {
        let began = knock.at.saturating_sub(RACE_MAX);
        let lowest = self.held_at(knock.client, began).map_or(0, |held| held.serial);
        let highest = self.held_at(knock.client, knock.at + LOOKED_AT_EVERY).map_or(0, |held| held.serial);
        (began, lowest..=highest.max(lowest))
    }

    /// Whether all lists that a client may have held had expired before a race began that is on now.
    fn has_expired(&self, knock: &Knock) -> bool {
        let (began, serials) = self.may_be_held(knock);
        self.signed.range(serials).all(|(_, list)| list.expires <= began)
    }

    fn check_knock(&self, knock: &Knock) -> Option<String> {
        match knock.place {
            Place::Stranger => Some(format!("a list that nobody is to believe led to it: {knock:?}")),
            Place::Closed | Place::Silent if !self.may_be_tried(knock) => {
                Some(format!("no list that was held named it: {knock:?}"))
            }
            // One that another list left out may be running a call.
            Place::Alias(_) if self.has_expired(knock) => {
                Some(format!("the list that was held had expired: {knock:?}"))
            }
            _ => None,
        }
    }

    /// What one client held, through all of its lives.
    fn check_held(&self, client: usize) -> Option<String> {
        let held: Vec<&Held> = self.held.iter().filter(|held| held.client == client).collect();
        let is_wrong = |held: &&&Held| {
            let hosts: BTreeSet<String> = held.hosts.iter().cloned().collect();
            let places = |list: &List| list.places.iter().map(Place::to_string).collect::<BTreeSet<_>>();
            self.signed.get(&held.serial).map(places) != Some(hosts)
        };
        let wrong =
            held.iter().find(is_wrong).map(|held| format!("the operator signed no such list: {held:?}"));
        let older = held.windows(2).find(|held| held[1].serial < held[0].serial);
        wrong.or_else(|| {
            older.map(|held| format!("an older list is held: {:?} behind {:?}", held[1], held[0]))
        })
    }

    /// How often a place where nobody is was tried, while gateways were reached: connections in between, by list.
    fn check_failing(&self, lines: &[LineChange]) -> Option<String> {
        let mut tried: BTreeMap<_, BTreeMap<usize, Duration>> = BTreeMap::new();
        for knock in self.knocks.iter().filter(|knock| knock.place.gateway().is_none()) {
            let is_up =
                |it: &&LineChange| it.line == Line::Up && (it.client, it.life) == (knock.client, knock.life);
            let connection = lines.iter().filter(is_up).take_while(|it| it.at < knock.at).count();
            let serial = self.held_at(knock.client, knock.at).map_or(0, |held| held.serial);
            let times =
                tried.entry((knock.client, knock.life, knock.network, knock.place, serial)).or_default();
            times.entry(connection).or_insert(knock.at);
        }
        tried.into_iter().find_map(|(of, times)| {
            let times: Vec<Duration> = times.into_values().collect();
            let mut spans = times.windows(TRIED_IN_VAIN_MAX + 1);
            let often = spans.find(|span| span[TRIED_IN_VAIN_MAX] - span[0] < LEFT_ALONE)?;
            Some(format!("a place that fails is tried again and again: {of:?} at {often:?}"))
        })
    }

    /// What the only gateway has passed on long enough is held by those that are connected to it.
    fn check_arrived(&self, lines: &[LineChange]) -> Option<String> {
        let [Some((serial, _))] = &self.published[..] else { return None };
        let list = self.signed.get(serial)?;
        let lasts = list.expires > determinism::elapsed();
        (0..CLIENT_IDS.len()).filter(|_| lasts).find_map(|client| {
            let last = lines.iter().rfind(|change| change.client == client)?;
            let held = self.held_at(client, determinism::elapsed()).map_or(0, |held| held.serial);
            let is_missing = last.line == Line::Up && held < *serial;
            is_missing.then(|| format!("client {client} was not told of list {serial}, and holds {held}"))
        })
    }
}

impl World {
    /// Whether a gateway is given another list in a time so long, and that.
    pub(crate) fn publishes_list(&self, within: Duration) {
        let Some(mut state) = self.desk.state() else { return };
        if state.chance.f64() >= state.odds * within.as_secs_f64() {
            return;
        }
        let gateway = state.chance.usize(..self.plan.gateways);
        let kind = state.draw();
        let lasts = Duration::from_secs(if state.chance.bool() { 3600 } else { state.chance.u64(1..60) });
        let published = state.publish(gateway, kind, lasts);
        let serial = state.published[gateway].as_ref().map(|(serial, _)| *serial);
        let list = serial.and_then(|serial| Some((serial, state.signed.get(&serial)?)));
        self.note(format!("gateway {gateway} has a list, {kind:?} for {lasts:?}: {list:?}"));
        drop(state);
        let Some(living) = self.living(gateway) else { return };
        let mut settings = living.snapshot().settings.clone();
        settings.endpoint_list = Some(published);
        reload::apply(&living, settings).unwrap();
    }

    /// A client tries a place.
    pub(crate) fn knocks(&self, client: usize, life: u32, network: NetworkKind, place: Place) {
        if let Some(mut state) = self.desk.state()
            && !matches!(place, Place::Gateway(_))
        {
            self.note(format!("app {client} knocks at {place:?}, {network}"));
            state.knocks.push(Knock { client, life, network, at: determinism::elapsed(), place });
        }
    }
}

/// Looks at what a client holds, as long as its app lives.
pub(crate) async fn look(world: Arc<World>, client: Client, number: usize) {
    let mut serial = 0;
    while world.desk.0.is_some() && !matches!(&*client.states().borrow(), ConnectionState::Closed { .. }) {
        if let Some(list) = client.endpoint_list().filter(|list| list.serial != serial) {
            serial = list.serial;
            let hosts = list.endpoints.into_iter().map(|endpoint| endpoint.host).collect();
            world.note(format!("app {number} holds list {serial}"));
            if let Some(mut state) = world.desk.state() {
                state.held.push(Held { client: number, at: determinism::elapsed(), serial, hosts });
            }
        }
        sleep(LOOKED_AT_EVERY).await;
    }
}
