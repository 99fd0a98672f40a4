//! In place of quic.rs where QUIC is left out: no connection of it is ever made.

use std::{convert::Infallible, net::SocketAddr, time::Instant};

use towline_protocols::policy::Network;

use super::{ConnectError, Handshake, Moves, PathCounts, Wire, sockets::Sockets, tls::Secured};
use crate::{config::Limits, timeline::ConnectTimes};

pub(crate) struct QuicWire {
    pub(crate) path: Path,
    pub(crate) early: Option<Infallible>,
    pub(crate) times: ConnectTimes,
}

#[derive(Clone)]
pub(crate) enum Path {}

impl Path {
    pub(crate) fn move_on(&self, _: &Network) -> Moves {
        match *self {}
    }

    pub(crate) fn moved(&mut self, _: Instant) {
        match *self {}
    }

    pub(crate) fn welcomed(&self) {
        match *self {}
    }

    pub(crate) fn due(&self) -> Option<Instant> {
        match *self {}
    }

    pub(crate) fn is_lost(&mut self, _: Instant) -> bool {
        match *self {}
    }

    pub(crate) fn counts(&self) -> PathCounts {
        match *self {}
    }

    pub(crate) fn heard(&self) -> u64 {
        match *self {}
    }
}

pub(super) struct Server {
    pub(super) address: SocketAddr,
    pub(super) name: String,
}

/// No race has a way of QUIC here.
pub(super) async fn connect(
    _: &Secured,
    _: Sockets,
    server: Server,
    _: Handshake,
    _: &Limits,
) -> Result<Wire, ConnectError> {
    let Server { address, name } = server;
    Err(ConnectError(format!("QUIC {address} ({name}): this library was built without it")))
}
