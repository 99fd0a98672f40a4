//! A request's body on its way from the link to the backend, piece by piece, no message gathered whole. Its
//! connection may be lost; the next one feeds the rest:
//!
//! ```text
//!  BodySender of connection 1 --+
//!      shut out by take-over    +--> Upload: counts messages --> LinkBody (the backend's end)
//!  BodySender of connection 2 --+    and bytes of the last one
//!      of which the rest comes, or all again: then its bytes that are there are left out
//! ```

mod credits;
mod link_body;
mod pipe;

use std::{
    mem,
    sync::Arc,
    task::Waker,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::HeaderMap;
use parking_lot::Mutex;
use towline_protocols::link::{Place, RpcError};

use self::pipe::{Piece, Pipe, malformed};
pub(crate) use self::{
    credits::{Credits, TakenBytes},
    link_body::LinkBody,
};
use super::held::Held;

/// The link's end of a body, for one connection. Dropped before the end, it leaves the body to the next.
pub(crate) struct BodySender {
    upload: Arc<Upload>,
    /// Which feeder of the upload it is; another one shuts it out.
    feeder: u64,
}

/// A body that is under way, whoever feeds it. A channel of tokio's would take 3 KB for each request.
pub(crate) struct Upload(Mutex<Pipe>);

/// What of a body had arrived when its connection was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Received {
    /// What the next connection goes on behind.
    pub(crate) place: Place,
    /// Bytes that came over the link and that the backend has not taken.
    pub(crate) held: usize,
}

/// Both ends of the body of request `seq`.
pub(crate) fn channel(seq: u64, grpc: bool, credits: Arc<Credits>) -> (BodySender, LinkBody) {
    let pipe = Pipe::new(seq, grpc, credits);
    let upload = Arc::new(Upload(Mutex::new(pipe)));
    (BodySender { upload: Arc::clone(&upload), feeder: 0 }, LinkBody::new(upload))
}

impl BodySender {
    /// The body that it feeds.
    pub(crate) fn upload(&self) -> &Arc<Upload> {
        &self.upload
    }

    /// Passes a part of a message on; on its first part, `message_bytes` is the whole message's length.
    ///
    /// # Errors
    /// It is not the message that had arrived in part.
    pub(crate) fn part(
        &self,
        message_bytes: Option<u64>,
        bytes: Bytes,
        end_of_message: bool,
    ) -> Result<(), RpcError> {
        let mut pipe = self.upload.0.lock();
        if pipe.feeder != self.feeder {
            return Ok(());
        }
        if pipe.closed {
            // A backend that wants no more of the body has dropped its end; the rest is let go.
            pipe.credit(bytes.len());
            return Ok(());
        }
        pipe.accept(message_bytes, bytes, end_of_message)?;
        let waiting = pipe.waiting.take();
        drop(pipe);
        waiting.into_iter().for_each(Waker::wake);
        Ok(())
    }

    /// The body has arrived. False: another connection feeds it, and its end is not this one's to tell.
    ///
    /// # Errors
    /// It ends inside a message that was to come again.
    pub(crate) fn end(self) -> Result<bool, RpcError> {
        self.finish(Piece::End)
    }

    /// The body has arrived, and ends with trailers.
    ///
    /// # Errors
    /// As [`BodySender::end`].
    pub(crate) fn trailers(self, fields: HeaderMap) -> Result<bool, RpcError> {
        self.finish(Piece::Trailers(Box::new(fields)))
    }

    /// Whether the backend still takes the body.
    pub(crate) fn is_open(&self) -> bool {
        !self.upload.0.lock().closed
    }

    fn finish(self, last: Piece) -> Result<bool, RpcError> {
        let mut pipe = self.upload.0.lock();
        if pipe.feeder != self.feeder {
            return Ok(false);
        }
        if pipe.message.is_some() && !pipe.closed {
            return Err(malformed("the request ends inside a message that had arrived in part"));
        }
        pipe.ended = true;
        if !pipe.closed {
            pipe.pieces.push_back(last);
        }
        let waiting = pipe.waiting.take();
        drop(pipe);
        waiting.into_iter().for_each(Waker::wake);
        Ok(true)
    }
}

impl Upload {
    /// What is large of it counts as held from now on, until the backend's end lets go of it.
    pub(super) fn count_as(&self, held: &Arc<Held>) {
        self.0.lock().held = Some(Arc::clone(held));
    }

    /// Its connection is lost: whoever fed it so far is shut out. False: there is nothing to wait for, since all
    /// has arrived or the backend takes no more.
    pub(super) fn park(&self, now: Instant) -> bool {
        let mut pipe = self.0.lock();
        pipe.feeder += 1;
        pipe.credits = None;
        pipe.offered = None;
        pipe.parked_since = Some(now);
        pipe.wants_more()
    }

    /// What has arrived, to be told to the connection that may feed the rest; `None` where nothing is wanted. As long as
    /// that one lives the rest may come, however much its client has to send before it. One that does not go on inside a
    /// message feeds the last one again from its beginning.
    pub(super) fn offer(&self, goes_inside: bool) -> Option<Received> {
        let mut pipe = self.0.lock();
        pipe.parked_since = None;
        let held = pipe.pieces.iter().map(Piece::of_link).sum();
        let arriving = pipe.message.filter(|_| goes_inside);
        let bytes = arriving.map_or(0, |arriving| arriving.passed as u64);
        let received = Received { place: Place { messages: pipe.messages, bytes }, held };
        pipe.uncredited = 0;
        pipe.offered = pipe.wants_more().then_some(received);
        pipe.offered
    }

    /// Lets the connection of `credits`, which was offered it, feed the rest. Also says how many bytes count
    /// against its window.
    pub(super) fn take_up(self: &Arc<Self>, credits: &Arc<Credits>) -> Option<(BodySender, usize)> {
        let mut pipe = self.0.lock();
        let Received { place, held } = pipe.offered.take()?;
        pipe.feeder += 1;
        pipe.credits = Some(Arc::clone(credits));
        let taken = mem::take(&mut pipe.uncredited);
        pipe.credit(taken);
        if let Some(arriving) = &mut pipe.message {
            arriving.again = arriving.passed.saturating_sub(place.bytes as usize);
        }
        Some((BodySender { upload: Arc::clone(self), feeder: pipe.feeder }, held))
    }

    /// Whether it is offered to a connection that has not taken it up.
    pub(super) fn is_offered(&self) -> bool {
        self.0.lock().offered.is_some()
    }

    /// When it has been without a connection that may feed it for `wait`.
    pub(super) fn due(&self, wait: Duration) -> Option<Instant> {
        self.0.lock().parked_since.map(|since| since + wait)
    }

    /// The rest will not come: the backend's end fails.
    pub(super) fn break_off(&self) {
        let mut pipe = self.0.lock();
        pipe.broken = true;
        let waiting = pipe.waiting.take();
        drop(pipe);
        waiting.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests;
