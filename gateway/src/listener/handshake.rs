//! TLS where the listener's policy and the first bytes ask for it.

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    sync::Semaphore,
    time::{timeout, timeout_at},
};
use tokio_rustls::LazyConfigAcceptor;
use towline_protocols::detect::Detection;

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
        tls::{HelloFacts, ServerTls},
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
            let handshake = handshake(gateway, Rewind::new(tcp, first.bytes), tls);
            let stream = match handshake.await {
                Ok(stream) => stream,
                Err(refusal) => {
                    count(
                        gateway,
                        listener,
                        if let Refusal::HandshakeTimeout = refusal { "timeout" } else { "failed" },
                    );
                    return Err(refusal);
                }
            };
            count(gateway, listener, "ok");
            Ok(Secured { stream: Stream::tls(Box::new(stream), limits.write_timeout), plaintext: None })
        }
        (Detection::Tls, ..) => Err(Refusal::Tls),
        (_, TlsMode::Required, _) => {
            say_tls_is_required(&mut tcp, first.detection).await;
            Err(Refusal::Plaintext)
        }
        (_, TlsMode::Optional | TlsMode::Off, _) => {
            let stream = Stream::plain(Rewind::new(tcp, Bytes::new()), limits.write_timeout);
            Ok(Secured { stream, plaintext: Some(first) })
        }
    }
}

/// The ClientHello is awaited before a place among the running handshakes is taken, so that peers who
/// send half of one keep nobody waiting.
async fn handshake<S: AsyncRead + AsyncWrite + Unpin>(
    gateway: &Gateway,
    stream: S,
    tls: Arc<ServerTls>,
) -> Result<tokio_rustls::server::TlsStream<S>, Refusal> {
    let deadline = tokio::time::Instant::now() + gateway.snapshot().settings.limits.handshake_timeout;
    let timed_out = |_| {
        gateway.metrics.limit_hit("limits.handshake_timeout");
        Refusal::HandshakeTimeout
    };
    let hello = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream);
    let hello = timeout_at(deadline, hello).await.map_err(timed_out)?.map_err(Refusal::Handshake)?;
    let config = choose(&tls, &hello).map_err(Refusal::Handshake)?;
    let running = async {
        let _place = place(gateway, &gateway.handshakes).await;
        hello.into_stream(config).await
    };
    timeout_at(deadline, running).await.map_err(timed_out)?.map_err(Refusal::Handshake)
}

fn choose<S: AsyncRead + AsyncWrite + Unpin>(
    tls: &ServerTls,
    hello: &tokio_rustls::StartHandshake<S>,
) -> io::Result<Arc<rustls::ServerConfig>> {
    let hello = hello.client_hello();
    let suites: Vec<u16> = hello.cipher_suites().iter().map(|suite| u16::from(*suite)).collect();
    let groups = hello.named_groups().unwrap_or_default();
    let groups: Vec<u16> = groups.iter().map(|group| u16::from(*group)).collect();
    let facts = HelloFacts { cipher_suites: &suites, named_groups: &groups };
    tls.choose(&facts).map_err(io::Error::other)
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
        listener.certificate = Some(CertificateFiles { chain: files.chain, key: files.key });
        settings.listeners.push(listener);
        let gateway = Gateway::build(settings).unwrap();
        let tls = gateway.snapshot().listener("a").unwrap().tls.clone().unwrap();
        (gateway, tls)
    }

    #[tokio::test(start_paused = true)]
    async fn half_a_client_hello_meets_the_timeout_and_takes_no_place() {
        let folder = tempfile::tempdir().unwrap();
        let (gateway, tls) = gateway(folder.path());
        let (near, mut far) = tokio::io::duplex(4096);
        far.write_all(b"\x16\x03\x01\x02\x00\x01\x00").await.unwrap();
        let places = gateway.handshakes.available_permits();
        let (result, ()) = tokio::join!(handshake(&gateway, near, tls), async {
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
