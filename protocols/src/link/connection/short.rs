//! Short connections: the same machine without flow control, whose bytes are the bodies of a POST and its answer.

use std::{sync::Arc, time::Instant};

use bytes::BytesMut;

use super::{Connection, stream::Receiving};
use crate::link::{CloseCode, Config, Control, Hello, LinkError};

/// Message bytes that may be sent without credit; HTTP's flow control bounds them.
pub(super) const UNBOUNDED: i64 = i64::MAX / 2;

impl Connection {
    /// The client's side of a POST. `hello` comes from [`crate::link::client::Session::short_hello`]. What
    /// [`Connection::poll_transmit`] gives is the body; the answer's goes to [`Connection::handle_bytes`]. Time means
    /// nothing to it.
    pub fn short_client(config: Arc<Config>, hello: Hello, now: Instant) -> Self {
        Self::asking(Control::short_client(config, hello.clone(), now), &hello)
    }

    /// The server's side of a POST.
    pub fn short_server(config: Arc<Config>, now: Instant) -> Self {
        Self::new(Control::short_server(config, now))
    }

    /// The peer's body is over, with `input` left of it. Says which requests did not arrive whole.
    ///
    /// # Errors
    /// It ended inside a frame; a CLOSE is ready to be transmitted.
    pub fn handle_end(&mut self, input: &BytesMut) -> Result<Vec<u64>, LinkError> {
        if !input.is_empty() && !self.control.is_closed() {
            let rule = "the body ends inside a frame";
            return Err(self.control.fail(LinkError::new(CloseCode::ProtocolError, rule)));
        }
        let unfinished = self.streams.iter().filter(|(_, stream)| stream.receiving != Receiving::Ended);
        Ok(unfinished.map(|(seq, _)| *seq).collect())
    }
}
