//! The HTTP front: HTTP/1.1 and HTTP/2 connections of short-lived clients, curl and gRPC.

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};

use crate::{gateway::Gateway, request::Origin};

/// Serves one plaintext HTTP/1.1 or HTTP/2 connection until it ends or the gateway drains. `stream` is
/// what TLS yields, or a plain socket, from its first byte on.
pub async fn serve<S>(gateway: Arc<Gateway>, origin: Arc<Origin>, stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    drop((gateway, origin, stream));
}
