//! Clients by id and by user.

use std::{
    borrow::Borrow,
    hash::{Hash, Hasher},
    mem,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use dashmap::{DashMap, Entry};
use parking_lot::Mutex;

use super::{Mailbox, tree::Place};

/// One registered session. Its identity is its address: a later session of the same id is another client.
pub(super) struct Client {
    pub(super) id: Arc<str>,
    pub(super) mailbox: Arc<dyn Mailbox>,
    user: Option<Arc<str>>,
    /// Index into the user's list; written under that list's lock.
    user_slot: AtomicU32,
    /// What it subscribed to; touched only under the tree's lock.
    pub(super) places: Mutex<Places>,
}

/// A client's subscriptions.
pub(super) enum Places {
    /// No longer than it must be: most clients have a few.
    Open(Box<[Place]>),
    /// The client has left: a subscription that raced with it leaves nothing behind.
    Closed,
}

impl Places {
    pub(super) fn list(&self) -> &[Place] {
        match self {
            Self::Open(list) => list,
            Self::Closed => &[],
        }
    }

    /// No effect when the client has left.
    pub(super) fn change(&mut self, change: impl FnOnce(&mut Vec<Place>)) {
        let Self::Open(list) = self else { return };
        let mut places = mem::take(list).into_vec();
        change(&mut places);
        *list = places.into();
    }
}

impl Default for Places {
    fn default() -> Self {
        Self::Open(Box::default())
    }
}

/// Why a client was not registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegisterError {
    /// Another session, of whatever protocol, holds the id.
    #[error("another session holds the client id")]
    ClientIdTaken,
}

/// A client in the table of all, found by its id, which is kept once.
struct ById(Arc<Client>);

impl Borrow<str> for ById {
    fn borrow(&self) -> &str {
        &self.0.id
    }
}

impl Hash for ById {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.id.hash(state);
    }
}

impl PartialEq for ById {
    fn eq(&self, other: &Self) -> bool {
        self.0.id == other.0.id
    }
}

impl Eq for ById {}

#[derive(Default)]
pub(super) struct Registry {
    clients: DashMap<ById, ()>,
    /// A user without clients has no entry.
    users: DashMap<Arc<str>, Vec<Arc<Client>>>,
}

impl Registry {
    pub(super) fn register(
        &self,
        client_id: &Arc<str>,
        user: Option<Arc<str>>,
        mailbox: Arc<dyn Mailbox>,
    ) -> Result<(), RegisterError> {
        let client = Arc::new(Client {
            id: client_id.clone(),
            mailbox,
            user,
            user_slot: AtomicU32::new(0),
            places: Mutex::default(),
        });
        match self.clients.entry(ById(client.clone())) {
            Entry::Occupied(held) if Arc::ptr_eq(&held.key().0.mailbox, &client.mailbox) => Ok(()),
            Entry::Occupied(_) => Err(RegisterError::ClientIdTaken),
            Entry::Vacant(vacant) => {
                // Both maps change under the client's entry, so that a racing unregister finds both.
                self.join_user(&client);
                vacant.insert(());
                Ok(())
            }
        }
    }

    pub(super) fn unregister(&self, client_id: &str, mailbox: &Arc<dyn Mailbox>) -> Option<Arc<Client>> {
        let is_same = |held: &ById, (): &()| Arc::ptr_eq(&held.0.mailbox, mailbox);
        let (ById(client), ()) = self.clients.remove_if(client_id, is_same)?;
        self.leave_user(&client);
        Some(client)
    }

    pub(super) fn client(&self, client_id: &str) -> Option<Arc<Client>> {
        self.clients.get(client_id).map(|held| held.key().0.clone())
    }

    pub(super) fn clients_of(&self, user: &str) -> Vec<Arc<Client>> {
        self.users.get(user).map(|clients| clients.clone()).unwrap_or_default()
    }

    pub(super) fn len(&self) -> usize {
        self.clients.len()
    }

    fn join_user(&self, client: &Arc<Client>) {
        if let Some(user) = &client.user {
            let mut clients = self.users.entry(user.clone()).or_default();
            client.user_slot.store(clients.len() as u32, Ordering::Relaxed);
            clients.push(client.clone());
        }
    }

    fn leave_user(&self, client: &Arc<Client>) {
        let Some(user) = &client.user else { return };
        let Entry::Occupied(mut entry) = self.users.entry(user.clone()) else { return };
        let clients = entry.get_mut();
        let slot = client.user_slot.load(Ordering::Relaxed) as usize;
        if clients.get(slot).is_some_and(|held| Arc::ptr_eq(held, client)) {
            clients.swap_remove(slot);
            if let Some(moved) = clients.get(slot) {
                moved.user_slot.store(slot as u32, Ordering::Relaxed);
            }
        }
        if clients.is_empty() {
            entry.remove();
        }
    }
}
