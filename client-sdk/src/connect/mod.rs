//! From a list of gateways to one live wire: QUIC first, TCP beside it when QUIC is slow to answer,
//! the first handshake that completes wins, the others are closed.

mod dial;
mod early;
mod http;
mod quic;
mod tcp;
mod tls;

use std::{
    fmt,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{task::JoinSet, time::timeout};

pub use dial::{BindUdp, ByteIo, Dial, Dialed, Dialing};
pub use early::FirstFlight;
pub(crate) use http::{HttpConnector, HttpVersion};
pub(crate) use quic::{Path, PathCounts, QuicWire};
pub(crate) use tcp::ByteStream;

use crate::{
    config::{ClientConfig, Endpoint, Policy, Security, Transports},
    core::now,
    error::StartError,
    state::Transport,
    timeline::ConnectTimes,
};

/// Addresses of one name that are tried; more would make one attempt arbitrarily long.
const ADDRESSES_MAX: usize = 8;
/// RFC 8305, section 5: the recommended delay between connection attempts to the addresses of a name.
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// How long a network where QUIC did not answer is remembered as such: TCP then starts at once.
const QUIC_BLOCKED_MEMORY: Duration = Duration::from_secs(600);

/// An established connection: the gateway has answered.
pub(crate) enum Wire {
    /// TLS or plaintext over TCP.
    Tcp {
        /// What bytes go by.
        stream: ByteStream,
        /// Bytes of the first flight that the gateway has taken as early data.
        early: usize,
        /// How long it took.
        times: ConnectTimes,
    },
    /// QUIC. With early data the gateway may not have answered yet.
    Quic(QuicWire),
}

impl Wire {
    pub(crate) fn transport(&self) -> Transport {
        match self {
            Self::Tcp { .. } => Transport::Tcp,
            Self::Quic(_) => Transport::Quic,
        }
    }

    /// How long making it took.
    pub(crate) fn times(&self) -> ConnectTimes {
        match self {
            Self::Tcp { times, .. } | Self::Quic(QuicWire { times, .. }) => *times,
        }
    }

    fn found_after(mut self, dns: Duration) -> Self {
        match &mut self {
            Self::Tcp { times, .. } | Self::Quic(QuicWire { times, .. }) => times.dns = Some(dns),
        }
        self
    }
}

/// Why no wire came up: one line for each transport that was tried.
#[derive(Debug, Clone)]
pub(crate) struct ConnectError(pub(crate) String);

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What connecting needs, made once; cheap to clone.
#[derive(Clone)]
pub(crate) struct Connector {
    transports: Transports,
    dialer: Option<Arc<dyn Dial>>,
    sockets: quic::Sockets,
    tls: Option<Arc<rustls::ClientConfig>>,
    quic: Option<quinn::ClientConfig>,
    /// When QUIC last lost to TCP without answering.
    quic_blocked: Option<Instant>,
}

impl Connector {
    pub(crate) fn new(config: &ClientConfig) -> Result<Self, StartError> {
        let (tls, quic) = match &config.security {
            Security::Plaintext => (None, None),
            Security::Tls(security) => {
                let tls = tls::tls_config(security, config.early_data)?;
                let quic = tls::quic_config(&tls, &config.limits)?;
                (Some(tls), Some(quic))
            }
        };
        let (dialer, udp) = (config.dialer.clone(), config.udp.clone());
        // Whoever has a way of its own for streams alone has none for datagrams.
        let quic = quic.filter(|_| dialer.is_none() || udp.is_some());
        let sockets = quic::Sockets::new(udp);
        Ok(Self { transports: config.transports, dialer, sockets, tls, quic, quic_blocked: None })
    }

    /// Forgets what was learnt about the network.
    pub(crate) fn network_changed(&mut self) {
        self.quic_blocked = None;
    }

    /// Early data on QUIC was not answered: TCP starts at once.
    pub(crate) fn quic_unanswered(&mut self, now: Instant) {
        if self.transports == Transports::QuicAndTcp {
            self.quic_blocked = Some(now);
        }
    }

    /// Remembers which transport won.
    pub(crate) fn learn(&mut self, won: Transport, now: Instant) {
        if self.transports == Transports::QuicAndTcp {
            self.quic_blocked = (won == Transport::Tcp).then_some(now);
        }
    }

    /// One attempt on one endpoint, bounded by the policy's `connect_timeout`. Connections that can carry
    /// early data carry `flight` on TCP; on QUIC, `flies` says whether they may be used before the gateway has
    /// answered.
    pub(crate) async fn connect(
        self,
        endpoint: Endpoint,
        policy: Policy,
        flight: FirstFlight,
        flies: bool,
    ) -> Result<Wire, ConnectError> {
        let bound = policy.connect_timeout;
        match timeout(bound, Box::pin(self.race(&endpoint, &policy, flight, flies))).await {
            Ok(outcome) => outcome.map_err(|error| ConnectError(format!("{endpoint}: {error}"))),
            Err(_) => Err(ConnectError(format!("{endpoint}: no answer within {bound:?} (connect_timeout)"))),
        }
    }

    async fn race(
        self,
        endpoint: &Endpoint,
        policy: &Policy,
        flight: FirstFlight,
        flies: bool,
    ) -> Result<Wire, ConnectError> {
        if let (Some(dialer), None) = (&self.dialer, &self.quic) {
            return dial::connect(&**dialer, endpoint, flight).await;
        }
        let asked = now();
        let addresses = resolve(endpoint).await?;
        let found_after = now().saturating_duration_since(asked);
        let mut attempts = JoinSet::new();
        if self.transports != Transports::Tcp
            && let Some(quic) = self.quic.clone()
        {
            // Where UDP was seen not to pass, nobody waits for what was said early.
            let early = flies && !self.is_quic_blocked();
            let (sockets, host) = (self.sockets.clone(), endpoint.host.clone());
            attempts.spawn(quic::connect(quic, sockets, host, addresses.clone(), early));
        }
        if self.transports != Transports::Quic {
            let delay = self.tcp_delay(policy, attempts.is_empty());
            attempts.spawn(self.tcp_after(delay, endpoint.clone(), addresses, flight));
        }
        first(attempts, Vec::new()).await.map(|wire| wire.found_after(found_after))
    }

    /// TCP starts at once where QUIC is not used, or was lately seen not to pass.
    fn tcp_delay(&self, policy: &Policy, alone: bool) -> Duration {
        if alone || self.is_quic_blocked() { Duration::ZERO } else { policy.fallback_delay }
    }

    fn is_quic_blocked(&self) -> bool {
        self.quic_blocked.is_some_and(|at| at.elapsed() < QUIC_BLOCKED_MEMORY)
    }

    async fn tcp_after(
        self,
        delay: Duration,
        endpoint: Endpoint,
        addresses: Vec<SocketAddr>,
        flight: FirstFlight,
    ) -> Result<Wire, ConnectError> {
        tokio::time::sleep(delay).await;
        match &self.dialer {
            Some(dialer) => dial::connect(&**dialer, &endpoint, flight).await,
            None => tcp::connect(self.tls, endpoint.host, addresses, flight).await,
        }
    }
}

/// The first attempt that succeeds; dropping the set aborts the rest, which closes them.
async fn first<T: 'static>(
    mut attempts: JoinSet<Result<T, ConnectError>>,
    mut reasons: Vec<String>,
) -> Result<T, ConnectError> {
    while let Some(joined) = attempts.join_next().await {
        match joined {
            Ok(Ok(made)) => return Ok(made),
            Ok(Err(error)) => reasons.push(error.0),
            Err(error) => reasons.push(format!("attempt ended: {error}")),
        }
    }
    Err(ConnectError(if reasons.is_empty() { "nothing to try".to_owned() } else { reasons.join("; ") }))
}

/// The endpoint's addresses, families interleaved as RFC 8305, section 4 asks.
async fn resolve(endpoint: &Endpoint) -> Result<Vec<SocketAddr>, ConnectError> {
    let found = tokio::net::lookup_host((endpoint.host.as_str(), endpoint.port))
        .await
        .map_err(|error| ConnectError(format!("DNS: {error}")))?;
    let (six, four): (Vec<_>, Vec<_>) = found.take(2 * ADDRESSES_MAX).partition(SocketAddr::is_ipv6);
    let addresses = interleave(six, four);
    if addresses.is_empty() {
        return Err(ConnectError("DNS: the name has no address".to_owned()));
    }
    Ok(addresses)
}

fn interleave(six: Vec<SocketAddr>, four: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let (mut six, mut four) = (six.into_iter(), four.into_iter());
    let mut out = Vec::new();
    while out.len() < ADDRESSES_MAX {
        let before = out.len();
        out.extend(six.next());
        out.extend(four.next());
        if out.len() == before {
            break;
        }
    }
    out
}

/// Starts `attempt` on each address, [`ATTEMPT_DELAY`] after the one before or as soon as that has failed
/// (RFC 8305, section 5).
async fn staggered<T, F>(
    addresses: Vec<SocketAddr>,
    attempt: impl Fn(SocketAddr) -> F,
) -> Result<T, ConnectError>
where
    T: Send + 'static,
    F: Future<Output = Result<T, ConnectError>> + Send + 'static,
{
    let mut attempts = JoinSet::new();
    let mut reasons = Vec::new();
    let mut addresses = addresses.into_iter().peekable();
    while let Some(address) = addresses.next() {
        attempts.spawn(attempt(address));
        if addresses.peek().is_none() {
            break;
        }
        match timeout(ATTEMPT_DELAY, attempts.join_next()).await {
            Ok(Some(Ok(Ok(made)))) => return Ok(made),
            Ok(Some(Ok(Err(error)))) => reasons.push(error.0),
            Ok(Some(Err(error))) => reasons.push(format!("attempt ended: {error}")),
            Ok(None) | Err(_) => {}
        }
    }
    first(attempts, reasons).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_take_turns() {
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        let six = vec![address("[::1]:1"), address("[::2]:1")];
        let four = vec![address("127.0.0.1:1")];
        let expected = vec![six[0], four[0], six[1]];
        assert_eq!(interleave(six, four), expected);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_address_hands_over_at_once_and_a_silent_one_after_the_delay() {
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let check = async |silent: bool, expected: Duration| {
            let started = tokio::time::Instant::now();
            let result: Result<(), _> = staggered(vec![address(1), address(2)], move |address| async move {
                if silent && address.port() == 1 {
                    tokio::time::sleep(Duration::from_secs(5)).await;
                }
                Err(ConnectError(format!("{} {:?}", address.port(), started.elapsed())))
            })
            .await;
            let reasons = result.err().map(|error| error.0).unwrap_or_default();
            assert!(reasons.contains(&format!("2 {expected:?}")), "{reasons}");
        };
        check(false, Duration::ZERO).await;
        check(true, ATTEMPT_DELAY).await;
    }

    #[test]
    fn tcp_waits_for_quic_unless_quic_was_seen_blocked() {
        let endpoint = Endpoint { host: "localhost".into(), port: 1 };
        let mut connector = Connector::new(&ClientConfig::plaintext(vec![endpoint])).unwrap();
        connector.transports = Transports::QuicAndTcp;
        let policy = Policy::default();
        assert_eq!(connector.tcp_delay(&policy, false), policy.fallback_delay);
        connector.learn(Transport::Tcp, Instant::now());
        assert_eq!(connector.tcp_delay(&policy, false), Duration::ZERO);
        connector.network_changed();
        assert_eq!(connector.tcp_delay(&policy, false), policy.fallback_delay);
        assert_eq!(connector.tcp_delay(&policy, true), Duration::ZERO);
    }
}
