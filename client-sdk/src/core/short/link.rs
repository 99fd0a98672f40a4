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
    /// Since when there is no link, nor was one that lasted.
    pub(super) down_since: Instant,
    pub(super) up_since: Option<Instant>,
    /// When the link's connection brought something last.
    pub(super) heard: Instant,
    /// Short connections look again in time, though the link is up.
    pub(super) is_watched: bool,
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
            up_since: None,
            heard: now(),
            is_watched: false,
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

    pub(super) fn is_up(&self) -> bool {
        self.up_since.is_some()
    }

    /// When a call may go out by POST; `None` while the link carries it.
    pub(super) fn due(&self, call: &Call, waits: &ShortWaits) -> Option<Instant> {
        match self.mode {
            ShortCalls::Off => None,
            ShortCalls::Always => waits.absent.map(|_| self.down_since),
            // One that was tried in vain is the link's.
            ShortCalls::Fallback if self.is_up() => {
                let silence = waits.silent.filter(|_| !call.short_failed)?;
                Some(call.asked_at.max(self.heard) + silence)
            }
            ShortCalls::Fallback => {
                let absent = self.down_since + waits.absent?;
                let cut = call.cut_at.filter(|_| !call.short_failed).zip(waits.cut);
                Some(cut.map_or(absent, |(at, wait)| absent.min(at + wait)))
            }
        }
    }
}

/// Requests that are remembered as given up; beyond, the oldest run on to their deadline.
const GIVEN_UP_MAX: usize = 256;
