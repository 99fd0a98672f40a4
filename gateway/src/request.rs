//! What every front hands to the router: an HTTP request with a streamed body, and where it came from.

use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Instant,
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use http_body_util::combinators::UnsyncBoxBody;
use towline_protocols::link::{Priority, RpcError};

use crate::{
    access::Claims,
    auth::By,
    transport::{Handshake, tls::PeerIdentity},
};

/// A streamed request or answer body with trailers; dropping it cancels what produces it.
pub type Body = UnsyncBoxBody<Bytes, RpcError>;

/// The protocol that a client speaks on its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// The link protocol over TCP.
    LinkTcp,
    /// The link protocol over QUIC.
    LinkQuic,
    /// The link protocol in an HTTPS POST.
    LinkPost,
    /// HTTP/1.1 or HTTP/2.
    Http,
    /// HTTP/3.
    Http3,
    /// MQTT 3.1, 3.1.1 or 5.0.
    Mqtt,
    /// MQTT in a WebSocket.
    MqttWebSocket,
    /// MQTT over QUIC.
    MqttQuic,
}

impl Protocol {
    /// The value of metrics' `protocol` label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::LinkTcp => "link_tcp",
            Self::LinkQuic => "link_quic",
            Self::LinkPost => "link_post",
            Self::Http => "http",
            Self::Http3 => "http3",
            Self::Mqtt => "mqtt",
            Self::MqttWebSocket => "mqtt_websocket",
            Self::MqttQuic => "mqtt_quic",
        }
    }
}

/// Where a connection came from and what is known of its peer; one per connection, shared by its requests.
#[derive(Clone, Debug)]
pub struct Origin {
    /// Name of the listener in the configuration.
    pub listener: Arc<str>,
    /// The peer's address.
    pub peer: SocketAddr,
    /// What it speaks.
    pub protocol: Protocol,
    /// Whether the transport is TLS or QUIC.
    pub encrypted: bool,
    /// Client id of a link session or MQTT session.
    pub client_id: Option<Arc<str>>,
    /// The authenticated user, if the listener authenticates.
    pub user: Option<Arc<str>>,
    /// What the issuer of its token says of it.
    pub claims: Option<Arc<Claims>>,
    /// What vouches for who it is.
    pub by: By,
    /// Who the client is by its certificate, if it showed one.
    pub identity: Option<Arc<PeerIdentity>>,
    /// Until it is complete, what arrives came as early data and may be a repeat of what another sent.
    pub handshake: Handshake,
    /// The header fields that tell backends of all this.
    pub told: Told,
}

/// Header fields that say the same for every request of an origin, made with its first one. A copy has none, since
/// what it is a copy of may be changed in it.
#[derive(Debug, Default)]
#[allow(clippy::box_collection, reason = "a word less for each connection")]
pub struct Told(OnceLock<Box<Vec<(HeaderName, HeaderValue)>>>);

impl Told {
    pub(crate) fn get_or_make(
        &self,
        make: impl FnOnce() -> Vec<(HeaderName, HeaderValue)>,
    ) -> &[(HeaderName, HeaderValue)] {
        self.0.get_or_init(|| Box::new(make()))
    }
}

impl Clone for Told {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl Origin {
    /// Of a peer of which nothing more is known yet, and whose handshake, if any, is over.
    pub fn new(listener: Arc<str>, peer: SocketAddr, protocol: Protocol, encrypted: bool) -> Self {
        let handshake = Handshake::complete();
        Self {
            listener,
            peer,
            protocol,
            encrypted,
            client_id: None,
            user: None,
            claims: None,
            by: By::Nothing,
            identity: None,
            handshake,
            told: Told::default(),
        }
    }
}

impl Origin {
    /// Where messages of several clients came from together.
    pub(crate) fn without_client(&self) -> Arc<Self> {
        Arc::new(Self { client_id: None, user: None, identity: None, ..self.clone() })
    }
}

/// One request on its way to a backend. The body of a `application/grpc` request holds
/// length-prefixed messages, whatever front it came in by.
pub struct Request {
    /// Where it came from.
    pub origin: Arc<Origin>,
    /// When the caller stops waiting.
    pub deadline: Option<Instant>,
    /// How urgent it is.
    pub priority: Priority,
    /// Whether the caller declares that running it twice does no harm.
    pub idempotent: bool,
    /// Method, URI (path and, where known, authority), headers and body. Hop-by-hop headers are gone.
    pub http: http::Request<Body>,
}
