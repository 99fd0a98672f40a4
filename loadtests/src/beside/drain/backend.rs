//! A backend that remembers how often it ran each call.

use std::{
    collections::HashMap,
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, time::sleep};

/// Runs by path.
pub(super) type Counts = HashMap<String, u32>;

/// A running backend; it ends with the runtime.
pub(super) struct Backend {
    address: SocketAddr,
    counts: Arc<Mutex<Counts>>,
}

impl Backend {
    /// Works for `work` on every request.
    pub(super) async fn start(work: Duration) -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("no backend: {error}");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let counts = Arc::<Mutex<Counts>>::default();
        tokio::spawn(accept(listener, Arc::clone(&counts), work));
        Ok(Self { address, counts })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// How often each path was run.
    pub(super) fn counts(&self) -> Counts {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn accept(listener: TcpListener, counts: Arc<Mutex<Counts>>, work: Duration) {
    while let Ok((socket, _)) = listener.accept().await {
        let counts = Arc::clone(&counts);
        tokio::spawn(async move {
            let serve = service_fn(move |request| run(Arc::clone(&counts), work, request));
            // A gateway that closes its connection is no failure.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(socket), serve).await;
        });
    }
}

async fn run(
    counts: Arc<Mutex<Counts>>,
    work: Duration,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    *counts.lock().unwrap_or_else(PoisonError::into_inner).entry(path.clone()).or_default() += 1;
    sleep(work).await;
    Ok(Response::new(Full::new(path.into())))
}
