//! Where rustls puts sessions: in memory, and on disk where there is one.
//!
//! ```text
//!  hybrid handshakes ───── Store: any session, the newest first
//!                            |  ^
//!    a session of a hybrid   v  |  its successors
//!  handshakes with X25519  Classical: that one session
//! ```

use std::{
    collections::VecDeque,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rustls::{
    NamedGroup,
    client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue},
    pki_types::ServerName,
};

use super::{
    capture,
    folder::{Folder, Name, Place},
    mint::Mint,
    record::Record,
};
use crate::{core::now, wall};

/// Sessions of one server in memory; beyond, its oldest goes.
const NAME_MAX: usize = 8;
/// Sessions of all servers; and servers whose group is known.
const SESSIONS_MAX: usize = 128;

/// A server that refused a session to a handshake with X25519 alone is shown no other for so long: where gateways do not
/// share their keys, each such handshake is a connection in vain.
const REFUSED_FOR: Duration = Duration::from_secs(3600);

/// Sessions of one transport.
pub(super) struct Store {
    memory: Mutex<Memory>,
    disk: Option<Kept>,
}

/// The part of them that outlives the app.
pub(super) struct Kept {
    pub(super) folder: Arc<Folder>,
    pub(super) mint: Arc<Mint>,
    /// What the transport is called on disk.
    pub(super) transport: &'static str,
}

#[derive(Default)]
struct Memory {
    /// The newest last.
    sessions: VecDeque<Session>,
    groups: VecDeque<(ServerName<'static>, NamedGroup)>,
    /// Servers that want to be shown the hybrid, and since when.
    refused: VecDeque<(ServerName<'static>, Instant)>,
}

struct Session {
    server: ServerName<'static>,
    /// Its file.
    name: Option<Name>,
    /// The group of the handshake that it began with, as far as that is known.
    group: Option<NamedGroup>,
    value: Tls13ClientSessionValue,
}

/// Whether keys that were agreed upon in that group stay secret from quantum computers.
fn is_hybrid(group: Option<NamedGroup>) -> bool {
    group == Some(NamedGroup::X25519MLKEM768)
}

impl Memory {
    fn insert(&mut self, session: Session) {
        let of_server = |held: &Session| held.server == session.server;
        if self.sessions.iter().filter(|held| of_server(held)).count() >= NAME_MAX
            && let Some(oldest) = self.sessions.iter().position(of_server)
        {
            self.sessions.remove(oldest);
        }
        if self.sessions.len() >= SESSIONS_MAX {
            self.sessions.pop_front();
        }
        self.sessions.push_back(session);
    }

    fn take(&mut self, server: &ServerName<'_>, hybrid_alone: bool) -> Option<Session> {
        let is_wanted = |held: &Session| !hybrid_alone || is_hybrid(held.group);
        let newest = self.sessions.iter().rposition(|held| held.server == *server && is_wanted(held))?;
        self.sessions.remove(newest)
    }

    fn has_refused(&mut self, server: &ServerName<'_>, now: Instant) -> bool {
        self.refused.retain(|(_, since)| now.saturating_duration_since(*since) < REFUSED_FOR);
        self.refused.iter().any(|(known, _)| known == server)
    }

    fn group(&self, server: &ServerName<'_>) -> Option<NamedGroup> {
        self.groups.iter().find(|(known, _)| known == server).map(|(_, group)| *group)
    }

    fn learn_group(&mut self, server: ServerName<'static>, group: NamedGroup) {
        self.groups.retain(|(known, _)| *known != server);
        if self.groups.len() >= SESSIONS_MAX {
            self.groups.pop_front();
        }
        self.groups.push_back((server, group));
    }
}

impl Store {
    pub(super) fn new(disk: Option<Kept>) -> Self {
        Self { memory: Mutex::default(), disk }
    }

    /// Keeps the session that is given now; its name.
    fn keep(
        &self,
        server: &ServerName<'_>,
        session: &Tls13ClientSessionValue,
        group: Option<NamedGroup>,
    ) -> Option<Name> {
        let disk = self.disk.as_ref()?;
        let captured = capture::take()?;
        let record = Record {
            suite: session.suite().common.suite.into(),
            group: group.map_or(0, u16::from),
            received: Duration::from_secs(wall::since_1970().as_secs()),
            message: captured.message,
            quic_parameters: session.quic_params(),
            psk: captured.psk,
        };
        // A life of nothing: to be discarded at once (RFC 8446, section 4.6.1).
        record.lasts(record.received).then_some(())?;
        disk.folder.keep(disk.place(server), &record)
    }

    fn insert(&self, server: ServerName<'static>, value: Tls13ClientSessionValue, group: Option<NamedGroup>) {
        let name = self.keep(&server, &value, group);
        self.memory.lock().insert(Session { server, name, group, value });
    }

    /// The newest, which is on disk no more when this returns; of those that began with the hybrid, or of all.
    fn take(&self, server: &ServerName<'static>, hybrid_alone: bool) -> Option<Session> {
        loop {
            let Some(session) = self.memory.lock().take(server, hybrid_alone) else { break };
            let is_gone = match (&self.disk, session.name) {
                (Some(disk), Some(name)) => disk.folder.remove(name),
                _ => true,
            };
            if is_gone {
                return Some(session);
            }
        }
        self.restore(server, hybrid_alone)
    }

    fn restore(&self, server: &ServerName<'static>, hybrid_alone: bool) -> Option<Session> {
        let disk = self.disk.as_ref()?;
        let group_of = |record: &Record| (record.group != 0).then(|| NamedGroup::from(record.group));
        // Those of one second are in no order on disk, and what is not wanted stays there.
        let is_wanted = |record: &Record| !hybrid_alone || is_hybrid(group_of(record));
        let record = disk.folder.take(disk.place(server), wall::since_1970(), is_wanted)?;
        let group = group_of(&record);
        if let Some(group) = group {
            self.memory.lock().learn_group(server.clone(), group);
        }
        let value = disk.mint.session(server, &record)?;
        Some(Session { server: server.clone(), name: None, group, value })
    }

    /// What a handshake with X25519 alone resumes, if it is to resume what began with the hybrid. `None`: there is no such
    /// session, or the server is not to be shown any in this way.
    pub(super) fn resumed_classically(self: &Arc<Self>, server: &ServerName<'static>) -> Option<Classical> {
        if self.memory.lock().has_refused(server, now()) {
            return None;
        }
        let Session { value, group, .. } = self.take(server, true)?;
        Some(Classical { store: Arc::clone(self), session: Mutex::new(Some(value)), group })
    }

    /// What any handshake with X25519 alone may resume.
    pub(super) fn classically(self: &Arc<Self>, server: &ServerName<'static>) -> Option<Classical> {
        if self.memory.lock().has_refused(server, now()) {
            return None;
        }
        let session = self.take(server, false).map(|session| session.value);
        Some(Classical { store: Arc::clone(self), session: Mutex::new(session), group: None })
    }

    /// A handshake with X25519 alone came to nothing there.
    pub(super) fn refused(&self, server: &ServerName<'static>) {
        let mut memory = self.memory.lock();
        memory.refused.retain(|(known, _)| known != server);
        if memory.refused.len() >= SESSIONS_MAX {
            memory.refused.pop_front();
        }
        memory.refused.push_back((server.clone(), now()));
    }
}

impl Kept {
    fn place(&self, server: &ServerName<'_>) -> Place {
        self.folder.place(self.transport, &server.to_str())
    }
}

impl ClientSessionStore for Store {
    fn set_kx_hint(&self, server: ServerName<'static>, group: NamedGroup) {
        self.memory.lock().learn_group(server, group);
    }

    fn kx_hint(&self, server: &ServerName<'_>) -> Option<NamedGroup> {
        self.memory.lock().group(server)
    }

    // TLS 1.3 alone is offered.
    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, server: ServerName<'static>, value: Tls13ClientSessionValue) {
        let group = self.memory.lock().group(&server);
        self.insert(server, value, group);
    }

    fn take_tls13_ticket(&self, server: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.take(server, false).map(|session| session.value)
    }
}

/// The one session that a handshake with X25519 alone may resume. What the gateway says of groups in it is not kept: rustls
/// would offer no share of the hybrid from then on, and be asked for one.
pub(super) struct Classical {
    store: Arc<Store>,
    session: Mutex<Option<Tls13ClientSessionValue>>,
    /// What sessions are noted as that follow from it.
    group: Option<NamedGroup>,
}

impl ClientSessionStore for Classical {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, server: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.store.insert(server, value, self.group);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.session.lock().take()
    }
}

/// Secrets stay out.
impl fmt::Debug for Classical {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Classical").finish_non_exhaustive()
    }
}

/// Secrets stay out.
impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("disk", &self.disk.is_some()).finish_non_exhaustive()
    }
}
