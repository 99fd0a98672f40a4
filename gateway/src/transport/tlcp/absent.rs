//! A build without TLCP.

use std::{
    convert::Infallible,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::NOT_BUILT_IN;
use crate::{
    gateway::StartError,
    settings::{ListenerProtocol, TlcpCertificate},
    transport::Rewind,
};

/// There is none in this build.
pub struct TlcpServer(Infallible);

/// There is none in this build.
pub struct TlcpStream(Infallible);

impl TlcpServer {
    /// Refuses.
    ///
    /// # Errors
    /// Always.
    pub fn new(_: &TlcpCertificate, _: &[ListenerProtocol]) -> Result<Self, StartError> {
        Err(StartError::Settings(NOT_BUILT_IN.to_owned()))
    }

    /// Cannot be called.
    ///
    /// # Errors
    /// None.
    pub async fn accept(&self, _: Rewind<TcpStream>) -> io::Result<TlcpStream> {
        match self.0 {}
    }
}

impl TlcpStream {
    /// Cannot be called.
    pub fn alpn(&self) -> Option<&[u8]> {
        match self.0 {}
    }
}

impl AsyncRead for TlcpStream {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.0 {}
    }
}

impl AsyncWrite for TlcpStream {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        match self.0 {}
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.0 {}
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.0 {}
    }
}
