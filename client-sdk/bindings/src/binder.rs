//! Sockets that the app binds to the networks that they are for.

use std::{io, net::SocketAddr, sync::Arc};

use towline_client::{BindSocket, SocketHandle};

use crate::signals::Network;

/// Binds each socket of a client's to the network that it is for, before it connects: by Android's `Network.bindSocket`, by
/// `SO_BINDTODEVICE` on Linux, by `IP_BOUND_IF` and `IPV6_BOUND_IF` on Apple's systems. A VPN's app protects them here.
///
/// Without it, sockets follow the process's default network, and one that was told by `network_joined` is not used until it
/// is that.
#[uniffi::export(with_foreign)]
pub trait SocketBinder: Send + Sync {
    /// Binds the socket of the file descriptor `fd`, which stays the client's: it is not to be closed, and not to be kept.
    /// `peer` is the address that it is for, as 192.0.2.7 or 2001:db8::7; `network` what the app has told of that network,
    /// and of kind `Unknown` and without a label where it has told of none.
    ///
    /// It is called by threads of the library's, by several at one time, each of which may block for up to five seconds.
    ///
    /// # Errors
    /// The socket is closed and its attempt fails, as it does where something else is thrown; the state of the line says
    /// why, and another attempt is made as ever.
    fn bind(&self, fd: i32, peer: String, network: Network) -> Result<(), BinderError>;
}

/// Why a socket is not bound.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, uniffi::Error)]
pub enum BinderError {
    /// The app's reason.
    #[error("{reason}")]
    Refused {
        /// For people.
        reason: String,
    },
}

impl From<uniffi::UnexpectedUniFFICallbackError> for BinderError {
    fn from(error: uniffi::UnexpectedUniFFICallbackError) -> Self {
        Self::Refused { reason: error.reason }
    }
}

/// What the client core asks.
pub(crate) struct Binds(pub(crate) Arc<dyn SocketBinder>);

impl BindSocket for Binds {
    fn bind_socket(
        &self,
        socket: SocketHandle<'_>,
        peer: SocketAddr,
        network: &towline_client::Network,
    ) -> io::Result<()> {
        let bound = self.0.bind(number(socket)?, peer.ip().to_string(), network.into());
        bound.map_err(|error| io::Error::other(error.to_string()))
    }
}

#[cfg(unix)]
fn number(socket: SocketHandle<'_>) -> io::Result<i32> {
    use std::os::fd::AsRawFd as _;
    Ok(socket.as_raw_fd())
}

/// Windows' handles have no more bits than that.
#[cfg(windows)]
fn number(socket: SocketHandle<'_>) -> io::Result<i32> {
    use std::os::windows::io::AsRawSocket as _;
    i32::try_from(socket.as_raw_socket()).map_err(io::Error::other)
}
