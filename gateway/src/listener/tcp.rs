//! The accept loop of a TCP listener.

use std::{io, sync::Arc, time::Duration};

use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tracing::{info, warn};

use super::slots;
use crate::{gateway::Gateway, throttle::Throttle};

/// How long to leave new connections in the kernel's backlog when the process has no file left: long
/// enough for some to close, short enough not to be felt.
const NO_FILES_PAUSE: Duration = Duration::from_millis(100);
const WARN_PERIOD: Duration = Duration::from_secs(10);
/// What the kernel takes of what it cannot send yet. An urgent answer stands behind it.
const UNSENT_BYTES_MAX: u32 = 32 << 10;

/// Accepts until the gateway drains.
pub(super) async fn accept(gateway: Arc<Gateway>, name: Arc<str>, listener: TcpListener) {
    let mut drain = gateway.drain.watch();
    let warnings = Throttle::new(WARN_PERIOD);
    loop {
        tokio::select! {
            biased;
            _ = drain.draining() => break,
            () = slots::connect_due(&gateway, &name) => {}
        }
        let accepted = tokio::select! {
            biased;
            _ = drain.draining() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((tcp, peer)) => {
                slots::note_connect(&gateway, &name);
                prepare(&gateway, &tcp);
                let connection = super::serve_connection(Arc::clone(&gateway), Arc::clone(&name), tcp, peer);
                tokio::spawn(connection);
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                gateway.metrics.limit_hit("open_files");
                if let Some(held_back) = warnings.pass(std::time::Instant::now()) {
                    warn!(
                        listener = &*name,
                        held_back, "cannot accept: {error}; raise the limit of open files"
                    );
                }
                tokio::time::sleep(NO_FILES_PAUSE).await;
            }
        }
    }
    info!(listener = &*name, "no longer accepting TCP connections");
}

/// Options that a fresh socket may refuse only when it is closed already; then reading says so.
fn prepare(gateway: &Gateway, tcp: &TcpStream) {
    let _ = tcp.set_nodelay(true);
    let timeout = gateway.snapshot().settings.limits.tcp_user_timeout;
    let _ = SockRef::from(tcp).set_tcp_user_timeout(Some(timeout));
    let _ = SockRef::from(tcp).set_tcp_notsent_lowat(UNSENT_BYTES_MAX);
}

/// accept(2): errors of a connection that ended before it was accepted are reported here.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::*;
    matches!(
        error.kind(),
        ConnectionAborted
            | ConnectionReset
            | ConnectionRefused
            | Interrupted
            | NetworkUnreachable
            | HostUnreachable
    )
}
