//! One request on a QUIC stream of its own.

use std::{collections::VecDeque, sync::Arc};

use bytes::{Bytes, BytesMut};

use super::{Config, Event, Peer, RequestHead, Role, RpcError};
use crate::hpack::HeaderField;

/// What the streams of one QUIC connection share. Made by [`super::Control::stream_settings`]: before
/// WELCOME it holds the protocol's defaults.
#[derive(Clone, Debug)]
pub struct StreamSettings {
    /// This side.
    pub config: Arc<Config>,
    /// The other side.
    pub peer: Peer,
}

/// Both directions of one request's QUIC stream. Commands append bytes to be written to the stream; QUIC
/// does the flow control and the ordering among streams.
#[derive(Debug)]
pub struct StreamCodec {
    settings: StreamSettings,
    role: Role,
    seq: u64,
    events: VecDeque<Event>,
}

impl StreamCodec {
    /// The stream of request `seq` on the client's side.
    pub fn client(settings: StreamSettings, seq: u64) -> Self {
        Self { settings, role: Role::Client, seq, events: VecDeque::new() }
    }

    /// A stream that the client opened; its first frame tells the sequence number.
    pub fn server(settings: StreamSettings) -> Self {
        Self { settings, role: Role::Server, seq: 0, events: VecDeque::new() }
    }

    /// The request's sequence number; 0 on the server until it is known.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// Takes all whole frames off `input`. An error concerns this request only: the driver sends it as
    /// RESET and stops the stream.
    pub fn handle_bytes(&mut self, input: &mut BytesMut) -> Result<(), RpcError> {
        _ = (input, &self.settings, self.role);
        Ok(())
    }

    /// The peer finished the stream: an error if that cut the request.
    pub fn handle_fin(&mut self, input: &BytesMut) -> Result<(), RpcError> {
        _ = input;
        Ok(())
    }

    /// The next event. To be asked until `None` after `handle_bytes`.
    pub fn poll_event(&mut self) -> Result<Option<Event>, RpcError> {
        Ok(self.events.pop_front())
    }

    /// Client: opens the request.
    pub fn send_request(
        &mut self,
        head: &RequestHead,
        end: bool,
        out: &mut BytesMut,
    ) -> Result<(), RpcError> {
        _ = (head, end, out);
        Ok(())
    }

    /// Client: asks for the answer of a request that an earlier connection carried. Ends its half.
    pub fn send_attach(&mut self, messages_received: u64, out: &mut BytesMut) {
        _ = (messages_received, out);
    }

    /// Server: begins the answer.
    pub fn send_response(
        &mut self,
        fields: &[HeaderField],
        end: bool,
        out: &mut BytesMut,
    ) -> Result<(), RpcError> {
        _ = (fields, end, out);
        Ok(())
    }

    /// Sends a whole message, compressed where that makes it smaller.
    pub fn send_message(&mut self, message: Bytes, end: bool, out: &mut BytesMut) -> Result<(), RpcError> {
        _ = (message, end, out);
        Ok(())
    }

    /// Sends a part of a message, as [`super::Connection::send_message_part`].
    pub fn send_message_part(
        &mut self,
        message_bytes: Option<u64>,
        part: Bytes,
        end: bool,
        out: &mut BytesMut,
    ) -> Result<(), RpcError> {
        _ = (message_bytes, part, end, out);
        Ok(())
    }

    /// Ends this side's half without a further message.
    pub fn send_end(&mut self, out: &mut BytesMut) {
        _ = out;
    }

    /// Ends this side's half with trailers.
    pub fn send_trailers(&mut self, fields: &[HeaderField], out: &mut BytesMut) -> Result<(), RpcError> {
        _ = (fields, out);
        Ok(())
    }

    /// Ends the request; the driver finishes the stream behind it.
    pub fn reset(&mut self, error: &RpcError, out: &mut BytesMut) {
        _ = (error, out);
    }
}
