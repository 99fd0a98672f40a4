//! What control publishes and the path reads: immutable, swapped as a whole.

use std::{collections::HashMap, fs, sync::Arc};

use crate::{
    auth::Users,
    gateway::StartError,
    link,
    router::RouteTable,
    settings::{Listener, Settings},
    transport::{
        quic,
        tls::{self, Tickets},
    },
};

/// One consistent state of everything that a reload can change.
pub struct Snapshot {
    /// The configuration.
    pub settings: Settings,
    /// Who may connect.
    pub users: Users,
    /// Which request goes where.
    pub routes: RouteTable,
    /// How the link is spoken, with its dictionaries.
    pub link: Arc<towline_protocols::link::Config>,
    listeners: HashMap<Arc<str>, ListenerSnapshot>,
    /// Kept through reloads, so that they do not cost clients their TLS sessions.
    tickets: Tickets,
}

/// What a connection needs to know of its listener.
pub struct ListenerSnapshot {
    /// As configured.
    pub settings: Listener,
    /// For TLS over TCP; `None` without a certificate.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// For QUIC; `None` without it.
    pub quic: Option<Arc<quinn::ServerConfig>>,
}

impl Snapshot {
    /// Reads the files that `settings` name.
    ///
    /// # Errors
    /// Names the first file that could not be used and why.
    pub fn build(settings: Settings) -> Result<Self, StartError> {
        Self::after(&RouteTable::default(), Tickets::new()?, settings)
    }

    /// The snapshot of a reload: backends that did not change keep their connections.
    ///
    /// # Errors
    /// As [`Snapshot::build`].
    pub fn rebuild(&self, settings: Settings) -> Result<Self, StartError> {
        Self::after(&self.routes, self.tickets.clone(), settings)
    }

    /// The listener called `name`.
    pub fn listener(&self, name: &str) -> Option<&ListenerSnapshot> {
        self.listeners.get(name)
    }

    fn after(routes: &RouteTable, tickets: Tickets, settings: Settings) -> Result<Self, StartError> {
        let users = read_users(&settings)?;
        let routes = routes.recompile(&settings).map_err(|error| StartError::Settings(error.to_string()))?;
        let link = link::config(&settings).map_err(|error| StartError::Settings(error.to_string()))?;
        let mut listeners = HashMap::new();
        for listener in &settings.listeners {
            listeners
                .insert(Arc::clone(&listener.name), ListenerSnapshot::build(listener, &settings, &tickets)?);
        }
        Ok(Self { settings, users, routes, link: Arc::new(link), listeners, tickets })
    }
}

impl ListenerSnapshot {
    fn build(listener: &Listener, settings: &Settings, tickets: &Tickets) -> Result<Self, StartError> {
        let mut snapshot = Self { settings: listener.clone(), tls: None, quic: None };
        if let Some(files) = &listener.certificate {
            let certificate = tls::read_certificate(files)?;
            snapshot.tls = Some(tls::server_config(Arc::clone(&certificate), &listener.protocols, tickets)?);
            if listener.quic {
                snapshot.quic = Some(quic::server_config(certificate, settings, tickets)?);
            }
        }
        Ok(snapshot)
    }
}

fn read_users(settings: &Settings) -> Result<Users, StartError> {
    let Some(path) = &settings.auth.password_file else {
        return Ok(Users::default());
    };
    let text = fs::read_to_string(path).map_err(|source| StartError::File { path: path.clone(), source })?;
    Users::parse(&text).map_err(|error| StartError::PasswordFile { path: path.clone(), error })
}
