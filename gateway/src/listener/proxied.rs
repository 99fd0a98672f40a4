//! The PROXY protocol: whose connection a load balancer passes on.

use std::net::SocketAddr;

use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    time::timeout,
};
use towline_protocols::proxy::{self, ProxyError};

use super::Refusal;
use crate::gateway::Gateway;

/// Read at once; more than a header without extensions takes.
const FIRST_READ_BYTES: usize = 512;

/// Stage zero: the client's address, where the listener stands behind a load balancer, and what was read behind the
/// header. What the header says is believed of nobody but who is trusted with it, and of those it is demanded: a
/// listener cannot tell one from a client that makes it up, nor a client's first bytes from a header.
pub(super) async fn client<S: AsyncRead + Unpin>(
    gateway: &Gateway,
    listener: &str,
    stream: &mut S,
    peer: SocketAddr,
) -> Result<(SocketAddr, BytesMut), Refusal> {
    let limit = {
        let snapshot = gateway.snapshot();
        let trusted = &snapshot.listener(listener).ok_or(Refusal::NoListener)?.settings.proxy_protocol;
        if trusted.is_empty() {
            return Ok((peer, BytesMut::new()));
        }
        if !trusted.iter().any(|network| network.contains(peer.ip())) {
            return Err(Refusal::NotAProxy);
        }
        snapshot.settings.limits.first_message_timeout
    };
    let header = timeout(limit, header(stream)).await.unwrap_or_else(|_| {
        gateway.metrics.limit_hit("limits.first_message_timeout");
        Err(Refusal::FirstMessageTimeout)
    });
    if let Err(Refusal::ProxyHeader(ProxyError::TooLong(_) | ProxyError::LineTooLong)) = header {
        gateway.metrics.limit_hit("proxy_header");
    }
    let (client, rest) = header?;
    Ok((client.unwrap_or(peer), rest))
}

/// The header alone is waited for; its length is bounded by the parser.
async fn header<S: AsyncRead + Unpin>(stream: &mut S) -> Result<(Option<SocketAddr>, BytesMut), Refusal> {
    let mut bytes = BytesMut::with_capacity(FIRST_READ_BYTES);
    loop {
        if let Some(header) = proxy::parse(&bytes)? {
            bytes.advance(header.octets);
            return Ok((header.client, bytes));
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(Refusal::Closed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::io::AsyncWriteExt;

    use super::*;
    use crate::settings::{Listener, Settings};

    const PEER: ([u8; 4], u16) = ([10, 0, 0, 1], 4000);

    fn gateway(trusted: &[&str]) -> Arc<Gateway> {
        let mut listener = Listener::plain("a", ([127, 0, 0, 1], 0).into());
        listener.proxy_protocol = trusted.iter().map(|network| network.parse().unwrap()).collect();
        let mut settings = Settings::default();
        settings.listeners.push(listener);
        Gateway::build(settings).unwrap()
    }

    async fn read(trusted: &[&str], sent: &[u8]) -> Result<(SocketAddr, BytesMut), Refusal> {
        let mut stream = sent;
        client(&gateway(trusted), "a", &mut stream, PEER.into()).await
    }

    const HEADER: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 51000 443\r\n";

    #[tokio::test]
    async fn who_is_trusted_names_the_client_and_what_follows_is_left() {
        let sent = [HEADER, b"GET / HTTP/1.1\r\n"].concat();
        let (client, rest) = read(&["10.0.0.0/8"], &sent).await.unwrap();
        assert_eq!(client, ([192, 0, 2, 7], 51000).into());
        assert_eq!(&rest[..], b"GET / HTTP/1.1\r\n");
    }

    #[tokio::test]
    async fn a_header_in_pieces_is_put_together() {
        let (mut near, mut far) = tokio::io::duplex(1);
        let send = tokio::spawn(async move { far.write_all(HEADER).await });
        let (client, rest) = client(&gateway(&["10.0.0.1"]), "a", &mut near, PEER.into()).await.unwrap();
        assert_eq!((client, rest.len()), (([192, 0, 2, 7], 51000).into(), 0));
        send.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn nobody_is_trusted_unless_it_is_said() {
        let (client, rest) = read(&[], HEADER).await.unwrap();
        assert_eq!((client, rest.len()), (PEER.into(), 0), "nothing is read");
        assert!(matches!(read(&["10.0.0.2", "::/0"], HEADER).await, Err(Refusal::NotAProxy)));
    }

    #[tokio::test]
    async fn who_is_trusted_must_send_a_header() {
        let refused = read(&["10.0.0.1"], b"GET / HTTP/1.1\r\n").await;
        assert!(matches!(refused, Err(Refusal::ProxyHeader(ProxyError::Absent))));
        assert!(matches!(read(&["10.0.0.1"], &HEADER[..20]).await, Err(Refusal::Closed)));
    }

    #[tokio::test]
    async fn a_proxy_that_speaks_for_itself_keeps_its_address() {
        let local = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
        assert_eq!(read(&["10.0.0.1"], local).await.unwrap().0, PEER.into());
    }

    #[tokio::test(start_paused = true)]
    async fn a_header_that_does_not_end_meets_its_bounds() {
        let gateway = gateway(&["10.0.0.1"]);
        let (mut near, mut far) = tokio::io::duplex(64);
        far.write_all(&HEADER[..20]).await.unwrap();
        let refused = client(&gateway, "a", &mut near, PEER.into()).await;
        assert!(matches!(refused, Err(Refusal::FirstMessageTimeout)));
        let mut long = &[b"PROXY UNKNOWN".to_vec(), vec![b' '; 200]].concat()[..];
        let refused = client(&gateway, "a", &mut long, PEER.into()).await;
        assert!(matches!(refused, Err(Refusal::ProxyHeader(ProxyError::LineTooLong))));
        let metrics = gateway.metrics.render();
        for limit in ["limits.first_message_timeout", "proxy_header"] {
            assert!(metrics.contains(&format!("limit_hits_total{{limit=\"{limit}\"}} 1")), "{limit}");
        }
    }
}
