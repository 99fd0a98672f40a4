//! Keeps those who guess passwords from guessing fast: who was wrong too often is refused for a while without a look at
//! the password.
//!
//! Counted are wrong passwords of one user from one address, and of all users from one address: the latter only far
//! higher, since many clients of a mobile network share an address. A user alone is not counted, or anybody could lock
//! somebody else out. An IPv6 address counts by its /64, which one customer has.

use std::{
    hash::{BuildHasher, RandomState},
    net::{IpAddr, Ipv6Addr},
    time::{Duration, Instant},
};

use lru::LruCache;
use parking_lot::Mutex;

use crate::settings;

/// Who was wrong lately.
#[derive(Debug)]
pub struct Guesses {
    counted: Mutex<LruCache<Guesser, Count>>,
    hasher: RandomState,
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

impl Default for Guesses {
    fn default() -> Self {
        Self { counted: Mutex::new(LruCache::unbounded()), hasher: RandomState::new() }
    }
}

impl Guesses {
    /// For how long a user of that address is refused yet.
    pub fn refused_for(&self, address: IpAddr, user: &str, now: Instant) -> Option<Duration> {
        let mut counted = self.counted.lock();
        let left = self.guessers(address, user).into_iter().filter_map(|guesser| {
            let until = counted.get(&guesser)?.refused_until?;
            until.checked_duration_since(now).filter(|left| !left.is_zero())
        });
        left.max()
    }

    /// A password was wrong. Says which settings' bounds are met by that.
    pub fn note(
        &self,
        settings: &settings::Guesses,
        address: IpAddr,
        user: &str,
        now: Instant,
    ) -> Vec<&'static str> {
        let mut counted = self.counted.lock();
        let mut met = Vec::new();
        let bounds = [settings.address_failures_max, settings.failures_max];
        let names = ["auth.guesses.address_failures_max", "auth.guesses.failures_max"];
        for ((guesser, bound), name) in self.guessers(address, user).into_iter().zip(bounds).zip(names) {
            if bound == 0 {
                continue;
            }
            let fresh = Count { failures: 0, since: now, refused_until: None };
            let count = counted.get_or_insert_mut(guesser, || fresh);
            let is_over = |until: Instant| until <= now;
            if count.refused_until.map_or(is_over(count.since + settings.within), is_over) {
                *count = fresh;
            }
            count.failures = count.failures.saturating_add(1);
            if count.failures >= bound && count.refused_until.is_none() {
                count.refused_until = Some(now + settings.refused_for);
                met.push(name);
            }
        }
        while counted.len() > settings.entries_max {
            met.push("auth.guesses.entries_max");
            counted.pop_lru();
        }
        met
    }

    /// A password was right: its user only mistyped before. What others of the address did stays counted.
    pub fn forget(&self, address: IpAddr, user: &str) {
        let [_, pair] = self.guessers(address, user);
        self.counted.lock().pop(&pair);
    }

    fn guessers(&self, address: IpAddr, user: &str) -> [Guesser; 2] {
        let address = network(address);
        [Guesser::Address(address), Guesser::Pair(address, self.hasher.hash_one(user))]
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

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn settings() -> settings::Guesses {
        settings::Guesses {
            failures_max: 3,
            address_failures_max: 6,
            within: 60 * SECOND,
            refused_for: 30 * SECOND,
            entries_max: 100,
        }
    }

    fn address(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    #[test]
    fn who_is_wrong_too_often_is_refused_for_a_while() {
        let (guesses, settings, now) = (Guesses::default(), settings(), Instant::now());
        for _ in 0..2 {
            assert!(guesses.note(&settings, address(1), "ada", now).is_empty());
            assert_eq!(guesses.refused_for(address(1), "ada", now), None);
        }
        let met = guesses.note(&settings, address(1), "ada", now + 59 * SECOND);
        assert_eq!(met, ["auth.guesses.failures_max"]);
        let then = now + 60 * SECOND;
        assert_eq!(guesses.refused_for(address(1), "ada", then), Some(29 * SECOND));
        assert_eq!(guesses.refused_for(address(1), "bob", then), None, "another user");
        assert_eq!(guesses.refused_for(address(2), "ada", then), None, "elsewhere nobody is locked out");
        assert_eq!(guesses.refused_for(address(1), "ada", now + 89 * SECOND), None);
        assert!(guesses.note(&settings, address(1), "ada", now + 90 * SECOND).is_empty(), "counted anew");
    }

    #[test]
    fn mistakes_far_apart_and_before_a_right_password_do_not_add_up() {
        let (guesses, settings, now) = (Guesses::default(), settings(), Instant::now());
        for at in 0..10 {
            assert!(guesses.note(&settings, address(1), "ada", now + at * 60 * SECOND).is_empty());
        }
        for _ in 0..2 {
            assert!(guesses.note(&settings, address(3), "bob", now).is_empty());
            assert!(guesses.note(&settings, address(3), "bob", now).is_empty());
            guesses.forget(address(3), "bob");
        }
    }

    #[test]
    fn who_tries_many_users_is_refused_for_all() {
        let (guesses, settings, now) = (Guesses::default(), settings(), Instant::now());
        let met: Vec<_> = ["a", "b", "c", "d", "e", "f"]
            .iter()
            .flat_map(|user| guesses.note(&settings, address(1), user, now))
            .collect();
        assert_eq!(met, ["auth.guesses.address_failures_max"]);
        assert_eq!(guesses.refused_for(address(1), "z", now), Some(30 * SECOND));
        let neighbours = ["2001:db8::1", "2001:db8::2:1", "2001:db8:0:1::1"].map(|it| it.parse().unwrap());
        for _ in 0..6 {
            guesses.note(&settings, neighbours[0], "a", now);
        }
        let refused = neighbours.map(|it| guesses.refused_for(it, "z", now).is_some());
        assert_eq!(refused, [true, true, false], "by /64");
    }

    #[test]
    fn the_table_is_bounded_and_zero_counts_nothing() {
        let (guesses, now) = (Guesses::default(), Instant::now());
        let small = settings::Guesses { entries_max: 4, ..settings() };
        let met: Vec<_> = (0..9).flat_map(|at| guesses.note(&small, address(at), "a", now)).collect();
        assert_eq!(met, ["auth.guesses.entries_max"; 14]);
        assert_eq!(guesses.counted.lock().len(), 4);
        let off = settings::Guesses { failures_max: 0, address_failures_max: 0, ..settings() };
        for _ in 0..1000 {
            assert!(guesses.note(&off, address(77), "a", now).is_empty());
        }
        assert_eq!(guesses.refused_for(address(77), "a", now), None);
    }
}
