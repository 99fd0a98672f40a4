//! Connections for short calls: HTTP/2 or HTTP/1.1 over TLS, or HTTP/1.1 in plaintext where the app asked for that.

use std::{net::SocketAddr, sync::Arc};

use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{ByteStream, ConnectError, Connector, Dial, Dialed, resolve, staggered, tls};
use crate::{config::Endpoint, core::now, timeline::ConnectTimes};

/// What is spoken on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HttpVersion {
    Http1,
    Http2,
}

/// What connecting needs, made once; cheap to clone.
#[derive(Clone)]
pub(crate) struct HttpConnector {
    dialer: Option<Arc<dyn Dial>>,
    tls: Option<Arc<rustls::ClientConfig>>,
}

impl HttpConnector {
    /// With the trust and the ways of the link's.
    pub(crate) fn of(link: &Connector) -> Self {
        let tls = link.tls.as_deref().map(tls::http_config);
        Self { dialer: link.dialer.clone(), tls }
    }

    /// `https`, or `http` in plaintext.
    pub(crate) fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    /// Says as well how long it took.
    pub(crate) async fn connect(
        self,
        endpoint: Endpoint,
    ) -> Result<(ByteStream, HttpVersion, ConnectTimes), ConnectError> {
        let began = now();
        if let Some(dialer) = &self.dialer {
            let dialed = dialer.dial_http(&endpoint).await;
            let Dialed { stream, .. } = dialed.map_err(|error| ConnectError(error.to_string()))?;
            let times = ConnectTimes { connect: Some(now() - began), ..ConnectTimes::default() };
            return Ok((ByteStream::Own(stream), HttpVersion::Http1, times));
        }
        let addresses = resolve(&endpoint).await?;
        let dns = Some(now() - began);
        let (tls, host) = (self.tls, endpoint.host);
        let made = staggered(addresses, |address| connect_one(tls.clone(), host.clone(), address)).await?;
        let (stream, version, times) = made;
        Ok((stream, version, ConnectTimes { dns, ..times }))
    }
}

async fn connect_one(
    tls: Option<Arc<rustls::ClientConfig>>,
    host: String,
    address: SocketAddr,
) -> Result<(ByteStream, HttpVersion, ConnectTimes), ConnectError> {
    let failed =
        |what: &str, error: &dyn std::fmt::Display| ConnectError(format!("{what} {address}: {error}"));
    let began = now();
    let stream = TcpStream::connect(address).await.map_err(|error| failed("TCP", &error))?;
    let connected = now();
    let mut times = ConnectTimes { connect: Some(connected - began), ..ConnectTimes::default() };
    stream.set_nodelay(true).map_err(|error| failed("TCP", &error))?;
    let Some(tls) = tls else {
        return Ok((ByteStream::Plain(stream), HttpVersion::Http1, times));
    };
    let name = ServerName::try_from(host).map_err(|error| failed("TLS", &error))?;
    let stream =
        TlsConnector::from(tls).connect(name, stream).await.map_err(|error| failed("TLS", &error))?;
    let version = match stream.get_ref().1.alpn_protocol() {
        Some(tls::HTTP_2) => HttpVersion::Http2,
        _ => HttpVersion::Http1,
    };
    times.tls = Some(now() - connected);
    Ok((ByteStream::Tls(Box::new(stream)), version, times))
}
