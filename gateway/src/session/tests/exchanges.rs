//! Requests are run once, and their answers can be taken again.

use towline_protocols::link::{Ack, Execution::*, RpcErrorKind::*};

use super::*;
use crate::hub::Delivered;

fn ack(floor: u64, seqs: &[u64]) -> Ack {
    Ack { floor, seqs: seqs.to_vec() }
}

#[test]
fn an_answer_arrives_as_it_was_written_and_a_repeat_gets_the_same() {
    let rig = Rig::new();
    let opened = rig.open(&hello(1));
    let (producer, mut consumer) = run(&opened.lease, 1);
    assert_eq!(drain(&mut consumer), "");
    producer.head(head()).unwrap();
    assert_eq!(opened.lease.poll_event(), Some(SessionEvent::Ready(1)));
    assert_eq!(drain(&mut consumer), "h");
    send(&producer, "one").unwrap();
    send(&producer, "two").unwrap();
    assert_eq!(opened.lease.poll_event(), Some(SessionEvent::Ready(1)));
    assert_eq!(opened.lease.poll_event(), None, "one event stands for both");
    assert_eq!(drain(&mut consumer), "one two");
    producer.trailers(head());
    assert_eq!(drain(&mut consumer), "t.");
    assert_eq!(consumer.try_next(), Next::Done);
    assert_eq!(drain(&mut again(&opened.lease, 1)), "h one two t.");
}

#[test]
fn a_plain_end_rides_on_the_last_part_where_it_is_known_in_time() {
    let rig = Rig::new();
    let opened = rig.open(&hello(1));
    let (producer, mut consumer) = run(&opened.lease, 1);
    producer.head(head()).unwrap();
    send(&producer, "one").unwrap();
    producer.end();
    assert_eq!(drain(&mut consumer), "h one.");
    let (producer, mut consumer) = run(&opened.lease, 2);
    producer.head(head()).unwrap();
    assert_eq!(drain(&mut consumer), "h");
    producer.end();
    assert_eq!(drain(&mut consumer), "e.");
    assert_eq!(drain(&mut again(&opened.lease, 2)), "h.");
}

#[test]
fn an_answer_whose_connection_died_is_there_after_the_reconnect() {
    let rig = Rig::new();
    let opened = rig.open(&hello(1));
    let (producer, mut consumer) = run(&opened.lease, 1);
    producer.head(head()).unwrap();
    send(&producer, "one").unwrap();
    assert_eq!(drain(&mut consumer), "h one");
    drop((opened, consumer));
    send(&producer, "two").unwrap();
    producer.end();
    let mut opened = rig.open(&waiting(2, &[(1, 1), (7, 0)]));
    assert_eq!(opened.unknown, [7]);
    assert_eq!(opened.lease.poll_event(), Some(SessionEvent::Ready(1)));
    assert_eq!(drain(&mut opened.attached[0]), "h two.", "from message number 1 on");
    let Attach::Attached(mut consumer) = opened.lease.attach(1, Place::behind(2)) else {
        panic!("1 is known")
    };
    assert_eq!(drain(&mut consumer), "h.");
    assert!(matches!(opened.lease.attach(8, Place::default()), Attach::Unknown));
}

#[test]
fn a_message_that_had_arrived_in_part_goes_on_where_its_client_has_it() {
    let rig = Rig::new();
    let opened = rig.open(&hello(1));
    let (producer, _consumer) = run(&opened.lease, 1);
    producer.head(head()).unwrap();
    send(&producer, "one").unwrap();
    send(&producer, "twotwo").unwrap();
    drop(opened);
    for (bytes, rest) in [(4, "h wo"), (6, "h "), (7, "h ")] {
        let mut hello = waiting(1 + bytes, &[(1, 1)]);
        hello.waiting[0].bytes_received = bytes;
        let mut opened = rig.open(&hello);
        assert_eq!(drain(&mut opened.attached[0]), rest, "behind {bytes} bytes");
    }
    send(&producer, "three").unwrap();
    producer.end();
    // Whole where nothing of it is there, as ever.
    let received = |messages, bytes| Place { messages, bytes };
    let opened = rig.open(&waiting(9, &[(1, 0)]));
    let behind = |place| match opened.lease.attach(1, place) {
        Attach::Attached(mut consumer) => drain(&mut consumer),
        _ => panic!("1 is known"),
    };
    assert_eq!(behind(received(0, 1)), "h ne twotwo three.");
    assert_eq!(behind(received(1, 0)), "h twotwo three.");
    assert_eq!(behind(received(3, 5)), "h.", "there is no such message");
}

/// What is left out does not count as what a consumer is behind.
#[tokio::test]
async fn a_client_that_has_some_of_a_message_is_less_behind() {
    let rig = Rig::with(|settings| settings.session.stream_window = 100);
    let opened = rig.open(&hello(1));
    let (producer, consumer) = run(&opened.lease, 1);
    producer.head(head()).unwrap();
    drop((opened.lease, consumer));
    producer.message(vec![b'1'; 100].into()).await.unwrap();
    let mut hello = waiting(2, &[(1, 0)]);
    hello.waiting[0].bytes_received = 1;
    let mut opened = rig.open(&hello);
    assert_eq!(producer.room().now_or_never(), Some(Ok(())));
    assert_eq!(producer.message(Bytes::from_static(b"x")).now_or_never(), None, "a window is behind");
    assert_eq!(drain(&mut opened.attached[0]), "h 99 x");
    assert_eq!(producer.room().now_or_never(), Some(Ok(())));
}

#[test]
fn a_running_request_is_attached_not_run_again() {
    let rig = Rig::new();
    let opened = rig.open(&hello(1));
    let (producer, mut first) = run(&opened.lease, 1);
    producer.head(head()).unwrap();
    let mut second = again(&opened.lease, 1);
    assert_eq!(first.try_next(), Next::Done, "one consumer at a time");
    drop(first);
    producer.end();
    assert_eq!(drain(&mut second), "h.");
}

#[test]
fn a_request_that_had_not_arrived_is_as_unseen_or_ends_as_may_have_run() {
    let rig = Rig::new();
    let opened = rig.open(&hello(1));
    let Begin::Run(unforwarded, _) = opened.lease.begin(1) else { panic!("1 is new") };
    let Begin::Run(forwarded, _) = opened.lease.begin(2) else { panic!("2 is new") };
    forwarded.forwarded();
    drop(opened);
    assert_eq!(unforwarded.ended().now_or_never(), Some(Ended));
    assert_eq!(send(&forwarded, "late"), Err(Ended));
    let mut opened = rig.open(&waiting(2, &[(1, 0), (2, 0)]));
    assert_eq!(opened.unknown, [1]);
    assert_eq!(drain(&mut opened.attached[0]), "!Cancelled/MayHaveRun.");
}

#[test]
fn a_cancelled_request_tells_its_producer() {
    let rig = Rig::new();
    let opened = rig.open(&hello(1));
    let (producer, mut consumer) = run(&opened.lease, 1);
    assert_eq!(producer.ended().now_or_never(), None);
    opened.lease.cancel(1, "the client lost interest");
    assert_eq!(producer.ended().now_or_never(), Some(Ended));
    assert_eq!(drain(&mut consumer), "!Cancelled/MayHaveRun.");
}

#[test]
fn a_producer_that_is_dropped_leaves_an_error() {
    let rig = Rig::new();
    let opened = rig.open(&hello(1));
    let (producer, mut consumer) = run(&opened.lease, 1);
    producer.head(head()).unwrap();
    drop(producer);
    assert_eq!(drain(&mut consumer), "h !Cancelled/MayHaveRun.");
}

#[test]
fn what_one_user_holds_is_not_taken_from_another() {
    let rig = Rig::with(|settings| settings.session.user_held_bytes_max = 10);
    let open = |client_id: &str, user: &str| {
        let hello = Hello { client_id: client_id.to_owned(), ..hello(1) };
        rig.sessions.open(&hello, Some(user.into())).unwrap().lease
    };
    let answered = |lease: &Lease, seq| {
        let (producer, _) = run(lease, seq);
        send(&producer, "answer").unwrap();
        producer.end();
    };
    let (phone, tablet) = (open("phone", "ann"), open("tablet", "ann"));
    answered(&phone, 1);
    answered(&tablet, 1);
    let error = refused(&phone, 2);
    assert_eq!((error.kind, error.execution), (LimitExceeded, NotRun));
    assert!(error.message.contains("session.user_held_bytes_max"), "{}", error.message);
    assert_eq!(rig.hub.push_to_client("tablet", &push("news")), Some(Delivered::Dropped));
    assert_eq!(rig.limit_hits("session.user_held_bytes_max"), 2);
    answered(&open("other", "bob"), 1);
    tablet.acknowledge(&ack(1, &[]));
    answered(&phone, 2);
}

#[test]
fn all_users_together_hold_no_more_than_the_bound_of_all() {
    let rig = Rig::with(|settings| settings.session.held_bytes_max = 5);
    let ann = rig.sessions.open(&hello(1), Some("ann".into())).unwrap().lease;
    let (producer, _) = run(&ann, 1);
    send(&producer, "answer").unwrap();
    let hello = Hello { client_id: "other".to_owned(), ..hello(1) };
    let nobody = rig.sessions.open(&hello, None).unwrap().lease;
    assert_eq!(refused(&nobody, 1).kind, LimitExceeded);
    assert_eq!(rig.limit_hits("session.held_bytes_max"), 1);
}

#[test]
fn an_acknowledged_outcome_is_freed_and_its_repeat_refused_as_ran() {
    let rig = Rig::new();
    let opened = rig.open(&hello(1));
    for seq in 1..=3 {
        let (producer, _) = run(&opened.lease, seq);
        send(&producer, "answer").unwrap();
        producer.end();
    }
    assert_eq!(rig.sessions.held_bytes(), 18);
    opened.lease.acknowledge(&ack(1, &[3]));
    assert_eq!(rig.sessions.held_bytes(), 6);
    for seq in [1, 3] {
        let error = refused(&opened.lease, seq);
        assert_eq!((error.kind, error.execution), (OutcomeExpired, Ran));
    }
    assert_eq!(drain(&mut again(&opened.lease, 2)), "answer.");
}

#[test]
fn hellos_floor_acknowledges_too() {
    let rig = Rig::new();
    let opened = rig.open(&hello(1));
    run(&opened.lease, 1).0.end();
    let opened = rig.open(&Hello { outcome_floor: 1, ..waiting(2, &[(1, 0)]) });
    let [(1, error)] = &*opened.refused else { panic!("1 was acknowledged") };
    assert_eq!((error.kind, error.execution), (OutcomeExpired, Ran));
}

#[test]
fn an_outcome_that_hello_does_not_wait_for_is_freed() {
    let rig = Rig::new();
    let opened = rig.open(&hello(1));
    for seq in 1..=2 {
        let (producer, _) = run(&opened.lease, seq);
        send(&producer, "answer").unwrap();
        producer.end();
    }
    let opened = rig.open(&waiting(2, &[(2, 0)]));
    assert_eq!(rig.sessions.held_bytes(), 6);
    assert_eq!(refused(&opened.lease, 1).execution, Ran);
}

#[test]
fn beyond_outcomes_max_the_oldest_outcome_is_gone() {
    let rig = Rig::with(|settings| settings.session.outcomes_max = 2);
    let opened = rig.open(&hello(1));
    for seq in 1..=3 {
        run(&opened.lease, seq).0.end();
    }
    let error = refused(&opened.lease, 1);
    assert_eq!((error.kind, error.execution), (OutcomeExpired, MayHaveRun));
    assert_eq!(rig.limit_hits("session.outcomes_max"), 1);
    assert_eq!(drain(&mut again(&opened.lease, 2)), "e.");
}

#[test]
fn beyond_outcome_age_max_an_outcome_is_gone() {
    let rig = Rig::with(|settings| settings.session.outcome_age_max = Duration::from_secs(10));
    let opened = rig.open(&hello(1));
    run(&opened.lease, 1).0.end();
    rig.advance(Duration::from_secs(9));
    assert_eq!(drain(&mut again(&opened.lease, 1)), "e.");
    rig.advance(Duration::from_secs(1));
    let error = refused(&opened.lease, 1);
    assert_eq!((error.kind, error.execution), (OutcomeExpired, MayHaveRun));
    assert_eq!(rig.limit_hits("session.outcome_age_max"), 1);
}

#[test]
fn an_answer_beyond_the_record_is_streamed_in_bounded_memory_and_not_replayed() {
    let rig = Rig::with(|settings| {
        settings.session.outcome_bytes_max = 1000;
        settings.session.stream_window = 100;
    });
    let opened = rig.open(&hello(1));
    let (producer, mut consumer) = run(&opened.lease, 1);
    for _ in 0..100 {
        send(&producer, vec![0; 60]).unwrap();
        assert_eq!(drain(&mut consumer), "60");
        assert!(rig.sessions.held_bytes() <= 1060, "{}", rig.sessions.held_bytes());
    }
    assert_eq!(rig.sessions.held_bytes(), 0, "what was taken is not kept");
    assert_eq!(rig.limit_hits("session.outcome_bytes_max"), 1);
    let error = refused(&opened.lease, 1);
    assert_eq!((error.kind, error.execution), (OutcomeExpired, MayHaveRun));
    producer.end();
    assert_eq!(drain(&mut consumer), "e.", "the attached consumer gets it to the end");
}

#[test]
fn a_producer_waits_for_a_slow_consumer() {
    let rig = Rig::with(|settings| settings.session.stream_window = 100);
    let opened = rig.open(&hello(1));
    let (producer, mut consumer) = run(&opened.lease, 1);
    assert_eq!(producer.message(vec![0; 99].into()).now_or_never(), Some(Ok(())));
    assert_eq!(producer.message(vec![0; 10].into()).now_or_never(), None);
    assert_eq!(producer.room().now_or_never(), None);
    assert!(matches!(consumer.try_next(), Next::Part { .. }));
    assert_eq!(producer.room().now_or_never(), Some(Ok(())));
    assert_eq!(producer.message(vec![0; 90].into()).now_or_never(), None);
    drop((opened, consumer));
    assert_eq!(producer.room().now_or_never(), Some(Ok(())), "nobody to wait for: the record takes it");
}

#[test]
fn without_a_connection_an_answer_beyond_the_record_ends_as_expired() {
    let rig = Rig::with(|settings| settings.session.outcome_bytes_max = 1000);
    let opened = rig.open(&hello(1));
    let (producer, consumer) = run(&opened.lease, 1);
    drop((opened, consumer));
    send(&producer, vec![0; 1000]).unwrap();
    assert_eq!(send(&producer, vec![0; 1]), Err(Ended));
    assert!(rig.sessions.held_bytes() < 100, "nothing but the error's text");
    drop(producer);
    let opened = rig.open(&waiting(2, &[(1, 0)]));
    assert_eq!((opened.refused[0].1.kind, opened.refused[0].1.execution), (OutcomeExpired, MayHaveRun));
    assert_eq!(rig.sessions.held_bytes(), 0);
}

#[test]
fn an_unrecorded_answer_ends_with_its_connection() {
    let rig = Rig::with(|settings| settings.session.outcome_bytes_max = 10);
    let opened = rig.open(&hello(1));
    let (producer, consumer) = run(&opened.lease, 1);
    send(&producer, vec![0; 20]).unwrap();
    drop((opened, consumer));
    assert_eq!(producer.ended().now_or_never(), Some(Ended));
}

#[test]
fn beyond_streams_max_a_request_is_refused_as_not_run() {
    let rig = Rig::with(|settings| settings.limits.streams_max = 2);
    let opened = rig.open(&hello(1));
    let (first, _first) = run(&opened.lease, 1);
    let _second = run(&opened.lease, 2);
    let error = refused(&opened.lease, 3);
    assert_eq!((error.kind, error.execution), (LimitExceeded, NotRun));
    assert_eq!(rig.limit_hits("limits.streams_max"), 1);
    first.end();
    let _third = run(&opened.lease, 3);
}

#[test]
fn a_reload_changes_the_bounds_of_sessions_that_are_there() {
    let rig = Rig::with(|settings| settings.limits.streams_max = 1);
    let opened = rig.open(&hello(1));
    let _first = run(&opened.lease, 1);
    assert_eq!(refused(&opened.lease, 2).kind, LimitExceeded);
    let mut settings = rig.settings.clone();
    settings.limits.streams_max = 2;
    rig.sessions.follow(&settings);
    let _second = run(&opened.lease, 2);
    assert_eq!(refused(&opened.lease, 3).kind, LimitExceeded);
}

#[test]
fn sequence_numbers_outside_the_protocol_are_malformed() {
    let rig = Rig::new();
    let opened = rig.open(&hello(1));
    for seq in [0, 1 << 62] {
        assert_eq!(refused(&opened.lease, seq).kind, Malformed);
    }
}

#[tokio::test]
async fn a_consumer_and_a_producer_on_tasks_of_their_own_wake_each_other() {
    let rig = Rig::with(|settings| {
        settings.session.stream_window = 10;
        settings.session.outcome_bytes_max = 100;
    });
    let opened = rig.open(&hello(1));
    let (producer, mut consumer) = run(&opened.lease, 1);
    let task = tokio::spawn(async move {
        producer.head(head()).unwrap();
        for n in 0..1000u32 {
            producer.message(n.to_string().into()).await.unwrap();
        }
        producer.end();
    });
    let mut messages = Vec::new();
    while let Some((part, _)) = consumer.next().await {
        if let ExchangePart::Message(bytes) = part {
            messages.push(String::from_utf8(bytes.to_vec()).unwrap());
        }
    }
    task.await.unwrap();
    assert_eq!(messages, (0..1000).map(|n: u32| n.to_string()).collect::<Vec<_>>());
}

/// The session may have begun anew meanwhile, and given the number to another request.
#[test]
fn what_ends_an_earlier_request_leaves_the_one_that_has_its_number_alone() {
    let rig = Rig::with(|settings| settings.limits.streams_max = 1);
    let opened = rig.open(&hello(1));
    let (_producer, consumer) = run(&opened.lease, 1);
    let session = opened.lease.session().clone();
    let anew = rig.sessions.open(&hello(2), None).unwrap();
    assert!(!anew.resumed);
    let (_running, _answer) = run(&anew.lease, 1);
    session.cancelled(consumer.exchange(), NotRun);
    assert!(matches!(anew.lease.begin(1), Begin::Attached(_)), "it runs, and is not run again");
    session.finished(consumer.exchange());
    assert_eq!(refused(&anew.lease, 2).kind, LimitExceeded, "it runs still");
}

#[test]
fn a_request_that_is_given_up_while_its_answer_is_recorded_takes_no_place() {
    let rig = Rig::with(|settings| settings.limits.streams_max = 1);
    let opened = rig.open(&hello(1));
    let (producer, consumer) = run(&opened.lease, 1);
    opened.lease.acknowledge(&ack(0, &[1]));
    opened.lease.cancel(1, "the client lost interest");
    assert!(!opened.lease.session().record(consumer.exchange(), 10), "the message was taken in before");
    drop((producer, consumer));
    run(&opened.lease, 2);
}

#[test]
fn whoever_claims_messages_that_do_not_exist_yet_gets_those_that_come() {
    let rig = Rig::with(|settings| settings.session.stream_window = 100);
    let opened = rig.open(&hello(1));
    let (producer, _consumer) = run(&opened.lease, 1);
    let Attach::Attached(mut consumer) = opened.lease.attach(1, Place::behind(1000)) else {
        panic!("1 is known")
    };
    for _ in 0..3 {
        send(&producer, vec![0; 100]).unwrap();
        assert_eq!(drain(&mut consumer), "100");
    }
}

#[test]
fn nobody_becomes_the_holder_of_a_session_that_has_ended() {
    let rig = Rig::new();
    let opened = rig.open(&hello(1));
    let session = opened.lease.session().clone();
    drop(opened);
    assert_eq!(rig.advance(rig.settings.session.expiry), 1);
    assert_eq!(session.adopt(&hello(2)).err(), Some(OpenError::TakenOver));
}
