//! What control publishes and the path reads: immutable, swapped as a whole.

use std::{
    collections::HashMap,
    fs,
    sync::Arc,
    time::{Duration, SystemTime},
};

use crate::{
    auth::Users,
    gateway::StartError,
    link,
    metrics::Metrics,
    router::RouteTable,
    settings::{Listener, Settings},
    transport::{
        quic,
        tlcp::TlcpServer,
        tls::{self, ServerTls, TicketKeys},
    },
};

/// How long a session ticket opens.
const TICKET_LIFE: Duration = Duration::from_secs(12 * 3600);

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
    tickets: Arc<TicketKeys>,
}

/// What a connection needs to know of its listener.
pub struct ListenerSnapshot {
    /// As configured.
    pub settings: Listener,
    /// What TLS and QUIC offer; `None` without a certificate.
    pub tls: Option<Arc<ServerTls>>,
    /// For TLCP; `None` without its certificates.
    pub tlcp: Option<Arc<TlcpServer>>,
    /// For QUIC; `None` without it.
    pub quic: Option<Arc<quinn::ServerConfig>>,
}

impl Snapshot {
    /// Reads the files that `settings` name.
    ///
    /// # Errors
    /// Names the first file that could not be used and why.
    pub fn build(settings: Settings, metrics: &Metrics) -> Result<Self, StartError> {
        let tickets = TicketKeys::own(TICKET_LIFE, metrics.tls_tickets.clone(), SystemTime::now())?;
        Self::after(&RouteTable::default(), Arc::new(tickets), settings)
    }

    /// The snapshot of a reload: backends that did not change keep their connections.
    ///
    /// # Errors
    /// As [`Snapshot::build`].
    pub fn rebuild(&self, settings: Settings) -> Result<Self, StartError> {
        Self::after(&self.routes, Arc::clone(&self.tickets), settings)
    }

    /// The listener called `name`.
    pub fn listener(&self, name: &str) -> Option<&ListenerSnapshot> {
        self.listeners.get(name)
    }

    fn after(routes: &RouteTable, tickets: Arc<TicketKeys>, settings: Settings) -> Result<Self, StartError> {
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
    fn build(
        listener: &Listener,
        settings: &Settings,
        tickets: &Arc<TicketKeys>,
    ) -> Result<Self, StartError> {
        let mut snapshot = Self { settings: listener.clone(), tls: None, tlcp: None, quic: None };
        if let Some(files) = &listener.tlcp_certificate {
            snapshot.tlcp = Some(Arc::new(TlcpServer::new(files, &listener.protocols)?));
        }
        if let Some(files) = &listener.certificate {
            let tls = ServerTls::new(listener, &tls::read_certificate(files)?, tickets)?;
            snapshot.quic = tls.preferred_quic().map(|crypto| quic::server_config(crypto, settings));
            snapshot.tls = Some(Arc::new(tls));
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
