//! The accept loop of a QUIC endpoint, and the life of a QUIC connection.

use std::{io, pin::Pin, sync::Arc, time::Duration};

use quinn::{Connection, Endpoint, Incoming, VarInt, crypto::rustls::HandshakeData};
use rustls::pki_types::CertificateDer;
use tokio::time::timeout;
use tracing::info;

use super::{Refusal, handshake, origin, refusal, slots};
use crate::{
    gateway::Gateway,
    request::{Origin, Protocol},
    transport::tls::{self, PeerIdentity},
};

/// When this share of the handshakes is running, new peers prove their address first (RFC 9000,
/// section 8.1.2), so that spoofed ones cost no signature.
const RETRY_SHARE: usize = 4;
/// The transport's last words to connections that a drain cut.
const CLOSE_DRAINED: u32 = 0;
/// RFC 9001, section 4.8: the alert certificate_expired as a code of QUIC's; here an application's.
const CLOSE_CERTIFICATE: u32 = 0x012d;
/// How long the last packets of a closed endpoint may take to leave.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Accepts until the gateway drains, and closes the endpoint when the drain is over.
pub(super) async fn accept(gateway: Arc<Gateway>, name: Arc<str>, endpoint: Endpoint) {
    let mut drain = gateway.drain.watch();
    loop {
        let incoming = tokio::select! {
            biased;
            _ = drain.draining() => break,
            incoming = endpoint.accept() => incoming,
        };
        let Some(incoming) = incoming else { break };
        if must_prove_address(&gateway, &incoming) {
            // A client that cannot answer a Retry is refused by the drop of `incoming`.
            let _ = incoming.retry();
            continue;
        }
        tokio::spawn(serve_connection(Arc::clone(&gateway), Arc::clone(&name), incoming));
    }
    info!(listener = &*name, "no longer accepting QUIC connections");
    endpoint.set_server_config(None);
    drain.over().await;
    endpoint.close(VarInt::from_u32(CLOSE_DRAINED), b"the gateway is shut down");
    let _ = timeout(CLOSE_TIMEOUT, endpoint.wait_idle()).await;
}

/// The life of one QUIC connection: as [`super::serve_connection`], with the handshake and the protocol
/// (ALPN knows only one) in one stage.
async fn serve_connection(gateway: Arc<Gateway>, listener: Arc<str>, incoming: Incoming) {
    let peer = incoming.remote_address();
    let mut drain = gateway.drain.watch();
    let _at_work = gateway.drain.guard();
    let established = Box::pin(async {
        let slot = slots::admit(&gateway, &listener)?;
        let connection = secure(&gateway, &listener, incoming).await?;
        let identity = identity(&gateway, &listener, &connection)?;
        Ok((slot, connection, identity))
    });
    let established = tokio::select! {
        biased;
        _ = drain.draining() => Err(Refusal::Draining),
        established = established => established,
    };
    let (slot, connection, identity) = match established {
        Ok(established) => established,
        Err(refusal) => return refusal::report(&gateway, &listener, peer, &refusal),
    };
    let Some(protocol) = protocol(&connection) else {
        return refusal::report(&gateway, &listener, peer, &Refusal::UnknownProtocol);
    };
    let _open = slot.serving(&gateway, &listener, protocol);
    let origin = origin(listener, peer, protocol, true, identity);
    tokio::select! {
        () = serve(Arc::clone(&gateway), origin, connection.clone()) => {}
        () = drain.over() => connection.close(VarInt::from_u32(CLOSE_DRAINED), b"the gateway is shut down"),
    }
    count_bytes(&gateway, protocol, &connection);
}

/// ALPN says what is spoken: the handshake let nothing pass that the listener does not admit.
fn protocol(connection: &Connection) -> Option<Protocol> {
    let data = connection.handshake_data()?.downcast::<HandshakeData>().ok()?;
    match data.protocol.as_deref() {
        Some(tls::ALPN_LINK) => Some(Protocol::LinkQuic),
        Some(tls::ALPN_HTTP3) => Some(Protocol::Http3),
        _ => None,
    }
}

/// As [`super::serve`]; nothing of it parks.
fn serve(
    gateway: Arc<Gateway>,
    origin: Arc<Origin>,
    connection: Connection,
) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    match origin.protocol {
        Protocol::Http3 => Box::pin(crate::http3::serve(gateway, origin, connection)),
        _ => Box::pin(crate::link::serve_quic(gateway, origin, connection)),
    }
}

async fn secure(gateway: &Gateway, listener: &Arc<str>, incoming: Incoming) -> Result<Connection, Refusal> {
    let (config, limit) = {
        let snapshot = gateway.snapshot();
        let quic = snapshot.listener(listener).and_then(|listener| listener.quic.clone());
        (quic.ok_or(Refusal::NoListener)?, snapshot.settings.limits.handshake_timeout)
    };
    let running = async {
        let _place = handshake::place(gateway, &gateway.handshakes).await;
        incoming.accept_with(config)?.await
    };
    let result = match timeout(limit, running).await {
        Ok(result) => result.map_err(|error| Refusal::Handshake(io::Error::other(error).into())),
        Err(_) => {
            gateway.metrics.limit_hit("limits.handshake_timeout");
            Err(Refusal::HandshakeTimeout)
        }
    };
    let outcome = match &result {
        Ok(_) => "ok",
        Err(Refusal::HandshakeTimeout) => "timeout",
        Err(_) => "failed",
    };
    handshake::count(gateway, listener, outcome);
    result
}

/// Who the peer is by its certificate.
fn identity(
    gateway: &Gateway,
    listener: &str,
    connection: &Connection,
) -> Result<Option<Arc<PeerIdentity>>, Refusal> {
    let chain = connection.peer_identity().and_then(|chain| chain.downcast::<Vec<CertificateDer<'_>>>().ok());
    let identity = super::identity(gateway, listener, chain.as_ref().map(|chain| &chain[..]));
    identity.inspect_err(|error| {
        connection.close(VarInt::from_u32(CLOSE_CERTIFICATE), error.to_string().as_bytes());
    })
}

fn must_prove_address(gateway: &Gateway, incoming: &Incoming) -> bool {
    let places = gateway.snapshot().settings.limits.handshakes_max;
    let busy = gateway.handshakes.available_permits() < places - places / RETRY_SHARE;
    busy && !incoming.remote_address_validated() && incoming.may_retry()
}

/// QUIC counts for itself; its sums are taken over when the connection is over.
fn count_bytes(gateway: &Gateway, protocol: Protocol, connection: &Connection) {
    let stats = connection.stats();
    let label = &[protocol.label()];
    gateway.metrics.bytes_in.with_label_values(label).inc_by(stats.udp_rx.bytes);
    gateway.metrics.bytes_out.with_label_values(label).inc_by(stats.udp_tx.bytes);
}
