//! When a second connection is made beside one that still works, and when the line moves over to it: at a gateway's
//! GOAWAY, when another network has joined the one in use, and when another carrier is better for it.
//!
//! ```text
//!        GOAWAY, with its turn        due              made, and it was the last check
//!  idle ─────────────────────> waits ────> connects ────────────────────────────────> ready ──the line moves──> idle
//!        a network has joined,   ^            │
//!        another carrier         ├──a pause───┴ failed, or made with checks to come
//!                                idle <── failed, for another carrier
//!
//!  whatever it does ──time is over, or the line is gone──> idle
//! ```

use std::time::{Duration, Instant};

use super::parameters::{millis, minutes, parameters, seconds};

parameters! {
    /// How a line moves to another connection while the one that it has still works.
    pub struct HandoverPolicy in "handover" {
        /// Off: a gateway that says GOAWAY is left before the next connection is made, and a network that has joined
        /// counts as one that has changed.
        enabled: bool = true, false => true;
        /// Connections in a row that have to come through to the gateway's answer over a network that has joined; the
        /// last of them takes the line over.
        checks: u32 = 2, 1 => 10;
        /// From the end of one of these to the beginning of the next, and of the next one behind one that failed.
        check_gap: Duration = seconds(1), millis(100) => minutes(1);
        /// A network that was not found to be good in so much time is left alone.
        give_up: Duration = seconds(30), seconds(1) => minutes(10);
    }
}

/// A GOAWAY as it came.
#[derive(Clone, Copy, Debug)]
pub struct SentAway {
    /// The time over which the gateway asks its clients to spread.
    pub spread: Duration,
    /// The connection's own draw in 0..1.
    pub share: f64,
}

/// When a line goes that was asked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leave {
    /// Its turn: from now on as soon as nothing runs there and the next connection is made, or need not be waited for.
    pub from: Instant,
    /// New requests go by it until then, from its turn on only while the next connection is being made.
    pub opens_until: Instant,
    /// In any case.
    pub by: Instant,
}

/// What the driver is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandoverAction {
    /// Begin a second connection, in place of one that is there.
    Connect,
    /// Drop what there is of a second connection.
    GiveUp,
}

/// The second connection of one client's line.
#[derive(Clone, Debug, Default)]
pub struct Handover {
    stage: Stage,
    /// When a line was left because of a GOAWAY, the last time.
    left: Option<Instant>,
    /// GOAWAYs in a row that came to lines which had just moved.
    repeats: u32,
}

#[derive(Clone, Copy, Debug, Default)]
enum Stage {
    #[default]
    Idle,
    Waits(Attempt, Instant),
    Connects(Attempt),
    Ready(Attempt),
}

#[derive(Clone, Copy, Debug)]
struct Attempt {
    cause: Cause,
    /// Until when it goes on.
    until: Instant,
    /// Connections in a row that were good.
    good: u32,
    /// Connections in a row that failed.
    failed: u32,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Cause {
    /// With the line's draw in 0..1.
    SentAway(f64),
    Joined,
    Carrier,
}

impl Handover {
    /// The gateway asks the line to leave. Says when it does; from its turn on a second connection is made.
    pub fn sent_away(&mut self, policy: &HandoverPolicy, told: SentAway, now: Instant) -> Leave {
        let SentAway { spread, share } = told;
        let is_repeated = self.left.is_some_and(|at| now < at + SETTLED_AFTER);
        self.repeats = if is_repeated { self.repeats.saturating_add(1) } else { 0 };
        let lead = if policy.enabled { (spread / 5).min(LEAD_MAX) } else { Duration::ZERO };
        let turn = (spread - lead).mul_f64(share);
        let from = now + turn.max(pause(self.repeats, share));
        let by = from + LEAVE_MAX;
        let opens_until = match policy.enabled {
            true => (now + spread - lead / 2).min(from + SERVES_MAX),
            false => from,
        };
        if policy.enabled {
            let cause = Cause::SentAway(share);
            self.stage = Stage::Waits(Attempt { cause, until: by, good: 0, failed: 0 }, from);
        }
        Leave { from, opens_until, by }
    }

    /// Another network has joined the one in use. A line that was sent away goes there anyway.
    pub fn joined(&mut self, policy: &HandoverPolicy, now: Instant) {
        if !self.is_sent_away() {
            let until = now + policy.give_up;
            self.stage = Stage::Waits(Attempt { cause: Cause::Joined, until, good: 0, failed: 0 }, now);
        }
    }

    /// Another carrier is to have the line, unless it moves already. One attempt is made.
    pub fn carried(&mut self, policy: &HandoverPolicy, now: Instant) {
        if policy.enabled && !self.is_under_way() {
            let until = now + policy.give_up;
            self.stage = Stage::Waits(Attempt { cause: Cause::Carrier, until, good: 0, failed: 0 }, now);
        }
    }

    /// The second connection is through. Whether the line moves there; otherwise it was a check, and is dropped.
    pub fn made(&mut self, policy: &HandoverPolicy, now: Instant) -> bool {
        let Stage::Connects(attempt) = self.stage else { return false };
        let attempt = Attempt { good: attempt.good + 1, failed: 0, ..attempt };
        let is_last = attempt.cause != Cause::Joined || attempt.good >= policy.checks;
        self.stage = match is_last {
            true => Stage::Ready(attempt),
            false => Stage::Waits(attempt, now + policy.check_gap),
        };
        is_last
    }

    /// The second connection could not be made.
    pub fn failed(&mut self, policy: &HandoverPolicy, now: Instant) {
        let Stage::Connects(attempt) = self.stage else { return };
        let attempt = Attempt { good: 0, failed: attempt.failed.saturating_add(1), ..attempt };
        self.stage = match attempt.cause {
            Cause::SentAway(share) => Stage::Waits(attempt, now + pause(attempt.failed, share)),
            Cause::Joined => Stage::Waits(attempt, now + policy.check_gap),
            Cause::Carrier => Stage::Idle,
        };
    }

    /// The line has ended, or moved; `sent_away`: because it was asked to.
    pub fn line_ended(&mut self, sent_away: bool, now: Instant) {
        if sent_away {
            self.left = Some(now);
        }
        self.stage = Stage::Idle;
    }

    /// What was found does not hold any more: the networks have changed.
    pub fn network_changed(&mut self, now: Instant) {
        match self.stage {
            Stage::Connects(attempt) | Stage::Ready(attempt) if self.is_sent_away() => {
                self.stage = Stage::Waits(attempt, now);
            }
            Stage::Waits(..) if self.is_sent_away() => {}
            _ => self.stage = Stage::Idle,
        }
    }

    /// Whether the line may move now.
    pub fn is_ready(&self) -> bool {
        matches!(self.stage, Stage::Ready(_))
    }

    /// Whether a second connection is there, is being made, or is to be.
    pub fn is_under_way(&self) -> bool {
        !matches!(self.stage, Stage::Idle)
    }

    /// Whether what is under way is for a network that has joined.
    pub fn is_for_network(&self) -> bool {
        self.cause() == Some(Cause::Joined)
    }

    /// Whether what is under way is for another carrier.
    pub fn is_for_carrier(&self) -> bool {
        self.cause() == Some(Cause::Carrier)
    }

    /// What is to be done now; to be asked until there is nothing.
    pub fn poll(&mut self, now: Instant) -> Option<HandoverAction> {
        match self.stage {
            Stage::Waits(attempt, _) | Stage::Connects(attempt) if now >= attempt.until => {
                self.stage = Stage::Idle;
                Some(HandoverAction::GiveUp)
            }
            Stage::Waits(attempt, due) if now >= due => {
                self.stage = Stage::Connects(attempt);
                Some(HandoverAction::Connect)
            }
            _ => None,
        }
    }

    /// When [`Handover::poll`] is to be asked again.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.stage {
            Stage::Waits(attempt, due) => Some(due.min(attempt.until)),
            Stage::Connects(attempt) => Some(attempt.until),
            Stage::Idle | Stage::Ready(_) => None,
        }
    }

    fn is_sent_away(&self) -> bool {
        matches!(self.cause(), Some(Cause::SentAway(_)))
    }

    fn cause(&self) -> Option<Cause> {
        match self.stage {
            Stage::Idle => None,
            Stage::Waits(attempt, _) | Stage::Connects(attempt) | Stage::Ready(attempt) => {
                Some(attempt.cause)
            }
        }
    }
}

/// How long a connection that was told to go away is kept for the answers that are still to come.
const LEAVE_MAX: Duration = seconds(10);
/// How long of that new requests go by it, where something runs there all the time. Behind that they wait until what
/// runs has ended, so that a client with much to do leaves in its own turn and not with all others at the end.
const SERVES_MAX: Duration = seconds(5);
/// The end of a spread that no turn falls into, and a fifth of it at the most: the next connection is to be made while
/// the gateway still takes requests, of which none is to come to it too late.
const LEAD_MAX: Duration = seconds(2);
/// Whom a GOAWAY finds on a line that was made since, because of another one, has been sent in circles.
const SETTLED_AFTER: Duration = seconds(10);
const PAUSE_MIN: Duration = millis(500);
const PAUSE_MAX: Duration = minutes(1);

/// Before an attempt behind so many in vain; of which clients that fail together have different ones.
fn pause(vain: u32, share: f64) -> Duration {
    let Some(doublings) = vain.checked_sub(1) else { return Duration::ZERO };
    let ceiling = PAUSE_MIN.saturating_mul(1 << doublings.min(20)).min(PAUSE_MAX);
    ceiling.mul_f64(0.5 + share / 2.0)
}

#[cfg(test)]
mod tests;
