//! Keeps those who guess passwords from guessing fast: who was wrong too often is refused for a while without a look at
//! the password.
//!
//! Counted are wrong passwords of one user from one address, and of all users from one address: the latter only far
//! higher, since many clients of a mobile network share an address. A user alone is not counted, or anybody could lock
//! somebody else out; who names no user counts by address alone. An IPv6 address counts by its /64, which one customer
//! has.
//!
//! An attempt counts as a wrong one while it is looked at, so that many at one time find out no more than many after each
//! other. A fleet that logs in as one user from one address is not wrong for that: its attempts wait for each other.
//!
//! ```text
//!  begin --> refused?  --yes--> too many
//!              |no
//!            wrong + looked at < bound?  --no--> waits until one of those ends
//!              |yes
//!            Attempt --wrong--> counted; refused for a while from the bound on
//!                    --right--> its user's mistakes are forgotten
//!                    --dropped--> nobody could say: not counted
//! ```

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
    time::{Duration, Instant},
};

use lru::LruCache;
use parking_lot::Mutex;
use tokio::{sync::Notify, time::timeout_at};

use crate::settings;

/// How long an attempt waits for others of its user and address.
const TURN_TIMEOUT: Duration = Duration::from_secs(10);

/// Who was wrong lately, and who is being looked at.
#[derive(Debug)]
pub struct Guesses {
    state: Mutex<State>,
    hasher: RandomState,
}

#[derive(Debug)]
struct State {
    counted: LruCache<Guesser, Count>,
    /// As many as there are attempts under way, and no more: bounded as connections are.
    running: HashMap<Guesser, Running>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Guesser {
    Address(IpAddr),
    /// With the user's hash.
    Pair(IpAddr, u64),
}

#[derive(Clone, Copy, Debug)]
struct Count {
    failures: u32,
    /// When the first of them was.
    since: Instant,
    /// No password is looked at before.
    refused_until: Option<Instant>,
}

/// Attempts under way.
#[derive(Debug, Default)]
struct Running {
    looked_at: u32,
    waiting: u32,
    /// Told when there may be room for one that waits.
    freed: Arc<Notify>,
}

/// A password that is being looked at. Dropped, it counts as if it had not been.
#[derive(Debug)]
pub struct Attempt<'g> {
    guesses: &'g Guesses,
    guessers: Guessers,
}

/// Why a password is not looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TooMany {
    /// Others were wrong, for so long yet.
    Wrong(Duration),
    /// Others were being looked at for too long; with the setting's name.
    AtOneTime(&'static str),
}

/// A client's address, and its pair if it names a user.
type Guessers = [Option<Guesser>; 2];

enum Begun<'g> {
    Attempt(Attempt<'g>),
    Refused(Duration),
    Full(Turn<'g>),
}

/// A place among those that wait for attempts of a guesser.
struct Turn<'g> {
    guesses: &'g Guesses,
    guesser: Guesser,
    freed: Arc<Notify>,
}

impl Default for Guesses {
    fn default() -> Self {
        let state = State { counted: LruCache::unbounded(), running: HashMap::new() };
        Self { state: Mutex::new(state), hasher: RandomState::new() }
    }
}

impl Guesses {
    /// For how long a user of that address is refused yet.
    pub fn refused_for(&self, address: IpAddr, user: Option<&str>, now: Instant) -> Option<Duration> {
        self.state.lock().refused_for(&self.guessers(address, user), now)
    }

    /// Begins an attempt, once there are fewer under way than may yet be wrong.
    ///
    /// # Errors
    /// Too many were wrong, or are looked at for too long.
    pub async fn begin(
        &self,
        settings: &settings::Guesses,
        address: IpAddr,
        user: Option<&str>,
    ) -> Result<Attempt<'_>, TooMany> {
        let guessers = self.guessers(address, user);
        let deadline = tokio::time::Instant::now() + TURN_TIMEOUT;
        loop {
            let turn = match self.try_begin(settings, guessers, now()) {
                Begun::Attempt(attempt) => return Ok(attempt),
                Begun::Refused(left) => return Err(TooMany::Wrong(left)),
                Begun::Full(turn) => turn,
            };
            let freed = timeout_at(deadline, turn.freed.notified()).await;
            freed.map_err(|_late| TooMany::AtOneTime(turn.guesser.setting()))?;
        }
    }

    fn try_begin(&self, settings: &settings::Guesses, guessers: Guessers, now: Instant) -> Begun<'_> {
        let mut state = self.state.lock();
        if let Some(left) = state.refused_for(&guessers, now) {
            return Begun::Refused(left);
        }
        let bounded = guessers.map(|guesser| guesser.filter(|guesser| guesser.bound(settings) > 0));
        for guesser in bounded.into_iter().flatten() {
            if state.room(settings, guesser, now) == 0 {
                if let Some(left) = state.refuse(settings, guesser, now) {
                    return Begun::Refused(left);
                }
                let running = state.running.entry(guesser).or_default();
                running.waiting += 1;
                return Begun::Full(Turn { guesses: self, guesser, freed: Arc::clone(&running.freed) });
            }
        }
        for guesser in bounded.into_iter().flatten() {
            state.running.entry(guesser).or_default().looked_at += 1;
            // Who is told that there is room tells the next if there is more.
            if state.room(settings, guesser, now) > 0 {
                state.tell_waiting(guesser);
            }
        }
        Begun::Attempt(Attempt { guesses: self, guessers: bounded })
    }

    fn guessers(&self, address: IpAddr, user: Option<&str>) -> Guessers {
        let address = network(address);
        let user = user.filter(|user| !user.is_empty());
        let pair = user.map(|user| Guesser::Pair(address, self.hasher.hash_one(user)));
        [Some(Guesser::Address(address)), pair]
    }
}

impl Attempt<'_> {
    /// The password was wrong. Says which settings' bounds are met by that.
    pub fn wrong(self, settings: &settings::Guesses, now: Instant) -> Vec<&'static str> {
        let mut state = self.guesses.state.lock();
        let mut met = Vec::new();
        for guesser in self.guessers.into_iter().flatten() {
            if state.note(settings, guesser, now) {
                met.push(guesser.setting());
            }
        }
        while state.counted.len() > settings.entries_max {
            met.push("auth.guesses.entries_max");
            state.counted.pop_lru();
        }
        met
    }

    /// The password was right: its user only mistyped before. What others of the address did stays counted.
    pub fn right(self) {
        if let [_, Some(pair)] = self.guessers {
            self.guesses.state.lock().counted.pop(&pair);
        }
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        let mut state = self.guesses.state.lock();
        for guesser in self.guessers.into_iter().flatten() {
            if let Some(running) = state.running.get_mut(&guesser) {
                running.looked_at -= 1;
            }
            state.tell_waiting(guesser);
            state.tidy(guesser);
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = self.guesses.state.lock();
        if let Some(running) = state.running.get_mut(&self.guesser) {
            running.waiting -= 1;
        }
        state.tidy(self.guesser);
    }
}

impl State {
    fn refused_for(&mut self, guessers: &Guessers, now: Instant) -> Option<Duration> {
        let left = guessers.iter().flatten().filter_map(|guesser| {
            let until = self.counted.get(guesser)?.refused_until?;
            until.checked_duration_since(now).filter(|left| !left.is_zero())
        });
        left.max()
    }

    /// How many attempts may begin.
    fn room(&self, settings: &settings::Guesses, guesser: Guesser, now: Instant) -> u32 {
        let count = self.counted.peek(&guesser).filter(|count| !count.is_over(settings, now));
        let wrong = count.map_or(0, |count| count.failures);
        let looked_at = self.running.get(&guesser).map_or(0, |running| running.looked_at);
        guesser.bound(settings).saturating_sub(wrong.saturating_add(looked_at))
    }

    /// Refuses whoever was wrong more often than a bound allows that was lowered since. For how long.
    fn refuse(&mut self, settings: &settings::Guesses, guesser: Guesser, now: Instant) -> Option<Duration> {
        let count = self.counted.peek_mut(&guesser).filter(|count| !count.is_over(settings, now))?;
        if count.failures < guesser.bound(settings) {
            return None;
        }
        count.refused_until = Some(now + settings.refused_for);
        Some(settings.refused_for)
    }

    /// Counts a wrong password. Whether that meets the bound.
    fn note(&mut self, settings: &settings::Guesses, guesser: Guesser, now: Instant) -> bool {
        let fresh = Count { failures: 0, since: now, refused_until: None };
        let count = self.counted.get_or_insert_mut(guesser, || fresh);
        if count.is_over(settings, now) {
            *count = fresh;
        }
        count.failures = count.failures.saturating_add(1);
        let is_met = count.failures >= guesser.bound(settings) && count.refused_until.is_none();
        if is_met {
            count.refused_until = Some(now + settings.refused_for);
            // There is nothing to wait for any more.
            self.running.get(&guesser).into_iter().for_each(|running| running.freed.notify_waiters());
        }
        is_met
    }

    fn tell_waiting(&self, guesser: Guesser) {
        let running = self.running.get(&guesser).filter(|running| running.waiting > 0);
        running.into_iter().for_each(|running| running.freed.notify_one());
    }

    fn tidy(&mut self, guesser: Guesser) {
        let is_over = |running: &Running| running.looked_at == 0 && running.waiting == 0;
        if self.running.get(&guesser).is_some_and(is_over) {
            self.running.remove(&guesser);
        }
    }
}

impl Count {
    /// Whether it says nothing any more.
    fn is_over(&self, settings: &settings::Guesses, now: Instant) -> bool {
        self.refused_until.unwrap_or(self.since + settings.within) <= now
    }
}

impl Guesser {
    /// How often it may be wrong; 0 is no bound.
    const fn bound(self, settings: &settings::Guesses) -> u32 {
        match self {
            Self::Address(_) => settings.address_failures_max,
            Self::Pair(..) => settings.failures_max,
        }
    }

    /// The bound's name.
    const fn setting(self) -> &'static str {
        match self {
            Self::Address(_) => "auth.guesses.address_failures_max",
            Self::Pair(..) => "auth.guesses.failures_max",
        }
    }
}

fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}

/// Moved by tests, as all that waits.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

#[cfg(test)]
mod tests;
