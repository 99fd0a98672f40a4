//! Where HTTP leads to MQTT: WebSocket (RFC 6455) by Upgrade on HTTP/1.1, by extended CONNECT (RFC 8441) on HTTP/2.
//!
//! ```text
//!  HTTP/1.1: GET, Upgrade: websocket ──> 101 ──> the connection is MQTT's from here on, and may park
//!  HTTP/2:   CONNECT, :protocol websocket ──> 200 ──> a stream is, beside other requests of the connection
//! ```
//!
//! Credentials are those of MQTT's CONNECT: the requests themselves are not authenticated.

mod handshake;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header::UPGRADE};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tracing::debug;

use self::handshake::{Asked, Refused};
use super::{
    problem,
    watched::{Activity, Tunnel},
};
use crate::{
    error::{Execution, RpcError, RpcErrorKind},
    gateway::Gateway,
    listener, mqtt,
    request::{Body, Origin, Protocol},
    settings::{Listener, ListenerProtocol},
    transport::{Impatient, WebSocket, WebSocketRules},
};

/// The name of the bound in metrics.
const MESSAGE_BYTES_MAX: &str = "mqtt.websocket_message_bytes_max";

/// What holds for a WebSocket that begins now.
pub(crate) fn rules(gateway: &Gateway) -> Arc<WebSocketRules> {
    let bytes_max = gateway.snapshot().settings.mqtt.websocket_message_bytes_max;
    let too_long = gateway.metrics.limit_hits.with_label_values(&[MESSAGE_BYTES_MAX]);
    Arc::new(WebSocketRules { message_octets_max: bytes_max as u64, too_long })
}

/// The way to MQTT on one HTTP connection whose listener has it.
pub(super) struct Door {
    gateway: Arc<Gateway>,
    origin: Arc<Origin>,
    listener: Listener,
    activity: Arc<Activity>,
    /// The answer is 101: what comes behind it is the connection.
    upgrading: Mutex<Option<OnUpgrade>>,
}

impl Door {
    /// `None` where the listener does not admit WebSocket.
    pub(super) fn new(
        gateway: &Arc<Gateway>,
        origin: &Arc<Origin>,
        activity: &Arc<Activity>,
    ) -> Option<Self> {
        let snapshot = gateway.snapshot();
        let listener = &snapshot.listener(&origin.listener)?.settings;
        listener.protocols.contains(&ListenerProtocol::WebSocket).then(|| Self {
            gateway: Arc::clone(gateway),
            origin: Arc::clone(origin),
            listener: listener.clone(),
            activity: Arc::clone(activity),
            upgrading: Mutex::new(None),
        })
    }

    /// The answer to a request that wants to be a WebSocket, and to any other where nothing else is served.
    pub(super) fn answer<B>(&self, request: &mut Request<B>) -> Option<Response<Body>> {
        let asked = (request.uri().path() == self.listener.websocket_path)
            .then(|| handshake::asked(request))
            .flatten();
        let Some(asked) = asked else {
            let serves_http = self.listener.protocols.contains(&ListenerProtocol::Http);
            return (!serves_http).then(|| self.nothing_else());
        };
        let answered =
            handshake::check(&self.listener, request, asked, self.origin.encrypted).and_then(|answer| {
                match asked {
                    Asked::Upgrade => *self.upgrading.lock() = Some(hyper::upgrade::on(request)),
                    Asked::Tunnel => self.begin_tunnel(hyper::upgrade::on(request))?,
                }
                Ok(answer)
            });
        Some(answered.unwrap_or_else(|refused| self.refuse(&refused)))
    }

    /// The upgrade that the connection is to end in.
    pub(super) fn take_upgrade(&self) -> Option<OnUpgrade> {
        self.upgrading.lock().take()
    }

    /// Serves a stream of an HTTP/2 connection, which counts as a connection of its own. It ends with the one that it
    /// is a stream of.
    fn begin_tunnel(&self, upgrade: OnUpgrade) -> Result<(), Refused> {
        let Origin { listener: name, peer, .. } = &*self.origin;
        let slot = listener::admit_address(&self.gateway, name, peer.ip())
            .and_then(|()| listener::admit(&self.gateway, name))
            .map_err(|full| {
                listener::report(&self.gateway, name, *peer, &full);
                Refused::new(StatusCode::SERVICE_UNAVAILABLE, "no further connection is taken")
            })?;
        let slot = slot.serving(&self.gateway, name, Protocol::MqttWebSocket);
        let gateway = Arc::clone(&self.gateway);
        let origin = origin(&self.origin);
        let tunnel = Tunnel::begin(&self.activity);
        tokio::spawn(async move {
            match upgrade.await {
                Ok(stream) => {
                    let write_timeout = gateway.snapshot().settings.limits.write_timeout;
                    let stream = Impatient::new(TokioIo::new(stream), write_timeout);
                    let stream = WebSocket::new(stream, rules(&gateway));
                    mqtt::serve(gateway, origin, stream, Bytes::new()).await;
                }
                Err(error) => debug!(%error, "an HTTP/2 stream was not to become a WebSocket"),
            }
            drop((slot, tunnel));
        });
        Ok(())
    }

    fn refuse(&self, refused: &Refused) -> Response<Body> {
        let Refused { status, why, .. } = refused;
        let labels = [&*self.origin.listener, "websocket"];
        self.gateway.metrics.connections_refused.with_label_values(&labels).inc();
        debug!(listener = &*self.origin.listener, peer = %self.origin.peer, "WebSocket refused: {why}");
        let kind = match *status {
            StatusCode::FORBIDDEN => RpcErrorKind::PermissionDenied,
            StatusCode::SERVICE_UNAVAILABLE => RpcErrorKind::LimitExceeded,
            _ => RpcErrorKind::Malformed,
        };
        let error = RpcError::new(kind, Execution::NotRun, *why);
        let mut answer = problem::with_status(*status, &error);
        if let Some((name, value)) = &refused.header {
            answer.headers_mut().insert(name, value.clone());
        }
        answer
    }

    fn nothing_else(&self) -> Response<Body> {
        let path = &self.listener.websocket_path;
        let text = format!("this listener serves MQTT over WebSocket at {path}, and nothing else of HTTP");
        let error = RpcError::new(RpcErrorKind::NoRoute, Execution::NotRun, text);
        let mut answer = problem::with_status(StatusCode::UPGRADE_REQUIRED, &error);
        answer.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
        answer
    }
}

/// The same client, who speaks MQTT now.
pub(crate) fn origin(http: &Origin) -> Arc<Origin> {
    Arc::new(Origin { protocol: Protocol::MqttWebSocket, ..Origin::clone(http) })
}
