//! Bytes that sessions hold for their clients: large parts of requests, answers, pushes and header fields, of each user's
//! sessions and of all.

use std::sync::{
    Arc, Weak,
    atomic::{AtomicUsize, Ordering},
};

use dashmap::DashMap;

use super::push_queue::PushQueue;
use crate::settings;

/// All that is held, and the shares of users of it.
#[derive(Debug, Default)]
pub(super) struct Holders {
    all: Arc<Held>,
    users: Arc<Users>,
}

/// Shares that a session or an exchange still has.
type Users = DashMap<Arc<str>, Weak<Held>>;

/// What is held of one kind, or by one user.
#[derive(Debug, Default)]
pub(super) struct Held {
    bytes: AtomicUsize,
    share: Option<Share>,
}

#[derive(Debug)]
struct Share {
    user: Arc<str>,
    all: Arc<Held>,
    users: Arc<Users>,
}

impl Holders {
    /// The share of a user. Sessions without a user share none: nothing tells whose they are.
    pub(super) fn of(&self, user: Option<&Arc<str>>) -> Arc<Held> {
        let Some(user) = user else { return Arc::clone(&self.all) };
        let mut entry = self.users.entry(Arc::clone(user)).or_default();
        entry.upgrade().unwrap_or_else(|| {
            let (user, all, users) = (Arc::clone(user), Arc::clone(&self.all), Arc::clone(&self.users));
            let held = Arc::new(Held { share: Some(Share { user, all, users }), ..Held::default() });
            *entry = Arc::downgrade(&held);
            held
        })
    }

    pub(super) fn bytes(&self) -> usize {
        self.all.bytes()
    }
}

impl Held {
    /// Whose share it is.
    pub(super) fn user(&self) -> Option<&Arc<str>> {
        self.share.as_ref().map(|share| &share.user)
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(super) fn add(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if let Some(share) = &self.share {
            share.all.add(bytes);
        }
    }

    pub(super) fn sub(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        if let Some(share) = &self.share {
            share.all.sub(bytes);
        }
    }

    /// Changes a queue and counts what that adds and takes.
    pub(super) fn change<T>(&self, queue: &mut PushQueue, change: impl FnOnce(&mut PushQueue) -> T) -> T {
        let before = queue.bytes();
        let result = change(queue);
        self.add(queue.bytes());
        self.sub(before);
        result
    }

    /// The bound that is met, by its name in the configuration.
    pub(super) fn full(&self, settings: &settings::Session) -> Option<&'static str> {
        let Some(share) = &self.share else {
            return (self.bytes() >= settings.held_bytes_max).then_some("session.held_bytes_max");
        };
        if self.bytes() >= settings.user_held_bytes_max {
            return Some("session.user_held_bytes_max");
        }
        share.all.full(settings)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        // Unless the user has got another share since.
        self.users.remove_if(&self.user, |_, held| held.strong_count() == 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_one_share_as_long_as_anybody_holds_it() {
        let holders = Holders::default();
        let (ann, bob) = (Arc::from("ann"), Arc::from("bob"));
        let (first, second) = (holders.of(Some(&ann)), holders.of(Some(&ann)));
        first.add(5);
        holders.of(Some(&bob)).add(7);
        holders.of(None).add(1);
        assert_eq!((second.bytes(), holders.bytes()), (5, 13));
        assert_eq!(holders.users.len(), 1, "nobody holds bob's");
        second.sub(5);
        drop((first, second));
        assert_eq!((holders.users.len(), holders.bytes()), (0, 8));
    }
}
