//! Finds out what a connection speaks: by ALPN where TLS agreed on one, by the first bytes otherwise.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    net::TcpStream,
    time::timeout,
};
use towline_protocols::detect::{Detection, detect};

use super::Refusal;
use crate::{
    gateway::Gateway,
    request::Protocol,
    settings::ListenerProtocol,
    transport::{
        Stream,
        tls::{self, PeerIdentity},
    },
};

/// Read at once while detecting; more than any protocol needs to be told apart.
const FIRST_READ_BYTES: usize = 512;

/// What a connection's first bytes say, and the bytes.
pub(super) struct FirstBytes {
    pub(super) detection: Detection,
    pub(super) bytes: Bytes,
}

/// Stage two: TLS, or a protocol in plaintext? `begun` was read from the socket already.
pub(super) async fn first_bytes(
    gateway: &Gateway,
    mut tcp: TcpStream,
    begun: BytesMut,
) -> Result<(FirstBytes, TcpStream), Refusal> {
    let limit = gateway.snapshot().settings.limits.first_message_timeout;
    let first_bytes = read(gateway, &mut tcp, begun, limit).await?;
    Ok((first_bytes, tcp))
}

/// Stage four: the protocol inside the secured stream, if the listener admits it. The bytes returned
/// were read from the stream and stand in front of it.
pub(super) async fn protocol(
    gateway: &Gateway,
    listener: &Arc<str>,
    secured: Secured,
) -> Result<(Protocol, Bytes, Stream), Refusal> {
    let Secured { mut stream, plaintext, .. } = secured;
    let (detection, bytes) = match (plaintext, stream.alpn().and_then(by_alpn)) {
        (Some(FirstBytes { detection, bytes }), _) => (detection, bytes),
        (None, Some(detection)) => (detection, Bytes::new()),
        (None, None) => {
            let limit = gateway.snapshot().settings.limits.first_message_timeout;
            let FirstBytes { detection, bytes } = read(gateway, &mut stream, BytesMut::new(), limit).await?;
            (detection, bytes)
        }
    };
    let (protocol, settings, name) = match detection {
        Detection::Link => (Protocol::LinkTcp, &[ListenerProtocol::Link][..], "link"),
        Detection::Http1 | Detection::Http2 => {
            (Protocol::Http, &[ListenerProtocol::Http, ListenerProtocol::WebSocket][..], "http")
        }
        Detection::Mqtt => (Protocol::Mqtt, &[ListenerProtocol::Mqtt][..], "mqtt"),
        Detection::Tls | Detection::Tlcp | Detection::NeedMore | Detection::Unknown => {
            return Err(Refusal::UnknownProtocol);
        }
    };
    let snapshot = gateway.snapshot();
    let admitted = &snapshot.listener(listener).ok_or(Refusal::NoListener)?.settings.protocols;
    if !settings.iter().any(|setting| admitted.contains(setting)) {
        return Err(Refusal::NotAdmitted(name));
    }
    Ok((protocol, bytes, stream))
}

/// The stream after the handshake stage.
pub(super) struct Secured {
    pub(super) stream: Stream,
    /// What was read before, if there was no handshake.
    pub(super) plaintext: Option<FirstBytes>,
    /// Who the peer is by its certificate, if it showed one.
    pub(super) identity: Option<Arc<PeerIdentity>>,
}

fn by_alpn(alpn: &[u8]) -> Option<Detection> {
    match alpn {
        tls::ALPN_LINK => Some(Detection::Link),
        tls::ALPN_HTTP1 => Some(Detection::Http1),
        tls::ALPN_HTTP2 => Some(Detection::Http2),
        tls::ALPN_MQTT => Some(Detection::Mqtt),
        _ => None,
    }
}

async fn read<S: AsyncRead + Unpin>(
    gateway: &Gateway,
    stream: &mut S,
    begun: BytesMut,
    limit: Duration,
) -> Result<FirstBytes, Refusal> {
    timeout(limit, read_until_known(stream, begun)).await.unwrap_or_else(|_| {
        gateway.metrics.limit_hit("limits.first_message_timeout");
        Err(Refusal::FirstMessageTimeout)
    })
}

async fn read_until_known<S: AsyncRead + Unpin>(
    stream: &mut S,
    mut bytes: BytesMut,
) -> Result<FirstBytes, Refusal> {
    loop {
        match detect(&bytes) {
            Detection::NeedMore if bytes.len() < FIRST_READ_BYTES => {}
            Detection::NeedMore | Detection::Unknown => return Err(Refusal::UnknownProtocol),
            detection => return Ok(FirstBytes { detection, bytes: bytes.freeze() }),
        }
        bytes.reserve(FIRST_READ_BYTES);
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(Refusal::Closed);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    fn gateway() -> Arc<Gateway> {
        Gateway::build(crate::settings::Settings::default()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_sends_a_byte_now_and_then_meets_the_timeout() {
        let gateway = gateway();
        let (mut near, mut far) = tokio::io::duplex(64);
        let drip = tokio::spawn(async move {
            for byte in b"GET / HTTP/1.1\r\n" {
                tokio::time::sleep(Duration::from_secs(4)).await;
                if far.write_all(&[*byte]).await.is_err() {
                    return;
                }
            }
        });
        let result = read(&gateway, &mut near, BytesMut::new(), Duration::from_secs(10)).await;
        assert!(matches!(result, Err(Refusal::FirstMessageTimeout)));
        assert!(
            gateway.metrics.render().contains("limit_hits_total{limit=\"limits.first_message_timeout\"} 1")
        );
        drip.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_peer_meets_the_timeout() {
        let (mut near, _far) = tokio::io::duplex(64);
        let result = read(&gateway(), &mut near, BytesMut::new(), Duration::from_secs(10)).await;
        assert!(matches!(result, Err(Refusal::FirstMessageTimeout)));
    }

    #[tokio::test]
    async fn a_protocol_that_comes_in_pieces_is_found() {
        let (mut near, mut far) = tokio::io::duplex(1);
        let send = tokio::spawn(async move { far.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await });
        let found = read_until_known(&mut near, BytesMut::new()).await.unwrap();
        assert_eq!(found.detection, Detection::Http2);
        drop(near);
        let _ = send.await;
    }
}
