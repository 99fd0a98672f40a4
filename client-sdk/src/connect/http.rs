//! Connections for short calls: HTTP/2, unless that is left out, or HTTP/1.1 over TLS; or HTTP/1.1 in plaintext where the
//! app asked for that.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use rustls::pki_types::ServerName;
use tokio::{net::TcpStream, task::JoinSet, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};
use towline_protocols::policy::{KeyExchange, Network};

use super::{
    ByteStream, ConnectError, Connector, Dial, Dialed,
    resolve::Lookups,
    sockets::{Makers, Sockets},
    tls::{Made, Secured},
};
use crate::{
    config::Endpoint,
    core::{Shared, now},
    tickets::Transport,
    timeline::ConnectTimes,
    work,
};

/// What is spoken on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HttpVersion {
    Http1,
    #[cfg(feature = "http2")]
    Http2,
}

/// What connecting needs, made once; cheap to clone.
#[derive(Clone)]
pub(crate) struct HttpConnector {
    dialer: Option<Arc<dyn Dial>>,
    makers: Makers,
    secured: Option<Secured>,
    lookups: Lookups,
    shared: Arc<Shared>,
}

/// RFC 8305, section 5: the recommended delay between connection attempts to the addresses of a name.
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

impl HttpConnector {
    /// With the trust and the ways of the link's.
    pub(crate) fn of(link: &Connector, shared: &Arc<Shared>) -> Self {
        let Connector { dialer, makers, secured, lookups, .. } = link.clone();
        Self { dialer, makers, secured, lookups, shared: Arc::clone(shared) }
    }

    /// `https`, or `http` in plaintext.
    #[cfg(feature = "http2")]
    pub(crate) fn scheme(&self) -> &'static str {
        if self.secured.is_some() { "https" } else { "http" }
    }

    /// A connection on `network`, which is the one in use. Says as well how long it took.
    pub(crate) async fn connect(
        self,
        network: &Network,
        endpoint: Endpoint,
    ) -> Result<(ByteStream, HttpVersion, ConnectTimes), ConnectError> {
        let began = now();
        if let Some(dialer) = &self.dialer {
            let dialed = dialer.dial_http_on(network, &endpoint).await;
            let Dialed { stream, .. } = dialed.map_err(|error| ConnectError(error.to_string()))?;
            let times = ConnectTimes { connect: Some(now() - began), ..ConnectTimes::default() };
            return Ok((ByteStream::Own(stream), HttpVersion::Http1, times));
        }
        let addresses = self.lookups.addresses(&self.shared, network, &endpoint).await?;
        let dns = Some(now() - began);
        let (host, offer) = (self.shared.listed.name_of(&endpoint), self.shared.quality.key_exchange());
        let sockets = self.makers.on(network);
        let attempt =
            |address| connect_one(sockets.clone(), self.secured.clone(), offer, host.clone(), address);
        let made = staggered(addresses, attempt).await?;
        let (stream, version, times) = made;
        Ok((stream, version, ConnectTimes { dns, ..times }))
    }
}

/// What a gateway refuses of a handshake with X25519 alone is made anew as a hybrid one.
async fn connect_one(
    sockets: Sockets,
    secured: Option<Secured>,
    offer: KeyExchange,
    host: String,
    address: SocketAddr,
) -> Result<(ByteStream, HttpVersion, ConnectTimes), ConnectError> {
    let failed =
        |what: &str, error: &dyn std::fmt::Display| ConnectError(format!("{what} {address}: {error}"));
    let began = now();
    let stream = sockets.tcp(address).await.map_err(|error| failed("TCP", &error))?;
    let connected = now();
    let mut times = ConnectTimes { connect: Some(connected - began), ..ConnectTimes::default() };
    let Some(secured) = secured else {
        return Ok((ByteStream::Plain(stream), HttpVersion::Http1, times));
    };
    let name = ServerName::try_from(host).map_err(|error| failed("TLS", &error))?;
    let made = secured.streams(Transport::Http, &name, offer);
    let stream = match shake_hands(&made, name.clone(), stream).await {
        Err(error) if made.is_refused(&error) => {
            secured.resuming.refused(Transport::Http, &name);
            let stream = sockets.tcp(address).await.map_err(|error| failed("TCP", &error))?;
            let hybrid = secured.streams(Transport::Http, &name, KeyExchange::Hybrid);
            shake_hands(&hybrid, name, stream).await
        }
        shaken => shaken,
    };
    let stream = stream.map_err(|error| failed("TLS", &error))?;
    let version = match stream.get_ref().1.alpn_protocol() {
        #[cfg(feature = "http2")]
        Some(super::tls::HTTP_2) => HttpVersion::Http2,
        _ => HttpVersion::Http1,
    };
    times.tls = Some(now() - connected);
    Ok((ByteStream::Tls(Box::new(stream)), version, times))
}

async fn shake_hands(
    made: &Made<Arc<rustls::ClientConfig>>,
    name: ServerName<'static>,
    stream: TcpStream,
) -> io::Result<TlsStream<TcpStream>> {
    let stream = TlsConnector::from(Arc::clone(&made.config)).connect(name, stream).await?;
    made.check(stream.get_ref().1)?;
    Ok(stream)
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
        attempts.spawn(work::boxed(attempt(address)));
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
