//! What an app says before the first connection: where to go, whom to trust, who it is.

use std::{fmt, path::PathBuf, str::FromStr, sync::Arc, time::Duration};

use towline_crypto::{International, KeyReference, Pin, Provider};
use towline_protocols::{hpack::NeverIndexed, link::report::TEXT_BYTES_MAX, mqtt::topic, policy::Strategies};

#[cfg(feature = "quic")]
use crate::connect::BindUdp;
use crate::{
    bundled::{self, BundledAddresses},
    connect::{BindSocket, Dial, Resolve},
    durable::Storage,
    endpoints::EndpointLists,
    error::ConfigError,
};

/// Long enough for a handshake that lost a packet, short enough for somebody who waits.
const SHORT_AFTER: Duration = Duration::from_secs(3);

/// Everything [`crate::Client::start`] needs. [`ClientConfig::new`] fills in the defaults.
#[derive(Clone)]
pub struct ClientConfig {
    /// Gateways, tried in order from a random start, or from the one that was reached last on the network; at least
    /// one.
    pub endpoints: Vec<Endpoint>,
    /// Addresses of the endpoints' names that the app brings along: its first start need not wait for DNS then. At most one
    /// entry a name; by default there are none.
    pub bundled_addresses: Vec<BundledAddresses>,
    /// Lists of further gateways that an operator signs, and gateways pass on; by default none is taken.
    pub endpoint_lists: EndpointLists,
    /// Whom to trust.
    pub security: Security,
    /// Makes byte streams in place of TCP and TLS, where the app has a way of its own to the gateway; QUIC is not
    /// used then unless there is `udp` too.
    pub dialer: Option<Arc<dyn Dial>>,
    /// Makes the datagram sockets of QUIC, where the app has a way of its own to the gateway.
    #[cfg(feature = "quic")]
    pub udp: Option<Arc<dyn BindUdp>>,
    /// Binds the sockets that the client itself makes to the networks that they are for.
    pub binder: Option<Arc<dyn BindSocket>>,
    /// Looks names up in place of the system's resolver.
    pub resolver: Option<Arc<dyn Resolve>>,
    /// Transports to use.
    pub transports: Transports,
    /// Whether requests may leave in the first flight of a TLS connection that is resumed (0-RTT). The
    /// gateway runs each once, whoever sends the flight again.
    pub early_data: bool,
    /// Whether TLS sessions are kept beside the identity file, sealed, so that an app that was killed resumes them: a week
    /// at the most, and each once. Without an identity file they live in memory. Idempotent requests of the next run may
    /// then leave in its first flight, for the session that this one was told of.
    pub keep_tickets: bool,
    /// Name of this installation, 1 to 64 printable ASCII characters; `None` takes the identity file's,
    /// or draws a random one.
    pub client_id: Option<String>,
    /// Where the client id, the session's secret and its counters are kept, so that the app owns its
    /// session again after a restart. `None`: a restart is a new client.
    pub identity_file: Option<PathBuf>,
    /// User and password, where the gateway asks for them.
    pub credentials: Option<Credentials>,
    /// Header fields that every request of this session carries; sent once for the session, as long as the gateway
    /// keeps them.
    pub session_headers: Vec<(String, String)>,
    /// Names of header fields whose values are secrets, beside `authorization`, `cookie`, `proxy-authorization` and
    /// `set-cookie`: no compression table takes them, here or behind the gateway.
    pub never_indexed: Vec<String>,
    /// Topic filters to subscribe to on every connection.
    pub topics: Vec<String>,
    /// Name and version of the app, for the operator's eyes.
    pub agent: String,
    /// What the app is, for rules of the operator's policy.
    pub app: AppInfo,
    /// Whether calls may go out over short connections, an HTTPS POST each, to the same gateway.
    pub short_calls: ShortCalls,
    /// With [`ShortCalls::Fallback`]: how long there has been no link at the most when calls begin to go out by POST;
    /// sooner where the network leads to expect one sooner ([`crate::ShortPolicy`]).
    pub short_after: Duration,
    /// When to fetch the dictionaries that the gateway offers.
    pub dictionary_fetch: DictionaryFetch,
    /// Where durable calls are kept in place of a folder beside the identity file, where the app has a place of its own.
    pub durable_storage: Option<Arc<dyn Storage>>,
    /// Bounds.
    pub limits: Limits,
    /// The policy used until the gateway sends another.
    pub policy: Policy,
    /// How the client deals with networks, by strategy; each can be switched off alone.
    pub strategies: Strategies,
    /// Seed of every random choice (back-off, spread); `None` draws one.
    pub seed: Option<u64>,
}

impl ClientConfig {
    /// The defaults: the transports that are built in, TLS with the certificates in `roots_pem`, a client of no name.
    pub fn new(endpoints: Vec<Endpoint>, roots_pem: impl Into<Vec<u8>>) -> Self {
        Self::with_security(endpoints, Security::Tls(Tls::new(roots_pem)))
    }

    /// A client without encryption, for loopback and laboratories: TCP only.
    pub fn plaintext(endpoints: Vec<Endpoint>) -> Self {
        let mut config = Self::with_security(endpoints, Security::Plaintext);
        config.transports = Transports::Tcp;
        config
    }

    fn with_security(endpoints: Vec<Endpoint>, security: Security) -> Self {
        Self {
            endpoints,
            bundled_addresses: Vec::new(),
            endpoint_lists: EndpointLists::default(),
            security,
            dialer: None,
            #[cfg(feature = "quic")]
            udp: None,
            binder: None,
            resolver: None,
            transports: Transports::default(),
            early_data: true,
            keep_tickets: true,
            client_id: None,
            identity_file: None,
            credentials: None,
            session_headers: Vec::new(),
            never_indexed: Vec::new(),
            topics: Vec::new(),
            agent: concat!("towline-client/", env!("CARGO_PKG_VERSION")).to_owned(),
            app: AppInfo::default(),
            short_calls: ShortCalls::default(),
            short_after: SHORT_AFTER,
            dictionary_fetch: DictionaryFetch::default(),
            durable_storage: None,
            limits: Limits::default(),
            policy: Policy::default(),
            strategies: Strategies::default(),
            seed: None,
        }
    }

    /// When calls go out over short connections, given the other settings.
    pub(crate) fn short_mode(&self) -> ShortCalls {
        let has_way = self.dialer.as_ref().is_none_or(|dialer| dialer.carries_http());
        match self.short_calls {
            ShortCalls::Fallback if self.transports == Transports::Quic => ShortCalls::Off,
            _ if !has_way => ShortCalls::Off,
            mode => mode,
        }
    }

    /// Finds what cannot work before anything is started.
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        if self.endpoints.is_empty() {
            return Err(ConfigError::new("endpoints", "name at least one host:port"));
        }
        if cfg!(not(feature = "quic")) && self.transports != Transports::Tcp {
            let text = "this library was built without QUIC: ask for Transports::Tcp, or build it with the feature `quic`";
            return Err(ConfigError::new("transports", text));
        }
        if matches!(self.security, Security::Plaintext) && self.transports != Transports::Tcp {
            return Err(ConfigError::new(
                "transports",
                "QUIC is always encrypted: plaintext needs Transports::Tcp",
            ));
        }
        if let Some(id) = &self.client_id {
            check_client_id(id)?;
        }
        if self.credentials.as_ref().is_some_and(|it| it.user.is_empty() && it.password.is_empty()) {
            return Err(ConfigError::new("credentials", "name the user, or leave them out"));
        }
        self.never_indexed()?;
        for filter in &self.topics {
            topic::check_filter(filter)
                .map_err(|error| ConfigError::new("topics", format!("`{filter}`: {}", error.rule)))?;
        }
        bundled::check(&self.bundled_addresses, &self.endpoints)?;
        self.endpoint_lists.check()?;
        self.app.check()?;
        self.policy.check().map_err(|text| ConfigError::new("policy", text))?;
        self.strategies.check().map_err(|text| ConfigError::new("strategies", text))?;
        self.limits.check()
    }

    /// The names of all secret fields.
    pub(crate) fn never_indexed(&self) -> Result<NeverIndexed, ConfigError> {
        NeverIndexed::new(&self.never_indexed)
            .map_err(|error| ConfigError::new("never_indexed", error.to_string()))
    }
}

/// Secrets stay out: credentials and header values are not shown.
impl fmt::Debug for ClientConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientConfig")
            .field("endpoints", &self.endpoints)
            .field("bundled_addresses", &self.bundled_addresses)
            .field("endpoint_lists", &self.endpoint_lists)
            .field("security", &self.security)
            .field("transports", &self.transports)
            .field("early_data", &self.early_data)
            .field("keep_tickets", &self.keep_tickets)
            .field("client_id", &self.client_id)
            .field("identity_file", &self.identity_file)
            .field("credentials", &self.credentials)
            .field("session_headers", &self.session_headers.iter().map(|(name, _)| name).collect::<Vec<_>>())
            .field("never_indexed", &self.never_indexed)
            .field("topics", &self.topics)
            .field("agent", &self.agent)
            .field("app", &self.app)
            .field("short_calls", &self.short_calls)
            .field("short_after", &self.short_after)
            .field("dictionary_fetch", &self.dictionary_fetch)
            .field("limits", &self.limits)
            .field("policy", &self.policy)
            .field("strategies", &self.strategies)
            .finish_non_exhaustive()
    }
}

/// What an app says of itself, for rules of the operator's policy. Each at most 64 bytes; what is empty is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppInfo {
    /// The app's own name, as "com.example.shop".
    pub name: String,
    /// Its version, as "5.12.3".
    pub version: String,
    /// The operating system; by default the one that this was built for.
    pub platform: String,
    /// Where the user is, as the app has it: "eu" or "cn-east".
    pub region: String,
}

impl Default for AppInfo {
    fn default() -> Self {
        let platform = std::env::consts::OS.to_owned();
        Self { name: String::new(), version: String::new(), platform, region: String::new() }
    }
}

impl AppInfo {
    fn check(&self) -> Result<(), ConfigError> {
        let texts = [
            ("app.name", &self.name),
            ("app.version", &self.version),
            ("app.platform", &self.platform),
            ("app.region", &self.region),
        ];
        let is_wrong = |text: &str| text.len() > TEXT_BYTES_MAX || text.contains(char::is_control);
        match texts.into_iter().find(|(_, text)| is_wrong(text)) {
            Some((name, _)) => Err(ConfigError::new(name, "has more than 64 bytes, or control characters")),
            None => Ok(()),
        }
    }
}

/// PROTOCOL.md, HELLO: 1 to 64 characters of printable ASCII.
pub(crate) fn check_client_id(id: &str) -> Result<(), ConfigError> {
    if (1..=64).contains(&id.len()) && id.bytes().all(|b| (0x21..=0x7e).contains(&b)) {
        return Ok(());
    }
    Err(ConfigError::new("client_id", "must be 1 to 64 printable ASCII characters without spaces"))
}

/// One gateway address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// DNS name or IP address; also what the certificate must name.
    pub host: String,
    /// Port of TCP and UDP alike.
    pub port: u16,
}

impl FromStr for Endpoint {
    type Err = ConfigError;

    /// Reads `host:port`, `1.2.3.4:port` or `[::1]:port`.
    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let wrong = || ConfigError::new("endpoint", format!("`{text}` is not host:port"));
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        let port: u16 = port.parse().map_err(|_| wrong())?;
        if host.is_empty() || port == 0 || (host.contains(':') && !text.starts_with('[')) {
            return Err(wrong());
        }
        Ok(Self { host: host.to_owned(), port })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Whom to trust.
#[derive(Clone)]
pub enum Security {
    /// TLS 1.3 and QUIC.
    Tls(Tls),
    /// No encryption. Never a fall-back: it has to be asked for, and the gateway has to allow it.
    Plaintext,
}

impl fmt::Debug for Security {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tls(tls) => fmt::Debug::fmt(tls, f),
            Self::Plaintext => f.write_str("Plaintext"),
        }
    }
}

/// What TLS and QUIC trust and offer. [`Tls::new`] fills in the defaults.
#[derive(Clone)]
pub struct Tls {
    /// Exactly these certificate authorities; PEM, one certificate or more.
    pub roots_pem: Vec<u8>,
    /// Keys of which the gateway's verified chain must have one, of whatever certificate in it; empty asks for
    /// none. Name at least one beside the key in use, so that it can be changed.
    pub pins: Vec<Pin>,
    /// What the client shows a gateway that asks who it is.
    pub certificate: Option<ClientCertificate>,
    /// Kinds of cryptography to offer, the preferred first; the gateway chooses.
    pub crypto: Vec<Arc<dyn Provider>>,
}

impl Tls {
    /// International cryptography, without pins and certificate.
    pub fn new(roots_pem: impl Into<Vec<u8>>) -> Self {
        let crypto: Vec<Arc<dyn Provider>> = vec![Arc::new(International::default())];
        Self { roots_pem: roots_pem.into(), pins: Vec::new(), certificate: None, crypto }
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let crypto: Vec<_> = self.crypto.iter().map(|provider| provider.name()).collect();
        f.debug_struct("Tls")
            .field("roots_bytes", &self.roots_pem.len())
            .field("pins", &self.pins)
            .field("certificate", &self.certificate.is_some())
            .field("crypto", &crypto)
            .finish()
    }
}

/// A certificate of the client's own.
#[derive(Clone)]
pub struct ClientCertificate {
    /// Chain in PEM, the client's own certificate first.
    pub chain_pem: Vec<u8>,
    /// Its key: PEM text, a file, or what a provider of the app's own knows by a URI.
    pub key: KeyReference,
}

impl ClientCertificate {
    /// Both as PEM text.
    pub fn pem(chain: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        Self { chain_pem: chain.into(), key: KeyReference::Pem(key.into()) }
    }
}

/// Which transports a client may use. In a library that was built without QUIC whatever asks for it is refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transports {
    /// QUIC first; TCP beside it when QUIC has not answered in the time that the network leads to expect.
    #[cfg_attr(feature = "quic", default)]
    QuicAndTcp,
    /// QUIC only.
    Quic,
    /// TCP only.
    #[cfg_attr(not(feature = "quic"), default)]
    Tcp,
}

/// When calls go out over short connections. The gateway runs each once, however often the link and short connections
/// carry it. Streams and pushes stay on the link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ShortCalls {
    /// Never.
    Off,
    /// When there has been no link for as long as the network leads to expect one, [`ClientConfig::short_after`] at the
    /// most, and when one died under a call and is not made again in time: UDP is blocked and long connections are cut, or
    /// one is long in coming. Not with [`Transports::Quic`], which asks for QUIC and nothing else.
    #[default]
    Fallback,
    /// All of them; the link carries those whose POST broke.
    Always,
}

/// When a client fetches dictionaries (some 100 KB now and then), each time while nothing else is to be done.
/// They are kept beside the identity file and make later messages smaller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DictionaryFetch {
    /// Unless the app said that the network is metered ([`crate::Network::metered`]).
    #[default]
    UnlessMetered,
    /// Only once the app said that it is not.
    WhenUnmetered,
    /// Never.
    Never,
}

/// User and password.
#[derive(Clone)]
pub struct Credentials {
    /// User name.
    pub user: String,
    /// Password.
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({}, ***)", self.user)
    }
}

/// Bounds of what the client keeps and waits for.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Calls waiting or running at one time; more are refused with `LimitExceeded`.
    pub calls_max: usize,
    /// Bytes of messages in calls not yet answered; more are refused with `LimitExceeded`.
    pub queued_bytes_max: usize,
    /// Of the messages that a stream has sent, the newest so many bytes are kept, and a message before and behind
    /// them, to be sent again if the connection is lost. Two windows of the gateway are enough, counted as messages
    /// are before they are compressed.
    pub upload_buffer_bytes: usize,
    /// The same of all streams together, without exception; 0 keeps nothing. A stream that is cut where it does not
    /// keep what the gateway lacks fails with `Cancelled`.
    pub upload_buffer_bytes_total: usize,
    /// One message after decompression, bytes.
    pub message_bytes_max: usize,
    /// One header list, bytes as RFC 7541, section 4.1 counts.
    pub header_list_bytes_max: usize,
    /// Flow-control window of one stream, bytes.
    pub stream_window: u32,
    /// Flow-control window of one connection, bytes.
    pub connection_window: u32,
    /// The largest UDP payload to look for on a path, bytes, 1200 to 65527; 1200 looks for none. A search costs
    /// two or three packets of an uplink that may be slow, and saves a twentieth of what is uploaded.
    pub udp_payload_max: u16,
    /// Short connections that carry a call at one time; further calls wait.
    pub short_calls_max: usize,
    /// Pushes received and not yet taken by the app; beyond, the gateway keeps the rest.
    pub pushes_max: usize,
    /// Fetched dictionaries of each kind that are kept; 1 to 8.
    pub dictionaries_max: usize,
    /// A PING not answered within this time means the connection is dead.
    pub pong_timeout: Duration,
    /// Deadline of a call that names none.
    pub deadline_default: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            calls_max: 1024,
            queued_bytes_max: 16 << 20,
            upload_buffer_bytes: 256 << 10,
            upload_buffer_bytes_total: 16 << 20,
            message_bytes_max: 4 << 20,
            header_list_bytes_max: 16 << 10,
            stream_window: 256 << 10,
            connection_window: 1 << 20,
            udp_payload_max: 1200,
            short_calls_max: 6,
            pushes_max: 256,
            dictionaries_max: 4,
            pong_timeout: Duration::from_secs(10),
            deadline_default: Duration::from_secs(60),
        }
    }
}

impl Limits {
    fn check(&self) -> Result<(), ConfigError> {
        let positive = [
            ("limits.calls_max", self.calls_max),
            ("limits.queued_bytes_max", self.queued_bytes_max),
            ("limits.message_bytes_max", self.message_bytes_max),
            ("limits.header_list_bytes_max", self.header_list_bytes_max),
            ("limits.stream_window", self.stream_window as usize),
            ("limits.connection_window", self.connection_window as usize),
            ("limits.short_calls_max", self.short_calls_max),
            ("limits.pushes_max", self.pushes_max),
            ("limits.pong_timeout", self.pong_timeout.as_millis() as usize),
            ("limits.deadline_default", self.deadline_default.as_millis() as usize),
        ];
        if !(1200..=65527).contains(&self.udp_payload_max) {
            return Err(ConfigError::new("limits.udp_payload_max", "must be 1200 to 65527"));
        }
        if !(1..=8).contains(&self.dictionaries_max) {
            return Err(ConfigError::new("limits.dictionaries_max", "must be 1 to 8"));
        }
        match positive.iter().find(|(_, value)| *value == 0) {
            Some((name, _)) => Err(ConfigError::new(*name, "must be above zero")),
            None => Ok(()),
        }
    }
}

/// How the client behaves on the network; the gateway changes it live with POLICY.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Revision as the gateway counts; 0 until it sent one.
    pub revision: u64,
    /// Time between beats on a quiet connection, where `strategies.heartbeat` is off. Where it is on: what it tries first,
    /// within its `min` and `max`.
    pub heartbeat: Duration,
    /// How long QUIC is waited for at the most before TCP is tried beside it, on a network of which it is not known how long
    /// connecting takes. Where QUIC was never seen to pass, TCP is kept ready sooner ([`crate::RacePolicy`], `warm`).
    pub fallback_delay: Duration,
    /// Bound on one connection attempt.
    pub connect_timeout: Duration,
    /// First reconnect delay; doubles with full jitter.
    pub backoff_min: Duration,
    /// Longest reconnect delay.
    pub backoff_max: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            revision: 0,
            heartbeat: Duration::from_secs(30),
            fallback_delay: Duration::from_millis(300),
            connect_timeout: Duration::from_secs(10),
            backoff_min: Duration::from_millis(500),
            backoff_max: Duration::from_secs(60),
        }
    }
}

impl Policy {
    /// These values, but for those that POLICY sets.
    pub(crate) fn overlaid(&self, policy: &towline_protocols::link::Policy) -> Self {
        let ms = |value: u32, own: Duration| match value {
            0 => own,
            ms => Duration::from_millis(ms.into()),
        };
        Self {
            revision: policy.revision,
            heartbeat: ms(policy.heartbeat_ms, self.heartbeat),
            fallback_delay: ms(policy.fallback_delay_ms, self.fallback_delay),
            connect_timeout: ms(policy.connect_timeout_ms, self.connect_timeout),
            backoff_min: ms(policy.backoff_min_ms, self.backoff_min),
            backoff_max: ms(policy.backoff_max_ms, self.backoff_max),
        }
    }

    /// Refuses what would leave the app without a line, or the gateway without rest.
    pub(crate) fn check(&self) -> Result<(), String> {
        let second = Duration::from_secs(1);
        let bounds = [
            ("heartbeat", self.heartbeat, second, 3600 * second),
            ("fallback_delay", self.fallback_delay, Duration::ZERO, 30 * second),
            ("connect_timeout", self.connect_timeout, second / 10, 120 * second),
            ("backoff_min", self.backoff_min, second / 100, 600 * second),
            ("backoff_max", self.backoff_max, second / 100, 3600 * second),
        ];
        for (name, value, min, max) in bounds {
            if value < min || value > max {
                return Err(format!("{name} is {value:?}, allowed are {min:?} to {max:?}"));
            }
        }
        if self.backoff_min > self.backoff_max {
            return Err(format!(
                "backoff_min {:?} is above backoff_max {:?}",
                self.backoff_min, self.backoff_max
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_endpoint(text: &str, expected: Option<(&str, u16)>) {
        let parsed = text.parse::<Endpoint>().ok();
        let expected = expected.map(|(host, port)| Endpoint { host: host.to_owned(), port });
        assert_eq!(parsed, expected, "{text}");
    }

    #[test]
    fn endpoints_are_host_and_port() {
        check_endpoint("edge.example:443", Some(("edge.example", 443)));
        check_endpoint("[::1]:8443", Some(("::1", 8443)));
        check_endpoint("127.0.0.1:1", Some(("127.0.0.1", 1)));
        for wrong in ["", "edge", "edge:", ":1", "edge:0", "edge:65536", "::1:80", "[]:1"] {
            check_endpoint(wrong, None);
        }
    }

    #[cfg(not(feature = "quic"))]
    #[test]
    fn where_quic_is_left_out_tcp_is_used_and_whoever_asks_for_quic_is_refused() {
        let endpoint = Endpoint { host: "localhost".into(), port: 1 };
        let mut config = ClientConfig::new(vec![endpoint], "");
        assert_eq!(config.transports, Transports::Tcp);
        assert!(config.validate().is_ok());
        for asked in [Transports::Quic, Transports::QuicAndTcp] {
            config.transports = asked;
            let error = config.validate().unwrap_err().to_string();
            assert!(error.starts_with("transports: this library was built without QUIC"), "{error}");
        }
    }

    #[cfg(feature = "quic")]
    #[test]
    fn plaintext_with_quic_is_refused() {
        let endpoint = Endpoint { host: "localhost".into(), port: 1 };
        let mut config = ClientConfig::plaintext(vec![endpoint]);
        assert!(config.validate().is_ok());
        config.transports = Transports::QuicAndTcp;
        assert!(config.validate().is_err_and(|error| error.to_string().contains("plaintext")));
    }

    #[test]
    fn credentials_that_say_nothing_are_refused() {
        let mut config = ClientConfig::plaintext(vec![Endpoint { host: "localhost".into(), port: 1 }]);
        for (user, password, accepted) in [("", "", false), ("ada", "", true), ("", "pw", true)] {
            config.credentials = Some(Credentials { user: user.into(), password: password.into() });
            assert_eq!(config.validate().is_ok(), accepted, "{user:?} {password:?}");
        }
    }

    #[test]
    fn never_indexed_names_are_names() {
        let mut config = ClientConfig::plaintext(vec![Endpoint { host: "localhost".into(), port: 1 }]);
        config.never_indexed = vec!["X-Api-Key".into()];
        assert!(config.validate().is_ok());
        config.never_indexed.push(":path".into());
        assert!(config.validate().is_err_and(|error| error.to_string().contains("\":path\"")));
    }

    #[test]
    fn topics_are_filters() {
        let mut config = ClientConfig::plaintext(vec![Endpoint { host: "localhost".into(), port: 1 }]);
        config.topics = vec!["alerts/#".into(), "$share/group/+/temperature".into()];
        assert!(config.validate().is_ok());
        for wrong in ["", "a/#/b", "a+"] {
            config.topics[1] = wrong.into();
            let error = config.validate().unwrap_err().to_string();
            assert!(error.starts_with(&format!("topics: `{wrong}`: MQTT-4.7")), "{error}");
        }
    }

    #[test]
    fn secrets_stay_out_of_debug() {
        let mut config = ClientConfig::plaintext(Vec::new());
        config.credentials = Some(Credentials { user: "alice".into(), password: "hunter2".into() });
        config.session_headers = vec![("authorization".into(), "Bearer tok".into())];
        let shown = format!("{config:?}");
        assert!(shown.contains("alice") && shown.contains("authorization"));
        assert!(!shown.contains("hunter2") && !shown.contains("tok\""), "{shown}");
    }

    #[test]
    fn a_policy_at_its_bounds_is_taken_and_beyond_refused() {
        let good = Policy::default();
        let check = |change: fn(&mut Policy), accepted: bool| {
            let mut policy = good.clone();
            change(&mut policy);
            assert_eq!(policy.check().is_ok(), accepted, "{policy:?}");
        };
        check(|p| p.heartbeat = Duration::from_secs(1), true);
        check(|p| p.heartbeat = Duration::from_millis(999), false);
        check(|p| p.heartbeat = Duration::from_secs(3601), false);
        check(|p| p.backoff_max = p.backoff_min, true);
        check(|p| p.backoff_max = p.backoff_min / 2, false);
        check(|p| p.connect_timeout = Duration::ZERO, false);
    }
}
