//! The first flight of a line, sent as early data where a ticket allows (RFC 8446, section 2.3).
//!
//! ```text
//!  client                                        gateway
//!    | ClientHello with ticket, {first flight}      |
//!    |--------------------------------------------->| accepts: {WELCOME, answers} behind its Finished
//!    |<---------------------------------------------| rejects: see `line::Opening`
//!    | Finished                                     |
//!    |--------------------------------------------->|
//! ```

use std::{
    io::{self, Write as _},
    sync::Arc,
};

use bytes::Bytes;
use rustls::{ClientConfig, ClientConnection, pki_types::ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::tls::Made;

/// Makes the bytes that a line says first, when a connection can carry them early. `None`: nothing may be said
/// early, or another connection of the race has been given them.
pub type FirstFlight = Arc<dyn Fn() -> Option<Bytes> + Send + Sync>;

/// A TLS connection whose handshake is complete: the gateway has answered. Also says how many bytes of the
/// flight it has taken as early data.
pub(super) async fn secure<S: AsyncRead + AsyncWrite + Unpin>(
    made: &Made<Arc<ClientConfig>>,
    name: ServerName<'static>,
    stream: S,
    flight: &FirstFlight,
) -> io::Result<(TlsStream<S>, usize)> {
    let mut sent = 0;
    let handshake = TlsConnector::from(Arc::clone(&made.config)).connect_with(name, stream, |session| {
        sent = send_early(session, flight);
    });
    let stream = handshake.await?;
    made.check(stream.get_ref().1)?;
    let accepted = stream.get_ref().1.is_early_data_accepted();
    Ok((stream, if accepted { sent } else { 0 }))
}

/// Queues the flight behind ClientHello, as far as the ticket admits.
fn send_early(session: &mut ClientConnection, flight: &FirstFlight) -> usize {
    if session.early_data().is_none() {
        return 0;
    }
    let Some(bytes) = flight() else { return 0 };
    session.early_data().and_then(|mut early| early.write(&bytes).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests;
