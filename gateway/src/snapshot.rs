//! What control publishes and the path reads: immutable, swapped as a whole.

use std::{collections::HashMap, fs, path::Path, sync::Arc, time::SystemTime};

use crate::{
    access::Acl,
    auth::{
        DecoyKey, Users,
        hook::{Hook, HookMeters},
        jwt::Issuer,
    },
    dictionaries::Shelves,
    files::Stamps,
    gateway::StartError,
    key_ring::NextKeys,
    link,
    metrics::Metrics,
    request::Origin,
    rewrite::Rewrites,
    router::RouteTable,
    session_token::SessionTokens,
    settings::{Listener, Settings},
    transport::{
        quic,
        tlcp::TlcpServer,
        tls::{ServerTls, TicketKeys},
    },
};

/// One consistent state of everything that a reload can change.
pub struct Snapshot {
    /// The configuration.
    pub settings: Settings,
    /// Who may connect.
    pub users: Arc<Users>,
    /// What tokens are judged by.
    pub issuer: Option<Arc<Issuer>>,
    /// Who is asked who clients are and what they may do.
    pub hook: Option<Arc<Hook>>,
    /// Who may publish and subscribe to what.
    pub acl: Arc<Acl>,
    /// Which request goes where.
    pub routes: Arc<RouteTable>,
    /// Other names for topics.
    pub rewrites: Arc<Rewrites>,
    /// How the link is spoken, with its dictionaries.
    pub link: Arc<towline_protocols::link::Config>,
    listeners: HashMap<Arc<str>, ListenerSnapshot>,
    /// Of the files of certificates and keys, as they were before they were read.
    tls_files: Stamps,
    carried: Carried,
}

/// What clients carry for the gateway. Kept through reloads, so that they do not cost clients their TLS sessions and
/// their logins.
#[derive(Clone)]
struct Carried {
    tickets: Arc<TicketKeys>,
    tokens: Arc<SessionTokens>,
    decoys: Arc<DecoyKey>,
    hook_meters: HookMeters,
}

/// Keys that are read but not in force.
struct NextCarried {
    tickets: NextKeys,
    tokens: NextKeys,
}

/// A snapshot for a reload that may still be refused: the keys that clients' tickets and tokens go by stay as they are.
#[must_use]
pub struct Rebuilt {
    /// What is to be published.
    pub snapshot: Snapshot,
    keys: NextCarried,
}

impl Rebuilt {
    /// Puts the keys in force too, once nothing can fail any more.
    pub fn install(self) -> Snapshot {
        self.snapshot.carried.install(self.keys);
        self.snapshot
    }
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
    /// Reads the files that `settings` name. Keys of the gateway's own are kept in `folder`, or in memory.
    ///
    /// # Errors
    /// Names the first file that could not be used and why.
    pub fn build(
        settings: Settings,
        metrics: &Metrics,
        dictionaries: Shelves,
        folder: Option<&Path>,
    ) -> Result<Self, StartError> {
        let tls_files = Stamps::of(&settings);
        let carried = Carried::new(&settings, metrics, folder)?;
        Self::after(&RouteTable::default(), None, carried, settings, tls_files, dictionaries)
    }

    /// The snapshot of a reload: backends that did not change keep their connections.
    ///
    /// # Errors
    /// As [`Snapshot::build`].
    pub fn rebuild(&self, settings: Settings) -> Result<Rebuilt, StartError> {
        let tls_files = Stamps::of(&settings);
        let keys = self.carried.prepare(&settings)?;
        let dictionaries = Shelves {
            payload: self.link.dictionaries.clone(),
            headers: self.link.header_dictionaries.clone(),
        };
        let (hook, carried) = (self.hook.as_ref(), self.carried.clone());
        let snapshot = Self::after(&self.routes, hook, carried, settings, tls_files, dictionaries)?;
        Ok(Rebuilt { snapshot, keys })
    }

    /// The same snapshot with certificates and ticket keys read again.
    ///
    /// # Errors
    /// As [`Snapshot::build`].
    pub fn with_tls_read_again(&self) -> Result<Self, StartError> {
        let tls_files = Stamps::of(&self.settings);
        let keys = self.carried.prepare(&self.settings)?;
        let listeners = listeners(&self.settings, &self.carried.tickets)?;
        self.carried.install(keys);
        Ok(Self {
            settings: self.settings.clone(),
            users: Arc::clone(&self.users),
            issuer: self.issuer.clone(),
            hook: self.hook.clone(),
            acl: Arc::clone(&self.acl),
            routes: Arc::clone(&self.routes),
            rewrites: Arc::clone(&self.rewrites),
            link: Arc::clone(&self.link),
            listeners,
            tls_files,
            carried: self.carried.clone(),
        })
    }

    /// Whether the hook is asked about clients of listeners that go by certificates.
    pub fn judges_certificates(&self) -> bool {
        self.hook.as_ref().is_some_and(|hook| hook.judges_certificates())
    }

    /// Whether the authority behind the certificate that a client has shown, if it has, is still one of its listener's.
    pub fn trusts(&self, origin: &Origin) -> bool {
        let Some(authority) = origin.identity.as_ref().and_then(|identity| identity.authority.as_ref())
        else {
            return true;
        };
        let tls = self.listener(&origin.listener).and_then(|listener| listener.tls.as_ref());
        tls.is_some_and(|tls| tls.trusts(authority))
    }

    /// Whether certificates are taken from all authorities that they were taken from in an `earlier` state.
    pub fn trusts_all_of(&self, earlier: &Self) -> bool {
        earlier.listeners().all(|listener| {
            let later = self.listener(&listener.settings.name).and_then(|later| later.tls.as_ref());
            listener.tls.as_ref().is_none_or(|tls| later.is_some_and(|later| tls.is_trusted_within(later)))
        })
    }

    /// Every listener.
    pub fn listeners(&self) -> impl Iterator<Item = &ListenerSnapshot> {
        self.listeners.values()
    }

    /// What the files of certificates and keys looked like before they were read.
    pub fn tls_files(&self) -> &Stamps {
        &self.tls_files
    }

    /// Issues session tokens and opens them.
    pub fn tokens(&self) -> &SessionTokens {
        &self.carried.tokens
    }

    /// What SCRAM shows of users that there are not.
    pub fn decoys(&self) -> &DecoyKey {
        &self.carried.decoys
    }

    /// Replaces keys of the gateway's own that are due. May write a file.
    pub fn tend_keys(&self, now: SystemTime) {
        self.carried.tickets.tend(now);
        self.carried.tokens.tend(now);
    }

    /// The listener called `name`.
    pub fn listener(&self, name: &str) -> Option<&ListenerSnapshot> {
        self.listeners.get(name)
    }

    fn after(
        routes: &RouteTable,
        old_hook: Option<&Arc<Hook>>,
        carried: Carried,
        settings: Settings,
        tls_files: Stamps,
        dictionaries: Shelves,
    ) -> Result<Self, StartError> {
        let users = Arc::new(read_users(&settings)?);
        let issuer = settings.auth.jwt.as_ref().map(Issuer::new).transpose();
        let issuer = issuer.map_err(StartError::Settings)?.map(Arc::new);
        let acl = Arc::new(Acl::new(&settings.acl).map_err(StartError::Settings)?);
        let routes = routes.recompile(&settings).map_err(|error| StartError::Settings(error.to_string()))?;
        let hook = hook(&settings, &routes, old_hook, &carried)?;
        let (routes, link) = (Arc::new(routes), Arc::new(link::config(&settings, dictionaries)));
        let rewrites = Arc::new(Rewrites::compile(&settings.rewrites).map_err(StartError::Settings)?);
        let listeners = listeners(&settings, &carried.tickets)?;
        Ok(Self { settings, users, issuer, hook, acl, routes, rewrites, link, listeners, tls_files, carried })
    }
}

impl Carried {
    fn new(settings: &Settings, metrics: &Metrics, folder: Option<&Path>) -> Result<Self, StartError> {
        let now = SystemTime::now();
        let tickets = TicketKeys::new(&settings.tls, metrics.tls_tickets.clone(), now)?;
        let tokens = SessionTokens::new(settings, folder, metrics.session_tokens.clone(), now)?;
        let decoys = Arc::new(DecoyKey::new(folder));
        let hook_meters = HookMeters::of(metrics);
        Ok(Self { tickets: Arc::new(tickets), tokens: Arc::new(tokens), decoys, hook_meters })
    }

    fn prepare(&self, settings: &Settings) -> Result<NextCarried, StartError> {
        let now = SystemTime::now();
        let tickets = self.tickets.prepare(&settings.tls, now)?;
        Ok(NextCarried { tickets, tokens: self.tokens.prepare(settings, now)? })
    }

    fn install(&self, next: NextCarried) {
        self.tickets.install(next.tickets);
        self.tokens.install(next.tokens);
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
        if !listener.certificates.is_empty() {
            let tls = ServerTls::new(listener, &settings.providers, tickets, SystemTime::now())?;
            let tls = Arc::new(tls);
            snapshot.quic = quic::server_config(&tls, settings);
            snapshot.tls = Some(tls);
        }
        Ok(snapshot)
    }
}

fn listeners(
    settings: &Settings,
    tickets: &Arc<TicketKeys>,
) -> Result<HashMap<Arc<str>, ListenerSnapshot>, StartError> {
    let built = settings.listeners.iter().map(|listener| {
        let snapshot = ListenerSnapshot::build(listener, settings, tickets)?;
        Ok((Arc::clone(&listener.name), snapshot))
    });
    built.collect()
}

/// One that did not change keeps what it knows.
fn hook(
    settings: &Settings,
    routes: &RouteTable,
    old: Option<&Arc<Hook>>,
    carried: &Carried,
) -> Result<Option<Arc<Hook>>, StartError> {
    let Some(settings) = &settings.auth.hook else { return Ok(None) };
    let backend = routes.backend(&settings.backend).ok_or_else(|| {
        StartError::Settings(format!("auth.hook.backend: there is no backend \"{}\"", settings.backend))
    })?;
    if let Some(old) = old.filter(|old| old.is_for(settings, backend)) {
        return Ok(Some(Arc::clone(old)));
    }
    let hook = Hook::new(settings, backend, carried.hook_meters.clone()).map_err(StartError::Settings)?;
    Ok(Some(Arc::new(hook)))
}

fn read_users(settings: &Settings) -> Result<Users, StartError> {
    let Some(path) = &settings.auth.password_file else {
        return Ok(Users::default());
    };
    let text = fs::read_to_string(path).map_err(|source| StartError::File { path: path.clone(), source })?;
    Users::parse(&text).map_err(|error| StartError::PasswordFile { path: path.clone(), error })
}
