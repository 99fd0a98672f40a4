//! What an app says before the first connection.

use std::{path::PathBuf, time::Duration};

use towline_client::{
    BundledAddresses, ClientCertificate, ClientConfig, Credentials, Endpoint, EndpointListKey, EndpointLists,
    Pin, Security, Tls,
};

use crate::{error::TowlineError, request::Header};

/// Everything that a client needs; all but `endpoints` and `roots_pem` have defaults.
#[derive(Clone, Default, uniffi::Record)]
pub struct ClientOptions {
    /// Gateways as `host:port`, at least one. They are tried in order from a random start.
    pub endpoints: Vec<String>,
    /// Addresses of the endpoints' names, as `edge.example=192.0.2.7,2001:db8::7`, one entry a name: the first start need not
    /// wait for DNS then, which is asked beside. The certificate still has to name the host.
    #[uniffi(default = [])]
    pub bundled_addresses: Vec<String>,
    /// Whether the app looks names up itself, as `Client.names` hands them out: DNS over HTTPS, an operator's HTTPDNS.
    /// The system's resolver is not asked then.
    #[uniffi(default = false)]
    pub own_resolver: bool,
    /// Public keys (`ed25519/` and base64) of those who sign lists of further gateways, which gateways pass on. Without
    /// them no list is taken. Name at least one beside the key in use, so that it can be changed.
    #[uniffi(default = [])]
    pub endpoint_list_keys: Vec<String>,
    /// What certificates of listed gateways may name beside the hosts of `endpoints`; `*.edge.example` allows any one
    /// label in place of the star.
    #[uniffi(default = [])]
    pub endpoint_list_names: Vec<String>,
    /// Parameters of strategies as `name=value`: `hedge.enabled=false`, `short.after_min=2s`. They hold until the policy of the
    /// gateway's operator sets the same one; `towline policy parameters` lists them with units and ranges.
    #[uniffi(default = [])]
    pub strategies: Vec<String>,
    /// The certificate authorities to trust, and no others: PEM.
    #[uniffi(default = None)]
    pub roots_pem: Option<Vec<u8>>,
    /// No encryption, for loopback and laboratories; then there is neither `roots_pem` nor QUIC.
    #[uniffi(default = false)]
    pub plaintext: bool,
    /// Keys (`sha256/` and base64 of the SHA-256 of a public key) of which the gateway's chain must have one.
    #[uniffi(default = [])]
    pub pins: Vec<String>,
    /// What the client shows a gateway that asks who it is: chain in PEM, its own certificate first.
    #[uniffi(default = None)]
    pub certificate_pem: Option<Vec<u8>>,
    /// The key of `certificate_pem`, in PEM.
    #[uniffi(default = None)]
    pub certificate_key_pem: Option<Vec<u8>>,
    /// Transports to use; QUIC with TCP beside it unless said otherwise. A library that was built without QUIC uses TCP, and
    /// refuses what asks for QUIC.
    #[uniffi(default = None)]
    pub transports: Option<Transports>,
    /// Whether requests may leave in the first flight of a resumed connection (0-RTT); each is run once all the same.
    #[uniffi(default = true)]
    pub early_data: bool,
    /// Whether TLS sessions are kept beside `identity_file`, sealed, so that an app that was killed resumes them.
    #[uniffi(default = true)]
    pub keep_tickets: bool,
    /// Name of this installation, 1 to 64 printable ASCII characters; else the identity file's, or a random one.
    #[uniffi(default = None)]
    pub client_id: Option<String>,
    /// A file, in the app's private storage, that makes this the same client again after a restart.
    #[uniffi(default = None)]
    pub identity_file: Option<String>,
    /// User name, where the gateway asks for one.
    #[uniffi(default = None)]
    pub user: Option<String>,
    /// Its password.
    #[uniffi(default = None)]
    pub password: Option<String>,
    /// Header fields that every request carries, sent once for the session: device, locale, token.
    #[uniffi(default = [])]
    pub session_headers: Vec<Header>,
    /// Names of header fields whose values are secrets, beside `authorization` and `cookie`.
    #[uniffi(default = [])]
    pub never_indexed: Vec<String>,
    /// Topic filters to subscribe to on every connection.
    #[uniffi(default = [])]
    pub topics: Vec<String>,
    /// Name and version of the app, for the operator's eyes.
    #[uniffi(default = None)]
    pub agent: Option<String>,
    /// The app's own name, as `com.example.shop`, for rules of the operator's policy.
    #[uniffi(default = None)]
    pub app_name: Option<String>,
    /// Its version, as `5.12.3`, for the same.
    #[uniffi(default = None)]
    pub app_version: Option<String>,
    /// Where the user is, as the app has it: `eu` or `cn-east`; for the same, and for the order of listed gateways.
    #[uniffi(default = None)]
    pub app_region: Option<String>,
    /// Whether calls may go out by HTTPS POST; they do when there has been no line for `short_after`.
    #[uniffi(default = None)]
    pub short_calls: Option<ShortCalls>,
    /// 3 seconds unless said otherwise.
    #[uniffi(default = None)]
    pub short_after: Option<Duration>,
    /// When to fetch the dictionaries that the gateway offers: unless metered, if nothing else is said.
    #[uniffi(default = None)]
    pub dictionary_fetch: Option<DictionaryFetch>,
    /// How long a call waits that names no deadline: 60 seconds unless said otherwise.
    #[uniffi(default = None)]
    pub deadline: Option<Duration>,
    /// Calls waiting or running at one time; more are refused with `LimitExceeded`.
    #[uniffi(default = None)]
    pub calls_max: Option<u32>,
    /// Bytes of messages in calls not yet answered; more are refused with `LimitExceeded`.
    #[uniffi(default = None)]
    pub queued_bytes_max: Option<u32>,
    /// Bytes of one message of an answer; a longer one fails its call with `LimitExceeded`.
    #[uniffi(default = None)]
    pub message_bytes_max: Option<u32>,
    /// Pushes that wait for the app; the gateway keeps the rest.
    #[uniffi(default = None)]
    pub pushes_max: Option<u32>,
}

/// Which transports a client may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, uniffi::Enum)]
pub enum Transports {
    /// QUIC first, and TCP when QUIC does not answer at once.
    QuicAndTcp,
    /// QUIC only.
    Quic,
    /// TCP only.
    Tcp,
}

/// When calls go out over short connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, uniffi::Enum)]
pub enum ShortCalls {
    /// Never.
    Off,
    /// When there has been no line for a while.
    Fallback,
    /// All of them.
    Always,
}

/// When a client fetches dictionaries, some 100 KB now and then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, uniffi::Enum)]
pub enum DictionaryFetch {
    /// Unless the app said that the network is metered.
    UnlessMetered,
    /// Only once the app said that it is not.
    WhenUnmetered,
    /// Never.
    Never,
}

impl ClientOptions {
    /// Options with these gateways and the defaults.
    pub fn new(endpoints: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let endpoints = endpoints.into_iter().map(Into::into).collect();
        Self { endpoints, early_data: true, keep_tickets: true, ..Self::default() }
    }

    /// What the client core takes.
    pub(crate) fn into_config(self) -> Result<ClientConfig, TowlineError> {
        let mut config = ClientConfig::plaintext(self.endpoints()?);
        config.bundled_addresses = self.bundled_addresses()?;
        config.endpoint_lists = self.endpoint_lists()?;
        for (place, assignment) in self.strategies.iter().enumerate() {
            let set = config.strategies.set_text(assignment);
            set.map_err(|error| TowlineError::option(format!("strategies[{place}]"), error.to_string()))?;
        }
        config.security = self.security()?;
        config.transports = self.transports();
        config.credentials = self.credentials()?;
        config.early_data = self.early_data;
        config.keep_tickets = self.keep_tickets;
        config.client_id = self.client_id;
        config.identity_file = self.identity_file.map(PathBuf::from);
        config.session_headers =
            self.session_headers.into_iter().map(|header| (header.name, header.value)).collect();
        config.never_indexed = self.never_indexed;
        config.topics = self.topics;
        config.agent = self.agent.unwrap_or(config.agent);
        config.app.name = self.app_name.unwrap_or_default();
        config.app.version = self.app_version.unwrap_or_default();
        config.app.region = self.app_region.unwrap_or_default();
        config.short_calls = self.short_calls.map_or(config.short_calls, Into::into);
        config.short_after = self.short_after.unwrap_or(config.short_after);
        config.dictionary_fetch = self.dictionary_fetch.map_or(config.dictionary_fetch, Into::into);
        let limits = &mut config.limits;
        limits.deadline_default = self.deadline.unwrap_or(limits.deadline_default);
        let or = |own: Option<u32>, default: usize| own.map_or(default, |max| max as usize);
        limits.calls_max = or(self.calls_max, limits.calls_max);
        limits.queued_bytes_max = or(self.queued_bytes_max, limits.queued_bytes_max);
        limits.message_bytes_max = or(self.message_bytes_max, limits.message_bytes_max);
        limits.pushes_max = or(self.pushes_max, limits.pushes_max);
        Ok(config)
    }

    fn endpoint_lists(&self) -> Result<EndpointLists, TowlineError> {
        let parse = |(place, text): (usize, &String)| {
            text.parse::<EndpointListKey>().map_err(|error| {
                TowlineError::option(format!("endpoint_list_keys[{place}]"), error.to_string())
            })
        };
        let keys = self.endpoint_list_keys.iter().enumerate().map(parse).collect::<Result<_, _>>()?;
        Ok(EndpointLists { keys, names: self.endpoint_list_names.clone() })
    }

    fn bundled_addresses(&self) -> Result<Vec<BundledAddresses>, TowlineError> {
        let parse = |(place, text): (usize, &String)| {
            text.parse::<BundledAddresses>()
                .map_err(|error| TowlineError::option(format!("bundled_addresses[{place}]"), error.reason()))
        };
        self.bundled_addresses.iter().enumerate().map(parse).collect()
    }

    fn endpoints(&self) -> Result<Vec<Endpoint>, TowlineError> {
        let parse = |(place, text): (usize, &String)| {
            text.parse::<Endpoint>()
                .map_err(|error| TowlineError::option(format!("endpoints[{place}]"), error.reason()))
        };
        self.endpoints.iter().enumerate().map(parse).collect()
    }

    fn security(&self) -> Result<Security, TowlineError> {
        let roots = match (&self.roots_pem, self.plaintext) {
            (Some(roots), false) => roots.clone(),
            (None, true) => return self.plaintext(),
            (Some(_), true) => {
                return Err(TowlineError::option("plaintext", "leave roots_pem out, or plaintext"));
            }
            (None, false) => {
                let reason = "pass the PEM of the authority that signed the gateway's certificate";
                return Err(TowlineError::option("roots_pem", reason));
            }
        };
        let mut tls = Tls::new(roots);
        for (place, pin) in self.pins.iter().enumerate() {
            let pin: Pin = pin
                .parse()
                .map_err(|error| TowlineError::option(format!("pins[{place}]"), format!("{error}")))?;
            tls.pins.push(pin);
        }
        tls.certificate = match (&self.certificate_pem, &self.certificate_key_pem) {
            (Some(chain), Some(key)) => Some(ClientCertificate::pem(chain.clone(), key.clone())),
            (None, None) => None,
            (Some(_), None) => {
                return Err(TowlineError::option("certificate_key_pem", "belongs to certificate_pem"));
            }
            (None, Some(_)) => {
                return Err(TowlineError::option("certificate_pem", "belongs to certificate_key_pem"));
            }
        };
        Ok(Security::Tls(tls))
    }

    fn plaintext(&self) -> Result<Security, TowlineError> {
        let needs_tls = !self.pins.is_empty() || self.certificate_pem.is_some();
        if needs_tls {
            return Err(TowlineError::option("plaintext", "pins and certificate_pem need encryption"));
        }
        Ok(Security::Plaintext)
    }

    fn transports(&self) -> towline_client::Transports {
        match self.transports {
            None if self.plaintext => towline_client::Transports::Tcp,
            None => towline_client::Transports::default(),
            Some(Transports::QuicAndTcp) => towline_client::Transports::QuicAndTcp,
            Some(Transports::Quic) => towline_client::Transports::Quic,
            Some(Transports::Tcp) => towline_client::Transports::Tcp,
        }
    }

    fn credentials(&self) -> Result<Option<Credentials>, TowlineError> {
        match (&self.user, &self.password) {
            (None, None) => Ok(None),
            (None, Some(_)) => Err(TowlineError::option("user", "belongs to password")),
            (Some(user), password) => {
                Ok(Some(Credentials { user: user.clone(), password: password.clone().unwrap_or_default() }))
            }
        }
    }
}

impl From<ShortCalls> for towline_client::ShortCalls {
    fn from(short_calls: ShortCalls) -> Self {
        match short_calls {
            ShortCalls::Off => Self::Off,
            ShortCalls::Fallback => Self::Fallback,
            ShortCalls::Always => Self::Always,
        }
    }
}

impl From<DictionaryFetch> for towline_client::DictionaryFetch {
    fn from(fetch: DictionaryFetch) -> Self {
        match fetch {
            DictionaryFetch::UnlessMetered => Self::UnlessMetered,
            DictionaryFetch::WhenUnmetered => Self::WhenUnmetered,
            DictionaryFetch::Never => Self::Never,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(change: fn(&mut ClientOptions), option: &str) {
        let mut options = ClientOptions::new(["edge.example:443"]);
        options.roots_pem = Some(b"pem".to_vec());
        change(&mut options);
        match options.into_config() {
            Err(TowlineError::Config { option: named, .. }) => assert_eq!(named, option),
            other => panic!("{option}: {:?}", other.err()),
        }
    }

    #[test]
    fn what_cannot_work_is_named() {
        check(|options| options.endpoints = vec!["a:1".into(), "https://edge".into()], "endpoints[1]");
        check(|options| options.bundled_addresses = vec!["edge=b".into()], "bundled_addresses[0]");
        check(|options| options.strategies = vec!["hedge.enabled=no".into()], "strategies[0]");
        check(|options| options.roots_pem = None, "roots_pem");
        check(|options| options.plaintext = true, "plaintext");
        check(|options| options.pins = vec!["sha256/short".into()], "pins[0]");
        check(|options| options.endpoint_list_keys = vec!["ed25519/short".into()], "endpoint_list_keys[0]");
        check(|options| options.certificate_pem = Some(Vec::new()), "certificate_key_pem");
        check(|options| options.certificate_key_pem = Some(Vec::new()), "certificate_pem");
        check(|options| options.password = Some("secret".into()), "user");
    }

    #[test]
    fn tickets_are_kept_unless_the_app_says_no() {
        for keep in [true, false] {
            let mut options = ClientOptions::new(["edge.example:443"]);
            options.roots_pem = Some(b"pem".to_vec());
            assert!(options.keep_tickets);
            options.keep_tickets = keep;
            assert_eq!(options.into_config().unwrap().keep_tickets, keep);
        }
    }

    #[test]
    fn what_the_app_says_of_itself_and_its_bounds_arrive() {
        let mut options = ClientOptions::new(["edge.example:443"]);
        options.plaintext = true;
        let defaults = options.clone().into_config().unwrap();
        // Thirty-two bytes of zero: what a key has to look like.
        let key = format!("ed25519/{}=", "A".repeat(43));
        options.endpoint_list_keys = vec![key.clone()];
        options.endpoint_list_names = vec!["*.edge.example".into()];
        (options.app_name, options.app_version) = (Some("com.example.shop".into()), Some("5.12.3".into()));
        options.app_region = Some("eu".into());
        options.bundled_addresses = vec!["edge.example=192.0.2.7".into()];
        options.strategies = vec!["hedge.enabled=false".into(), "handover.checks=3".into()];
        (options.pushes_max, options.message_bytes_max) = (Some(7), Some(1 << 20));
        let config = options.into_config().unwrap();
        assert_eq!(config.endpoint_lists.keys[0].to_string(), key);
        assert_eq!(config.bundled_addresses[0].addresses, [std::net::IpAddr::from([192, 0, 2, 7])]);
        assert!(defaults.strategies.hedge.enabled && !config.strategies.hedge.enabled);
        assert_eq!(config.strategies.handover.checks, 3);
        assert_eq!(config.endpoint_lists.names, ["*.edge.example"]);
        let app = [&config.app.name, &config.app.version, &config.app.region];
        assert_eq!(app, ["com.example.shop", "5.12.3", "eu"]);
        assert_eq!((config.limits.pushes_max, config.limits.message_bytes_max), (7, 1 << 20));
        assert_eq!(config.limits.queued_bytes_max, defaults.limits.queued_bytes_max);
    }

    #[test]
    fn plaintext_means_tcp() {
        let mut options = ClientOptions::new(["localhost:7080"]);
        options.plaintext = true;
        assert_eq!(options.into_config().unwrap().transports, towline_client::Transports::Tcp);
    }
}
