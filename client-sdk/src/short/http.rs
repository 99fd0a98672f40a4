//! HTTP connections that are there, and new ones.

use ::http::{HeaderValue, Request, Response, header};
use bytes::Bytes;
use http_body_util::Full;
#[cfg(feature = "http2")]
use hyper::client::conn::http2;
use hyper::{body::Incoming, client::conn::http1};
#[cfg(feature = "http2")]
use hyper_util::rt::TokioExecutor;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use towline_protocols::policy::{Network, NetworkKey};

use crate::{
    config::Endpoint,
    connect::{ConnectError, HttpConnector, HttpVersion},
    core::now,
    timeline::Made,
    work,
};

/// Where the gateway takes short connections.
const PATH: &str = "/towline/1";
const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/towline");
/// HTTP/1.1 connections without a request that are kept.
const IDLE_MAX: usize = 4;

/// The connections of one client.
pub(super) struct Pool {
    connector: HttpConnector,
    idle: Mutex<Vec<Idle>>,
}

/// A connection that waits for a request.
struct Idle {
    /// Where it was made.
    network: NetworkKey,
    gateway: Endpoint,
    sender: Sender,
}

/// One connection, as far as it takes requests.
pub(super) enum Sender {
    /// One at a time.
    Http1(http1::SendRequest<Full<Bytes>>),
    /// Many; a clone stays in the pool.
    #[cfg(feature = "http2")]
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Pool {
    pub(super) fn new(connector: HttpConnector) -> Self {
        Self { connector, idle: Mutex::default() }
    }

    /// A new connection on `network` to `gateway` that takes a request, and how it was made.
    pub(super) async fn connect(
        &self,
        network: &Network,
        gateway: &Endpoint,
    ) -> Result<(Sender, Made), ConnectError> {
        let (stream, version, times) = self.connector.clone().connect(network, gateway.clone()).await?;
        let stream = TokioIo::new(stream);
        let failed = |error: hyper::Error| ConnectError(format!("HTTP: {error}"));
        let sender = match version {
            HttpVersion::Http1 => {
                let (sender, connection) = http1::handshake(stream).await.map_err(failed)?;
                tokio::spawn(work::boxed(async move { drop(connection.await) }));
                Sender::Http1(sender)
            }
            #[cfg(feature = "http2")]
            HttpVersion::Http2 => {
                let handshake = http2::handshake(TokioExecutor::new(), stream);
                let (sender, connection) = handshake.await.map_err(failed)?;
                tokio::spawn(work::boxed(async move { drop(connection.await) }));
                self.put(network, gateway, Sender::Http2(sender.clone()));
                Sender::Http2(sender)
            }
        };
        Ok((sender, Made { at: now(), times }))
    }

    /// A connection whose answer has been read takes the next request.
    pub(super) fn put(&self, network: &Network, gateway: &Endpoint, sender: Sender) {
        let mut idle = self.idle.lock();
        idle.retain(|it| !it.sender.is_closed());
        if idle.len() < IDLE_MAX {
            idle.push(Idle { network: network.place(), gateway: gateway.clone(), sender });
        }
    }

    /// Nothing is to go over the connections that are there: one of them was silent.
    pub(super) fn clear(&self) {
        self.idle.lock().clear();
    }

    /// A connection to `gateway` that is there and takes a request. Those of another network than `network`, which is in use,
    /// are closed: the line has left it.
    pub(super) fn take(&self, network: &Network, gateway: &Endpoint) -> Option<Sender> {
        let (mut idle, here) = (self.idle.lock(), network.place());
        idle.retain(|it| it.network == here && !it.sender.is_closed());
        let place = idle.iter().rposition(|it| it.gateway == *gateway && it.sender.is_ready())?;
        match &idle[place].sender {
            #[cfg(feature = "http2")]
            Sender::Http2(sender) => Some(Sender::Http2(sender.clone())),
            Sender::Http1(_) => Some(idle.swap_remove(place).sender),
        }
    }

    /// A POST of that body to `gateway`, which may take so many seconds to answer.
    pub(super) fn request(
        &self,
        sender: &Sender,
        gateway: &Endpoint,
        body: Bytes,
        wait_s: u64,
    ) -> Result<Request<Full<Bytes>>, ::http::Error> {
        let request = match sender {
            Sender::Http1(_) => Request::post(PATH).header(header::HOST, gateway.to_string()),
            #[cfg(feature = "http2")]
            Sender::Http2(_) => Request::post(format!("{}://{gateway}{PATH}", self.connector.scheme())),
        };
        request
            .header(header::CONTENT_TYPE, CONTENT_TYPE)
            .header("prefer", format!("wait={wait_s}"))
            .body(Full::new(body))
    }
}

impl Sender {
    pub(super) async fn send(&mut self, request: Request<Full<Bytes>>) -> hyper::Result<Response<Incoming>> {
        match self {
            Self::Http1(sender) => sender.send_request(request).await,
            #[cfg(feature = "http2")]
            Self::Http2(sender) => sender.send_request(request).await,
        }
    }

    /// Whether it takes one request at a time, and so is not in the pool while it has one.
    pub(super) fn takes_one(&self) -> bool {
        match self {
            Self::Http1(_) => true,
            #[cfg(feature = "http2")]
            Self::Http2(_) => false,
        }
    }

    fn is_closed(&self) -> bool {
        match self {
            Self::Http1(sender) => sender.is_closed(),
            #[cfg(feature = "http2")]
            Self::Http2(sender) => sender.is_closed(),
        }
    }

    fn is_ready(&self) -> bool {
        match self {
            Self::Http1(sender) => sender.is_ready(),
            #[cfg(feature = "http2")]
            Self::Http2(sender) => sender.is_ready(),
        }
    }
}

/// Whether an answer is of a gateway that takes short connections.
pub(super) fn is_answer<B>(response: &Response<B>) -> bool {
    let content_type = response.headers().get(header::CONTENT_TYPE);
    response.status() == ::http::StatusCode::OK && content_type == Some(&CONTENT_TYPE)
}
