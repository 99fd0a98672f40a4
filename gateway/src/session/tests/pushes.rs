//! What is pushed arrives in order, once acknowledged never again, and survives a restart.

use towline_protocols::link::Filter;

use super::*;
use crate::{
    hub::{Delivered, Fanout},
    store::{Memory, Table},
};

fn filter(filter: &str) -> Filter {
    Filter { filter: filter.to_owned(), qos: 1 }
}

#[test]
fn a_live_client_is_sent_pushes_in_order() {
    let rig = Rig::new();
    let opened = rig.open(&hello(1));
    for text in ["a", "b"] {
        assert_eq!(rig.hub.push_to_client("phone", &push(text)), Some(Delivered::Sent));
    }
    assert_eq!(opened.lease.poll_event(), Some(SessionEvent::Pushes));
    assert_eq!(opened.lease.poll_event(), None);
    assert_eq!(pushes(&opened.lease), [(1, "a".to_owned()), (2, "b".to_owned())]);
    assert!(pushes(&opened.lease).is_empty(), "each once for a connection");
    opened.lease.push_ack(Priority::NORMAL, 2).unwrap();
    assert_eq!(rig.sessions.held_bytes(), 0);
}

#[test]
fn an_away_client_keeps_quality_1_and_not_quality_0() {
    let rig = Rig::new();
    drop(rig.open(&hello(1)));
    let fleeting = Arc::new(Message { qos: 0, ..(*push("fleeting")).clone() });
    assert_eq!(rig.hub.push_to_client("phone", &push("kept")), Some(Delivered::Stored));
    assert_eq!(rig.hub.push_to_client("phone", &fleeting), Some(Delivered::Dropped));
    let opened = rig.open(&hello(2));
    assert_eq!(opened.lease.poll_event(), Some(SessionEvent::Pushes));
    assert_eq!(texts(&opened.lease), ["kept"]);
}

#[test]
fn unacknowledged_pushes_come_again_and_acknowledged_ones_never() {
    let rig = Rig::new();
    let opened = rig.open(&hello(1));
    for text in ["a", "b", "c"] {
        rig.hub.push_to_client("phone", &push(text));
    }
    assert_eq!(texts(&opened.lease), ["a", "b", "c"]);
    opened.lease.push_ack(Priority::NORMAL, 1).unwrap();
    let opened = rig.open(&hello(2));
    assert_eq!(texts(&opened.lease), ["b", "c"]);
    let opened = rig.open(&taken(&rig, &[0, 0, 0, 2], hello(3)));
    assert_eq!(pushes(&opened.lease), [(3, "c".to_owned())]);
}

#[test]
fn a_push_that_was_not_sent_cannot_be_acknowledged() {
    let rig = Rig::new();
    let opened = rig.open(&hello(1));
    rig.hub.push_to_client("phone", &push("a"));
    assert_eq!(opened.lease.push_ack(Priority::NORMAL, 1), Err(PushNotSent(1)));
    assert_eq!(texts(&opened.lease), ["a"]);
    opened.lease.push_ack(Priority::NORMAL, 1).unwrap();
    assert_eq!(opened.lease.push_ack(Priority::NORMAL, 2), Err(PushNotSent(2)));
    opened.lease.push_ack(Priority::NORMAL, 1).unwrap();
    rig.hub.push_to_client("phone", &push("b"));
    opened.lease.push_ack(Priority::NORMAL, 1).expect("again, while the next one waits");
    assert_eq!(opened.lease.push_ack(Priority::NORMAL, 2), Err(PushNotSent(2)));
}

/// HELLO had left before the application took it, and PUSH_ACK comes before it is sent again.
#[test]
fn a_push_of_an_earlier_connection_may_be_acknowledged_before_it_is_sent_again() {
    let rig = Rig::new();
    let opened = rig.open(&hello(1));
    rig.hub.push_to_client("phone", &push("a"));
    assert_eq!(texts(&opened.lease), ["a"]);
    let opened = rig.open(&hello(2));
    rig.hub.push_to_client("phone", &push("b"));
    assert_eq!(opened.lease.push_ack(Priority::NORMAL, 2), Err(PushNotSent(2)));
    opened.lease.push_ack(Priority::NORMAL, 1).unwrap();
    assert_eq!(texts(&opened.lease), ["b"]);
}

#[test]
fn beyond_its_bounds_the_queue_drops_and_says_so() {
    let rig = Rig::with(|settings| settings.session.pushes_max = 2);
    drop(rig.open(&hello(1)));
    for text in ["a", "b", "c"] {
        assert_eq!(rig.hub.push_to_client("phone", &push(text)), Some(Delivered::Stored));
    }
    let topic = "other".into();
    let low = Message { topic, priority: Priority::BACKGROUND, ..(*push("low")).clone() };
    assert_eq!(rig.hub.push_to_client("phone", &Arc::new(low)), Some(Delivered::Dropped));
    assert_eq!(rig.limit_hits("session.pushes_max"), 2);
    assert_eq!(texts(&rig.open(&hello(2)).lease), ["b", "c"]);
}

#[test]
fn a_consumer_that_takes_nothing_holds_no_more_than_its_bound() {
    let rig = Rig::with(|settings| settings.session.push_bytes_max = 10_000);
    let _opened = rig.open(&hello(1));
    for _ in 0..1000 {
        rig.hub.push_to_client("phone", &push(&"x".repeat(500)));
        assert!(rig.sessions.held_bytes() <= 10_000);
    }
    assert!(rig.limit_hits("session.push_bytes_max") > 900);
}

#[test]
fn a_push_older_than_its_bound_is_not_sent() {
    let rig = Rig::with(|settings| settings.session.push_age_max = Duration::from_secs(60));
    let opened = rig.open(&hello(1));
    rig.hub.push_to_client("phone", &push("old"));
    rig.advance(Duration::from_secs(61));
    rig.hub.push_to_client("phone", &push("new"));
    assert_eq!(texts(&opened.lease), ["new"]);
    assert_eq!(rig.limit_hits("session.push_age_max"), 1);
}

#[tokio::test]
async fn what_was_accepted_survives_a_restart() {
    let rig = Rig::new();
    drop(rig.open(&Hello { topics: vec![filter("news/#")], ..hello(7) }));
    rig.hub.push_to_client("phone", &push("direct"));
    let published = Message { topic: "news/today".into(), ..(*push("published")).clone() };
    let stored = Fanout { stored: 1, to_write: 1, ..Fanout::default() };
    assert_eq!(rig.hub.publish(&Arc::new(published.clone())), stored);

    let rig = rig.restart().await;
    assert_eq!(rig.hub.publish(&Arc::new(published)), stored, "the subscription is there too");
    let wrong = Hello { session_secret: vec![9; 16].into(), ..hello(8) };
    assert_eq!(rig.refusal(&wrong, None), OpenError::WrongSecret);
    let opened = rig.open(&Hello { topics: vec![filter("news/#")], ..waiting(1, &[(1, 0)]) });
    assert!(!opened.resumed, "the requests are not known any more");
    assert!(opened.unknown.is_empty() && opened.attached.is_empty());
    let got = pushes(&opened.lease);
    assert_eq!(got.iter().map(|(_, text)| &**text).collect::<Vec<_>>(), ["direct", "published", "published"]);
    assert!(got.is_sorted_by(|a, b| a.0 < b.0), "{got:?}");
    opened.lease.push_ack(Priority::NORMAL, got[1].0).unwrap();

    let rig = rig.restart().await;
    let received = got[1].0;
    let opened = rig.open(&taken(&rig, &[0, 0, 0, received], hello(9)));
    assert_eq!(pushes(&opened.lease), got[2..], "acknowledged ones do not come back");
}

#[tokio::test]
async fn a_lowered_sessions_max_takes_nothing_from_sessions_that_are_there() {
    let mut rig = Rig::new();
    let other = Hello { client_id: "other".to_owned(), ..hello(1) };
    drop((rig.open(&hello(1)), rig.open(&other)));
    for client in ["phone", "other"] {
        rig.hub.push_to_client(client, &push(client));
    }
    rig.settings.limits.sessions_max = 1;
    let rig = rig.restart().await;
    assert_eq!(rig.sessions.len(), 2);
    let third = Hello { client_id: "third".to_owned(), ..hello(1) };
    assert_eq!(rig.refusal(&third, None), OpenError::SessionsFull);
    let rig = rig.restart().await;
    assert_eq!(texts(&rig.open(&hello(2)).lease), ["phone"]);
    assert_eq!(texts(&rig.open(&Hello { epoch: 2, ..other }).lease), ["other"]);
}

#[tokio::test]
async fn what_a_lost_connection_had_not_acknowledged_survives_a_restart() {
    let rig = Rig::new();
    let opened = rig.open(&hello(1));
    for text in ["a", "b"] {
        assert_eq!(rig.hub.push_to_client("phone", &push(text)), Some(Delivered::Sent));
    }
    assert_eq!(texts(&opened.lease), ["a", "b"]);
    opened.lease.push_ack(Priority::NORMAL, 1).unwrap();
    drop(opened);
    let rig = rig.restart().await;
    assert_eq!(texts(&rig.open(&hello(1)).lease), ["b"]);
}

#[tokio::test]
async fn a_push_to_a_live_client_is_on_disk_until_it_is_acknowledged() {
    let rig = Rig::new();
    let opened = rig.open(&hello(1));
    assert_eq!(rig.hub.push_to_client("phone", &push("a")), Some(Delivered::Sent));
    rig.store.barrier().await.unwrap();
    // What a crash at this moment would leave: the connection is not even known to be lost.
    assert_eq!(rig.store.scan(Table::Pushes).unwrap().len(), 1);
    assert_eq!(texts(&opened.lease), ["a"]);
    opened.lease.push_ack(Priority::NORMAL, 1).unwrap();
    rig.store.barrier().await.unwrap();
    assert!(rig.store.scan(Table::Pushes).unwrap().is_empty());
}

#[tokio::test]
async fn push_ids_never_go_back() {
    let rig = Rig::new();
    let opened = rig.open(&hello(1));
    for _ in 0..3 {
        rig.hub.push_to_client("phone", &push("a"));
    }
    let last = pushes(&opened.lease).last().unwrap().0;
    opened.lease.push_ack(Priority::NORMAL, last).unwrap();
    drop(opened);
    let rig = rig.restart().await;
    rig.hub.push_to_client("phone", &push("b"));
    let opened = rig.open(&taken(&rig, &[0, 0, 0, last], hello(2)));
    let got = pushes(&opened.lease);
    assert!(got[0].0 > last, "{got:?}");
}

#[tokio::test]
async fn the_ids_of_a_life_that_wrote_nothing_are_not_used_again() {
    let memory = Memory::new().unwrap();
    let live = || {
        let (store, writer) = Store::by_hand(&memory);
        (Rig::on(store, Settings::default(), Clock::simulated()), writer)
    };
    let (rig, writer) = live();
    drop(rig.open(&hello(1)));
    writer.write();
    drop((rig, writer));
    let (rig, writer) = live();
    rig.hub.push_to_client("phone", &push("lost"));
    let seen = pushes(&rig.open(&hello(2)).lease)[0].0;
    drop((rig, writer));
    let (rig, _writer) = live();
    rig.hub.push_to_client("phone", &push("kept"));
    let got = pushes(&rig.open(&hello(3)).lease);
    assert!(got[0].0 > seen, "{got:?} behind {seen}");
}

#[tokio::test]
async fn a_restarted_session_expires_like_any_other() {
    let rig = Rig::new();
    drop(rig.open(&hello(1)));
    let rig = rig.restart().await;
    assert_eq!(rig.sessions.len(), 1);
    assert_eq!(rig.advance(Duration::from_secs(3600)), 1);
    let rig = rig.restart().await;
    assert_eq!((rig.sessions.len(), rig.hub.clients()), (0, 0));
}

#[tokio::test]
async fn a_record_of_another_version_stops_the_start() {
    use crate::store::{StoreError, Write};
    let rig = Rig::new();
    let (table, key, value) = (Table::Sessions, b"phone".to_vec(), vec![99]);
    rig.store.append(Write::Put { table, key, value }).await.unwrap();
    let Rig { store, settings, metrics, clock, .. } = rig;
    let error = Sessions::restore(&settings, Hub::new(8), store, &metrics, clock).err().unwrap();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
}

#[test]
fn an_urgent_push_overtakes_those_that_wait_and_the_rest_is_not_lost() {
    let rig = Rig::new();
    drop(rig.open(&hello(1)));
    rig.hub.push_to_client("phone", &push("news"));
    let pay = Message { topic: "pay".into(), priority: Priority::CRITICAL, ..(*push("pay")).clone() };
    rig.hub.push_to_client("phone", &Arc::new(pay));
    let opened = rig.open(&hello(2));
    assert_eq!(pushes(&opened.lease), [(2, "pay".to_owned()), (1, "news".to_owned())]);
    opened.lease.push_ack(Priority::CRITICAL, 2).unwrap();
    let opened = rig.open(&taken(&rig, &[2], hello(3)));
    assert_eq!(pushes(&opened.lease), [(1, "news".to_owned())]);
    assert_eq!(
        opened.lease.push_ack(Priority::NORMAL, 2),
        Ok(()),
        "nothing of this urgency waits to be sent"
    );
    assert_eq!(rig.sessions.held_bytes(), 0);
}

#[tokio::test]
async fn a_newer_push_takes_the_place_of_a_waiting_one_also_on_disk() {
    let rig = Rig::new();
    drop(rig.open(&hello(1)));
    for text in ["1:0", "2:0", "2:1"] {
        let keyed = Message { collapse_key: Some("score".into()), ..(*push(text)).clone() };
        assert_eq!(rig.hub.push_to_client("phone", &Arc::new(keyed)), Some(Delivered::Stored));
    }
    rig.hub.push_to_client("phone", &push("other"));
    let rig = rig.restart().await;
    assert_eq!(rig.store.scan(Table::Pushes).unwrap().len(), 2);
    assert_eq!(texts(&rig.open(&hello(2)).lease), ["2:1", "other"]);
}

#[test]
fn a_push_that_the_client_cannot_take_is_given_up() {
    let rig = Rig::new();
    let opened = rig.open(&hello(1));
    rig.hub.push_to_client("phone", &push("large"));
    let id = opened.lease.next_push().unwrap().id;
    opened.lease.refuse_push(id, "client_frame_bytes_max");
    assert_eq!((rig.limit_hits("client_frame_bytes_max"), rig.sessions.held_bytes()), (1, 0));
    assert!(texts(&rig.open(&hello(2)).lease).is_empty());
}

#[tokio::test]
async fn the_numbering_has_a_name_that_a_restart_does_not_change() {
    let rig = Rig::new();
    drop(rig.open(&hello(1)));
    let line = |rig: &Rig| rig.sessions.get("phone").unwrap().push_line();
    let before = line(&rig);
    let rig = rig.restart().await;
    assert_eq!(line(&rig), before);
    assert_eq!(rig.advance(Duration::from_secs(3601)), 1);
    drop(rig.open(&hello(2)));
    assert_ne!(line(&rig), before, "a session of its own");
}
