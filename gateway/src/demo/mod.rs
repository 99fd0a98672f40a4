//! The built-in demo backend: gRPC (HTTP/2 with prior knowledge) and plain HTTP on one port.
//!
//! It keeps what it is given in memory, within bounds, and shows how often each piece of work was run.

mod devices;
mod echo;
mod orders;
mod plain;

use std::{io, net::SocketAddr, sync::Arc};

use axum::Router;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};
use tracing::{debug, warn};

use self::{devices::DeviceService, echo::EchoService, orders::OrderService};
pub use self::{devices::Devices, orders::Orders};
use crate::proto::{
    demo::{echo_server::EchoServer, orders_server::OrdersServer, telemetry_server::TelemetryServer},
    device::device_ingress_server::DeviceIngressServer,
};

/// Streams that one gateway connection may open; fewer than the gateway has callers, so that its stream
/// accounting is exercised.
const STREAMS_MAX: u32 = 1000;

/// A running demo backend; it ends when this is dropped.
#[derive(Debug)]
pub struct Demo {
    /// Where it listens, for `grpc`, `http2` and `http1` backends alike.
    pub address: SocketAddr,
    /// Its orders.
    pub orders: Arc<Orders>,
    /// What devices published.
    pub devices: Arc<Devices>,
    task: JoinHandle<()>,
}

/// Starts a demo backend; port 0 takes a free one.
///
/// # Errors
/// What the operating system said to the bind.
pub async fn start(bind: SocketAddr) -> io::Result<Demo> {
    let listener = TcpListener::bind(bind).await?;
    let address = listener.local_addr()?;
    let (orders, devices) = (Arc::<Orders>::default(), Arc::<Devices>::default());
    let task = tokio::spawn(accept(listener, services(&orders, &devices)));
    Ok(Demo { address, orders, devices, task })
}

impl Drop for Demo {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Every service, as one router.
fn services(orders: &Arc<Orders>, devices: &Arc<Devices>) -> Router {
    let devices_service = DeviceService(devices.clone());
    let grpc = tonic::service::Routes::default()
        .add_service(EchoServer::new(EchoService))
        .add_service(OrdersServer::new(OrderService(orders.clone())))
        .add_service(TelemetryServer::new(devices_service.clone()))
        .add_service(DeviceIngressServer::new(devices_service));
    let plain = plain::router(orders.clone(), devices.clone());
    plain.merge(grpc.into_axum_router()).fallback(plain::nothing_there)
}

/// Connections end with this task.
async fn accept(listener: TcpListener, services: Router) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((socket, _peer)) => drop(connections.spawn(serve(socket, services.clone()))),
                Err(error) => {
                    warn!(%error, "the demo backend cannot accept");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            },
            Some(_ended) = connections.join_next() => {}
        }
    }
}

async fn serve(socket: TcpStream, services: Router) {
    if let Err(error) = socket.set_nodelay(true) {
        debug!(%error, "demo connection without TCP_NODELAY");
    }
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http2().max_concurrent_streams(STREAMS_MAX);
    let service = TowerToHyperService::new(services);
    if let Err(error) = builder.serve_connection(TokioIo::new(socket), service).await {
        debug!(%error, "demo connection ended");
    }
}
