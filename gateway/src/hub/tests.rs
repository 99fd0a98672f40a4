//! The hub as its clients see it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicBool, Ordering},
};

use parking_lot::Mutex;
use proptest::prelude::*;

use super::*;

/// Remembers what it got: QoS, RETAIN and subscription identifiers.
struct Inbox {
    connected: AtomicBool,
    ended: AtomicBool,
    got: Mutex<Vec<(u8, bool, Vec<u32>)>>,
}

impl Mailbox for Inbox {
    fn deliver(&self, _: &Arc<Message>, delivery: &Delivery<'_>) -> Delivered {
        if self.has_ended() {
            self.connected.store(false, Ordering::Relaxed);
            return Delivered::Gone;
        }
        let mut identifiers = delivery.identifiers.to_vec();
        identifiers.sort_unstable();
        self.got.lock().push((delivery.qos, delivery.retain, identifiers));
        if self.is_connected() { Delivered::Sent } else { Delivered::Stored }
    }

    fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }

    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }
}

fn inbox() -> Arc<Inbox> {
    let (connected, ended) = (AtomicBool::new(true), AtomicBool::new(false));
    Arc::new(Inbox { connected, ended, got: Mutex::default() })
}

fn join(hub: &Hub, id: &str, user: Option<&str>) -> Arc<Inbox> {
    let inbox = inbox();
    hub.register(&id.into(), user.map(Arc::from), inbox.clone()).unwrap();
    inbox
}

fn message(topic: &str) -> Message {
    Message { topic: topic.into(), qos: 2, ..Message::default() }
}

fn publish(hub: &Hub, topic: &str) -> Fanout {
    hub.publish(&Arc::new(message(topic)))
}

fn options(qos: u8, identifier: u32) -> SubscribeOptions {
    SubscribeOptions { qos, identifier, ..SubscribeOptions::default() }
}

fn counts(sent: u64, stored: u64) -> Fanout {
    Fanout { sent, stored, ..Fanout::default() }
}

#[test]
fn overlapping_subscriptions_deliver_once_with_the_largest_qos_and_all_identifiers() {
    let hub = Hub::new(8);
    let inbox = join(&hub, "a", None);
    for (filter, qos, identifier) in [("x/#", 0, 7), ("x/+", 1, 8), ("x/y", 0, 0), ("z", 2, 9)] {
        assert_eq!(hub.subscribe("a", filter, options(qos, identifier)), Ok(true));
    }
    assert_eq!(publish(&hub, "x/y"), counts(1, 0));
    assert_eq!(*inbox.got.lock(), [(1, false, vec![7, 8])]);
}

#[test]
fn subscribing_again_replaces_the_options() {
    let hub = Hub::new(8);
    let inbox = join(&hub, "a", None);
    assert_eq!(hub.subscribe("a", "x", options(0, 0)), Ok(true));
    assert_eq!(hub.subscribe("a", "x", options(1, 3)), Ok(false));
    publish(&hub, "x");
    assert_eq!(*inbox.got.lock(), [(1, false, vec![3])]);
    assert_eq!(hub.subscriptions("a"), [("x".to_owned(), options(1, 3))]);
    let _other = join(&hub, "b", None);
    hub.subscribe("b", "$share/g/x", options(1, 0)).unwrap();
    let held = ["x", "$share/g/x", "x/y", "y"].map(|filter| hub.has_subscription("a", filter));
    assert_eq!(held, [true, false, false, false]);
}

#[test]
fn what_a_publisher_sent_last_goes_to_who_subscribes_by_now() {
    let hub = Hub::new(8);
    let (one, other) = (join(&hub, "one", None), join(&hub, "other", None));
    let mut last = LastMatch::default();
    let mut publish =
        |topic| hub.publish_with(&Arc::new(message(topic)), None, &mut last, mqtt::now()).total();
    hub.subscribe("one", "x", options(1, 0)).unwrap();
    assert_eq!([publish("x"), publish("x"), publish("y"), publish("x")], [1, 1, 0, 1]);
    hub.subscribe("other", "+", options(1, 0)).unwrap();
    assert_eq!([publish("x"), publish("x"), publish("y")], [2, 2, 1]);
    hub.subscribe("one", "x", options(0, 0)).unwrap();
    assert_eq!(publish("x"), 2);
    assert_eq!(one.got.lock().last(), Some(&(0, false, vec![])), "with the options of now");
    assert!(hub.unsubscribe("other", "+"));
    assert_eq!(publish("x"), 1);
    let mailbox: Arc<dyn Mailbox> = one;
    assert!(hub.unregister("one", &mailbox));
    assert_eq!(publish("x"), 0);
    assert_eq!(other.got.lock().len(), 4);
}

#[test]
fn the_members_of_a_shared_group_take_turns_with_one_publisher_as_well() {
    let hub = Hub::new(8);
    let inboxes = ["a", "b"].map(|id| join(&hub, id, None));
    let mut last = LastMatch::default();
    for id in ["a", "b"] {
        hub.subscribe(id, "$share/g/x", options(1, 0)).unwrap();
    }
    for _ in 0..4 {
        hub.publish_with(&Arc::new(message("x")), None, &mut last, mqtt::now());
    }
    assert_eq!(inboxes.map(|inbox| inbox.got.lock().len()), [2, 2]);
}

#[test]
fn who_looks_for_room_first_takes_nobodys_turn_and_reaches_the_same_subscribers() {
    let hub = Hub::new(8);
    let inboxes = ["a", "b", "direct"].map(|id| join(&hub, id, None));
    for id in ["a", "b"] {
        hub.subscribe(id, "$share/g/x", options(1, 0)).unwrap();
    }
    hub.subscribe("direct", "x", options(1, 0)).unwrap();
    for _ in 0..4 {
        let mut last = LastMatch::default();
        let message = Arc::new(message("x"));
        hub.look_for_room(&message, &mut last, mqtt::now());
        assert_eq!(hub.publish_with(&message, None, &mut last, mqtt::now()), counts(2, 0));
    }
    assert_eq!(inboxes.map(|inbox| inbox.got.lock().len()), [2, 2, 4]);
}

#[test]
fn no_local_and_retain_as_published_are_obeyed() {
    let hub = Hub::new(8);
    let (own, other) = (join(&hub, "own", None), join(&hub, "other", None));
    let no_local = SubscribeOptions { no_local: true, ..options(1, 0) };
    let keep_retain = SubscribeOptions { retain_as_published: true, ..options(1, 0) };
    hub.subscribe("own", "x", no_local).unwrap();
    hub.subscribe("other", "x", keep_retain).unwrap();
    let message = Message { publisher: Some("own".into()), retain: true, ..message("x") };
    assert_eq!(hub.publish(&Arc::new(message)), counts(1, 0));
    assert!(own.got.lock().is_empty());
    assert_eq!(*other.got.lock(), [(1, true, vec![])]);
}

#[test]
fn a_shared_group_takes_turns_among_its_connected_members() {
    let hub = Hub::new(8);
    let inboxes = ["a", "b", "c"].map(|id| join(&hub, id, None));
    for id in ["a", "b", "c"] {
        hub.subscribe(id, "$share/g/x/+", options(1, 0)).unwrap();
    }
    for _ in 0..6 {
        assert_eq!(publish(&hub, "x/1"), counts(1, 0));
    }
    let got = || inboxes.each_ref().map(|inbox| inbox.got.lock().len());
    assert_eq!(got(), [2, 2, 2]);
    inboxes[1].connected.store(false, Ordering::Relaxed);
    for _ in 0..6 {
        publish(&hub, "x/1");
    }
    assert_eq!(got()[1], 2, "a member that is away gets nothing while others are there");
    inboxes.iter().for_each(|inbox| inbox.connected.store(false, Ordering::Relaxed));
    assert_eq!(publish(&hub, "x/1"), counts(0, 1), "when all are away, one stores");
}

#[test]
fn members_who_are_away_and_store_nothing_get_nothing_while_others_store() {
    let hub = Hub::new(8);
    let inboxes = ["a", "b"].map(|id| join(&hub, id, None));
    for (id, qos) in [("a", 0), ("b", 1)] {
        hub.subscribe(id, "$share/g/x", options(qos, 0)).unwrap();
    }
    inboxes.iter().for_each(|inbox| inbox.connected.store(false, Ordering::Relaxed));
    for _ in 0..4 {
        publish(&hub, "x");
    }
    assert_eq!(inboxes.map(|inbox| inbox.got.lock().len()), [0, 4]);
}

#[test]
fn what_finds_its_member_gone_goes_to_another_one_of_the_group() {
    for strategy in [ShareStrategy::RoundRobin, ShareStrategy::Sticky] {
        let hub = Hub::new(8);
        hub.set_share_strategy(strategy);
        let inboxes = ["a", "b", "c"].map(|id| join(&hub, id, None));
        for (id, filter) in [("a", "$share/g/x"), ("b", "$share/g/x"), ("c", "x")] {
            hub.subscribe(id, filter, options(1, 0)).unwrap();
        }
        // Chosen as one who is there; that it has gone is seen when it is given the message.
        inboxes[0].ended.store(true, Ordering::Relaxed);
        let message = Arc::new(Message { publisher: Some("meter".into()), ..message("x") });
        for _ in 0..4 {
            assert_eq!(hub.publish(&message), counts(2, 0), "{strategy:?}");
        }
        inboxes.iter().for_each(|inbox| inbox.ended.store(true, Ordering::Relaxed));
        assert_eq!(hub.publish(&message), Fanout::default(), "{strategy:?}: nobody is there");
        assert_eq!(inboxes.map(|inbox| inbox.got.lock().len()), [0, 4, 4], "{strategy:?}");
    }
}

#[test]
fn a_publisher_keeps_to_one_member_of_a_shared_group_as_long_as_that_is_there() {
    let hub = Hub::new(8);
    hub.set_share_strategy(ShareStrategy::Sticky);
    let inboxes = ["a", "b", "c"].map(|id| {
        let inbox = join(&hub, id, None);
        hub.subscribe(id, "$share/g/x", options(1, 0)).unwrap();
        inbox
    });
    let whose = |publisher: &str| {
        let before = inboxes.each_ref().map(|inbox| inbox.got.lock().len());
        let message = Message { publisher: Some(publisher.into()), ..message("x") };
        assert_eq!(hub.publish(&Arc::new(message)).total(), 1);
        let got = |(at, inbox): (usize, &Arc<Inbox>)| (inbox.got.lock().len() > before[at]).then_some(at);
        inboxes.iter().enumerate().find_map(got).unwrap()
    };
    let publishers: Vec<String> = (0..60).map(|number| format!("meter-{number}")).collect();
    let first: Vec<usize> = publishers.iter().map(|publisher| whose(publisher)).collect();
    let again: Vec<usize> = publishers.iter().map(|publisher| whose(publisher)).collect();
    assert_eq!(first, again);
    for member in 0..3 {
        let share = first.iter().filter(|at| **at == member).count();
        assert!((8..=32).contains(&share), "{share} of 60 keep to {member}");
    }
    inboxes[1].connected.store(false, Ordering::Relaxed);
    for (publisher, before) in publishers.iter().zip(&first) {
        let now = whose(publisher);
        assert!(if *before == 1 { now != 1 } else { now == *before }, "{publisher}: {before}, then {now}");
    }
}

#[test]
fn two_shared_groups_and_a_direct_subscription_each_get_a_copy() {
    let hub = Hub::new(8);
    let inbox = join(&hub, "a", None);
    for (filter, identifier) in [("$share/g/x", 1), ("$share/h/x", 2), ("x", 3)] {
        hub.subscribe("a", filter, options(1, identifier)).unwrap();
    }
    assert_eq!(publish(&hub, "x"), counts(3, 0));
    let mut got: Vec<_> = inbox.got.lock().iter().map(|(_, _, ids)| ids.clone()).collect();
    got.sort();
    assert_eq!(got, [[1], [2], [3]]);
    assert!(hub.unsubscribe("a", "$share/g/x"));
    assert!(!hub.unsubscribe("a", "$share/g/x"));
    assert!(!hub.unsubscribe("a", "$share/k/x"));
    assert_eq!(publish(&hub, "x"), counts(2, 0));
}

#[test]
fn a_push_goes_to_all_clients_of_a_user_and_to_one_client() {
    let hub = Hub::new(8);
    let (phone, tablet) = (join(&hub, "phone", Some("ann")), join(&hub, "tablet", Some("ann")));
    let _other = join(&hub, "other", Some("bob"));
    let message = Arc::new(message("news"));
    assert_eq!(hub.push_to_user("ann", &message), counts(2, 0));
    assert_eq!(hub.push_to_client("phone", &message), Some(Delivered::Sent));
    assert_eq!(hub.push_to_client("unknown", &message), None);
    assert_eq!((phone.got.lock().len(), tablet.got.lock().len()), (2, 1));
    let mailbox: Arc<dyn Mailbox> = phone;
    assert!(hub.unregister("phone", &mailbox));
    assert_eq!(hub.push_to_user("ann", &message), counts(1, 0));
}

#[test]
fn an_id_is_held_until_its_own_mailbox_lets_go() {
    let hub = Hub::new(8);
    let first = join(&hub, "a", None);
    let id: Arc<str> = "a".into();
    let other: Arc<dyn Mailbox> = inbox();
    assert_eq!(hub.register(&id, None, other.clone()), Err(RegisterError::ClientIdTaken));
    assert!(!hub.unregister("a", &other));
    let first: Arc<dyn Mailbox> = first;
    hub.subscribe("a", "x", options(1, 0)).unwrap();
    assert!(hub.unregister("a", &first));
    assert_eq!(hub.register(&id, None, other), Ok(()));
    assert_eq!(publish(&hub, "x"), counts(0, 0), "the next holder inherits no subscription");
}

#[test]
fn topics_and_filters_beyond_the_levels_are_refused() {
    let hub = Hub::new(3);
    let _inbox = join(&hub, "a", None);
    let refused = Err(SubscribeError::Filter(FilterError::TooManyLevels(3)));
    assert_eq!(hub.subscribe("a", "a/b/c/#", options(0, 0)), refused);
    assert_eq!(hub.subscribe("a", "#", options(0, 0)), Ok(true));
    assert_eq!(publish(&hub, "a/b/c"), counts(1, 0));
    assert_eq!(publish(&hub, "a/b/c/d"), counts(0, 0));
    assert_eq!(hub.subscribe("b", "#", options(0, 0)), Err(SubscribeError::UnknownClient));
}

#[test]
fn many_subscribers_come_and_go_without_a_trace() {
    let hub = Hub::new(8);
    let inboxes: Vec<_> = (0..100).map(|n| join(&hub, &format!("c{n}"), Some("all"))).collect();
    for n in 0..100 {
        let id = format!("c{n}");
        hub.subscribe(&id, "all/#", options(1, 0)).unwrap();
        hub.subscribe(&id, &format!("one/{n}/x"), options(1, 0)).unwrap();
        hub.subscribe(&id, "$share/g/all/+", options(1, 0)).unwrap();
    }
    assert_eq!(publish(&hub, "all"), counts(100, 0));
    assert_eq!(publish(&hub, "all/x"), counts(101, 0));
    assert_eq!(publish(&hub, "one/42/x"), counts(1, 0));
    for (n, inbox) in inboxes.into_iter().enumerate() {
        let mailbox: Arc<dyn Mailbox> = inbox;
        assert!(hub.unregister(&format!("c{n}"), &mailbox));
    }
    assert_eq!(hub.inner.tree.read().size(), (0, 0, 0));
    assert_eq!((hub.clients(), publish(&hub, "all")), (0, counts(0, 0)));
}

/// MQTT 5, section 4.7, as plainly as it can be said.
fn matches(filter: &[&str], topic: &[&str]) -> bool {
    match (filter, topic) {
        (["#"], _) => true,
        ([], []) => true,
        (["+", filter @ ..], [_, topic @ ..]) => matches(filter, topic),
        ([level, filter @ ..], [name, topic @ ..]) => level == name && matches(filter, topic),
        _ => false,
    }
}

fn naive_match(filter: &str, topic: &str) -> bool {
    let hidden = topic.starts_with('$') && filter.starts_with(['+', '#']);
    let (filter, topic): (Vec<_>, Vec<_>) = (filter.split('/').collect(), topic.split('/').collect());
    !hidden && matches(&filter, &topic)
}

#[derive(Clone, Debug)]
enum Step {
    Subscribe(usize, String, u8),
    Unsubscribe(usize, String),
    Leave(usize),
    Publish(String),
}

const CLIENTS: usize = 4;

fn topic() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "", "$s"]), 1..4)
        .prop_map(|levels| levels.join("/"))
        .prop_filter("a topic has a character", |topic| !topic.is_empty())
}

fn filter() -> impl Strategy<Value = String> {
    let level = prop::sample::select(vec!["a", "b", "", "+", "$s"]);
    (prop::collection::vec(level, 0..4), any::<bool>())
        .prop_map(|(mut levels, hash)| {
            levels.extend(hash.then_some("#"));
            levels.join("/")
        })
        .prop_filter("a filter has a character", |filter| !filter.is_empty())
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..CLIENTS, filter(), 0..3u8).prop_map(|(n, filter, qos)| Step::Subscribe(n, filter, qos)),
        2 => (0..CLIENTS, filter()).prop_map(|(n, filter)| Step::Unsubscribe(n, filter)),
        1 => (0..CLIENTS).prop_map(Step::Leave),
        4 => topic().prop_map(Step::Publish),
    ]
}

proptest! {
    #[test]
    fn the_tree_agrees_with_the_plain_rules(steps in prop::collection::vec(step(), 1..60)) {
        let hub = Hub::new(8);
        let mut inboxes: Vec<_> = (0..CLIENTS).map(|n| join(&hub, &n.to_string(), None)).collect();
        let mut model: BTreeMap<(usize, String), u8> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Subscribe(n, filter, qos) => {
                    let is_new = model.insert((n, filter.clone()), qos).is_none();
                    prop_assert_eq!(hub.subscribe(&n.to_string(), &filter, options(qos, 0)), Ok(is_new));
                }
                Step::Unsubscribe(n, filter) => {
                    let was_there = model.remove(&(n, filter.clone())).is_some();
                    prop_assert_eq!(hub.has_subscription(&n.to_string(), &filter), was_there);
                    prop_assert_eq!(hub.unsubscribe(&n.to_string(), &filter), was_there);
                    prop_assert!(!hub.has_subscription(&n.to_string(), &filter));
                }
                Step::Leave(n) => {
                    model.retain(|(client, _), _| *client != n);
                    let mailbox: Arc<dyn Mailbox> = inboxes[n].clone();
                    prop_assert!(hub.unregister(&n.to_string(), &mailbox));
                    inboxes[n] = join(&hub, &n.to_string(), None);
                }
                Step::Publish(topic) => {
                    publish(&hub, &topic);
                    for (n, inbox) in inboxes.iter().enumerate() {
                        let own = model.iter().filter(|((client, _), _)| *client == n);
                        let wanted = own.filter(|((_, filter), _)| naive_match(filter, &topic));
                        let expected: Vec<u8> = wanted.map(|(_, qos)| *qos).max().into_iter().collect();
                        let got: Vec<u8> = inbox.got.lock().drain(..).map(|(qos, ..)| qos).collect();
                        prop_assert_eq!(got, expected, "client {} on {}", n, topic);
                    }
                }
            }
        }
        for n in 0..CLIENTS {
            let listed: BTreeSet<_> =
                hub.subscriptions(&n.to_string()).into_iter().map(|(filter, options)| (filter, options.qos)).collect();
            let own = model.iter().filter(|((client, _), _)| *client == n);
            prop_assert_eq!(listed, own.map(|((_, filter), qos)| (filter.clone(), *qos)).collect());
        }
    }

    #[test]
    fn one_filter_agrees_with_the_plain_rules(filter in filter(), topic in topic()) {
        let parsed = TopicFilter::parse(&filter, 8).unwrap();
        prop_assert_eq!(parsed.matches(&topic), naive_match(&filter, &topic));
    }
}

/// With the counts of its `Arc`, one of the allocator's sizes.
#[test]
fn a_client_without_subscriptions_is_small() {
    let bytes = size_of::<registry::Client>();
    assert!(bytes <= 96 - 16, "{bytes} bytes");
}
