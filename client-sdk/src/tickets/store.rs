//! Where rustls puts sessions: in memory, and on disk where there is one.

use std::{collections::VecDeque, fmt, sync::Arc, time::Duration};

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
use crate::wall;

/// Sessions of one server in memory; beyond, its oldest goes.
const NAME_MAX: usize = 8;
/// Sessions of all servers; and servers whose group is known.
const SESSIONS_MAX: usize = 128;

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
}

struct Session {
    server: ServerName<'static>,
    /// Its file.
    name: Option<Name>,
    value: Tls13ClientSessionValue,
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

    fn take(&mut self, server: &ServerName<'_>) -> Option<Session> {
        let newest = self.sessions.iter().rposition(|held| held.server == *server)?;
        self.sessions.remove(newest)
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
    fn keep(&self, server: &ServerName<'_>, session: &Tls13ClientSessionValue) -> Option<Name> {
        let disk = self.disk.as_ref()?;
        let captured = capture::take()?;
        let group = self.memory.lock().group(server);
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

    fn restore(&self, server: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        let disk = self.disk.as_ref()?;
        let record = disk.folder.take(disk.place(server), wall::since_1970())?;
        if record.group != 0 {
            self.memory.lock().learn_group(server.clone(), record.group.into());
        }
        disk.mint.session(server, &record)
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
        let name = self.keep(&server, &value);
        self.memory.lock().insert(Session { server, name, value });
    }

    /// The newest, which is on disk no more when this returns.
    fn take_tls13_ticket(&self, server: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        loop {
            let Some(Session { name, value, .. }) = self.memory.lock().take(server) else { break };
            let is_gone = match (&self.disk, name) {
                (Some(disk), Some(name)) => disk.folder.remove(name),
                _ => true,
            };
            if is_gone {
                return Some(value);
            }
        }
        self.restore(server)
    }
}

/// Secrets stay out.
impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("disk", &self.disk.is_some()).finish_non_exhaustive()
    }
}
