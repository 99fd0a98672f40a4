//! A TLCP handshake, where a listener speaks it.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{timeout, timeout_at},
};

use super::{
    Refusal,
    detect::{FirstBytes, Secured},
    handshake::{count, place},
};
use crate::{
    gateway::Gateway,
    settings::TlsMode,
    transport::{
        Rewind, Stream,
        tlcp::{ALERT_PROTOCOL_VERSION, TlcpServer, TlcpStream},
    },
};

/// How long a refused peer may take to read why.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);
/// GB/T 38636, section 6.3.3: type, version and length of a record.
const RECORD_HEADER_BYTES: usize = 5;

/// Stage three for a ClientHello of TLCP.
pub(super) async fn secure(
    gateway: &Gateway,
    listener: &Arc<str>,
    mut tcp: TcpStream,
    first: FirstBytes,
) -> Result<Secured, Refusal> {
    let snapshot = gateway.snapshot.load_full();
    let policy = snapshot.listener(listener).ok_or(Refusal::NoListener)?;
    let Some(tlcp) = policy.tlcp.clone().filter(|_| policy.settings.tls != TlsMode::Off) else {
        refuse(&mut tcp).await;
        return Err(Refusal::Tlcp);
    };
    let limits = &snapshot.settings.limits;
    let outcome = handshake(gateway, tcp, first.bytes, &tlcp, limits.handshake_timeout).await;
    let label = match &outcome {
        Ok(_) => "ok",
        Err(Refusal::HandshakeTimeout) => "timeout",
        Err(_) => "failed",
    };
    count(gateway, listener, label);
    let stream = Stream::tlcp(Box::new(outcome?), limits.write_timeout);
    Ok(Secured { stream, plaintext: None, identity: None })
}

/// As for TLS, the ClientHello is awaited before a place among the running handshakes is taken.
async fn handshake(
    gateway: &Gateway,
    mut tcp: TcpStream,
    first_bytes: Bytes,
    tlcp: &TlcpServer,
    limit: Duration,
) -> Result<TlcpStream, Refusal> {
    let deadline = tokio::time::Instant::now() + limit;
    let running = async {
        let hello = whole_record(&mut tcp, first_bytes).await?;
        let _place = place(gateway, &gateway.handshakes).await;
        tlcp.accept(Rewind::new(tcp, hello)).await.map_err(|error| Refusal::Handshake(error.into()))
    };
    timeout_at(deadline, running).await.unwrap_or_else(|_| {
        gateway.metrics.limit_hit("limits.handshake_timeout");
        Err(Refusal::HandshakeTimeout)
    })
}

/// Reads on until the first record is there, 16 KiB at the most: detection has checked its length.
async fn whole_record(tcp: &mut TcpStream, first_bytes: Bytes) -> Result<Bytes, Refusal> {
    let Some(&[_, _, _, high, low]) = first_bytes.get(..RECORD_HEADER_BYTES) else {
        return Err(Refusal::UnknownProtocol);
    };
    let bytes_wanted = RECORD_HEADER_BYTES + usize::from(u16::from_be_bytes([high, low]));
    let mut record = BytesMut::from(first_bytes);
    while record.len() < bytes_wanted {
        if tcp.read_buf(&mut record).await? == 0 {
            return Err(Refusal::Closed);
        }
    }
    Ok(record.freeze())
}

/// Says in TLCP that its version is not spoken here.
async fn refuse(tcp: &mut TcpStream) {
    let farewell = async {
        tcp.write_all(&ALERT_PROTOCOL_VERSION).await?;
        tcp.shutdown().await
    };
    // The peer is on its way out either way.
    let _ = timeout(FAREWELL_TIMEOUT, farewell).await;
}
