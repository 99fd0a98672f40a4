//! The operator's signed endpoint list (PROTOCOL.md, section 22): it says where to knock beside the endpoints of the app,
//! and nothing of whom to believe there.
//!
//! ```text
//!  OFFER --wants?--> FETCH, PIECE --take: signature, serial, time--> kept, sealed beside the identity file
//!                                                                       |
//!  supervisor <--turns: by region, priority, weight, without what failed--+--name_of, transports_of--> connector
//!       race over: who was reached, who was tried in vain --> failures
//! ```

mod failures;
mod order;
#[cfg(test)]
pub(crate) mod tests;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use parking_lot::Mutex;
use towline_crypto::signing::PublicKey;
use towline_dictionaries::sha256;
use towline_protocols::{
    endpoints::{ENDPOINT_LIST_BYTES_MAX, EndpointList, ListedEndpoint, SignedEndpoints},
    link::OfferedDictionary,
};

use self::failures::Failures;
use crate::{
    config::{ClientConfig, Endpoint},
    disk::Disk,
    error::ConfigError,
    identity::Identity,
    seal::Seal,
    wall,
};

const MAGIC: &[u8; 4] = b"TWE1";
const PURPOSE: &str = "towline client endpoint list 1";
/// Around a list, sealed.
const SEAL_BYTES_MAX: usize = 64;
/// Names that an app allows; each place of a list is compared with all of them.
const NAMES_MAX: usize = 64;
/// Places of GOAWAYs that are remembered, those of the last few.
const ADVISED_MAX: usize = 64;

/// Which signed lists of endpoints the client takes from gateways. Without keys it takes none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointLists {
    /// Public keys of those who sign lists, as `towline endpoints keygen` prints them. Name at least one beside the key in
    /// use, so that it can be changed.
    pub keys: Vec<PublicKey>,
    /// What certificates of listed places may name beside the hosts of [`ClientConfig::endpoints`]; `*.edge.example` allows
    /// any one label in place of the star. A place whose certificate names something else is not used.
    pub names: Vec<String>,
}

impl EndpointLists {
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let is_name = |name: &String| {
            let rest = name.strip_prefix("*.").unwrap_or(name);
            !rest.is_empty() && !rest.contains(['*', ' ', '/'])
        };
        if self.names.len() > NAMES_MAX || !self.names.iter().all(is_name) {
            let rule = "at most 64 names of servers, as edge.example or *.edge.example";
            return Err(ConfigError::new("endpoint_lists.names", rule));
        }
        Ok(())
    }
}

/// What is known of the list that a client has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointListInfo {
    /// The serial that its operator gave it.
    pub serial: u64,
    /// When it was signed, since 1970.
    pub issued: Duration,
    /// When it is not used any more, since 1970.
    pub expires: Duration,
    /// Whether it is used by the device's clock.
    pub is_current: bool,
    /// Places that the client may go to.
    pub endpoints: Vec<Endpoint>,
    /// Places that it names, and whose certificates would name what the app does not allow.
    pub left_out: usize,
}

/// The list that is held, and what was seen of its places.
pub(crate) struct Listed {
    lists: EndpointLists,
    /// The app's own, which no list changes.
    own: Vec<Endpoint>,
    region: String,
    file: Option<(Arc<Disk>, Seal)>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    held: Option<EndpointList>,
    /// The hash of a file that is no list of a trusted key: it is not fetched again.
    refused: Option<[u8; 32]>,
    failures: Failures,
    /// Where gateways have sent the client, the latest last: a list need not name it as well.
    advised: Vec<Endpoint>,
    random: fastrand::Rng,
}

/// Why a list is not taken.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum Refused {
    #[error("{0}")]
    NoList(String),
    #[error("no key that the app trusts has signed it")]
    Signature,
    #[error("its serial {0} is not above {1}, which was taken before")]
    Serial(u64, u64),
    #[error("{0}")]
    Time(towline_protocols::endpoints::NotCurrent),
}

impl Listed {
    /// With the list that an earlier run of the app has kept. One that cannot be opened, or that no key signed which the app
    /// trusts now, is forgotten.
    pub(crate) fn open(config: &ClientConfig, identity: &Identity) -> Self {
        let lists = config.endpoint_lists.clone();
        let path = config.identity_file.as_ref().filter(|_| !lists.keys.is_empty());
        let file = path.and_then(|path| {
            let seal = Seal::new(MAGIC, PURPOSE, &identity.secret, &[&identity.client_id])?;
            Some((Arc::new(Disk::beside(path, ".endpoints")), seal))
        });
        let kept = file
            .as_ref()
            .and_then(|(disk, seal)| seal.open("", disk.read(ENDPOINT_LIST_BYTES_MAX + SEAL_BYTES_MAX)?));
        let held = kept.and_then(|bytes| verified(&lists.keys, &bytes).ok());
        let random = fastrand::Rng::with_seed(config.seed.unwrap_or_else(|| fastrand::u64(..)));
        let state = Mutex::new(State { held, random, ..State::default() });
        let (own, region) = (config.endpoints.clone(), config.app.region.clone());
        Self { lists, own, region, file, state }
    }

    /// What HELLO says: the serial that is held, 0 for none; `None` where lists are not taken.
    pub(crate) fn serial(&self) -> Option<u64> {
        let serial = || self.state.lock().held.as_ref().map_or(0, |list| list.serial);
        (!self.lists.keys.is_empty()).then(serial)
    }

    /// Whether to fetch what is offered.
    pub(crate) fn wants(&self, offered: &OfferedDictionary) -> bool {
        let fits = (1..=ENDPOINT_LIST_BYTES_MAX).contains(&(offered.bytes as usize));
        let is_newer = self.serial().is_some_and(|held| held < offered.version);
        let is_refused = || self.state.lock().refused.is_some_and(|refused| refused[..] == offered.hash[..]);
        fits && is_newer && !is_refused()
    }

    /// A list was fetched. It is used from the next connection on.
    pub(crate) fn take(&self, bytes: &Bytes) {
        match self.accept(bytes) {
            Ok(serial) => tracing::info!(serial, "another endpoint list is in use"),
            Err(refused) => {
                tracing::warn!("an endpoint list is not taken: {refused}");
                if let Refused::NoList(_) | Refused::Signature = refused {
                    self.state.lock().refused = Some(sha256(bytes));
                }
            }
        }
    }

    fn accept(&self, bytes: &Bytes) -> Result<u64, Refused> {
        let list = verified(&self.lists.keys, bytes)?;
        list.check_time(wall::since_1970()).map_err(Refused::Time)?;
        let serial = list.serial;
        let mut state = self.state.lock();
        let held = state.held.as_ref().map_or(0, |held| held.serial);
        if serial <= held {
            return Err(Refused::Serial(serial, held));
        }
        state.held = Some(list);
        state.failures = Failures::default();
        drop(state);
        if let Some((disk, seal)) = &self.file
            && let Some(sealed) = seal.seal("", bytes.to_vec())
        {
            disk.put(sealed);
        }
        Ok(serial)
    }

    /// Where to go by the list, the best first; nowhere without one that is current.
    pub(crate) fn turns(&self, now: Instant) -> Vec<Endpoint> {
        let mut state = self.state.lock();
        let State { held, failures, random, .. } = &mut *state;
        let current = held.as_ref().filter(|list| list.check_time(wall::since_1970()).is_ok());
        let Some(list) = current else { return Vec::new() };
        let usable = list.entries.iter().filter(|entry| self.allows(entry));
        let usable = usable.filter(|entry| !failures.sets_aside(&endpoint(entry), now));
        order::order(usable, &self.region, random).into_iter().map(endpoint).collect()
    }

    /// A GOAWAY names these places.
    pub(crate) fn on_advice(&self, places: &[Endpoint]) {
        let mut state = self.state.lock();
        state.advised.retain(|known| !places.contains(known));
        state.advised.extend(places.iter().take(ADVISED_MAX).cloned());
        let surplus = state.advised.len().saturating_sub(ADVISED_MAX);
        state.advised.drain(..surplus);
    }

    /// Whether the gateway that has the session may be connected to: behind the list's expiry not one that lists alone have
    /// named.
    pub(crate) fn is_still_named(&self, gateway: &Endpoint) -> bool {
        let state = self.state.lock();
        let has_expired =
            state.held.as_ref().is_some_and(|list| list.check_time(wall::since_1970()).is_err());
        !has_expired || self.own.contains(gateway) || state.advised.contains(gateway)
    }

    /// What the certificate has to name at `gateway`.
    pub(crate) fn name_of(&self, gateway: &Endpoint) -> String {
        let name = self.entry(gateway, |entry| entry.server_name().to_owned());
        name.unwrap_or_else(|| gateway.host.clone())
    }

    /// Whether to try QUIC there, and TCP.
    pub(crate) fn transports_of(&self, gateway: &Endpoint) -> (bool, bool) {
        self.entry(gateway, |entry| (entry.quic, entry.tcp)).unwrap_or((true, true))
    }

    /// A race is over in which these gateways took part, in their order: `reached` answered, or none did.
    pub(crate) fn on_race(&self, opened: &[Endpoint], reached: Option<&Endpoint>, now: Instant) {
        let mut state = self.state.lock();
        if state.held.is_some() {
            state.failures.on_race(opened, reached, now);
        }
    }

    /// It was reached, and it is no gateway of this client.
    pub(crate) fn on_mute(&self, gateway: &Endpoint, now: Instant) {
        self.state.lock().failures.fail(gateway, now);
    }

    /// What was tried in vain was on another network.
    pub(crate) fn on_network_changed(&self) {
        self.state.lock().failures.forget_lost();
    }

    /// For the app.
    pub(crate) fn info(&self) -> Option<EndpointListInfo> {
        let state = self.state.lock();
        let list = state.held.as_ref()?;
        let endpoints: Vec<_> =
            list.entries.iter().filter(|entry| self.allows(entry)).map(endpoint).collect();
        Some(EndpointListInfo {
            serial: list.serial,
            issued: Duration::from_secs(list.issued_s),
            expires: Duration::from_secs(list.expires_s),
            is_current: list.check_time(wall::since_1970()).is_ok(),
            left_out: list.entries.len() - endpoints.len(),
            endpoints,
        })
    }

    /// What the list says of `gateway`; nothing of those of the app, which stay as they are.
    fn entry<T>(&self, gateway: &Endpoint, of: impl FnOnce(&ListedEndpoint) -> T) -> Option<T> {
        if self.own.contains(gateway) {
            return None;
        }
        let state = self.state.lock();
        let entries = &state.held.as_ref()?.entries;
        entries.iter().find(|entry| self.allows(entry) && endpoint(entry) == *gateway).map(of)
    }

    fn allows(&self, entry: &ListedEndpoint) -> bool {
        let name = entry.server_name();
        let own = self.own.iter().map(|endpoint| &endpoint.host);
        own.chain(&self.lists.names).any(|allowed| covers(allowed, name))
    }
}

/// Whether `name` is what is allowed. The star stands for one label, as in certificates (RFC 6125, section 6.4.3).
fn covers(allowed: &str, name: &str) -> bool {
    match (allowed.strip_prefix("*."), name.split_once('.')) {
        (Some(parent), Some((label, rest))) => !label.is_empty() && rest.eq_ignore_ascii_case(parent),
        (Some(_), None) => false,
        (None, _) => allowed.eq_ignore_ascii_case(name),
    }
}

fn endpoint(entry: &ListedEndpoint) -> Endpoint {
    Endpoint { host: entry.host.clone(), port: entry.port }
}

fn verified(keys: &[PublicKey], bytes: &[u8]) -> Result<EndpointList, Refused> {
    let signed = SignedEndpoints::parse(bytes).map_err(|error| Refused::NoList(error.to_string()))?;
    let verified = signed.verified(bytes, |signature, message| {
        PublicKey::any_signed(keys, &signature.key, message, &signature.bytes)
    });
    verified.ok_or(Refused::Signature)
}
