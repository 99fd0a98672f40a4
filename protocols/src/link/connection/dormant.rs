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
    windows: Windows,
    seq_highest: u64,
    encoder: Option<Box<Encoder>>,
    decoder: Option<Box<Decoder>>,
}

/// The connection's. With nothing under way they are within signed 32 bits, but for those
/// of short connections, which have no bound and no rest.
#[derive(Clone, Copy, Debug)]
struct Windows {
    send: i32,
    receive: i32,
    credit_pending: i32,
}

impl Windows {
    /// `None` for a short connection.
    fn of(connection: &Connection) -> Option<Self> {
        Some(Self {
            send: connection.send_window.try_into().ok()?,
            receive: connection.receive_window.try_into().ok()?,
            credit_pending: connection.credit_pending.try_into().ok()?,
        })
    }
}

impl Connection {
    /// Whether no request is open, nothing is to be sent and no event is to be taken.
    pub fn is_idle(&self) -> bool {
        self.streams.is_empty() && self.backlog.tended.is_empty() && self.control.is_idle()
    }

    /// What is to be kept of a connection that [is idle](Self::is_idle); `None` for any other, for a client's, and for
    /// a short one.
    pub fn rest(self) -> Option<Dormant> {
        if !self.is_idle() || self.control.role() != Role::Server {
            return None;
        }
        Some(Dormant {
            windows: Windows::of(&self)?,
            control: self.control.rest(),
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
            send_window: self.windows.send.into(),
            receive_window: self.windows.receive.into(),
            credit_pending: self.windows.credit_pending.into(),
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
