//! One connection to a backend: TCP, and TLS on it where the backend has that.

use std::{io, time::Duration};

use socket2::{SockRef, TcpKeepalive};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout_at},
};

use super::{tls, wire::Wire};
use crate::{
    error::{Execution, RpcError, RpcErrorKind},
    settings,
};

/// A backend whose host vanished is noticed after this, not after the kernel's 15 minutes.
const USER_TIMEOUT: Duration = Duration::from_secs(10);
/// The same while nothing is in flight.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// What callers are asked to wait when the backend cannot be reached.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Resolves and connects within the backend's connect timeout.
pub(crate) async fn dial(backend: &settings::Backend) -> Result<TcpStream, RpcError> {
    dial_until(backend, Instant::now() + backend.connect_timeout).await
}

async fn dial_until(backend: &settings::Backend, deadline: Instant) -> Result<TcpStream, RpcError> {
    let connect = TcpStream::connect(&*backend.address);
    let stream = match timeout_at(deadline, connect).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(unavailable(backend, &error)),
        Err(_elapsed) => return Err(unavailable(backend, &"connect timed out")),
    };
    tune(&stream).map_err(|error| unavailable(backend, &error))?;
    Ok(stream)
}

/// [`dial`], and TLS where the backend has it, for the protocol that ALPN calls `alpn`, both within the connect timeout.
pub(crate) async fn connect(backend: &settings::Backend, alpn: &[u8]) -> Result<Wire, RpcError> {
    let deadline = Instant::now() + backend.connect_timeout;
    let tcp = dial_until(backend, deadline).await?;
    let Some(tls) = &backend.tls else { return Ok(Wire::Plain(tcp)) };
    match timeout_at(deadline, tls::connect(tcp, backend, tls, Some(alpn))).await {
        Ok(Ok(stream)) => Ok(Wire::Tls(Box::new(stream))),
        Ok(Err(why)) => Err(unavailable(backend, &why)),
        Err(_elapsed) => Err(unavailable(backend, &"TLS handshake timed out")),
    }
}

/// The backend cannot be reached; nothing was sent. The text reaches clients, so it names the backend without where it
/// is.
pub(crate) fn unavailable(backend: &settings::Backend, why: &dyn std::fmt::Display) -> RpcError {
    let message = format!("backend {}: {why}", backend.name);
    let mut error = RpcError::new(RpcErrorKind::BackendUnavailable, Execution::NotRun, message);
    error.retry_after = Some(RETRY_AFTER);
    error
}

/// The backend may have seen the request, and there is no answer.
pub(crate) fn failed(backend: &settings::Backend, why: &dyn std::fmt::Display) -> RpcError {
    let message = format!("backend {}: {why}", backend.name);
    RpcError::new(RpcErrorKind::BackendFailed, Execution::MayHaveRun, message)
}

/// More callers wait for the backend than it can serve in time.
pub(crate) fn overloaded(backend: &settings::Backend) -> RpcError {
    let message = format!(
        "backend {}: all connections (connections_max = {}) are busy and too many requests wait",
        backend.name, backend.connections_max
    );
    let mut error = RpcError::new(RpcErrorKind::LimitExceeded, Execution::NotRun, message);
    error.retry_after = Some(RETRY_AFTER);
    error
}

fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    Ok(())
}
