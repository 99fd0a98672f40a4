//! What vouched for connected clients is withdrawn: the hook's answers are forgotten, a reload changed who is admitted, the
//! issuer of tokens has taken a key back, or an authority was taken out of a listener's `client_ca`. Their connections end, and whoever still may is back at once, looked at anew.
//!
//! ```text
//!  answers or users change --> counted --> connections that this concerns --> end, so many in a second
//!                                 |
//!  a login that began before <----+  it looks at the count when it is through, and ends as well
//! ```

use std::{
    collections::{HashSet, VecDeque},
    mem,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;

use crate::{
    auth::{By, hook::Hook},
    gateway::Gateway,
    mqtt,
    request::Origin,
    session,
    settings::Authentication,
    snapshot::Snapshot,
};

/// In a second: steps small enough that clients do not come back all at once.
const STEPS_PER_SECOND: u32 = 10;

/// Connections that are to end, and how often some were looked for.
#[derive(Default)]
pub struct Withdrawals {
    count: AtomicU64,
    /// Beyond the first step; `None` while nothing waits, and no task is there.
    waiting: Arc<Mutex<Option<VecDeque<Present>>>>,
}

impl Withdrawals {
    /// How often something was withdrawn: who saw another count before a login began, of which it has the end now, may have
    /// been admitted by what is withdrawn.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }

    /// Ends the first step of them here, and the others with those that wait already.
    fn end(&self, mut present: VecDeque<Present>, per_second: usize) {
        let step = per_second.div_ceil(STEPS_PER_SECOND as usize);
        let mut waiting = self.waiting.lock();
        if let Some(waiting) = &mut *waiting {
            return waiting.append(&mut present);
        }
        end_some(&mut present, step);
        if !present.is_empty() {
            *waiting = Some(present);
            tokio::spawn(end_rest(Arc::clone(&self.waiting), step));
        }
    }
}

fn end_some(present: &mut VecDeque<Present>, count: usize) {
    let count = count.min(present.len());
    present.drain(..count).for_each(|each| each.end());
}

async fn end_rest(waiting: Arc<Mutex<Option<VecDeque<Present>>>>, step: usize) {
    loop {
        tokio::time::sleep(Duration::from_secs(1) / STEPS_PER_SECOND).await;
        let mut waiting = waiting.lock();
        let Some(present) = &mut *waiting else { return };
        end_some(present, step);
        if present.is_empty() {
            *waiting = None;
            return;
        }
    }
}

/// A connection, if it is still there.
enum Present {
    Mqtt(mqtt::Present),
    Link(session::Present),
}

impl Present {
    fn end(&self) {
        match self {
            Self::Mqtt(present) => present.end(),
            Self::Link(present) => present.end(),
        }
    }
}

impl Gateway {
    /// The hook's answers about `user`, or about everybody, are forgotten: connections end of whom it was asked about. Says
    /// how many.
    pub fn withdraw_forgotten(&self, hook: &Hook, user: Option<&str>) -> usize {
        self.withdraw("forgotten", &|origin| {
            let is_named = |user: &str| {
                let came_as = match &origin.by {
                    By::Hook(came_as) => came_as.as_ref().map(|user| user.as_str()),
                    _ => None,
                };
                origin.user.as_deref() == Some(user) || came_as == Some(user)
            };
            hook.had_say(&origin.by) && user.is_none_or(is_named)
        })
    }

    /// After a reload: connections end of whom nobody vouches any more, or another has to be asked about. Says how many.
    pub fn withdraw_changed(&self, old: &Snapshot, new: &Snapshot) -> usize {
        let changes = Changes::of(old, new);
        let changed =
            if changes.is_none() { 0 } else { self.withdraw("reload", &|origin| changes.concern(origin)) };
        let has_lost_keys = match (&old.issuer, &new.issuer) {
            (Some(old), Some(new)) => !old.keys_are_within(new),
            _ => false,
        };
        let unsigned = if has_lost_keys { self.withdraw_unsigned(new) } else { 0 };
        changed + unsigned + self.withdraw_distrusted(old, new)
    }

    /// After certificates were read again, with a reload or without: connections end whose clients have shown one of an
    /// authority that is gone, by whatever they were admitted, since rules go by certificates too. Says how many.
    pub fn withdraw_distrusted(&self, old: &Snapshot, new: &Snapshot) -> usize {
        match new.trusts_all_of(old) {
            true => 0,
            false => self.withdraw("authorities", &|origin| !new.trusts(origin)),
        }
    }

    /// Connections end whose clients came by tokens of keys that are gone. Says how many.
    fn withdraw_unsigned(&self, snapshot: &Snapshot) -> usize {
        let Some(issuer) = &snapshot.issuer else { return 0 };
        let is_lost = |origin: &Origin| match origin.by {
            By::Token(key) => issuer.has_lost(&self.issuer_keys, key),
            _ => false,
        };
        self.withdraw("keys", &is_lost)
    }

    fn withdraw(&self, reason: &str, concerns: &dyn Fn(&Origin) -> bool) -> usize {
        self.withdrawals.count.fetch_add(1, Ordering::AcqRel);
        let (mqtt, link) = (self.mqtt.present(concerns), self.sessions.present(concerns));
        for (protocol, count) in [("mqtt", mqtt.len()), ("link", link.len())] {
            self.metrics.connections_withdrawn.with_label_values(&[protocol, reason]).inc_by(count as u64);
        }
        let (mqtt, link) = (mqtt.into_iter().map(Present::Mqtt), link.into_iter().map(Present::Link));
        let present: VecDeque<_> = mqtt.chain(link).collect();
        let count = present.len();
        self.withdrawals.end(present, self.snapshot().settings.auth.ends_per_second_max);
        count
    }
}

/// Ends connections by tokens whose keys are no longer at the issuer's URL. Ends with the gateway.
pub async fn watch_keys(gateway: Weak<Gateway>) {
    let Some(mut losses) = gateway.upgrade().map(|gateway| gateway.issuer_keys.losses()) else { return };
    while losses.changed().await.is_ok() {
        let Some(gateway) = gateway.upgrade() else { return };
        let snapshot = gateway.snapshot.load_full();
        gateway.withdraw_unsigned(&snapshot);
    }
}

/// What a reload changed of who is admitted.
#[derive(Default)]
struct Changes<'a> {
    /// Whose lines of the password file are others, or gone.
    users: HashSet<&'a str>,
    /// Whose clients are to show something now, or something else.
    listeners: HashSet<&'a str>,
    /// By which connections were admitted that are to be looked at anew.
    by: Vec<By>,
    /// Tokens are asked for something else, or not taken.
    tokens: bool,
}

impl<'a> Changes<'a> {
    fn of(old: &'a Snapshot, new: &Snapshot) -> Self {
        let asks = |authentication| authentication != Authentication::None;
        let demanded = |name| new.listener(name).map(|listener| listener.settings.authentication);
        let listeners = old.settings.listeners.iter().filter(|listener| {
            demanded(&listener.name).is_some_and(|now| now != listener.authentication && asks(now))
        });
        let mut by = Vec::new();
        match (&old.hook, &new.hook) {
            (Some(_), None) => by.push(By::Hook(None)),
            (old, Some(new)) if !old.as_ref().is_some_and(|old| old.asks_as(new)) => {
                by.extend([By::Hook(None), By::PasswordFile]);
            }
            _ => {}
        }
        if new.judges_certificates() && (!by.is_empty() || !old.judges_certificates()) {
            by.push(By::Certificate);
        }
        let tokens = match (&old.issuer, &new.issuer) {
            (Some(old), Some(new)) => !old.asks_as(new),
            (old, None) => old.is_some(),
            (None, _) => false,
        };
        let listeners = listeners.map(|listener| &*listener.name).collect();
        Self { users: old.users.changed_in(&new.users), listeners, by, tokens }
    }

    fn is_none(&self) -> bool {
        self.users.is_empty() && self.listeners.is_empty() && self.by.is_empty() && !self.tokens
    }

    fn concern(&self, origin: &Origin) -> bool {
        let is_changed = || origin.user.as_deref().is_some_and(|user| self.users.contains(user));
        let is_same = |by: &By| mem::discriminant(by) == mem::discriminant(&origin.by);
        (origin.by == By::PasswordFile && is_changed())
            || self.listeners.contains(&*origin.listener)
            || (self.tokens && matches!(origin.by, By::Token(_)))
            || self.by.iter().any(is_same)
    }
}
