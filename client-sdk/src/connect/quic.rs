//! QUIC by quinn. Each connection has an endpoint (and so a port) of its own: a NAT that lost the old
//! binding then sees a new flow, and the endpoint goes away with its connection.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{ConnectError, Wire, staggered};

pub(super) async fn connect(
    config: quinn::ClientConfig,
    host: String,
    addresses: Vec<SocketAddr>,
) -> Result<Wire, ConnectError> {
    staggered(addresses, |address| connect_one(config.clone(), host.clone(), address)).await
}

async fn connect_one(
    config: quinn::ClientConfig,
    host: String,
    address: SocketAddr,
) -> Result<Wire, ConnectError> {
    let failed = |error: &dyn std::fmt::Display| ConnectError(format!("QUIC {address}: {error}"));
    let endpoint = quinn::Endpoint::client(unspecified(address)).map_err(|error| failed(&error))?;
    let connecting = endpoint.connect_with(config, address, &host).map_err(|error| failed(&error))?;
    let connection = connecting.await.map_err(|error| failed(&error))?;
    Ok(Wire::Quic(connection))
}

fn unspecified(peer: SocketAddr) -> SocketAddr {
    match peer {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}
