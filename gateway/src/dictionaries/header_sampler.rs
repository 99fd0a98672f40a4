//! Header lists of the link kept to train dictionaries on: off unless a route asks for it, bounded, without secrets,
//! in memory only.

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
};

use parking_lot::Mutex;
use towline_dictionaries::headers::HeaderSample;
use towline_protocols::hpack::HeaderField;

use super::reservoir::Reservoir;
use crate::{
    gateway::Gateway,
    request::{Origin, Request},
    router::Route,
    settings::Settings,
};

/// The header lists of one gateway.
#[derive(Debug)]
pub struct HeaderSampler {
    kept: Mutex<Reservoir<HeaderSample>>,
    bytes_max: AtomicUsize,
    turn: AtomicU64,
    /// Whether any route is sampled.
    is_wanted: AtomicBool,
    /// What client ids are hashed with: samples name nobody.
    key: RandomState,
}

/// A request's list as it came over the link, without the session's fields, on its way to where its route is known.
#[derive(Clone)]
struct AsSent(Vec<HeaderField>);

impl HeaderSampler {
    /// Keeps at most `bytes_max` bytes.
    pub fn new(bytes_max: usize) -> Self {
        Self {
            kept: Mutex::new(Reservoir::new()),
            bytes_max: AtomicUsize::new(bytes_max),
            turn: AtomicU64::new(0),
            is_wanted: AtomicBool::new(false),
            key: RandomState::new(),
        }
    }

    /// Follows a changed configuration.
    pub(super) fn configure(&self, settings: &Settings) {
        self.bytes_max.store(settings.dictionaries.header_samples_bytes_max, Ordering::Relaxed);
        let is_wanted = settings.routes.iter().any(|route| route.sampling.headers_every > 0);
        self.is_wanted.store(is_wanted, Ordering::Relaxed);
    }

    /// Whether any route is sampled.
    pub fn is_wanted(&self) -> bool {
        self.is_wanted.load(Ordering::Relaxed)
    }

    /// Leaves a list with the request until its route is known.
    pub(crate) fn pass(&self, list: &[HeaderField], request: &mut Request) {
        if self.is_wanted() {
            request.http.extensions_mut().insert(AsSent(list.to_vec()));
        }
    }

    /// Keeps a client's list, without what the settings leave out. False when something had to go for it.
    pub fn keep(&self, client: &str, list: &[HeaderField], settings: &Settings) -> bool {
        let is_left_out = |name: &[u8]| {
            settings.session.never_indexed.holds(name)
                || settings.dictionaries.header_names_left_out.holds(name)
        };
        let sample = HeaderSample::of(self.key.hash_one(client), list, is_left_out);
        let (bytes, bytes_max) = (sample.bytes(), self.bytes_max.load(Ordering::Relaxed));
        self.kept.lock().keep(sample, bytes, bytes_max)
    }

    /// What is kept now.
    pub fn samples(&self) -> Vec<HeaderSample> {
        self.kept.lock().samples()
    }

    /// Whether a request's turn has come.
    fn is_due(&self, every: u32) -> bool {
        every > 0 && self.turn.fetch_add(1, Ordering::Relaxed).is_multiple_of(every.into())
    }
}

/// Keeps the request's list if its route wants that and its turn has come; whether its answer's is to be kept, too.
pub(crate) fn sample_request(gateway: &Gateway, route: &Route, request: &mut Request) -> bool {
    let Some(AsSent(list)) = request.http.extensions_mut().remove::<AsSent>() else { return false };
    if !gateway.dictionaries.headers.is_due(route.sampling.headers_every) {
        return false;
    }
    sample_list(gateway, &request.origin, &list);
    true
}

/// Keeps a list of a request whose turn has come. Users are told apart where there are any: a client id is the
/// client's own choice, and one that makes up several is still one user.
pub(crate) fn sample_list(gateway: &Gateway, origin: &Origin, list: &[HeaderField]) {
    let Some(client) = origin.user.as_deref().or(origin.client_id.as_deref()) else { return };
    if !gateway.dictionaries.headers.keep(client, list, &gateway.snapshot().settings) {
        gateway.metrics.limit_hit("dictionaries.header_samples_bytes_max");
    }
}

#[cfg(test)]
mod tests {
    use towline_protocols::hpack::NeverIndexed;

    use super::*;

    #[test]
    fn lists_are_bounded_and_hold_nothing_that_is_left_out() {
        let mut settings = Settings::side_by_side();
        settings.session.never_indexed = NeverIndexed::new(&["x-pin"]).unwrap();
        settings.dictionaries.header_names_left_out = NeverIndexed::new(&["x-nick"]).unwrap();
        let sampler = HeaderSampler::new(1000);
        let names = ["authorization", "x-pin", "x-nick", "x-app"];
        let list = names.map(|name| HeaderField::from_static(name, "1.2"));
        let mut had_room = true;
        for _ in 0..50 {
            had_room &= sampler.keep("phone-1", &list, &settings);
        }
        assert!(!had_room);
        let samples = sampler.samples();
        assert_eq!(samples.len(), 1000 / samples[0].bytes());
        assert!(samples.iter().all(|sample| sample.fields == list[3..]), "{samples:?}");
        sampler.keep("phone-2", &list, &settings);
        let clients: std::collections::HashSet<u64> =
            sampler.samples().iter().map(|sample| sample.client).collect();
        assert!(clients.len() <= 2);
        assert!(!sampler.is_wanted());
    }
}
