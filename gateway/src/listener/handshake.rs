//! TLS where the listener's policy and the first bytes ask for it.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    sync::Semaphore,
    time::{Instant, timeout, timeout_at},
};
use towline_protocols::{
    detect::Detection,
    tls::{Alert, RecordSizes},
};

use super::{
    Refusal,
    detect::{FirstBytes, Secured},
    tlcp,
};
use crate::{
    gateway::Gateway,
    settings::TlsMode,
    transport::{
        Rewind, Stream,
        tls::{Accepted, Hello, ServerTls, early::EarlyOutcome},
    },
};

/// How long a refused peer may take to read why.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);

/// Stage three: a handshake, or plaintext where the listener allows it.
pub(super) async fn secure(
    gateway: &Gateway,
    listener: &Arc<str>,
    mut tcp: TcpStream,
    first: FirstBytes,
) -> Result<Secured, Refusal> {
    if first.detection == Detection::Tlcp {
        return tlcp::secure(gateway, listener, tcp, first).await;
    }
    let snapshot = gateway.snapshot.load_full();
    let limits = &snapshot.settings.limits;
    let policy = snapshot.listener(listener).ok_or(Refusal::NoListener)?;
    let (mode, tls) = (policy.settings.tls, policy.tls.clone());
    match (first.detection, mode, tls) {
        (Detection::Tls, TlsMode::Required | TlsMode::Optional, Some(tls)) => {
            let accepted =
                handshake(gateway, listener, tcp, &first.bytes, tls, policy.settings.record_size).await;
            count(gateway, listener, outcome(&accepted));
            let accepted = accepted?;
            let identity = super::identity(gateway, listener, accepted.peer_certificates.as_deref())?;
            let stream = Stream::tls(accepted.stream, limits.write_timeout);
            Ok(Secured { stream, plaintext: None, identity })
        }
        (Detection::Tls, ..) => Err(Refusal::Tls),
        (_, TlsMode::Required, _) => {
            say_tls_is_required(&mut tcp, first.detection).await;
            Err(Refusal::Plaintext)
        }
        (_, TlsMode::Optional | TlsMode::Off, _) => {
            let stream = Stream::plain(Rewind::new(tcp, Bytes::new()), limits.write_timeout);
            Ok(Secured { stream, plaintext: Some(first), identity: None })
        }
    }
}

/// The ClientHello is awaited before a place among the running handshakes is taken, so that peers who
/// send half of one keep nobody waiting.
async fn handshake(
    gateway: &Gateway,
    listener: &str,
    tcp: TcpStream,
    first_bytes: &[u8],
    tls: Arc<ServerTls>,
    sizes: RecordSizes,
) -> Result<Accepted, Refusal> {
    let deadline = Instant::now() + gateway.snapshot().settings.limits.handshake_timeout;
    let running = async {
        let hello = Hello::read(tcp, first_bytes).await?;
        let _place = place(gateway, &gateway.handshakes).await;
        let config = match hello.look(|hello| tls.choose(hello)) {
            Ok(config) => config,
            Err(none) => return Err(hello.refuse(Alert::HandshakeFailure, &none).await.into()),
        };
        let accepted = hello.accept(config, sizes, deadline).await?;
        early_data(gateway, listener, accepted.early_data);
        Ok(accepted)
    };
    timeout_at(deadline, running).await.unwrap_or_else(|_| {
        gateway.metrics.limit_hit("limits.handshake_timeout");
        Err(Refusal::HandshakeTimeout)
    })
}

fn outcome(accepted: &Result<Accepted, Refusal>) -> &'static str {
    match accepted {
        Ok(_) => "ok",
        Err(Refusal::HandshakeTimeout) => "timeout",
        Err(_) => "failed",
    }
}

/// Counts what became of a client's wish to send early data.
pub(super) fn early_data(gateway: &Gateway, listener: &str, outcome: EarlyOutcome) {
    let outcome = match outcome {
        EarlyOutcome::NotAsked => return,
        EarlyOutcome::FirstUse => "accepted",
        EarlyOutcome::Repeated | EarlyOutcome::Foreign => "rejected",
        EarlyOutcome::Full => {
            gateway.metrics.limit_hit("tls_tickets_used");
            "rejected"
        }
    };
    gateway.metrics.early_data.with_label_values(&[listener, outcome]).inc();
}

/// Waits for a place among the running handshakes; the wait counts as the limit being met.
pub(super) async fn place<'a>(
    gateway: &Gateway,
    handshakes: &'a Semaphore,
) -> Option<tokio::sync::SemaphorePermit<'a>> {
    if let Ok(permit) = handshakes.try_acquire() {
        return Some(permit);
    }
    gateway.metrics.limit_hit("limits.handshakes_max");
    handshakes.acquire().await.ok()
}

/// As [`place`], to be kept by a handshake that goes on by itself.
pub(super) async fn owned_place(gateway: &Gateway) -> Option<tokio::sync::OwnedSemaphorePermit> {
    if let Ok(permit) = Arc::clone(&gateway.handshakes).try_acquire_owned() {
        return Some(permit);
    }
    gateway.metrics.limit_hit("limits.handshakes_max");
    Arc::clone(&gateway.handshakes).acquire_owned().await.ok()
}

pub(super) fn count(gateway: &Gateway, listener: &str, outcome: &str) {
    gateway.metrics.handshakes.with_label_values(&[listener, outcome]).inc();
}

/// HTTP/1 has a way to say it that people read; other protocols' clients only see the close.
async fn say_tls_is_required(tcp: &mut TcpStream, detection: Detection) {
    const TEXT: &str = "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\nconnection: close\r\n\
        content-length: 48\r\n\r\nThis port speaks TLS only: use https:// instead\n";
    if detection == Detection::Http1 {
        let farewell = async {
            tcp.write_all(TEXT.as_bytes()).await?;
            tcp.shutdown().await
        };
        // The peer is on its way out either way.
        let _ = timeout(FAREWELL_TIMEOUT, farewell).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cli::development_certificates, settings::*};

    fn gateway(folder: &std::path::Path) -> (Arc<Gateway>, Arc<ServerTls>) {
        let files = development_certificates(folder).unwrap();
        let mut settings = Settings::default();
        let mut listener = Listener::plain("a", ([127, 0, 0, 1], 0).into());
        listener.certificates = vec![CertificateFiles::pem(files.chain, files.key)];
        settings.listeners.push(listener);
        let gateway = Gateway::build(settings).unwrap();
        let tls = gateway.snapshot().listener("a").unwrap().tls.clone().unwrap();
        (gateway, tls)
    }

    #[tokio::test(start_paused = true)]
    async fn half_a_client_hello_meets_the_timeout_and_takes_no_place() {
        let folder = tempfile::tempdir().unwrap();
        let (gateway, tls) = gateway(folder.path());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut far = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (near, _) = listener.accept().await.unwrap();
        far.write_all(b"\x16\x03\x01\x02\x00\x01\x00").await.unwrap();
        let places = gateway.handshakes.available_permits();
        let (result, ()) =
            tokio::join!(handshake(&gateway, "a", near, b"", tls, RecordSizes::default()), async {
                tokio::time::sleep(Duration::from_secs(5)).await;
                assert_eq!(gateway.handshakes.available_permits(), places);
            });
        assert!(matches!(result, Err(Refusal::HandshakeTimeout)));
        assert!(gateway.metrics.render().contains("limit_hits_total{limit=\"limits.handshake_timeout\"} 1"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_for_a_place_is_counted_and_ends_when_one_is_free() {
        let folder = tempfile::tempdir().unwrap();
        let (gateway, _) = gateway(folder.path());
        let all = gateway.handshakes.available_permits() as u32;
        let taken = gateway.handshakes.acquire_many(all).await.unwrap();
        let (place, ()) = tokio::join!(place(&gateway, &gateway.handshakes), async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            drop(taken);
        });
        assert!(place.is_some());
        assert!(gateway.metrics.render().contains("limit_hits_total{limit=\"limits.handshakes_max\"} 1"));
    }
}
