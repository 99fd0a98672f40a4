//! Who may open a session, and who holds it.

use towline_protocols::link::{Ack, Execution, Filter, RpcErrorKind, Subscribe};

use super::*;
use crate::{
    hub::{Delivered, Delivery, Mailbox},
    store::Table,
};

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn only_the_secret_and_the_user_open_a_session() {
    let rig = Rig::new();
    let ann: Option<Arc<str>> = Some("ann".into());
    let session_id = rig.sessions.open(&hello(1), ann.clone()).unwrap().session_id;
    let wrong = Hello { session_secret: vec![2; 16].into(), ..hello(9) };
    assert_eq!(rig.refusal(&wrong, Some("ann")), OpenError::WrongSecret);
    assert_eq!(rig.refusal(&hello(9), Some("bob")), OpenError::WrongUser);
    assert_eq!(rig.refusal(&hello(9), None), OpenError::WrongUser);
    let hello = Hello { session_id, ..hello(2) };
    assert!(rig.sessions.open(&hello, ann).unwrap().resumed, "the refused attempts changed nothing");
}

/// It may come late, by a way that a POST took.
#[test]
fn what_is_acknowledged_before_the_first_request_does_not_run() {
    let rig = Rig::new();
    let opened = rig.open(&hello(1));
    opened.lease.acknowledge(&Ack { floor: 2, seqs: vec![4] });
    for seq in [1, 2, 4] {
        let error = refused(&opened.lease, seq);
        assert_eq!((error.kind, error.execution), (RpcErrorKind::OutcomeExpired, Execution::Ran), "{seq}");
    }
    run(&opened.lease, 3);
}

#[test]
fn a_hello_that_breaks_a_rule_is_refused() {
    let rig = Rig::new();
    let check = |change: fn(&mut Hello)| {
        let mut hello = hello(1);
        change(&mut hello);
        assert!(matches!(rig.refusal(&hello, None), OpenError::Malformed(_)), "{hello:?}");
    };
    check(|hello| hello.client_id.clear());
    check(|hello| hello.client_id = "x".repeat(65));
    check(|hello| hello.client_id = "a\0b".to_owned());
    check(|hello| hello.client_id = "é".to_owned());
    check(|hello| hello.session_secret.truncate(15));
    check(|hello| hello.session_secret = vec![1; 17].into());
    assert!(rig.sessions.is_empty());
}

#[test]
fn a_newer_connection_takes_the_session_over_and_the_older_one_is_told() {
    let rig = Rig::new();
    let first = rig.open(&hello(5));
    assert!(!first.resumed);
    let (_producer, mut consumer) = run(&first.lease, 1);
    let second = rig.open(&waiting(6, &[(1, 0), (2, 0)]));
    assert!(second.resumed);
    assert_eq!(first.lease.poll_event(), Some(SessionEvent::Revoked(Revoked::TakenOver)));
    assert_eq!(consumer.try_next(), Next::Done);
    assert_eq!((second.attached.len(), second.unknown), (1, vec![2]));
    let error = refused(&first.lease, 2);
    assert_eq!((error.kind, error.execution), (RpcErrorKind::SessionLost, Execution::NotRun));
    drop(first.lease);
    assert_eq!(rig.hub.is_connected("phone"), Some(true), "the older one's end is not the session's");
    drop(second.lease);
    assert_eq!(rig.hub.is_connected("phone"), Some(false));
}

#[test]
fn an_older_or_equal_epoch_is_refused_also_after_the_newer_has_gone() {
    let rig = Rig::new();
    let opened = rig.open(&hello(5));
    assert_eq!(rig.refusal(&hello(5), None), OpenError::TakenOver);
    assert_eq!(rig.refusal(&hello(4), None), OpenError::TakenOver);
    assert_eq!(opened.lease.revoked(), None);
    drop(opened);
    assert_eq!(rig.refusal(&hello(5), None), OpenError::TakenOver);
    assert!(rig.open(&hello(6)).resumed);
}

#[test]
fn a_client_that_speaks_of_another_session_is_told_and_begins_anew() {
    let rig = Rig::new();
    let lost_welcome = rig.sessions.open(&hello(1), None).unwrap();
    let (producer, _consumer) = run(&lost_welcome.lease, 1);
    rig.hub.push_to_client("phone", &push("kept"));
    let other = Hello { session_id: !lost_welcome.session_id, ..waiting(2, &[(1, 0)]) };
    let pushes_taken = Some(PushesTaken { push_line: 99, ids: vec![99; 8] });
    let other = Hello { pushes_taken, ..other };
    let opened = rig.sessions.open(&other, None).unwrap();
    assert!(!opened.resumed);
    assert!(opened.unknown.is_empty(), "request 1 may have run in the session that the client speaks of");
    assert_eq!(producer.ended().now_or_never(), Some(Ended));
    assert_eq!(texts(&opened.lease), ["kept"], "the other session's push ids say nothing of this one's");
    let same = Hello { session_id: opened.session_id, ..waiting(3, &[(2, 0)]) };
    assert_eq!(rig.sessions.open(&same, None).unwrap().unknown, [2]);
}

#[test]
fn of_two_racing_connections_the_newer_holds_the_session_in_either_order() {
    for epochs in [[1, 2], [2, 1]] {
        let rig = Rig::new();
        let opened = epochs.map(|epoch| (epoch, rig.sessions.open(&hello(epoch), None)));
        for (epoch, result) in &opened {
            let holds = result.as_ref().is_ok_and(|opened| opened.lease.revoked().is_none());
            assert_eq!(holds, *epoch == 2, "epoch {epoch} of {epochs:?}");
        }
    }
}

#[test]
fn a_session_that_stays_away_expires_and_a_live_one_does_not() {
    let rig = Rig::new();
    let live = rig.open(&Hello { client_id: "live".to_owned(), ..hello(1) });
    drop(rig.open(&hello(1)));
    assert_eq!(rig.advance(HOUR - Duration::from_secs(1)), 0);
    let back = rig.open(&hello(2));
    assert!(back.resumed);
    assert_eq!(rig.advance(HOUR), 0, "it has been back");
    drop(back);
    assert_eq!(rig.advance(HOUR - Duration::from_secs(1)), 0);
    assert_eq!(rig.advance(Duration::from_secs(1)), 1);
    assert_eq!((rig.sessions.len(), rig.hub.clients(), rig.metrics.sessions.get()), (1, 1, 1));
    assert!(!rig.open(&hello(1)).resumed, "a new session begins with any epoch");
    drop(live);
}

#[tokio::test]
async fn an_expired_session_leaves_nothing_in_the_store() {
    let rig = Rig::new();
    drop(rig.open(&hello(1)));
    assert_eq!(rig.hub.push_to_client("phone", &push("a")), Some(Delivered::Stored));
    let stored = |table| rig.store.scan(table).unwrap().len();
    rig.store.barrier().await.unwrap();
    assert_eq!((stored(Table::Sessions), stored(Table::Pushes)), (1, 1));
    assert_eq!(rig.advance(HOUR), 1);
    rig.store.barrier().await.unwrap();
    assert_eq!((stored(Table::Sessions), stored(Table::Pushes)), (0, 0));
}

#[test]
fn beyond_sessions_max_new_clients_are_refused_and_known_ones_come_back() {
    let rig = Rig::with(|settings| settings.limits.sessions_max = 1);
    drop(rig.open(&hello(1)));
    let other = Hello { client_id: "other".to_owned(), ..hello(1) };
    assert_eq!(rig.refusal(&other, None), OpenError::SessionsFull);
    assert_eq!(rig.limit_hits("limits.sessions_max"), 1);
    assert!(rig.open(&hello(2)).resumed);
}

#[test]
fn an_id_that_an_mqtt_client_holds_is_refused() {
    struct Other;
    impl Mailbox for Other {
        fn deliver(&self, _: &Arc<Message>, _: &Delivery<'_>) -> Delivered {
            Delivered::Dropped
        }
        fn is_connected(&self) -> bool {
            true
        }
    }
    let rig = Rig::new();
    rig.hub.register(&"phone".into(), None, Arc::new(Other)).unwrap();
    assert_eq!(rig.refusal(&hello(1), None), OpenError::ClientIdTaken);
    assert!(rig.sessions.is_empty());
}

#[test]
fn hellos_topics_replace_those_of_the_connection_before() {
    let rig = Rig::with(|settings| settings.session.subscriptions_max = 2);
    let filter = |filter: &str, qos| Filter { filter: filter.to_owned(), qos };
    let opened = rig.open(&Hello { topics: vec![filter("a/#", 1), filter("b", 2)], ..hello(1) });
    let granted: Vec<_> =
        opened.subscriptions.subscribed.results.iter().map(|result| (result.qos, &*result.error)).collect();
    assert_eq!(granted, [(1, ""), (1, "")]);
    let more = Subscribe { add: vec![filter("c", 0), filter("x#", 0)], remove: vec![] };
    let results = opened.lease.subscribe(&more).subscribed.results;
    assert!(results[0].error.contains("session.subscriptions_max"), "{}", results[0].error);
    assert!(results[1].error.contains("MQTT-4.7.1-1"), "{}", results[1].error);
    let swap = Subscribe { add: vec![filter("c", 0)], remove: vec!["b".to_owned(), "d".to_owned()] };
    let errors: Vec<_> = opened
        .lease
        .subscribe(&swap)
        .subscribed
        .results
        .into_iter()
        .map(|result| result.error.is_empty())
        .collect();
    assert_eq!(errors, [true, false, true], "b is gone, d never was, c has room");
    let opened = rig.open(&Hello { topics: vec![filter("c", 1)], ..hello(2) });
    assert_eq!(opened.subscriptions.subscribed.results.len(), 1);
    let held: Vec<_> =
        rig.hub.subscriptions("phone").into_iter().map(|(filter, o)| (filter, o.qos)).collect();
    assert_eq!(held, [("c".to_owned(), 1)]);
}

#[test]
fn a_gateway_that_ends_frees_its_sessions_and_tells_their_connections() {
    let rig = Rig::new();
    let opened = rig.open(&hello(1));
    let session = Arc::downgrade(opened.lease.session());
    drop(rig.sessions);
    assert_eq!(opened.lease.revoked(), Some(Revoked::Ended));
    drop(opened);
    assert!(session.upgrade().is_none());
}

/// With the counts of its `Arc`, one of the allocator's sizes.
#[test]
fn a_session_that_does_nothing_is_small() {
    assert!(size_of::<LinkSession>() <= 256 - 16, "{} bytes", size_of::<LinkSession>());
}
