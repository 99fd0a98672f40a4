//! Sockets, and the life of a connection from accept to close.

mod bind;
mod detect;
mod handshake;
mod parked;
mod proxied;
mod quic;
mod refusal;
mod slots;
mod tcp;
mod tlcp;
mod validation;

use std::{net::SocketAddr, sync::Arc, time::SystemTime};

use bytes::Bytes;
use rustls::pki_types::CertificateDer;
use tokio::{net::TcpStream, task::JoinHandle};

use self::parked::{Held, Serving};
pub use self::{
    parked::Parked,
    quic::accept as accept_quic,
    refusal::Refusal,
    slots::{ConnectionSlots, Slot},
};
pub(crate) use self::{
    refusal::report,
    slots::{admit, admit_address},
};
use crate::{
    gateway::{Gateway, StartError},
    parking::Patience,
    request::{Origin, Protocol},
    run::Bound,
    settings::Listener,
    transport::{
        Meter, Rewind, Stream,
        tls::{HandshakeError, PeerIdentity},
    },
};

/// The life of one TCP connection, stage by stage.
///
/// ```text
/// admit ──> client ──> first bytes ──> handshake ──> protocol ──────> serve ──────────> close
///   │         │            │               │             │               └ authenticates in its first message
///   └─────────┴────────────┴───────────────┴─────────────┴──> refused: told where its protocol allows, counted
/// ```
///
/// A quiet link or MQTT connection parks, which ends the task; what happens then begins another one.
pub async fn serve_connection(
    gateway: Arc<Gateway>,
    listener: Arc<str>,
    mut tcp: TcpStream,
    mut peer: SocketAddr,
) {
    let mut drain = gateway.drain.watch();
    let at_work = gateway.drain.guard();
    // Boxed: the task of an idle connection must not keep room for its handshake.
    let established = Box::pin(async {
        let slot = admit(&gateway, &listener)?;
        let (client, begun) = proxied::client(&gateway, &listener, &mut tcp, peer).await?;
        peer = client;
        admit_address(&gateway, &listener, peer.ip())?;
        let (first_bytes, tcp) = detect::first_bytes(&gateway, tcp, begun).await?;
        let mut secured = handshake::secure(&gateway, &listener, tcp, first_bytes).await?;
        let identity = secured.identity.take();
        let (protocol, first_bytes, mut stream) = detect::protocol(&gateway, &listener, secured).await?;
        let open = slot.serving(&gateway, &listener, protocol);
        stream.set_meter(Meter::new(&gateway.metrics, protocol));
        let origin = Origin::new(Arc::clone(&listener), peer, protocol, stream.is_encrypted());
        let origin = Arc::new(Origin { handshake: stream.handshake(), identity, ..origin });
        Ok((open, serve(Arc::clone(&gateway), origin, stream, first_bytes)))
    });
    let established = tokio::select! {
        biased;
        _ = drain.draining() => Err(Refusal::Draining),
        established = established => established,
    };
    match established {
        Ok((slot, serving)) => {
            parked::attend(gateway, Held { slot, _at_work: at_work }, serving, Patience::default()).await
        }
        Err(refusal) => report(&gateway, &listener, peer, &refusal),
    }
}

/// Hands a connection to the server of its protocol, until it ends. Boxed one by one, so that a
/// connection pays for its own protocol's state only; not an `async fn`, which would keep room for its
/// arguments beside the server that takes them.
fn serve(gateway: Arc<Gateway>, origin: Arc<Origin>, stream: Stream, first_bytes: Bytes) -> Serving {
    match origin.protocol {
        Protocol::Http => {
            let stream = Rewind::new(stream, first_bytes);
            let serving = crate::http::serve(Arc::clone(&gateway), Arc::clone(&origin), stream);
            parked::http(gateway, origin, serving)
        }
        Protocol::Mqtt | Protocol::MqttWebSocket | Protocol::MqttQuic => {
            parked::mqtt(crate::mqtt::serve_parking(gateway, origin, stream, first_bytes))
        }
        Protocol::LinkTcp | Protocol::LinkQuic | Protocol::LinkPost | Protocol::Http3 => {
            parked::link(crate::link::serve_tcp(gateway, origin, stream, first_bytes))
        }
    }
}

/// Opens the sockets of every listener, or none.
///
/// # Errors
/// Names the listener and the address that could not be bound.
pub fn open(settings: &[Listener], gateway: &Gateway) -> Result<Vec<Open>, StartError> {
    settings.iter().map(|listener| bind::open(listener, gateway)).collect()
}

/// A listener whose sockets are bound but not yet served.
pub struct Open {
    /// What listens where.
    pub bound: Bound,
    tcp: Option<tokio::net::TcpListener>,
    quic: Option<quinn::Endpoint>,
}

impl Open {
    /// Accepts connections until the gateway drains. The tasks end when the last packet is sent.
    pub fn serve(self, gateway: &Arc<Gateway>) -> impl Iterator<Item = JoinHandle<()>> {
        let name = self.bound.name;
        let tcp = self.tcp.map(|tcp| tokio::spawn(tcp::accept(Arc::clone(gateway), Arc::clone(&name), tcp)));
        let quic = self.quic.map(|quic| tokio::spawn(quic::accept(Arc::clone(gateway), name, quic)));
        tcp.into_iter().chain(quic)
    }
}

/// Who the peer is by its certificate, if it showed one.
fn identity(
    gateway: &Gateway,
    listener: &str,
    chain: Option<&[CertificateDer<'_>]>,
) -> Result<Option<Arc<PeerIdentity>>, Refusal> {
    let Some(chain) = chain.filter(|chain| !chain.is_empty()) else { return Ok(None) };
    let snapshot = gateway.snapshot();
    let listener = snapshot.listener(listener);
    let tls = listener.and_then(|listener| listener.tls.as_ref());
    let refused = |why: &str| HandshakeError::Peer(why.to_owned());
    // The handshake may have begun before a reload.
    let authority = tls.and_then(|tls| tls.authority_behind(chain)).cloned();
    let authority =
        authority.ok_or_else(|| refused("the authority of the client's certificate was taken out"))?;
    let forward = listener.is_some_and(|each| each.settings.forward_client_certificate);
    PeerIdentity::of(Some(chain), Some(authority), forward, SystemTime::now())
        .map_err(|error| refused(&error.to_string()).into())
}

#[cfg(test)]
mod tests;
