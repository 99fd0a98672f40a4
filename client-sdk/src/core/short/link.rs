//! The state of the link as far as short connections go by it, and when calls are due for them.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use towline_protocols::policy::ShortWaits;

use crate::{
    config::{ClientConfig, Endpoint, ShortCalls},
    core::{Call, now},
};

/// The state of the link as far as short connections go by it.
pub(crate) struct LinkState {
    pub(super) mode: ShortCalls,
    pub(super) after: Duration,
    /// Since when there is no link, nor was one that is not held to be part of the same trouble.
    pub(super) down_since: Instant,
    /// Links in a row that were up for a moment only.
    brief: u32,
    /// When the first attempt since then began; `None`: it is still to come.
    tried: Option<Instant>,
    pub(super) up_since: Option<Instant>,
    /// When the link's connection brought something last.
    pub(super) heard: Instant,
    /// When it brought some of an answer last, whichever.
    brought: Instant,
    /// Short connections look again in time, though the link is up.
    pub(super) is_watched: bool,
    /// The next link is expected to carry calls with its first packets.
    pub(crate) is_early: bool,
    /// No link could be made since one was lost.
    has_failed: bool,
    /// Where the session was found last.
    pub(crate) home: Option<Endpoint>,
    /// The newest short connection reached no gateway.
    pub(super) are_shorts_lost: bool,
    /// Requests that the app gave up while the gateway may run them, and their deadlines, at which it ends them
    /// anyway.
    pub(super) given_up: VecDeque<(u64, Instant)>,
    /// Short connections have something to do.
    pub(in crate::core) wake: bool,
}

impl LinkState {
    pub(in crate::core) fn new(config: &ClientConfig) -> Self {
        let (mode, after) = (config.short_mode(), config.short_after);
        Self {
            mode,
            after,
            down_since: now(),
            brief: 0,
            tried: None,
            up_since: None,
            heard: now(),
            brought: now(),
            is_watched: false,
            is_early: config.early_data,
            has_failed: false,
            home: None,
            are_shorts_lost: false,
            given_up: VecDeque::new(),
            wake: false,
        }
    }

    /// The app gave a request up that a short connection has carried.
    pub(in crate::core) fn give_up(&mut self, seq: u64, deadline: Instant) {
        if self.given_up.len() >= GIVEN_UP_MAX {
            tracing::debug!("{GIVEN_UP_MAX} calls are given up already: the oldest is left to its deadline");
            self.given_up.pop_front();
        }
        self.given_up.push_back((seq, deadline));
        self.wake = true;
    }

    pub(super) fn has_given_up(&mut self) -> bool {
        let now = Instant::now();
        self.given_up.retain(|(_, deadline)| *deadline > now);
        !self.given_up.is_empty()
    }

    pub(crate) fn is_up(&self) -> bool {
        self.up_since.is_some()
    }

    /// The link's connection brought some of an answer.
    pub(in crate::core) fn brought(&mut self, now: Instant) {
        self.brought = now;
    }

    /// Whether the link, where calls go by that first, is up and brought since what the call waits for: a sign of life,
    /// or more of an answer.
    pub(super) fn has_come_since(&self, call: &Call) -> bool {
        let came = if call.is_stalled { self.brought } else { self.heard };
        self.mode == ShortCalls::Fallback && self.is_up() && came > call.posting_since
    }

    /// When the answer of a call counts as standing still on the link, if that has brought some of it. Other answers may
    /// take the link meanwhile, or be more urgent: where they move, this one waits its turn.
    fn stalls_at(&self, call: &Call, waits: &ShortWaits) -> Option<Instant> {
        Some(call.answer_moved()?.max(self.brought) + waits.stalled?)
    }

    /// Whether it does at `now`.
    pub(super) fn is_stalled(&self, call: &Call, waits: &ShortWaits, now: Instant) -> bool {
        self.is_up() && self.stalls_at(call, waits).is_some_and(|at| at <= now)
    }

    /// When a call may go out by POST; `None` while the link carries it.
    pub(super) fn due(&self, call: &Call, waits: &ShortWaits) -> Option<Instant> {
        match self.mode {
            ShortCalls::Off => None,
            ShortCalls::Always => waits.absent.map(|_| self.down_since),
            // One that was tried in vain is the link's.
            ShortCalls::Fallback if self.is_up() && call.short_failed => None,
            ShortCalls::Fallback if self.is_up() => {
                let silent = waits.silent.map(|silence| call.asked_at.max(self.heard) + silence);
                silent.into_iter().chain(self.stalls_at(call, waits)).min()
            }
            ShortCalls::Fallback => {
                // A POST beside a link that comes is a connection for nothing: that has its time first.
                let last = self.down_since.max(call.started) + self.after;
                let Some(tried) = self.tried else { return waits.absent.map(|_| last) };
                let absent = last.min(tried + waits.absent?);
                let cut = call.cut_at.filter(|_| !call.short_failed).zip(waits.cut);
                let cut = cut.map(|(at, wait)| (at, if self.has_failed { Duration::ZERO } else { wait }));
                Some(cut.map_or(absent, |(at, wait)| absent.min(at.max(tried) + wait)))
            }
        }
    }

    /// WELCOME came on the link's connection to `gateway`.
    pub(super) fn is_made(&mut self, gateway: &Endpoint, now: Instant) {
        (self.up_since, self.heard, self.has_failed) = (Some(now), now, false);
        self.home = Some(gateway.clone());
        self.wake = true;
    }

    /// The link's connection is gone, or could not be made. For how long it was up.
    pub(super) fn is_lost(&mut self, now: Instant) -> Option<Duration> {
        self.wake = true;
        self.has_failed = !self.is_up();
        let was_up = now.saturating_duration_since(self.up_since.take()?);
        self.brief = if was_up >= self.after { 0 } else { self.brief.saturating_add(1) };
        // Where links die again and again in their first moments, calls need not wait for the next one.
        if self.brief <= 1 {
            (self.down_since, self.tried) = (now, None);
        }
        Some(was_up)
    }

    /// A connection is there for the link, and calls went with its first packets if it `flew`. Of a session that is not
    /// `known` none could.
    pub(crate) fn flew(&mut self, flew: bool, known: bool) {
        self.is_early = flew || (self.is_early && !known);
    }

    /// An attempt to make the link begins.
    pub(crate) fn begins(&mut self, now: Instant) {
        self.wake |= self.tried.is_none();
        self.tried.get_or_insert(now);
    }
}

/// Requests that are remembered as given up; beyond, the oldest run on to their deadline.
const GIVEN_UP_MAX: usize = 256;
