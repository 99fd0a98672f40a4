//! What is different on a short connection, which is one HTTP POST (PROTOCOL.md, section 21): no preface, no flow
//! control and no heartbeat, and of the frames only those that a single exchange needs.

use std::{sync::Arc, time::Instant};

use super::{Control, Phase};
use crate::link::{Config, Hello, LinkError, Role, frame::Frame};

impl Control {
    pub(in crate::link) fn short_client(config: Arc<Config>, hello: Hello, now: Instant) -> Self {
        // Nobody waits for a beat.
        let hello = Hello { short: true, next_beat_s: 0, ..hello };
        Self { is_short: true, ..Self::introducing(config, hello, now) }
    }

    pub(in crate::link) fn short_server(config: Arc<Config>, now: Instant) -> Self {
        Self { is_short: true, ..Self::new(config, Role::Server, Phase::Introduction, now) }
    }

    /// Whether the connection is a short one.
    pub fn is_short(&self) -> bool {
        self.is_short
    }

    /// Whether `frame` is carried by this kind of connection.
    pub(super) fn check_kind(&self, frame: &Frame) -> Result<(), LinkError> {
        match frame {
            Frame::Hello(hello) if hello.short != self.is_short => {
                Err(LinkError::protocol("HELLO: `short` is for the body of a POST, and demanded there"))
            }
            frame if self.is_short && !is_carried(frame) => {
                Err(LinkError::protocol("a frame that short connections do not carry"))
            }
            _ => Ok(()),
        }
    }
}

/// By which side a frame may be sent is another question.
fn is_carried(frame: &Frame) -> bool {
    matches!(
        frame,
        Frame::Hello(_)
            | Frame::Welcome(_)
            | Frame::Request(_)
            | Frame::Response(_)
            | Frame::Answer { .. }
            | Frame::Data(_)
            | Frame::Trailers { .. }
            | Frame::Reset { .. }
            | Frame::Ack(_)
            | Frame::Push(_)
            | Frame::Subscribe(_)
            | Frame::Subscribed(_)
            | Frame::GoAway(_)
            | Frame::Close { .. }
            | Frame::Extension(_)
    )
}
