//! Signs of life: what was promised, what is due.

use std::time::{Duration, Instant};

use crate::policy::Signs;

/// When this side must send something, and when the peer's silence is too long.
#[derive(Debug)]
pub(super) struct Heartbeat {
    last_sent: Instant,
    last_received: Instant,
    /// How long this side may be silent before it sends a PING; the client's promise.
    interval: Option<Duration>,
    /// The longest that the server allows.
    interval_max: Option<Duration>,
    /// Somebody else judges whether the peer is there, by [`Heartbeat::signs`].
    pub(super) is_watched: bool,
    /// How long the peer may be silent: its promise and the grace.
    silence_max: Option<Duration>,
    /// The oldest bytes sent since something was last received.
    unanswered_since: Option<Instant>,
    /// PINGs that are not answered. A server, which has many connections, sends none.
    pings_out: Option<Box<PingsOut>>,
    pings: u64,
    /// The newest PING that was answered.
    answered: u64,
}

/// The oldest PING that is not answered, by which the peer's silence is measured, and the newest, which may be the same.
/// A beat that keeps a promise goes out whether or not the PING before it was answered; it gives a dead peer no time.
#[derive(Debug)]
struct PingsOut {
    oldest: (u64, Instant),
    newest: (u64, Instant),
}

/// What the time calls for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    Nothing,
    Ping,
    PeerIsSilent,
}

impl Heartbeat {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            last_sent: now,
            last_received: now,
            interval: None,
            interval_max: None,
            is_watched: false,
            silence_max: None,
            unanswered_since: None,
            pings_out: None,
            pings: 0,
            answered: 0,
        }
    }

    /// A server's, whose peer was last heard of then and promised so much.
    pub(super) fn promised(last_received: Instant, silence_max: Option<Duration>) -> Self {
        Self { silence_max, ..Self::new(last_received) }
    }

    /// When something was last received, and how long the peer may be silent.
    pub(super) fn promise(&self) -> (Instant, Option<Duration>) {
        (self.last_received, self.silence_max)
    }

    pub(super) fn on_sent(&mut self, now: Instant) {
        self.last_sent = now;
        self.unanswered_since.get_or_insert(now);
    }

    pub(super) fn on_received(&mut self, now: Instant) {
        self.last_received = now;
        self.unanswered_since = None;
    }

    /// Something was sent elsewhere, which keeps no promise.
    pub(super) fn on_spoke(&mut self, at: Instant) {
        self.unanswered_since.get_or_insert(at);
    }

    /// Something arrived at that time, which may have passed.
    pub(super) fn on_heard(&mut self, at: Instant) {
        self.last_received = self.last_received.max(at);
        self.unanswered_since = self.unanswered_since.filter(|since| *since > at);
    }

    pub(super) fn set_interval(&mut self, interval: Option<Duration>) {
        self.interval = match (interval, self.interval_max) {
            (Some(interval), Some(max)) => Some(interval.min(max)),
            (interval, _) => interval,
        };
    }

    /// The server's word on how long the client may be silent at most.
    pub(super) fn limit_interval(&mut self, max: Option<Duration>) {
        self.interval_max = max;
        self.set_interval(self.interval.or(max));
    }

    /// When a beat is due; `None` where none was promised.
    pub(super) fn beat_due(&self) -> Option<Instant> {
        Some(self.last_sent + self.interval?)
    }

    /// What is known of the peer.
    pub(super) fn signs(&self) -> Signs {
        Signs {
            heard: self.last_received,
            spoke: self.last_sent,
            unanswered: self.unanswered_since,
            ping: self.ping_sent(),
            outstanding: 0,
            waiting: None,
        }
    }

    pub(super) fn interval(&self) -> Option<Duration> {
        self.interval
    }

    pub(super) fn set_silence_max(&mut self, silence_max: Duration) {
        self.silence_max = Some(silence_max);
    }

    /// The id of a new PING.
    pub(super) fn begin_ping(&mut self, now: Instant) -> u64 {
        self.pings += 1;
        let newest = (self.pings, now);
        match &mut self.pings_out {
            Some(out) => out.newest = newest,
            None => self.pings_out = Some(Box::new(PingsOut { oldest: newest, newest })),
        }
        self.pings
    }

    /// The device slept: what was said before may never have left, and an answer may have come while nobody listened.
    pub(super) fn on_woke(&mut self) {
        (self.pings_out, self.unanswered_since) = (None, None);
    }

    /// PINGs of this connection.
    pub(super) fn pings(&self) -> u64 {
        self.pings
    }

    /// The newest PING of this connection that was answered: the peer has what was said before it.
    pub(super) fn answered(&self) -> u64 {
        self.answered
    }

    /// The round-trip time, if this answers the oldest PING that is out, or the newest.
    pub(super) fn on_pong(&mut self, id: u64, now: Instant) -> Option<Duration> {
        if id <= self.pings {
            self.answered = self.answered.max(id);
        }
        let out = self.pings_out.as_mut()?;
        let (_, sent) = [out.oldest, out.newest].into_iter().find(|(ping, _)| *ping == id)?;
        // PONGs come in the order of their PINGs. Of those in between, nobody measures how long they took.
        out.oldest = out.newest;
        self.pings_out.take_if(|out| out.newest.0 == id);
        Some(now.saturating_duration_since(sent))
    }

    /// `ping_timeout` is the client's; the server judges by the promise alone.
    pub(super) fn next(&self, ping_timeout: Option<Duration>) -> Option<Instant> {
        let silence = self.silence_max.map(|max| self.last_received + max);
        let beat = self.interval.map(|interval| self.last_sent + interval);
        let unanswered = ping_timeout.and_then(|timeout| match &self.pings_out {
            Some(_) => Some(self.ping_deadline(timeout)?),
            None => Some(self.unanswered_since? + timeout / 2),
        });
        [silence, beat, unanswered].into_iter().flatten().min()
    }

    pub(super) fn due(&self, now: Instant, ping_timeout: Option<Duration>) -> Due {
        let passed = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if passed(self.silence_max.map(|max| self.last_received + max)) {
            return Due::PeerIsSilent;
        }
        if let Some(timeout) = ping_timeout {
            if passed(self.ping_deadline(timeout)) {
                return Due::PeerIsSilent;
            }
            if self.pings_out.is_none() && passed(self.unanswered_since.map(|since| since + timeout / 2)) {
                return Due::Ping;
            }
        }
        if passed(self.interval.map(|interval| self.last_sent + interval)) { Due::Ping } else { Due::Nothing }
    }

    /// When the oldest PING left that is not answered.
    fn ping_sent(&self) -> Option<Instant> {
        Some(self.pings_out.as_ref()?.oldest.1)
    }

    /// Anything that arrives is a sign of life, not only the PONG.
    fn ping_deadline(&self, timeout: Duration) -> Option<Instant> {
        Some(self.ping_sent()?.max(self.last_received) + timeout)
    }
}
