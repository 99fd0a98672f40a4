//! One connection's pace: its own buckets and its listener's.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

use tokio::time::{Sleep, sleep_until};

use super::{Bucket, Shared};
use crate::mqtt;

/// What is too fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit {
    DeviceMessages,
    DeviceBytes,
    Messages,
    Bytes,
}

/// Says when a connection may be read from.
pub(crate) struct Pace {
    shared: Arc<Shared>,
    messages: Option<Bucket>,
    bytes: Option<Bucket>,
    pause: Option<Pin<Box<Sleep>>>,
    /// Since when it is held back again and again.
    since: Option<Instant>,
}

impl Pace {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let (settings, now) = (shared.settings, mqtt::now());
        Self {
            messages: Bucket::new(settings.device_messages, settings.burst, now),
            bytes: Bucket::new(settings.device_bytes, settings.burst, now),
            shared,
            pause: None,
            since: None,
        }
    }

    /// Notes what was read. Returns what is too fast now, if it was not before.
    pub(crate) fn note_bytes(&mut self, bytes: usize) -> Option<Limit> {
        let now = mqtt::now();
        self.note_rest(now);
        let count = bytes as u64;
        let device = take(self.bytes.as_mut(), count, now).map(|until| (until, Limit::DeviceBytes));
        let shared = self.shared.bytes.as_ref().map(parking_lot::Mutex::lock);
        let shared = shared.and_then(|mut bucket| take(Some(&mut bucket), count, now));
        self.hold_back(device, shared.map(|until| (until, Limit::Bytes)), now)
    }

    /// Notes a message.
    pub(crate) fn note_message(&mut self) -> Option<Limit> {
        let now = mqtt::now();
        self.note_rest(now);
        let device = take(self.messages.as_mut(), 1, now).map(|until| (until, Limit::DeviceMessages));
        let shared = self.shared.messages.as_ref().map(parking_lot::Mutex::lock);
        let shared = shared.and_then(|mut bucket| take(Some(&mut bucket), 1, now));
        self.hold_back(device, shared.map(|until| (until, Limit::Messages)), now)
    }

    /// Whether nothing is to be read for now.
    pub(crate) fn is_paused(&self) -> bool {
        self.pause.is_some()
    }

    /// Ready when a pause is over; pending without one.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(pause) = &mut self.pause else { return Poll::Pending };
        ready!(pause.as_mut().poll(cx));
        self.pause = None;
        Poll::Ready(())
    }

    /// What the client has been too fast in for longer than the listener's patience.
    pub(crate) fn is_out_of_patience(&mut self) -> Option<Limit> {
        let (patience, now) = (self.shared.settings.patience, mqtt::now());
        let messages_are_full = self.note_rest(now);
        let is_out = self.since.is_some_and(|since| !patience.is_zero() && now >= since + patience);
        let limit = if messages_are_full { Limit::DeviceBytes } else { Limit::DeviceMessages };
        is_out.then_some(limit)
    }

    /// A client whose buckets are full has rested, whatever others have used of the listener's. Says whether that of
    /// messages is full.
    fn note_rest(&mut self, now: Instant) -> bool {
        let is_full = |bucket: &mut Option<Bucket>| bucket.as_mut().is_none_or(|bucket| bucket.is_full(now));
        let messages_are_full = is_full(&mut self.messages);
        if is_full(&mut self.bytes) && messages_are_full {
            self.since = None;
        }
        messages_are_full
    }

    fn hold_back(
        &mut self,
        device: Option<(Instant, Limit)>,
        shared: Option<(Instant, Limit)>,
        now: Instant,
    ) -> Option<Limit> {
        if device.is_some() {
            self.since.get_or_insert(now);
        }
        let (until, limit) = device.into_iter().chain(shared).max_by_key(|(until, _)| *until)?;
        let is_new = self.pause.is_none();
        match &mut self.pause {
            Some(pause) if pause.deadline().into_std() < until => pause.as_mut().reset(until.into()),
            Some(_) => {}
            None => self.pause = Some(Box::pin(sleep_until(until.into()))),
        }
        is_new.then_some(limit)
    }
}

impl Limit {
    /// The setting's name.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::DeviceMessages => "listeners.rate.device_messages",
            Self::DeviceBytes => "listeners.rate.device_bytes",
            Self::Messages => "listeners.rate.messages",
            Self::Bytes => "listeners.rate.bytes",
        }
    }
}

/// When the bucket's debt is paid, if it has one.
fn take(bucket: Option<&mut Bucket>, tokens: u64, now: Instant) -> Option<Instant> {
    let bucket = bucket?;
    bucket.take(tokens, now);
    bucket.ready_at()
}
