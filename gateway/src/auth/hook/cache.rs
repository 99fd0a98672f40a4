//! Answers that are kept, and questions that are under way, so that an equal one waits with them.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use futures_util::future::{FutureExt as _, Shared};
use lru::LruCache;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::{Answer, Outcome, Verdict, question::Key};

/// An answer that is awaited by everybody who asked.
pub(super) type Awaited = Shared<oneshot::Receiver<Outcome>>;

pub(super) struct Cache {
    state: Mutex<State>,
    entries_max: usize,
    /// Questions under way at the most.
    asked_max: usize,
    allowed_for: Duration,
    denied_for: Duration,
}

struct State {
    kept: LruCache<Key, Kept>,
    asked: HashMap<Key, Awaited>,
}

struct Kept {
    answer: Answer,
    until: Instant,
}

/// What there is for a question.
pub(super) enum Found {
    Kept(Answer),
    /// Somebody has asked the same.
    Asked(Awaited),
    /// Nobody has: the caller is to ask.
    Nobody(oneshot::Sender<Outcome>, Awaited),
    /// Too many questions are under way.
    Full,
}

impl Cache {
    pub(super) fn new(
        entries_max: usize,
        asked_max: usize,
        allowed_for: Duration,
        denied_for: Duration,
    ) -> Self {
        // Bounded here: the crate would take memory for all entries at once.
        let state = State { kept: LruCache::unbounded(), asked: HashMap::new() };
        Self { state: Mutex::new(state), entries_max, asked_max, allowed_for, denied_for }
    }

    /// The answer, if it is kept.
    pub(super) fn kept(&self, key: &Key, now: Instant) -> Option<Answer> {
        self.state.lock().kept(key, now)
    }

    pub(super) fn find(&self, key: &Key, now: Instant) -> Found {
        let mut state = self.state.lock();
        if let Some(answer) = state.kept(key, now) {
            return Found::Kept(answer);
        }
        if let Some(awaited) = state.asked.get(key) {
            return Found::Asked(awaited.clone());
        }
        if state.asked.len() >= self.asked_max {
            return Found::Full;
        }
        let (sender, receiver) = oneshot::channel();
        let awaited = receiver.shared();
        state.asked.insert(*key, awaited.clone());
        Found::Nobody(sender, awaited)
    }

    /// A question is over, with this answer or with none. True if another answer that was still good had to go.
    pub(super) fn settle(&self, key: Key, answer: Option<&Answer>, now: Instant) -> bool {
        let mut state = self.state.lock();
        state.asked.remove(&key);
        let Some(answer) = answer else { return false };
        let longest = match answer.verdict {
            Verdict::Allow(_) => self.allowed_for,
            Verdict::Deny(..) | Verdict::NotMine => self.denied_for,
        };
        let until = now + answer.keep.unwrap_or(longest).min(longest);
        if until <= now {
            return false;
        }
        state.kept.put(key, Kept { answer: answer.clone(), until });
        let pushed_out = if state.kept.len() > self.entries_max { state.kept.pop_lru() } else { None };
        pushed_out.is_some_and(|(_, kept)| kept.until > now)
    }
}

impl State {
    fn kept(&mut self, key: &Key, now: Instant) -> Option<Answer> {
        match self.kept.get(key) {
            Some(kept) if kept.until > now => Some(kept.answer.clone()),
            Some(_) => {
                self.kept.pop(key);
                None
            }
            None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn allow(keep_s: Option<u64>) -> Answer {
        Answer { verdict: Verdict::Allow(Arc::default()), keep: keep_s.map(Duration::from_secs) }
    }

    #[test]
    fn answers_are_kept_as_long_as_their_kind_and_their_backend_allow() {
        let cache = Cache::new(8, 8, 60 * SECOND, 5 * SECOND);
        let now = Instant::now();
        let denied = Answer { verdict: Verdict::NotMine, keep: None };
        for (number, answer, seconds) in [
            (1, allow(None), 60),
            (2, allow(Some(10)), 10),
            (3, allow(Some(1000)), 60),
            (4, denied.clone(), 5),
            (5, Answer { keep: Some(60 * SECOND), ..denied }, 5),
        ] {
            cache.settle([number; 32], Some(&answer), now);
            let last = now + seconds * SECOND - SECOND / 2;
            assert_eq!(cache.kept(&[number; 32], last), Some(answer), "{number}");
            assert_eq!(cache.kept(&[number; 32], now + seconds * SECOND), None, "{number}");
        }
        cache.settle([6; 32], Some(&allow(Some(0))), now);
        assert_eq!(cache.kept(&[6; 32], now), None, "it was not to be kept");
    }

    #[test]
    fn a_full_cache_gives_up_what_was_used_least_recently() {
        let cache = Cache::new(2, 8, 60 * SECOND, SECOND);
        let now = Instant::now();
        assert!(!cache.settle([1; 32], Some(&allow(None)), now));
        assert!(!cache.settle([2; 32], Some(&allow(Some(1))), now));
        assert!(cache.kept(&[1; 32], now).is_some());
        assert!(cache.settle([3; 32], Some(&allow(None)), now), "2 was good");
        assert!(cache.kept(&[1; 32], now).is_some() && cache.kept(&[2; 32], now).is_none());
        assert!(!cache.settle([3; 32], Some(&allow(None)), now), "it took its own place");
    }

    #[test]
    fn equal_questions_are_one_and_their_number_is_bounded() {
        let cache = Cache::new(2, 2, SECOND, SECOND);
        let now = Instant::now();
        let Found::Nobody(sender, first) = cache.find(&[1; 32], now) else { panic!("kept or asked") };
        let Found::Asked(second) = cache.find(&[1; 32], now) else { panic!("asked twice") };
        assert!(matches!(cache.find(&[2; 32], now), Found::Nobody(..)));
        assert!(matches!(cache.find(&[3; 32], now), Found::Full));
        cache.settle([1; 32], None, now);
        assert!(sender.send(Ok(allow(None))).is_ok());
        assert_eq!(first.now_or_never(), Some(Ok(Ok(allow(None)))));
        assert_eq!(second.now_or_never(), Some(Ok(Ok(allow(None)))));
        assert!(matches!(cache.find(&[1; 32], now), Found::Nobody(..)), "it failed: the next one asks again");
    }
}
