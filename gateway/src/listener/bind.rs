//! Binds a listener's sockets: TCP and UDP on one port number.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

use super::Open;
use crate::{
    gateway::{Gateway, StartError},
    run::Bound,
    settings::Listener,
    transport::quic,
};

/// Connections that the kernel completes ahead of accept; it caps this by net.core.somaxconn.
const BACKLOG: i32 = 4096;
/// The kernel holds datagrams of all connections of an endpoint in one buffer; the default of 208 KiB is
/// a burst of 150 packets.
const UDP_BUFFER_BYTES: usize = 4 * 1024 * 1024;
/// With port 0, the number that TCP got may be taken on UDP; another is tried so many times.
const PORT_ATTEMPTS: usize = 16;

pub(super) fn open(listener: &Listener, gateway: &Gateway) -> Result<Open, StartError> {
    let mut attempt = 1;
    loop {
        match open_once(listener, gateway) {
            Err(StartError::Bind { source, .. })
                if listener.bind.port() == 0
                    && attempt < PORT_ATTEMPTS
                    && source.kind() == io::ErrorKind::AddrInUse =>
            {
                attempt += 1;
            }
            result => return result,
        }
    }
}

fn open_once(listener: &Listener, gateway: &Gateway) -> Result<Open, StartError> {
    let mut address = listener.bind;
    let failed = |transport, address, source: io::Error| StartError::Bind {
        listener: listener.name.to_string(),
        transport,
        address,
        advice: advice(&source),
        source,
    };
    let mut tcp = None;
    if listener.tcp {
        let socket = bind_tcp(address).map_err(|source| failed("TCP", address, source))?;
        address = socket.local_addr().map_err(|source| failed("TCP", address, source))?;
        tcp = Some(socket);
    }
    let mut quic = None;
    if listener.quic {
        let endpoint =
            bind_quic(listener, address, gateway).map_err(|source| failed("UDP", address, source))?;
        address = endpoint.local_addr().map_err(|source| failed("UDP", address, source))?;
        quic = Some(endpoint);
    }
    let bound = Bound { name: listener.name.clone(), address, tcp: listener.tcp, quic: listener.quic };
    Ok(Open { bound, tcp, quic })
}

fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restart must not wait for connections of the last run to leave TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

fn bind_quic(listener: &Listener, address: SocketAddr, gateway: &Gateway) -> io::Result<quinn::Endpoint> {
    let snapshot = gateway.snapshot();
    let config = snapshot.listener(&listener.name).and_then(|listener| listener.quic.as_ref());
    let config = config.ok_or_else(|| io::Error::other("QUIC needs a certificate"))?;
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    // Best effort: the kernel caps these by net.core.rmem_max and wmem_max.
    let _ = socket.set_recv_buffer_size(UDP_BUFFER_BYTES);
    let _ = socket.set_send_buffer_size(UDP_BUFFER_BYTES);
    socket.bind(&address.into())?;
    quic::endpoint(UdpSocket::from(socket), config)
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "another process listens there: stop it, or choose another port",
        io::ErrorKind::PermissionDenied => "ports below 1024 need CAP_NET_BIND_SERVICE: choose a port above",
        io::ErrorKind::AddrNotAvailable => {
            "no network interface of this machine has the address: see `ip address`"
        }
        _ => "check the listener's `bind` and `certificate`",
    }
}
