//! The session tickets of one client thread.

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU16, AtomicU64, Ordering::Relaxed},
    },
};

use rustls::{
    NamedGroup,
    client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue},
    pki_types::ServerName,
};

/// A server sends one to four tickets per handshake, and each handshake takes one.
const KEPT_MAX: usize = 8;

/// Counts tickets, and gives each out once if sessions are to be resumed.
pub(super) struct Tickets {
    resume: bool,
    kept: Mutex<VecDeque<Tls13ClientSessionValue>>,
    received: AtomicU64,
    group: AtomicU16,
}

impl Tickets {
    pub(super) fn new(resume: bool) -> Self {
        Self { resume, kept: Mutex::default(), received: AtomicU64::new(0), group: AtomicU16::new(0) }
    }

    /// How many have come.
    pub(super) fn received(&self) -> u64 {
        self.received.load(Relaxed)
    }
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tickets").field("received", &self.received()).finish_non_exhaustive()
    }
}

impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, _server_name: ServerName<'static>, group: NamedGroup) {
        self.group.store(u16::from(group), Relaxed);
    }

    fn kx_hint(&self, _server_name: &ServerName<'_>) -> Option<NamedGroup> {
        Some(self.group.load(Relaxed)).filter(|group| *group != 0).map(NamedGroup::from)
    }

    fn set_tls12_session(&self, _server_name: ServerName<'static>, _value: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _server_name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _server_name: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, _server_name: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.received.fetch_add(1, Relaxed);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if self.resume && kept.len() < KEPT_MAX {
            kept.push_back(value);
        }
    }

    fn take_tls13_ticket(&self, _server_name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }
}
