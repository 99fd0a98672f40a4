//! Subscriptions by topic filter: a trie of levels whose edges lie in one hash table.
//!
//! ```text
//!   filters: a/b  a/+  a/#          nodes[0] root
//!                                   nodes[1] "a"   plus -> 3   hash -> 4
//!   edges: (0,"a") -> 1             nodes[2] "b"
//!          (1,"b") -> 2             nodes[3] "+"
//!                                   nodes[4] "#"
//! ```
//!
//! A match walks the topic's levels with a frontier of nodes: no recursion, and never more steps than
//! the nodes that lie on the way. Memory is linear in the filters in use.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, DefaultHasher, Hash, Hasher},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::{
    Message, SubscribeOptions,
    filter::TopicFilter,
    levels::{LevelId, Levels},
    registry::{Client, Places},
};

/// Where one subscription of a client stands in the tree; the client keeps these to be able to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    node: NodeId,
    /// Name of the shared group, or [`LevelId::UNUSED`].
    group: LevelId,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct NodeId(u32);

impl NodeId {
    /// The root; also "no child", since nobody's child is the root.
    const ROOT: Self = Self(0);
}

struct Node {
    parent: NodeId,
    level: LevelId,
    plus: NodeId,
    hash: NodeId,
    children: u32,
    subscribers: Option<Box<Subscribers>>,
}

#[derive(Default)]
struct Subscribers {
    direct: Members,
    shared: Vec<Group>,
}

/// Which member of a shared subscription gets a message; of those that are there, as long as one is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ShareStrategy {
    /// Each in turn.
    #[default]
    RoundRobin,
    /// All messages of a publisher go to one member, so that they stay in order; when members come and go, few
    /// publishers change theirs. Messages without a publisher go to each in turn.
    Sticky,
}

struct Group {
    name: LevelId,
    /// `$share/group/filter`.
    share: Arc<str>,
    members: Vec<Subscription>,
    /// Round robin.
    turn: AtomicUsize,
}

#[derive(Clone)]
struct Subscription {
    client: Arc<Client>,
    options: SubscribeOptions,
}

/// Most filters have one subscriber, some have all clients: a list that is scanned, then a table.
enum Members {
    Few(Vec<Subscription>),
    Many(HashMap<usize, Subscription, IdHash>),
}

/// Above this many members a scan costs more than a hash.
const FEW_MAX: usize = 16;

type IdHash = BuildHasherDefault<IdHasher>;

pub(super) struct Tree {
    levels: Levels,
    nodes: Vec<Node>,
    free: Vec<NodeId>,
    edges: HashMap<(NodeId, LevelId), NodeId, IdHash>,
    pub(super) share_strategy: ShareStrategy,
}

/// What a topic matched; holds no lock.
#[derive(Default)]
pub(super) struct Matched {
    /// Those of one client are neighbours.
    direct: Vec<Subscription>,
    shared: Vec<Member>,
}

/// The member of a shared subscription that a message is for.
pub(super) struct Member {
    subscription: Subscription,
    share: Arc<str>,
}

/// A client that is to get a message, and how its subscriptions ask for it.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) client: &'a Client,
    pub(super) granted: SubscribeOptions,
    pub(super) identifiers: &'a [u32],
    /// The shared subscription.
    pub(super) share: Option<&'a Arc<str>>,
}

impl Matched {
    /// Whether the next message of the same publisher and topic goes to the same clients, `clients_max` of them at the
    /// most: of a shared subscription, another member may get it.
    pub(super) fn is_lasting(&self, clients_max: usize) -> bool {
        self.shared.is_empty() && self.direct.len() <= clients_max
    }

    /// Calls `deliver` once for each client of the direct subscriptions and once for each shared one.
    pub(super) fn for_each_client(&self, mut deliver: impl FnMut(Asked<'_>)) {
        let mut identifiers = Vec::new();
        for same_client in self.direct.chunk_by(|a, b| a.key() == b.key()) {
            let [first, rest @ ..] = same_client else { continue };
            let mut granted = first.options;
            identifiers.clear();
            identifiers.extend(Some(first.options.identifier).filter(|&id| id != 0));
            for other in rest {
                granted.qos = granted.qos.max(other.options.qos);
                granted.retain_as_published |= other.options.retain_as_published;
                identifiers.extend(Some(other.options.identifier).filter(|&id| id != 0));
            }
            deliver(Asked { client: &first.client, granted, identifiers: &identifiers, share: None });
        }
        for member in &self.shared {
            member.ask(&mut deliver);
        }
    }
}

impl Member {
    pub(super) fn ask<T>(&self, deliver: impl FnOnce(Asked<'_>) -> T) -> T {
        let Self { subscription: Subscription { client, options: granted }, share } = self;
        let identifier = [granted.identifier];
        let identifiers: &[u32] = if granted.identifier == 0 { &[] } else { &identifier };
        deliver(Asked { client, granted: *granted, identifiers, share: Some(share) })
    }
}

impl Default for Tree {
    fn default() -> Self {
        let root = Node::new(NodeId::ROOT, LevelId::UNUSED);
        Self {
            levels: Levels::default(),
            nodes: vec![root],
            free: Vec::new(),
            edges: HashMap::default(),
            share_strategy: ShareStrategy::default(),
        }
    }
}

impl Tree {
    /// Says whether the subscription is new; `None` when the client has left.
    pub(super) fn subscribe(
        &mut self,
        client: &Arc<Client>,
        filter: &TopicFilter<'_>,
        options: SubscribeOptions,
    ) -> Option<bool> {
        let mut places = client.places.lock();
        if matches!(*places, Places::Closed) {
            return None;
        }
        let node = self.node_for(filter.filter());
        let group = filter.group().map(|name| self.levels.acquire(name));
        let subscription = Subscription { client: client.clone(), options };
        let subscribers = self.nodes[node.0 as usize].subscribers.get_or_insert_default();
        let is_new = match group {
            None => subscribers.direct.insert(subscription),
            Some(name) => subscribers.group(name, filter).insert(subscription),
        };
        if is_new {
            let place = Place { node, group: group.unwrap_or(LevelId::UNUSED) };
            places.change(|list| {
                list.reserve_exact(1);
                list.push(place);
            });
        } else if let Some(group) = group {
            self.levels.release(group);
        }
        Some(is_new)
    }

    pub(super) fn unsubscribe(&mut self, client: &Arc<Client>, filter: &TopicFilter<'_>) -> bool {
        let Some(place) = self.place(filter) else { return false };
        let mut places = client.places.lock();
        let Some(index) = places.list().iter().position(|held| *held == place) else { return false };
        places.change(|list| _ = list.swap_remove(index));
        self.remove(client, place);
        true
    }

    /// Whether a client has a subscription, without a look at its others.
    pub(super) fn has_subscription(&self, client: &Arc<Client>, filter: &TopicFilter<'_>) -> bool {
        self.place(filter).is_some_and(|place| client.places.lock().list().contains(&place))
    }

    pub(super) fn remove_client(&mut self, client: &Arc<Client>) {
        let mut places = client.places.lock();
        let closed = std::mem::replace(&mut *places, Places::Closed);
        for place in closed.list() {
            self.remove(client, *place);
        }
    }

    pub(super) fn subscriptions(&self, client: &Arc<Client>) -> Vec<(String, SubscribeOptions)> {
        let places = client.places.lock();
        let with_options = |&place: &Place| Some((self.filter_of(place), self.options(client, place)?));
        places.list().iter().filter_map(with_options).collect()
    }

    /// Everybody who is to get a message on `topic`, a valid topic name.
    pub(super) fn matching(&self, topic: &str, publisher: Option<&str>) -> Matched {
        let mut matching = Matching { publisher, ..Matching::default() };
        let keeps_to = self.keeps_to(publisher);
        self.for_each_subscribers(topic, |subscribers| {
            matching.take_direct(subscribers);
            matching.take_shared(subscribers, keeps_to);
        });
        matching.into_matched()
    }

    /// The same without the members of shared subscriptions, which are not asked whose turn it is. Says too whether
    /// that is everybody.
    pub(super) fn matching_direct(&self, topic: &str, publisher: Option<&str>) -> (Matched, bool) {
        let mut matching = Matching { publisher, ..Matching::default() };
        let mut is_all = true;
        self.for_each_subscribers(topic, |subscribers| {
            matching.take_direct(subscribers);
            is_all &= subscribers.shared.is_empty();
        });
        (matching.into_matched(), is_all)
    }

    /// The member of a shared subscription that is to get what another one has left: one who has room for it, if there
    /// is any.
    pub(super) fn choose_member(&self, filter: &TopicFilter<'_>, message: &Message) -> Option<Member> {
        let name = self.levels.find(filter.group()?);
        let subscribers = self.subscribers(self.find(filter.filter())?)?;
        let group = subscribers.shared.iter().find(|group| group.name == name)?;
        group.choose(self.keeps_to(message.publisher.as_deref()), Some(message))
    }

    /// The publisher, if its messages go to one member.
    fn keeps_to<'a>(&self, publisher: Option<&'a str>) -> Option<&'a str> {
        publisher.filter(|_| self.share_strategy == ShareStrategy::Sticky)
    }

    /// Calls `take` for each filter that matches.
    fn for_each_subscribers(&self, topic: &str, mut take: impl FnMut(&Subscribers)) {
        let mut frontier = vec![NodeId::ROOT];
        let mut next = Vec::new();
        // MQTT-4.7.2-1: wildcards in the first level do not reach topics that begin with "$".
        let mut wildcards = !topic.starts_with('$');
        for level in topic.split('/') {
            let level = self.levels.find(level);
            for node_id in frontier.drain(..) {
                let node = &self.nodes[node_id.0 as usize];
                if wildcards {
                    // "a/#" takes all that lies below "a" ...
                    self.subscribers(node.hash).into_iter().for_each(&mut take);
                    next.extend(node.plus.child());
                }
                if level != LevelId::UNUSED {
                    next.extend(self.edges.get(&(node_id, level)));
                }
            }
            std::mem::swap(&mut frontier, &mut next);
            wildcards = true;
        }
        for node_id in frontier {
            self.subscribers(node_id).into_iter().for_each(&mut take);
            // ... and "a" itself.
            self.subscribers(self.nodes[node_id.0 as usize].hash).into_iter().for_each(&mut take);
        }
    }

    fn subscribers(&self, node: NodeId) -> Option<&Subscribers> {
        self.nodes[node.0 as usize].subscribers.as_deref()
    }

    fn find(&self, filter: &str) -> Option<NodeId> {
        let mut node = NodeId::ROOT;
        for level in filter.split('/') {
            node = match level {
                "+" => self.nodes[node.0 as usize].plus.child()?,
                "#" => self.nodes[node.0 as usize].hash.child()?,
                text => *self.edges.get(&(node, self.levels.find(text)))?,
            };
        }
        Some(node)
    }

    /// Where subscriptions of a filter stand, if there are any.
    fn place(&self, filter: &TopicFilter<'_>) -> Option<Place> {
        let node = self.find(filter.filter())?;
        let group = filter.group().map_or(LevelId::UNUSED, |name| self.levels.find(name));
        let is_unknown = filter.group().is_some() && group == LevelId::UNUSED;
        (!is_unknown).then_some(Place { node, group })
    }

    fn node_for(&mut self, filter: &str) -> NodeId {
        let mut node = NodeId::ROOT;
        for text in filter.split('/') {
            let level = self.levels.acquire(text);
            node = match self.child(node, level) {
                Some(child) => {
                    self.levels.release(level);
                    child
                }
                None => self.add_child(node, level),
            };
        }
        node
    }

    fn child(&self, node: NodeId, level: LevelId) -> Option<NodeId> {
        match level {
            LevelId::PLUS => self.nodes[node.0 as usize].plus.child(),
            LevelId::HASH => self.nodes[node.0 as usize].hash.child(),
            level => self.edges.get(&(node, level)).copied(),
        }
    }

    fn add_child(&mut self, parent: NodeId, level: LevelId) -> NodeId {
        let node = Node::new(parent, level);
        let id = match self.free.pop() {
            Some(id) => {
                self.nodes[id.0 as usize] = node;
                id
            }
            None => {
                self.nodes.push(node);
                NodeId(self.nodes.len() as u32 - 1)
            }
        };
        self.set_child(parent, level, Some(id));
        self.nodes[parent.0 as usize].children += 1;
        id
    }

    fn set_child(&mut self, parent: NodeId, level: LevelId, child: Option<NodeId>) {
        let node = &mut self.nodes[parent.0 as usize];
        match (level, child) {
            (LevelId::PLUS, child) => node.plus = child.unwrap_or(NodeId::ROOT),
            (LevelId::HASH, child) => node.hash = child.unwrap_or(NodeId::ROOT),
            (level, Some(child)) => {
                self.edges.insert((parent, level), child);
            }
            (level, None) => {
                self.edges.remove(&(parent, level));
            }
        }
    }

    fn remove(&mut self, client: &Arc<Client>, place: Place) {
        let node = &mut self.nodes[place.node.0 as usize];
        let Some(subscribers) = &mut node.subscribers else { return };
        if place.group == LevelId::UNUSED {
            subscribers.direct.remove(client);
        } else {
            subscribers.leave_group(place.group, client);
            self.levels.release(place.group);
        }
        if subscribers.is_empty() {
            node.subscribers = None;
            self.prune(place.node);
        }
    }

    /// Frees the branch that ends in `leaf` as far as nothing else hangs on it.
    fn prune(&mut self, leaf: NodeId) {
        let mut id = leaf;
        while id != NodeId::ROOT {
            let Node { parent, level, children, ref subscribers, .. } = self.nodes[id.0 as usize];
            if children > 0 || subscribers.is_some() {
                return;
            }
            self.set_child(parent, level, None);
            self.levels.release(level);
            self.nodes[parent.0 as usize].children -= 1;
            self.free.push(id);
            id = parent;
        }
    }

    fn filter_of(&self, place: Place) -> String {
        let mut levels = Vec::new();
        let mut id = place.node;
        while id != NodeId::ROOT {
            let node = &self.nodes[id.0 as usize];
            levels.push(self.levels.text(node.level));
            id = node.parent;
        }
        levels.reverse();
        match place.group {
            LevelId::UNUSED => levels.join("/"),
            group => format!("$share/{}/{}", self.levels.text(group), levels.join("/")),
        }
    }

    fn options(&self, client: &Arc<Client>, place: Place) -> Option<SubscribeOptions> {
        let subscribers = self.nodes[place.node.0 as usize].subscribers.as_ref()?;
        if place.group == LevelId::UNUSED {
            return subscribers.direct.get(client).map(|held| held.options);
        }
        let group = subscribers.shared.iter().find(|group| group.name == place.group)?;
        group.members.iter().find(|held| held.is_of(client)).map(|held| held.options)
    }
}

impl NodeId {
    fn child(self) -> Option<Self> {
        (self != Self::ROOT).then_some(self)
    }
}

impl Node {
    const fn new(parent: NodeId, level: LevelId) -> Self {
        Self { parent, level, plus: NodeId::ROOT, hash: NodeId::ROOT, children: 0, subscribers: None }
    }
}

/// A match under way.
#[derive(Default)]
struct Matching<'a> {
    publisher: Option<&'a str>,
    filters: usize,
    matched: Matched,
}

impl Matching<'_> {
    fn take_direct(&mut self, subscribers: &Subscribers) {
        self.filters += 1;
        let publisher = self.publisher;
        let wanted = |held: &&Subscription| {
            !(held.options.no_local && publisher.is_some_and(|id| *id == *held.client.id))
        };
        match &subscribers.direct {
            Members::Few(list) => self.matched.direct.extend(list.iter().filter(wanted).cloned()),
            Members::Many(table) => self.matched.direct.extend(table.values().filter(wanted).cloned()),
        }
    }

    fn take_shared(&mut self, subscribers: &Subscribers, keeps_to: Option<&str>) {
        self.matched
            .shared
            .extend(subscribers.shared.iter().filter_map(|group| group.choose(keeps_to, None)));
    }

    fn into_matched(mut self) -> Matched {
        if self.filters > 1 {
            self.matched.direct.sort_unstable_by_key(Subscription::key);
        }
        self.matched
    }
}

impl Subscribers {
    fn group(&mut self, name: LevelId, filter: &TopicFilter<'_>) -> &mut Group {
        let index = self.shared.iter().position(|group| group.name == name).unwrap_or_else(|| {
            let share = filter.to_string().into();
            self.shared.push(Group { name, share, members: Vec::new(), turn: AtomicUsize::new(0) });
            self.shared.len() - 1
        });
        &mut self.shared[index]
    }

    fn leave_group(&mut self, name: LevelId, client: &Arc<Client>) {
        let Some(group) = self.shared.iter_mut().find(|group| group.name == name) else { return };
        group.members.retain(|held| !held.is_of(client));
        if group.members.is_empty() {
            self.shared.retain(|group| group.name != name);
        }
    }

    fn is_empty(&self) -> bool {
        self.direct.is_empty() && self.shared.is_empty()
    }
}

impl Group {
    fn insert(&mut self, subscription: Subscription) -> bool {
        insert_into(&mut self.members, subscription)
    }

    /// The next member whose connection is up, else the next one who may store; or of these the one that the publisher
    /// keeps to. Members who have room for `needs_room` go first.
    fn choose(&self, publisher: Option<&str>, needs_room: Option<&Message>) -> Option<Member> {
        let first = match publisher {
            Some(_) => 0,
            None => self.turn.fetch_add(1, Ordering::Relaxed),
        };
        let pick = |is_fit: &dyn Fn(&Subscription) -> bool| match publisher {
            Some(publisher) => self.kept_to_by(publisher, is_fit),
            None => self.next_from(first, is_fit),
        };
        let with_room = needs_room.and_then(|message| {
            let has_room = |held: &Subscription| held.client.mailbox.has_room(message);
            pick(&|held| held.is_there() && has_room(held))
                .or_else(|| pick(&|held| held.may_store() && has_room(held)))
        });
        let chosen = with_room
            .or_else(|| pick(&Subscription::is_there))
            .or_else(|| pick(&Subscription::may_store))
            .or_else(|| pick(&|held| !held.client.mailbox.has_ended()))?;
        Some(Member { subscription: chosen.clone(), share: self.share.clone() })
    }

    /// The first that fits of all members in turn.
    fn next_from(&self, first: usize, is_fit: &dyn Fn(&Subscription) -> bool) -> Option<&Subscription> {
        let (before, from) = self.members.split_at(first.checked_rem(self.members.len())?);
        from.iter().chain(before).find(|held| is_fit(held))
    }

    /// Rendezvous hashing: of those who fit, who has the largest hash together with the publisher.
    fn kept_to_by(&self, publisher: &str, is_fit: &dyn Fn(&Subscription) -> bool) -> Option<&Subscription> {
        let rank = |held: &&Subscription| {
            let mut hasher = DefaultHasher::new();
            (publisher, &*held.client.id).hash(&mut hasher);
            hasher.finish()
        };
        self.members.iter().filter(|held| is_fit(held)).max_by_key(rank)
    }
}

impl Subscription {
    fn key(&self) -> usize {
        key_of(&self.client)
    }

    fn is_of(&self, client: &Arc<Client>) -> bool {
        Arc::ptr_eq(&self.client, client)
    }

    fn is_there(&self) -> bool {
        self.client.mailbox.is_connected()
    }

    /// Whether its client, who is away, can keep what comes with a quality above 0.
    fn may_store(&self) -> bool {
        self.options.qos > 0 && !self.client.mailbox.has_ended()
    }
}

impl Default for Members {
    fn default() -> Self {
        Self::Few(Vec::new())
    }
}

impl Members {
    fn insert(&mut self, subscription: Subscription) -> bool {
        match self {
            Self::Few(list) if list.len() < FEW_MAX => insert_into(list, subscription),
            Self::Few(list) => {
                let mut table: HashMap<_, _, IdHash> =
                    list.drain(..).map(|held| (held.key(), held)).collect();
                let is_new = table.insert(subscription.key(), subscription).is_none();
                *self = Self::Many(table);
                is_new
            }
            Self::Many(table) => table.insert(subscription.key(), subscription).is_none(),
        }
    }

    fn remove(&mut self, client: &Arc<Client>) {
        match self {
            Self::Few(list) => list.retain(|held| !held.is_of(client)),
            Self::Many(table) => {
                table.remove(&key_of(client));
                if table.capacity() > 4 * table.len().max(FEW_MAX) {
                    table.shrink_to(2 * table.len());
                }
            }
        }
    }

    fn get(&self, client: &Arc<Client>) -> Option<&Subscription> {
        match self {
            Self::Few(list) => list.iter().find(|held| held.is_of(client)),
            Self::Many(table) => table.get(&key_of(client)),
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Self::Few(list) => list.is_empty(),
            Self::Many(table) => table.is_empty(),
        }
    }
}

fn insert_into(list: &mut Vec<Subscription>, subscription: Subscription) -> bool {
    match list.iter_mut().find(|held| held.is_of(&subscription.client)) {
        Some(held) => {
            *held = subscription;
            false
        }
        None => {
            list.reserve_exact(1);
            list.push(subscription);
            true
        }
    }
}

fn key_of(client: &Arc<Client>) -> usize {
    Arc::as_ptr(client).addr()
}

/// Mixes ids that the gateway itself hands out; no peer can choose them, so no keyed hash is needed.
#[derive(Default)]
struct IdHasher(u64);

impl IdHasher {
    /// 2^64 divided by the golden ratio: consecutive ids land far apart.
    const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

    fn mix(&mut self, value: u64) {
        self.0 = (self.0.rotate_left(29) ^ value).wrapping_mul(Self::MULTIPLIER);
    }
}

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.mix(u64::from(byte)));
    }

    fn write_u32(&mut self, value: u32) {
        self.mix(u64::from(value));
    }

    fn write_usize(&mut self, value: usize) {
        self.mix(value as u64);
    }

    fn finish(&self) -> u64 {
        // The table takes its index from the low bits, the product's good ones are the high ones.
        self.0 ^ (self.0 >> 32)
    }
}

#[cfg(test)]
impl Tree {
    /// Nodes, levels and edges in use; all zero when nobody is subscribed.
    pub(super) fn size(&self) -> (usize, usize, usize) {
        (self.nodes.len() - 1 - self.free.len(), self.levels.len(), self.edges.len())
    }
}
