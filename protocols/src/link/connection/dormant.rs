//! A connection at rest, without what only a busy one needs.

use std::time::Instant;

use super::Connection;
use crate::{
    hpack::{Decoder, Encoder},
    link::{Role, control},
};

/// A server's connection with nothing open, queued or waiting: what must be kept until it goes on.
#[derive(Debug)]
pub struct Dormant {
    control: control::Dormant,
    send_window: i64,
    receive_window: i64,
    credit_pending: i64,
    seq_highest: u64,
    encoder: Option<Box<Encoder>>,
    decoder: Option<Box<Decoder>>,
}

impl Connection {
    /// Whether no request is open, nothing is to be sent and no event is to be taken.
    pub fn is_idle(&self) -> bool {
        self.streams.is_empty() && self.backlog.tended.is_empty() && self.control.is_idle()
    }

    /// What is to be kept of a connection that [is idle](Self::is_idle); `None` for any other, and for a client's.
    pub fn rest(self) -> Option<Dormant> {
        if !self.is_idle() || self.control.role() != Role::Server {
            return None;
        }
        Some(Dormant {
            control: self.control.rest(),
            send_window: self.send_window,
            receive_window: self.receive_window,
            credit_pending: self.credit_pending,
            seq_highest: self.seq_highest,
            encoder: self.encoder,
            decoder: self.decoder,
        })
    }
}

impl Dormant {
    /// The connection as it was.
    pub fn wake(self, now: Instant) -> Connection {
        Connection {
            send_window: self.send_window,
            receive_window: self.receive_window,
            credit_pending: self.credit_pending,
            seq_highest: self.seq_highest,
            encoder: self.encoder,
            decoder: self.decoder,
            ..Connection::new(self.control.wake(now))
        }
    }

    /// When [`Connection::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.control.poll_timeout()
    }
}
