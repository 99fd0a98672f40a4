//! Notices that a connection goes on from another address (RFC 9000, section 9).

use std::net::SocketAddr;

use prometheus::IntCounter;
use quinn::Connection;

/// Where a connection's peer is, and how often that changed. quinn tells nobody: whoever serves the connection
/// looks when something came from it.
pub struct Path {
    connection: Connection,
    peer: SocketAddr,
    migrations: IntCounter,
}

impl Path {
    /// From now on counts the moves of `connection`.
    pub fn new(connection: Connection, migrations: IntCounter) -> Self {
        Self { peer: connection.remote_address(), connection, migrations }
    }

    /// Looks where the peer is now; whether that is another place than before.
    pub fn look(&mut self) -> bool {
        let peer = self.connection.remote_address();
        let moved = peer != self.peer;
        if moved {
            tracing::debug!(from = %self.peer, to = %peer, "a QUIC connection moved");
            self.peer = peer;
            self.migrations.inc();
        }
        moved
    }
}

impl Drop for Path {
    fn drop(&mut self) {
        self.look();
    }
}
