//! The accept loop of a QUIC endpoint, and the life of a QUIC connection.

use std::{io, pin::Pin, sync::Arc, time::Duration};

use quinn::{Connecting, Connection, ConnectionError, Endpoint, Incoming, VarInt};
use rustls::pki_types::CertificateDer;
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, error::Elapsed, timeout, timeout_at},
};
use tracing::info;

use super::{Refusal, handshake, parked, refusal, slots, validation::Validation};
use crate::{
    gateway::Gateway,
    request::{Origin, Protocol},
    transport::{
        Handshake,
        quic::Agreed,
        tls::{self, PeerIdentity},
    },
};

/// The transport's last words to connections that a drain cut.
const CLOSE_DRAINED: u32 = 0;
/// RFC 9001, section 4.8: the alert certificate_expired as a code of QUIC's; here an application's.
const CLOSE_CERTIFICATE: u32 = 0x012d;
/// The transport's last words to a connection whose handshake took too long.
const CLOSE_LATE: u32 = 0;
/// How long the last packets of a closed endpoint may take to leave.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Accepts until the gateway drains, and closes the endpoint when the drain is over.
pub async fn accept(gateway: Arc<Gateway>, name: Arc<str>, endpoint: Endpoint) {
    let mut drain = gateway.drain.watch();
    let mut validation = Validation::new(std::time::Instant::now());
    let retries = gateway.metrics.quic_retries.with_label_values(&[&*name]);
    loop {
        tokio::select! {
            biased;
            _ = drain.draining() => break,
            () = slots::connect_due(&gateway, &name) => {}
        }
        let incoming = tokio::select! {
            biased;
            _ = drain.draining() => break,
            incoming = endpoint.accept() => incoming,
        };
        let Some(incoming) = incoming else { break };
        if must_prove_address(&gateway, &mut validation, &incoming) {
            retries.inc();
            // A client that cannot answer a Retry is refused by the drop of `incoming`.
            let _ = incoming.retry();
            continue;
        }
        slots::note_connect(&gateway, &name);
        tokio::spawn(serve_connection(Arc::clone(&gateway), Arc::clone(&name), incoming));
    }
    info!(listener = &*name, "no longer accepting QUIC connections");
    endpoint.set_server_config(None);
    drain.cut().await;
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
        slots::admit_address(&gateway, &listener, peer.ip())?;
        let slot = slots::admit(&gateway, &listener)?;
        let secured = secure(&gateway, &listener, incoming).await?;
        let protocol = protocol(&secured.agreed).ok_or(Refusal::UnknownProtocol)?;
        let identity = identity(&gateway, &listener, &secured.connection)?;
        Ok((slot, protocol, identity, secured))
    });
    let established = tokio::select! {
        biased;
        _ = drain.draining() => Err(Refusal::Draining),
        established = established => established,
    };
    let (slot, protocol, identity, Secured { connection, handshake, .. }) = match established {
        Ok(established) => established,
        Err(refusal) => return refusal::report(&gateway, &listener, peer, &refusal),
    };
    let _open = slot.serving(&gateway, &listener, protocol);
    let origin = Origin { handshake, identity, ..Origin::new(listener, peer, protocol, true) };
    let origin = Arc::new(origin);
    tokio::select! {
        () = serve(Arc::clone(&gateway), origin, connection.clone()) => {}
        () = parked::end(&mut drain, protocol == Protocol::LinkQuic) => {
            connection.close(VarInt::from_u32(CLOSE_DRAINED), b"the gateway is shut down");
        }
    }
    count_bytes(&gateway, protocol, &connection);
}

/// ALPN says what is spoken: the handshake let nothing pass that the listener does not admit.
fn protocol(agreed: &Agreed) -> Option<Protocol> {
    match agreed.protocol.as_deref() {
        Some(tls::ALPN_LINK) => Some(Protocol::LinkQuic),
        Some(tls::ALPN_HTTP3) => Some(Protocol::Http3),
        Some(tls::ALPN_MQTT) => Some(Protocol::MqttQuic),
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
        Protocol::MqttQuic => Box::pin(crate::mqtt_quic::serve(gateway, origin, connection)),
        _ => Box::pin(crate::link::serve_quic(gateway, origin, connection)),
    }
}

/// A connection that may be served.
struct Secured {
    connection: Connection,
    agreed: Agreed,
    /// Pending while early data is served.
    handshake: Handshake,
}

/// A running handshake, with its place.
struct Running {
    gateway: Arc<Gateway>,
    listener: Arc<str>,
    deadline: Instant,
    _place: Option<OwnedSemaphorePermit>,
}

/// Waits for the end of the handshake, or, where the client's early data is taken, for the ClientHello alone.
async fn secure(gateway: &Arc<Gateway>, listener: &Arc<str>, incoming: Incoming) -> Result<Secured, Refusal> {
    let (config, limit) = {
        let snapshot = gateway.snapshot();
        let quic = snapshot.listener(listener).and_then(|listener| listener.quic.clone());
        (quic.ok_or(Refusal::NoListener)?, snapshot.settings.limits.handshake_timeout)
    };
    let deadline = Instant::now() + limit;
    let place = timeout_at(deadline, handshake::owned_place(gateway)).await;
    let (gateway, listener) = (Arc::clone(gateway), Arc::clone(listener));
    let running = Running { gateway, listener, deadline, _place: place.ok().flatten() };
    running.run(incoming, config).await
}

impl Running {
    async fn run(self, incoming: Incoming, config: Arc<quinn::ServerConfig>) -> Result<Secured, Refusal> {
        let begun = async {
            let mut connecting = incoming.accept_with(config)?;
            let agreed = connecting.handshake_data().await?.downcast::<Agreed>();
            Ok((connecting, agreed))
        };
        let begun = timeout_at(self.deadline, begun).await;
        let (connecting, agreed) = self.counted(begun)?;
        // The session of every listener's configuration is this gateway's own.
        let agreed = *agreed.map_err(|_| Refusal::UnknownProtocol)?;
        handshake::early_data(&self.gateway, &self.listener, agreed.early_outcome);
        if agreed.early_data {
            return self.early(connecting, agreed);
        }
        let connected = timeout_at(self.deadline, connecting).await;
        let connection = self.counted(connected)?;
        handshake::count(&self.gateway, &self.listener, "ok");
        Ok(Secured { connection, agreed, handshake: Handshake::complete() })
    }

    /// Serves what came early, while the handshake goes on.
    fn early(self, connecting: Connecting, agreed: Agreed) -> Result<Secured, Refusal> {
        let Ok((connection, over)) = connecting.into_0rtt() else {
            return Err(Refusal::Handshake(io::Error::other("quinn did not hand early data on").into()));
        };
        let (completion, handshake) = Handshake::pending();
        let watched = connection.clone();
        tokio::spawn(async move {
            let over = timeout_at(self.deadline, over).await.map(|_| match watched.close_reason() {
                Some(error) => Err(error),
                None => Ok(()),
            });
            match self.counted(over) {
                Ok(()) => {
                    handshake::count(&self.gateway, &self.listener, "ok");
                    completion.complete();
                }
                Err(_) => watched.close(VarInt::from_u32(CLOSE_LATE), b"no complete handshake"),
            }
        });
        Ok(Secured { connection, agreed, handshake })
    }

    fn counted<T>(&self, result: Result<Result<T, ConnectionError>, Elapsed>) -> Result<T, Refusal> {
        match result {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) => {
                handshake::count(&self.gateway, &self.listener, "failed");
                Err(Refusal::Handshake(io::Error::other(error).into()))
            }
            Err(_) => {
                self.gateway.metrics.limit_hit("limits.handshake_timeout");
                handshake::count(&self.gateway, &self.listener, "timeout");
                Err(Refusal::HandshakeTimeout)
            }
        }
    }
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

fn must_prove_address(gateway: &Gateway, validation: &mut Validation, incoming: &Incoming) -> bool {
    if incoming.remote_address_validated() || !incoming.may_retry() {
        return false;
    }
    let places = gateway.snapshot().settings.limits.handshakes_max;
    let running = places.saturating_sub(gateway.handshakes.available_permits());
    validation.demands(std::time::Instant::now(), running, places)
}

/// QUIC counts for itself; its sums are taken over when the connection is over.
fn count_bytes(gateway: &Gateway, protocol: Protocol, connection: &Connection) {
    let stats = connection.stats();
    let label = &[protocol.label()];
    gateway.metrics.bytes_in.with_label_values(label).inc_by(stats.udp_rx.bytes);
    gateway.metrics.bytes_out.with_label_values(label).inc_by(stats.udp_tx.bytes);
}
