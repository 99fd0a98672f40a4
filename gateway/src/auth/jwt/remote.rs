//! Keys at a URL: fetched in the background, kept for a while, and fetched again when a token names one that is not
//! there.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwapOption;
use futures_util::FutureExt as _;
use prometheus::IntCounterVec;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use super::{fetch, key::KeySet};
use crate::settings::Jwks;

/// How long a client waits for keys that are being fetched.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// The keys at the URL of the settings.
pub struct Remote {
    source: ArcSwapOption<Jwks>,
    fetched: ArcSwapOption<Fetched>,
    /// Some token names a key that is not known.
    missing: Notify,
    /// The source has changed.
    changed: Notify,
    /// How often a fetch has ended.
    ends: watch::Sender<u64>,
    /// How often keys were gone that had been there.
    losses: watch::Sender<u64>,
    /// It is too early for another fetch.
    is_resting: AtomicBool,
    is_started: AtomicBool,
    outcomes: IntCounterVec,
}

struct Fetched {
    keys: Arc<KeySet>,
    at: SystemTime,
    source: Arc<Jwks>,
}

impl Remote {
    /// Counts fetches by `outcome`. Nothing is fetched before somebody asks.
    pub fn new(outcomes: IntCounterVec) -> Arc<Self> {
        Arc::new(Self {
            source: ArcSwapOption::empty(),
            fetched: ArcSwapOption::empty(),
            missing: Notify::new(),
            changed: Notify::new(),
            ends: watch::Sender::new(0),
            losses: watch::Sender::new(0),
            is_resting: AtomicBool::new(false),
            is_started: AtomicBool::new(false),
            outcomes,
        })
    }

    /// Goes by other settings. Keys of another URL are forgotten.
    pub fn follow(&self, source: Option<&Jwks>) {
        if self.source.load().as_deref() == source {
            return;
        }
        self.source.store(source.cloned().map(Arc::new));
        if self
            .fetched
            .load()
            .as_ref()
            .is_some_and(|fetched| source.is_none_or(|s| s.url != fetched.source.url))
        {
            self.fetched.store(None);
        }
        self.changed.notify_one();
    }

    /// The keys, unless they are too old.
    pub fn keys(&self, now: SystemTime) -> Option<Arc<KeySet>> {
        let fetched = self.fetched.load();
        let fetched = fetched.as_ref()?;
        let age_max = self.source.load().as_ref()?.age_max;
        let is_fresh = now.duration_since(fetched.at).unwrap_or_default() < age_max;
        is_fresh.then(|| Arc::clone(&fetched.keys))
    }

    /// A key was not among them: asks for them again, and waits for that, if it may be done now. False if there is
    /// nothing to wait for.
    pub async fn look_again(self: &Arc<Self>) -> bool {
        if self.source.load().is_none() {
            return false;
        }
        self.ensure_started();
        if self.is_resting.load(Ordering::Relaxed) {
            return false;
        }
        let mut ends = self.ends.subscribe();
        ends.mark_unchanged();
        self.missing.notify_one();
        tokio::time::timeout(WAIT_MAX, ends.changed()).await.is_ok()
    }

    /// Changes when keys are gone, as long as this is there.
    pub fn losses(&self) -> watch::Receiver<u64> {
        self.losses.subscribe()
    }

    /// Starts to fetch in the background, once.
    pub fn ensure_started(self: &Arc<Self>) {
        if self.source.load().is_some() && !self.is_started.swap(true, Ordering::Relaxed) {
            tokio::spawn(fetch_repeatedly(Arc::downgrade(self)));
        }
    }

    async fn fetch(&self, source: &Arc<Jwks>) -> bool {
        let fetched = fetch(&source.url, source.ca.as_deref()).await;
        let keys = fetched.and_then(|bytes| KeySet::parse(&bytes));
        let outcome = if keys.is_ok() { "ok" } else { "failed" };
        self.outcomes.with_label_values(&[outcome]).inc();
        match keys {
            Ok(keys) => {
                let (keys, at, source) = (Arc::new(keys), SystemTime::now(), Arc::clone(source));
                let fetched = Arc::new(Fetched { keys, at, source });
                let before = self.fetched.swap(Some(Arc::clone(&fetched)));
                if before.is_some_and(|before| !before.keys.is_within(&fetched.keys)) {
                    self.losses.send_modify(|losses| *losses += 1);
                }
                true
            }
            Err(error) => {
                tracing::warn!(url = %source.url, %error, "the keys of tokens' issuer could not be fetched");
                false
            }
        }
    }
}

/// Ends with the gateway.
async fn fetch_repeatedly(remote: Weak<Remote>) {
    loop {
        let Some(present) = remote.upgrade() else { return };
        let Some(source) = present.source.load_full() else {
            present.changed.notified().await;
            continue;
        };
        let is_done = present.fetch(&source).await;
        present.is_resting.store(true, Ordering::Relaxed);
        // Who asked in the meantime is answered by this one.
        _ = present.missing.notified().now_or_never();
        present.ends.send_modify(|ends| *ends += 1);
        let began = Instant::now();
        drop(present);
        // Whatever tokens name, the issuer is not asked more often.
        tokio::time::sleep_until(began + source.refetch_after).await;
        let Some(present) = remote.upgrade() else { return };
        present.is_resting.store(false, Ordering::Relaxed);
        let due = began + if is_done { source.refresh } else { source.refetch_after };
        tokio::select! {
            () = present.missing.notified() => {}
            () = present.changed.notified() => {}
            () = tokio::time::sleep_until(due) => {}
        }
    }
}
