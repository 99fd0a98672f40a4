//! Connections whose handshake is under way.

use std::sync::Arc;

use towline_protocols::link::{Ack, Execution, Filter, RpcErrorKind, Subscribe};

use super::*;

/// A session of which the client knows the id, held at epoch 1.
fn held(rig: &Rig) -> Opened {
    drop(rig.open(&hello(1)));
    rig.open(&hello(2))
}

fn visiting(opened: &Opened, hello: Hello) -> Hello {
    Hello { session_id: opened.session_id, ..hello }
}

fn later(lease: &Lease, seq: u64) {
    assert!(matches!(lease.begin(seq), Begin::Later), "{seq} does not wait");
}

#[test]
fn a_visitor_runs_what_is_new_and_the_holder_goes_on_undisturbed() {
    let rig = Rig::new();
    let holder = held(&rig);
    let (running, mut answer) = run(&holder.lease, 1);
    let hello = visiting(&holder, waiting(3, &[(1, 0), (2, 0)]));
    let visit = rig.sessions.visit(&hello, None).unwrap();
    assert_eq!((visit.session_id, visit.unknown, visit.awaited), (holder.session_id, vec![2], vec![1]));
    let (early, mut early_answer) = run(&visit.lease, 3);
    later(&visit.lease, 1);
    assert!(matches!(visit.lease.attach(1, Place::default()), Attach::Later));
    assert_eq!(holder.lease.poll_event(), None);
    running.head(head()).unwrap();
    assert_eq!(drain(&mut answer), "h", "the holder's answers are its own");
    early.end();
    assert_eq!(drain(&mut early_answer), "e.", "and the visitor's are the visitor's");
    assert_eq!(visit.lease.poll_event(), Some(SessionEvent::Ready(3)));
    assert_eq!(rig.hub.push_to_client("phone", &push("a")), Some(crate::hub::Delivered::Sent));
    assert_eq!((texts(&visit.lease), texts(&holder.lease)), (vec![], vec!["a".to_owned()]));
    drop(visit.lease);
    assert_eq!(holder.lease.revoked(), None);
    assert_eq!(rig.hub.is_connected("phone"), Some(true));
}

#[test]
fn what_a_visitor_says_of_the_session_is_of_no_effect() {
    let rig = Rig::new();
    let holder = held(&rig);
    let (producer, _answer) = run(&holder.lease, 1);
    producer.end();
    let visit = rig.sessions.visit(&visiting(&holder, hello(3)), None).unwrap();
    visit.lease.acknowledge(&Ack { floor: 9, seqs: vec![] });
    visit.lease.cancel(1, "not mine");
    visit.lease.push_ack(Priority::NORMAL, 1).unwrap();
    let filter = Filter { filter: "a".to_owned(), qos: 1 };
    visit.lease.subscribe(&Subscribe { add: vec![filter], remove: vec![] });
    assert!(rig.hub.subscriptions("phone").is_empty());
    assert_eq!(drain(&mut again(&holder.lease, 1)), "e.");
}

#[test]
fn what_came_again_before_the_handshake_was_complete_is_answered_once() {
    let rig = Rig::new();
    let holder = held(&rig);
    let hello = visiting(&holder, waiting(3, &[(2, 0)]));
    let visit = rig.sessions.visit(&hello, None).unwrap();
    assert_eq!(visit.unknown, [2]);
    let (producer, mut answer) = run(&visit.lease, 2);
    let established = visit.lease.establish(&hello, &visit.awaited).unwrap();
    assert!(established.attached.is_empty() && established.refused.is_empty());
    producer.end();
    assert_eq!(drain(&mut answer), "e.");
}

#[test]
fn a_stream_that_asks_while_its_connection_becomes_the_holder_keeps_its_answer() {
    let rig = Rig::new();
    let Opened { mut lease, session_id, .. } = held(&rig);
    for seq in 1..500 {
        let (producer, _) = run(&lease, seq);
        let hello = Hello { session_id, ..waiting(seq + 2, &[(seq, 0)]) };
        let visit = rig.sessions.visit(&hello, None).unwrap();
        // On QUIC both are brought by the datagram that ends the handshake.
        let asks = || loop {
            match visit.lease.attach(seq, Place::default()) {
                Attach::Later => std::hint::spin_loop(),
                Attach::Attached(consumer) => return consumer,
                Attach::Unknown | Attach::Refused(_) => panic!("{seq} is held"),
            }
        };
        let mut answer = std::thread::scope(|scope| {
            let asking = scope.spawn(asks);
            drop(visit.lease.establish(&hello, &visit.awaited).unwrap());
            asking.join().unwrap()
        });
        producer.end();
        assert_eq!(drain(&mut answer), "e.", "{seq}");
        lease = visit.lease;
    }
}

#[test]
fn a_complete_handshake_makes_a_visitor_the_holder_and_keeps_what_it_began() {
    let rig = Rig::new();
    let holder = held(&rig);
    let (running, _answer) = run(&holder.lease, 1);
    let hello = visiting(&holder, waiting(3, &[(1, 0), (2, 0)]));
    let visit = rig.sessions.visit(&hello, None).unwrap();
    let (finished, _consumer) = run(&visit.lease, 3);
    finished.end();
    let (_still_running, mut consumer) = run(&visit.lease, 4);
    let established = visit.lease.establish(&hello, &visit.awaited).unwrap();
    assert_eq!(holder.lease.poll_event(), Some(SessionEvent::Revoked(Revoked::TakenOver)));
    assert_eq!((established.attached.len(), established.refused.len()), (1, 0));
    running.end();
    assert_eq!(drain(&mut again(&visit.lease, 3)), "e.", "HELLO did not list it, and it is wanted");
    assert_eq!(consumer.try_next(), Next::Pending, "its own answer stays with it");
    assert!(matches!(visit.lease.begin(2), Begin::Run(..)), "2 was said to be unknown and may come");
    assert_eq!(rig.refusal(&hello, None), OpenError::TakenOver, "its epoch counts from now on");
}

#[test]
fn a_request_that_the_take_over_cut_is_reset_though_welcome_said_it_was_known() {
    let rig = Rig::new();
    let holder = held(&rig);
    let Begin::Run(_producer, _consumer) = holder.lease.begin(1) else { panic!("1 is new") };
    let hello = visiting(&holder, waiting(3, &[(1, 0)]));
    let visit = rig.sessions.visit(&hello, None).unwrap();
    assert_eq!(visit.awaited, [1]);
    let established = visit.lease.establish(&hello, &visit.awaited).unwrap();
    let refused: Vec<_> = established.refused.iter().map(|(seq, error)| (*seq, error.execution)).collect();
    assert_eq!(refused, [(1, Execution::NotRun)]);
}

#[test]
fn only_a_newer_connection_of_the_owner_of_a_session_that_is_remembered_visits() {
    let rig = Rig::new();
    let holder = held(&rig);
    let refused =
        |hello: &Hello, user: Option<&str>| rig.sessions.visit(hello, user.map(Arc::from)).is_none();
    assert!(refused(&visiting(&holder, hello(2)), None), "an epoch that was here: a replay");
    assert!(refused(&visiting(&holder, hello(1)), None));
    assert!(refused(&hello(3), None), "no id: the client has no session yet");
    assert!(refused(&Hello { session_id: !holder.session_id, ..hello(3) }, None));
    let wrong = Hello { session_secret: vec![2; 16].into(), ..visiting(&holder, hello(3)) };
    assert!(refused(&wrong, None));
    assert!(refused(&visiting(&holder, hello(3)), Some("ann")));
    assert!(refused(&visiting(&holder, Hello { client_id: "new".to_owned(), ..hello(3) }), None));
    assert_eq!(rig.sessions.len(), 1, "early data makes no session");
    assert!(!refused(&visiting(&holder, hello(3)), None));
}

#[tokio::test]
async fn a_gateway_that_was_restarted_lets_nobody_visit() {
    let rig = Rig::new();
    let session_id = held(&rig).session_id;
    let rig = rig.restart().await;
    let hello = Hello { session_id, ..hello(3) };
    assert!(rig.sessions.visit(&hello, None).is_none(), "its requests are forgotten");
    drop(rig.sessions.open(&hello, None).unwrap());
    assert!(rig.sessions.visit(&Hello { epoch: 4, ..hello }, None).is_none());
}

#[test]
fn a_session_whose_requests_are_forgotten_is_another_one() {
    let rig = Rig::new();
    let holder = held(&rig);
    let old = visiting(&holder, hello(9));
    let visit = rig.sessions.visit(&old, None).unwrap();
    let (_producer, _consumer) = run(&visit.lease, 1);
    let anew = rig.sessions.open(&hello(3), None).unwrap();
    assert!(!anew.resumed);
    assert_ne!(anew.session_id, holder.session_id);
    assert_eq!(visit.lease.revoked(), Some(Revoked::TakenOver));
    assert_eq!(visit.lease.establish(&old, &[]).err(), Some(OpenError::TakenOver));
    assert!(rig.sessions.visit(&old, None).is_none(), "sent again, it would run 1 a second time");
}

#[test]
fn a_second_copy_of_a_flight_waits_for_what_the_first_began() {
    let rig = Rig::new();
    let holder = held(&rig);
    let hello = visiting(&holder, hello(3));
    let first = rig.sessions.visit(&hello, None).unwrap();
    let (producer, _consumer) = run(&first.lease, 1);
    let copy = rig.sessions.visit(&hello, None).unwrap();
    later(&copy.lease, 1);
    drop(first);
    later(&copy.lease, 1);
    producer.end();
    later(&copy.lease, 1);
    // Whoever finishes the handshake is the client, and the other never was.
    let client = rig.sessions.visit(&hello, None).unwrap();
    client.lease.establish(&hello, &[]).unwrap();
    assert_eq!(drain(&mut again(&client.lease, 1)), "e.");
    assert_eq!(copy.lease.poll_event(), Some(SessionEvent::Revoked(Revoked::TakenOver)));
    let error = refused(&copy.lease, 1);
    assert_eq!((error.kind, error.execution), (RpcErrorKind::SessionLost, Execution::NotRun));
}

#[test]
fn what_a_lost_visitor_began_is_there_for_the_client_when_it_comes() {
    let rig = Rig::new();
    let holder = held(&rig);
    let visit = rig.sessions.visit(&visiting(&holder, hello(3)), None).unwrap();
    let (producer, consumer) = run(&visit.lease, 1);
    drop((visit, consumer));
    producer.end();
    let mut opened = rig.open(&waiting(4, &[(1, 0)]));
    assert_eq!(drain(&mut opened.attached[0]), "e.");
}

#[test]
fn visitors_of_one_session_are_few() {
    let rig = Rig::new();
    let holder = held(&rig);
    let visits: Vec<_> =
        (3..20).map_while(|epoch| rig.sessions.visit(&visiting(&holder, hello(epoch)), None)).collect();
    assert_eq!(visits.len(), 8);
    assert_eq!(rig.limit_hits("session_visitors_max"), 1);
    drop(visits);
    assert!(rig.sessions.visit(&visiting(&holder, hello(3)), None).is_some());
}
