//! A connection while its handshake is under way: what arrives is early data, which may be a repeat of what
//! another connection brought (PROTOCOL.md, section 17).
//!
//! ```text
//!  HELLO --> visits its session? --no--> held, with all behind it --+
//!               | yes: WELCOME                                      |
//!               v                                                   v   handshake complete:
//!  whole REQUEST that the session has never seen --> runs       follow_event, in order
//!  anything else of the session ------------------> held -----------^
//! ```

use std::{
    collections::VecDeque,
    future::{Future, poll_fn},
    pin::Pin,
    sync::Arc,
    task::Poll,
    time::Instant,
};

use tokio::io::{AsyncRead, AsyncWrite};
use towline_protocols::link::{CloseCode, Event, Hello, LinkError};

use super::{Driver, End, Wake};
use crate::{
    early::{InVain, Wait, count},
    gateway::Gateway,
    link::door,
    request::Origin,
    transport::Completion,
};

/// Events that wait in one connection. A client's first flight is a HELLO and a few requests of one or two
/// frames each; more come from somebody who counts on an event being larger than its frame.
const HELD_MAX: usize = 512;

/// What a connection does first.
pub(super) enum Beginning {
    /// HELLO must have come by then.
    Hello {
        /// When.
        due: Instant,
    },
    /// HELLO came, as early data.
    Early(Early),
}

/// What waits for the handshake.
pub(super) struct Early {
    hello: Box<Hello>,
    held: VecDeque<Event>,
    /// Earlier requests whose answers follow, and who tells the tasks of QUIC streams that the connection
    /// holds its session; `None` where HELLO has not been answered.
    visit: Option<(Vec<u64>, Completion)>,
    /// The end of the handshake, with a place in the waiting room.
    over: Pin<Box<dyn Future<Output = Result<(), InVain>> + Send>>,
}

/// Waits for the end of the handshake; for ever where it is over. Safe to cancel.
pub(super) fn over(beginning: &mut Option<Box<Beginning>>) -> impl Future<Output = Wake> + '_ {
    // Not an `async fn`: the task of an idle connection must keep little room for it.
    poll_fn(move |cx| {
        let Some(Beginning::Early(early)) = beginning.as_deref_mut() else { return Poll::Pending };
        early.over.as_mut().poll(cx).map(|over| match over {
            Ok(()) => Wake::Established,
            Err(why) => Wake::Abandoned(why),
        })
    })
}

/// How a connection whose handshake does not end ends.
pub(super) fn abandoned(why: InVain) -> End {
    match why {
        InVain::Broken => End::Gone,
        InVain::Late | InVain::Full => LinkError::new(CloseCode::LimitExceeded, why.to_string()).into(),
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Driver<S> {
    pub(super) fn is_early(&self) -> bool {
        matches!(self.beginning.as_deref(), Some(Beginning::Early(_)))
    }

    /// HELLO in early data.
    pub(super) fn greet_early(&mut self, hello: Box<Hello>) -> Result<(), End> {
        let mut early = Early::begin(&self.gateway, &self.origin, hello).map_err(abandoned)?;
        if let Some(visit) = door::visit(&self.gateway, &self.origin, &early.hello) {
            self.binding.await_answers(&visit.awaited);
            self.attend(visit.admission, &early.hello);
            early.visit = Some((visit.awaited, visit.holds));
        }
        self.beginning = Some(Box::new(Beginning::Early(early)));
        Ok(())
    }

    /// Follows an event of early data, as far as it is safe.
    pub(super) fn follow_early(&mut self, event: Event) -> Result<(), End> {
        let (Some(early), Some(attendance)) = (early(&mut self.beginning), &mut self.attendance) else {
            return self.hold(event);
        };
        match event {
            Event::Writable { .. } => _ = self.binding.on_event(attendance, event),
            Event::Reset { seq, .. } if self.binding.carries(seq) => {
                _ = self.binding.on_event(attendance, event);
            }
            // The client took it back before it was to be looked at.
            Event::Reset { seq, .. } if early.holds_request(seq) => {
                early.take(seq).iter().for_each(|event| self.binding.discard(event));
            }
            event => {
                let whole = ends_request(&event);
                self.hold(event)?;
                whole.into_iter().for_each(|seq| self.run_early(seq));
            }
        }
        Ok(())
    }

    /// The handshake is complete: the session is the connection's own, and what waited is followed.
    pub(super) async fn leave_early(&mut self) -> Result<(), End> {
        if !self.origin.handshake.is_complete() {
            return Ok(());
        }
        let Some(beginning) = self.beginning.take() else { return Ok(()) };
        let Beginning::Early(Early { hello, held, visit, .. }) = *beginning else { return Ok(()) };
        if visit.is_none() || !held.is_empty() {
            count(&self.gateway, &self.origin, "waited");
        }
        match visit {
            None => Box::pin(self.login(&hello)).await?,
            Some((awaited, holds)) => {
                Box::pin(self.establish(&hello, &awaited)).await?;
                holds.complete();
            }
        }
        for event in held {
            self.follow_event(event)?;
        }
        Ok(())
    }

    fn hold(&mut self, event: Event) -> Result<(), End> {
        let Some(early) = early(&mut self.beginning) else { return Ok(()) };
        if early.held.len() >= HELD_MAX {
            self.gateway.metrics.limit_hit("early_events_max");
            let rule = "too many frames came as early data (early_events_max)";
            return Err(LinkError::new(CloseCode::LimitExceeded, rule).into());
        }
        early.held.push_back(event);
        Ok(())
    }

    /// Request `seq` has arrived whole: it runs now if the session has never seen it.
    fn run_early(&mut self, seq: u64) {
        let (Some(early), Some(attendance)) = (early(&mut self.beginning), &mut self.attendance) else {
            return;
        };
        let mut events = early.take(seq).into_iter();
        let Some(request) = events.next() else { return };
        match self.binding.on_event(attendance, request) {
            Some(known) => early.held.extend(std::iter::once(known).chain(events)),
            None => {
                count(&self.gateway, &self.origin, "served");
                events.for_each(|event| _ = self.binding.on_event(attendance, event));
            }
        }
    }

    async fn establish(&mut self, hello: &Hello, awaited: &[u64]) -> Result<(), End> {
        let Some(attendance) = &self.attendance else { return Ok(()) };
        let door = Arc::clone(&attendance.door);
        let established = door.establish(hello, awaited).await?;
        self.binding.resume(established.attached, &established.refused);
        self.subscribed(door.subscribed(established.subscriptions));
        if let Some(attendance) = &mut self.attendance {
            attendance.learn(hello);
            attendance.send_policy(self.binding.control());
        }
        Ok(())
    }
}

impl Early {
    fn begin(gateway: &Arc<Gateway>, origin: &Arc<Origin>, hello: Box<Hello>) -> Result<Self, InVain> {
        let wait = Wait::begin(gateway, origin)?;
        Ok(Self { hello, held: VecDeque::new(), visit: None, over: Box::pin(wait.over()) })
    }

    fn holds_request(&self, seq: u64) -> bool {
        self.held.iter().any(|event| request_of(event) == Some(seq))
    }

    /// Takes out what waits of one request.
    fn take(&mut self, seq: u64) -> Vec<Event> {
        let (taken, left) = self.held.drain(..).partition(|event| request_of(event) == Some(seq));
        self.held = left;
        Vec::from(taken)
    }
}

fn early(beginning: &mut Option<Box<Beginning>>) -> Option<&mut Early> {
    match beginning.as_deref_mut()? {
        Beginning::Early(early) => Some(early),
        Beginning::Hello { .. } => None,
    }
}

/// The request that the client's half in `event` belongs to.
fn request_of(event: &Event) -> Option<u64> {
    match event {
        Event::Request { seq, .. }
        | Event::MessagePart { seq, .. }
        | Event::End { seq }
        | Event::Trailers { seq, .. } => Some(*seq),
        _ => None,
    }
}

/// The request that has arrived whole with `event`.
fn ends_request(event: &Event) -> Option<u64> {
    match event {
        Event::Request { end: false, .. } | Event::MessagePart { end: false, .. } => None,
        event => request_of(event),
    }
}

#[cfg(test)]
mod tests;
