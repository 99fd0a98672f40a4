//! Answers that are kept, and questions that are under way, so that an equal one waits with them.

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher, RandomState},
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
    hasher: RandomState,
}

struct State {
    kept: LruCache<Key, Kept>,
    asked: HashMap<Key, Awaited>,
    /// Places that are not settled: those in `asked`, and those whose answers nobody waits for any more.
    under_way: usize,
    /// How often answers were forgotten: what was asked before that is not kept.
    forgotten: u64,
}

struct Kept {
    answer: Answer,
    until: Instant,
    asked_of: UserHash,
}

/// Of the user that a question names; `None` if it names none.
type UserHash = Option<u64>;

/// A question that is under way.
pub(super) struct Place {
    key: Key,
    asked_of: UserHash,
    forgotten: u64,
}

/// What there is for a question.
pub(super) enum Found {
    Kept(Answer),
    /// Somebody has asked the same.
    Asked(Awaited),
    /// Nobody has: the caller is to ask.
    Nobody(Place, oneshot::Sender<Outcome>, Awaited),
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
        let state = State { kept: LruCache::unbounded(), asked: HashMap::new(), under_way: 0, forgotten: 0 };
        let (state, hasher) = (Mutex::new(state), RandomState::new());
        Self { state, entries_max, asked_max, allowed_for, denied_for, hasher }
    }

    /// The answer, if it is kept.
    pub(super) fn kept(&self, key: &Key, now: Instant) -> Option<Answer> {
        self.state.lock().kept(key, now)
    }

    /// What there is for a question that names `user`.
    pub(super) fn find(&self, key: &Key, user: Option<&str>, now: Instant) -> Found {
        let mut state = self.state.lock();
        if let Some(answer) = state.kept(key, now) {
            return Found::Kept(answer);
        }
        if let Some(awaited) = state.asked.get(key) {
            return Found::Asked(awaited.clone());
        }
        if state.under_way >= self.asked_max {
            return Found::Full;
        }
        let (sender, receiver) = oneshot::channel();
        let awaited = receiver.shared();
        state.asked.insert(*key, awaited.clone());
        state.under_way += 1;
        let place = Place { key: *key, asked_of: self.user_hash(user), forgotten: state.forgotten };
        Found::Nobody(place, sender, awaited)
    }

    /// A question is over, with this answer or with none. True if another answer that was still good had to go.
    pub(super) fn settle(&self, place: Place, answer: Option<&Answer>, now: Instant) -> bool {
        let Place { key, asked_of, forgotten } = place;
        let mut state = self.state.lock();
        state.under_way -= 1;
        if forgotten != state.forgotten {
            // Another may be under way for the same by now.
            return false;
        }
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
        state.kept.put(key, Kept { answer: answer.clone(), until, asked_of });
        let pushed_out = if state.kept.len() > self.entries_max { state.kept.pop_lru() } else { None };
        pushed_out.is_some_and(|(_, kept)| kept.until > now)
    }

    /// Forgets all answers, or those to questions that name a user, those that say that a client is that user, and those to
    /// questions under a name that was given to that user. Whoever asks from now on asks the backend, also where the same is
    /// under way. Says how many were kept.
    pub(super) fn forget(&self, user: Option<&str>) -> usize {
        let mut state = self.state.lock();
        state.forgotten += 1;
        state.asked.clear();
        let before = state.kept.len();
        let Some(user) = user else {
            state.kept.clear();
            return before;
        };
        let named = self.hasher.hash_one(user);
        // What a client may do is asked under the name that it was given.
        let given = state.kept.iter().filter(|(_, kept)| kept.asked_of == Some(named));
        let mut names: HashSet<u64> =
            given.filter_map(|(_, kept)| kept.answer.user()).map(|name| self.hasher.hash_one(name)).collect();
        names.insert(named);
        let is_of = |kept: &Kept| {
            kept.asked_of.is_some_and(|asked_of| names.contains(&asked_of))
                || kept.answer.user() == Some(user)
        };
        let keys: Vec<Key> = state.kept.iter().filter(|(_, kept)| is_of(kept)).map(|(key, _)| *key).collect();
        for key in &keys {
            state.kept.pop(key);
        }
        keys.len()
    }

    fn user_hash(&self, user: Option<&str>) -> UserHash {
        user.map(|user| self.hasher.hash_one(user))
    }
}

impl Answer {
    /// Who a client is by it, if it gives a name.
    fn user(&self) -> Option<&str> {
        match &self.verdict {
            Verdict::Allow(allowed) => allowed.user.as_deref(),
            Verdict::Deny(..) | Verdict::NotMine => None,
        }
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
    use crate::auth::hook::Allowed;

    const SECOND: Duration = Duration::from_secs(1);

    fn allow(keep_s: Option<u64>) -> Answer {
        Answer { verdict: Verdict::Allow(Arc::default()), keep: keep_s.map(Duration::from_secs) }
    }

    /// A question of `user` that is answered at once.
    fn settle(cache: &Cache, key: Key, user: Option<&str>, answer: &Answer, now: Instant) -> bool {
        // What is kept of the same is not looked at.
        let asked_of = cache.user_hash(user);
        let mut state = cache.state.lock();
        state.under_way += 1;
        let place = Place { key, asked_of, forgotten: state.forgotten };
        drop(state);
        cache.settle(place, Some(answer), now)
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
            settle(&cache, [number; 32], None, &answer, now);
            let last = now + seconds * SECOND - SECOND / 2;
            assert_eq!(cache.kept(&[number; 32], last), Some(answer), "{number}");
            assert_eq!(cache.kept(&[number; 32], now + seconds * SECOND), None, "{number}");
        }
        settle(&cache, [6; 32], None, &allow(Some(0)), now);
        assert_eq!(cache.kept(&[6; 32], now), None, "it was not to be kept");
    }

    #[test]
    fn a_full_cache_gives_up_what_was_used_least_recently() {
        let cache = Cache::new(2, 8, 60 * SECOND, SECOND);
        let now = Instant::now();
        assert!(!settle(&cache, [1; 32], None, &allow(None), now));
        assert!(!settle(&cache, [2; 32], None, &allow(Some(1)), now));
        assert!(cache.kept(&[1; 32], now).is_some());
        assert!(settle(&cache, [3; 32], None, &allow(None), now), "2 was good");
        assert!(cache.kept(&[1; 32], now).is_some() && cache.kept(&[2; 32], now).is_none());
        assert!(!settle(&cache, [3; 32], None, &allow(None), now), "it took its own place");
    }

    #[test]
    fn equal_questions_are_one_and_their_number_is_bounded() {
        let cache = Cache::new(2, 2, SECOND, SECOND);
        let now = Instant::now();
        let find = |key: u8| cache.find(&[key; 32], None, now);
        let Found::Nobody(place, sender, first) = find(1) else { panic!("kept or asked") };
        let Found::Asked(second) = find(1) else { panic!("asked twice") };
        assert!(matches!(find(2), Found::Nobody(..)));
        assert!(matches!(find(3), Found::Full));
        cache.settle(place, None, now);
        assert!(sender.send(Ok(allow(None))).is_ok());
        assert_eq!(first.now_or_never(), Some(Ok(Ok(allow(None)))));
        assert_eq!(second.now_or_never(), Some(Ok(Ok(allow(None)))));
        assert!(matches!(find(1), Found::Nobody(..)), "it failed: the next one asks again");
    }

    #[test]
    fn answers_of_a_user_are_forgotten_by_either_name_and_all_at_once() {
        let cache = Cache::new(8, 8, 60 * SECOND, 60 * SECOND);
        let now = Instant::now();
        let is_ada = Allowed { user: Some("ada".into()), ..Allowed::default() };
        let is_ada = Answer { verdict: Verdict::Allow(Arc::new(is_ada)), keep: None };
        let denied = Answer { verdict: Verdict::NotMine, keep: None };
        settle(&cache, [1; 32], Some("a@b"), &is_ada, now);
        settle(&cache, [2; 32], Some("ada"), &allow(None), now);
        settle(&cache, [3; 32], Some("ada"), &denied, now);
        settle(&cache, [4; 32], Some("bob"), &allow(None), now);
        settle(&cache, [5; 32], None, &allow(None), now);
        let kept = || (1..=5).filter(|key| cache.kept(&[*key; 32], now).is_some()).collect::<Vec<u8>>();
        assert_eq!((cache.forget(Some("eve")), kept()), (0, vec![1, 2, 3, 4, 5]));
        assert_eq!((cache.forget(Some("ada")), kept()), (3, vec![4, 5]));
        settle(&cache, [1; 32], Some("a@b"), &is_ada, now);
        settle(&cache, [2; 32], Some("ada"), &allow(None), now);
        assert_eq!((cache.forget(Some("a@b")), kept()), (2, vec![4, 5]), "who was a@b asked as ada");
        assert_eq!((cache.forget(None), kept()), (2, vec![]));
    }

    #[test]
    fn what_was_asked_before_is_neither_kept_nor_waited_for() {
        let cache = Cache::new(8, 8, 60 * SECOND, 60 * SECOND);
        let now = Instant::now();
        let find = || cache.find(&[1; 32], Some("ada"), now);
        let Found::Nobody(before, _sender, _awaited) = find() else { panic!("kept or asked") };
        cache.forget(Some("ada"));
        let Found::Nobody(after, _sender, _awaited) = find() else {
            panic!("waits for what was asked before")
        };
        cache.settle(before, Some(&allow(None)), now);
        assert!(matches!(find(), Found::Asked(_)), "the later question is under way yet");
        cache.settle(after, Some(&Answer { verdict: Verdict::NotMine, keep: None }), now);
        assert_eq!(cache.kept(&[1; 32], now).map(|answer| answer.verdict), Some(Verdict::NotMine));
    }

    #[test]
    fn forgetting_lifts_no_bound() {
        let cache = Cache::new(8, 1, SECOND, SECOND);
        let now = Instant::now();
        let Found::Nobody(place, ..) = cache.find(&[1; 32], None, now) else { panic!("kept or asked") };
        cache.forget(None);
        assert!(matches!(cache.find(&[1; 32], None, now), Found::Full), "the first is under way yet");
        cache.settle(place, None, now);
        assert!(matches!(cache.find(&[1; 32], None, now), Found::Nobody(..)));
    }
}
