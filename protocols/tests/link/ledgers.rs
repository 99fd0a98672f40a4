//! The server's memory of requests, and the client's session, at their boundaries.

use std::time::Duration;

use towline_protocols::link::{
    Ack, Event, Execution, Hello, Place, Priority, Push, PushesTaken, RpcError, RpcErrorKind, Welcome,
    client::{CallOptions, Fate, PushMarks, Session},
    server::{Admission, Ledger, LedgerLimits},
};

use crate::pair::origin;

const LIMITS: LedgerLimits =
    LedgerLimits { outcomes_max: 2, outcome_bytes_max: 100, outcome_age_max: Duration::from_secs(60) };

/// A ledger in which requests 1 to `count` are finished, with 10 bytes each.
fn finished(count: u64) -> Ledger<&'static str> {
    let mut ledger = Ledger::new(LIMITS, 0);
    for seq in 1..=count {
        assert_eq!(ledger.admit(seq), Admission::New);
        ledger.begin(seq, "handle");
        assert_eq!(ledger.admit(seq), Admission::Attach(&"handle"));
        assert!(ledger.record(seq, 10));
        ledger.finish(seq, origin());
    }
    ledger
}

#[test]
fn an_outcome_is_replayed_until_it_is_acknowledged() {
    let mut ledger = finished(2);
    assert_eq!(ledger.admit(2), Admission::Replay(&"handle"));
    ledger.acknowledge(&Ack { floor: 0, seqs: vec![2] });
    assert_eq!(ledger.admit(2), Admission::Acknowledged);
    assert_eq!(ledger.admit(1), Admission::Replay(&"handle"));
    ledger.acknowledge(&Ack { floor: 7, seqs: vec![] });
    assert_eq!((ledger.admit(7), ledger.admit(8)), (Admission::Acknowledged, Admission::New));
    assert_eq!((ledger.bytes(), ledger.outcomes(), ledger.running()), (0, 0, 0));
    assert_eq!(ledger.admit(7).error().unwrap().execution, Execution::Ran);
}

#[test]
fn the_count_bound_drops_the_oldest_outcome_and_never_forgets_that_it_ran() {
    let ledger = finished(3);
    assert_eq!(ledger.admit(1), Admission::Expired);
    assert_eq!(ledger.admit(3), Admission::Replay(&"handle"));
    assert_eq!(ledger.admit(1).error().unwrap().execution, Execution::MayHaveRun);
}

#[test]
fn the_byte_bound_drops_outcomes_and_then_the_record_that_is_too_large() {
    let mut ledger = finished(2);
    ledger.begin(3, "large");
    assert!(ledger.record(3, 90));
    assert_eq!((ledger.admit(1), ledger.bytes()), (Admission::Expired, 100));
    assert!(!ledger.record(3, 11));
    assert_eq!(ledger.admit(3), Admission::Expired);
    assert!(!ledger.record(3, 1), "it stays dropped");
    ledger.finish(3, origin());
    assert_eq!(ledger.admit(3), Admission::Expired);
}

#[test]
fn outcomes_expire_with_time() {
    let now = origin();
    let mut ledger = Ledger::new(LIMITS, 0);
    ledger.begin(1, ());
    ledger.finish(1, now);
    assert_eq!(ledger.next_expiry(), Some(now + LIMITS.outcome_age_max));
    ledger.expire(now + LIMITS.outcome_age_max - Duration::from_millis(1));
    assert_eq!(ledger.admit(1), Admission::Replay(&()));
    ledger.expire(now + LIMITS.outcome_age_max);
    assert_eq!((ledger.admit(1), ledger.next_expiry()), (Admission::Expired, None));
}

#[test]
fn an_unwanted_request_runs_to_its_end_and_leaves_nothing() {
    let mut ledger = Ledger::new(LIMITS, 0);
    ledger.begin(1, ());
    ledger.begin(2, ());
    assert_eq!(ledger.reconcile(0, [2, 3]), [3]);
    assert_eq!(ledger.admit(1), Admission::Attach(&()));
    ledger.finish(1, origin());
    assert_eq!((ledger.admit(1), ledger.outcomes()), (Admission::Acknowledged, 0));
}

#[test]
fn what_did_not_run_may_run_again() {
    let mut ledger = Ledger::new(LIMITS, 0);
    ledger.begin(1, ());
    assert_eq!(ledger.forget(1), Some(()));
    assert_eq!(ledger.admit(1), Admission::New);
}

/// A client that leaves a hole at every other number cannot make the ledger grow, and what the ledger no
/// longer knows for certain is not run again.
#[test]
fn holes_do_not_grow_the_ledger() {
    let mut ledger = Ledger::new(LIMITS, 0);
    for seq in (2..20_000).step_by(2) {
        ledger.begin(seq, ());
        ledger.finish(seq, origin());
        ledger.acknowledge(&Ack { floor: 0, seqs: vec![seq] });
        assert!(matches!(ledger.admit(seq), Admission::Acknowledged | Admission::Expired));
    }
    assert_eq!(ledger.admit(2), Admission::Expired);
    assert_eq!(ledger.admit(20_001), Admission::New);
}

/// The same where the client acknowledges what still runs.
#[test]
fn holes_between_requests_that_were_unwanted_before_their_end_are_not_run_again() {
    let mut ledger = Ledger::new(LIMITS, 0);
    for seq in (2..2_000).step_by(2) {
        ledger.begin(seq, ());
        ledger.acknowledge(&Ack { floor: 0, seqs: vec![seq] });
        ledger.finish(seq, origin());
        assert_eq!(ledger.admit(seq), Admission::Acknowledged);
    }
    assert_eq!(ledger.admit(2), Admission::Expired);
    assert_eq!(ledger.admit(2_001), Admission::New);
}

fn waiting_session(options: CallOptions) -> (Session, Hello) {
    let mut session = Session::new("phone-7", [7; 16], 0);
    session.hello(Hello::default());
    let seq = session.open(options);
    session.on_request_sent(seq);
    let hello = session.hello(Hello::default());
    assert_eq!((hello.epoch, hello.waiting.len()), (2, 1));
    (session, hello)
}

#[test]
fn what_becomes_of_a_request_on_a_new_connection() {
    let fate = |idempotent, replayable, resumed, unknown: &[u64]| {
        let (mut session, hello) =
            waiting_session(CallOptions { idempotent, replayable, ..CallOptions::default() });
        let welcome = Welcome { resumed, unknown: unknown.to_vec(), ..Welcome::default() };
        session.on_welcome(&hello, &welcome).remove(0).1
    };
    let failed = |fate| match fate {
        Fate::Fail(error) => (error.kind, error.execution),
        fate => panic!("{fate:?}"),
    };
    assert_eq!(fate(false, false, true, &[]), Fate::Keep { received: Place::default(), sent: None });
    assert_eq!(fate(false, true, true, &[1]), Fate::Send);
    assert_eq!(failed(fate(false, false, true, &[1])), (RpcErrorKind::SessionLost, Execution::NotRun));
    assert_eq!(failed(fate(false, true, false, &[1])), (RpcErrorKind::SessionLost, Execution::MayHaveRun));
    assert_eq!(fate(true, true, false, &[]), Fate::Send);
    assert_eq!(failed(fate(true, false, false, &[])), (RpcErrorKind::SessionLost, Execution::MayHaveRun));
}

#[test]
fn what_an_older_connection_may_still_begin_may_have_run() {
    let welcome = Welcome { resumed: true, visiting: true, unknown: vec![1], ..Welcome::default() };
    let (mut session, hello) = waiting_session(CallOptions::default());
    let fate = session.on_welcome(&hello, &welcome).remove(0).1;
    assert!(matches!(fate, Fate::Fail(error) if error.execution == Execution::MayHaveRun));
    // Sent again, it runs once; but that it did not run is this connection's word alone.
    let (mut session, hello) = waiting_session(CallOptions { replayable: true, ..CallOptions::default() });
    assert_eq!(session.on_welcome(&hello, &welcome), [(1, Fate::Send)]);
    session.on_request_sent(1);
    let refused = RpcError::new(RpcErrorKind::LimitExceeded, Execution::NotRun, "streams_max");
    let told = session.on_event(Event::Reset { seq: 1, error: refused }).event;
    assert!(matches!(told, Some(Event::Reset { error, .. }) if error.execution == Execution::MayHaveRun));
}

#[test]
fn a_request_opened_between_connections_is_sent_after_welcome() {
    let (mut session, hello) = waiting_session(CallOptions::default());
    let early = session.open(CallOptions::default());
    session.on_request_sent(early);
    let late = session.open(CallOptions::default());
    let fates = session.on_welcome(&hello, &Welcome { resumed: true, ..Welcome::default() });
    assert_eq!(fates, [(1, Fate::Keep { received: Place::default(), sent: None }), (late, Fate::Send)]);
}

#[test]
fn a_number_that_was_refused_where_it_was_sent_first_has_not_run() {
    let expired = || RpcError::new(RpcErrorKind::OutcomeExpired, Execution::NotNow, "");
    let told =
        |session: &mut Session, seq| match session.on_event(Event::Reset { seq, error: expired() }).event {
            Some(Event::Reset { error, .. }) => error.execution,
            event => panic!("{event:?}"),
        };
    // Request 1 was sent on an earlier connection, 2 behind this HELLO, which was written before the server
    // said that it knows nothing of numbers up to 300.
    let (mut session, hello) = waiting_session(CallOptions { replayable: true, ..CallOptions::default() });
    let early = session.open(CallOptions { replayable: true, ..CallOptions::default() });
    session.on_request_sent(early);
    session.on_welcome(&hello, &Welcome { resumed: true, seq_min: 300, ..Welcome::default() });
    assert_eq!(told(&mut session, 1), Execution::MayHaveRun);
    assert_eq!(told(&mut session, early), Execution::NotRun);
    let not_run = RpcError { execution: Execution::NotRun, ..expired() };
    assert_eq!(session.retry(early, &not_run), Some(301), "new requests are numbered above it");
    assert_eq!(session.open(CallOptions::default()), 302);
}

#[test]
fn a_restored_ledger_knows_outcomes_and_takes_other_numbers_for_run() {
    let mut ledger = Ledger::new(LedgerLimits { outcomes_max: 2, ..LedgerLimits::default() }, 0);
    let start = origin();
    ledger.presume_run(10);
    for seq in [4, 3, 7] {
        ledger.restore(seq, seq, 100, start);
    }
    assert_eq!(ledger.admit(4), Admission::Expired, "the oldest beyond the bound");
    assert_eq!((ledger.admit(3), ledger.admit(7)), (Admission::Replay(&3), Admission::Replay(&7)));
    assert_eq!((ledger.admit(10), ledger.admit(11)), (Admission::Presumed, Admission::New));
    assert_eq!(ledger.reconcile(2, [7, 9, 11]), [11]);
    assert_eq!(ledger.admit(3), Admission::Acknowledged);
    assert_eq!((ledger.outcomes(), ledger.bytes()), (1, 100));
}

#[test]
fn acks_and_pushes_are_cumulative() {
    let mut session = Session::new("phone-7", [7; 16], 0);
    for _ in 0..4 {
        session.open(CallOptions::default());
    }
    session.taken(3);
    assert_eq!(session.take_ack(), Some(Ack { floor: 0, seqs: vec![3] }));
    session.taken(1);
    session.taken(2);
    assert_eq!(session.take_ack(), Some(Ack { floor: 3, seqs: vec![] }));
    assert_eq!(session.take_ack(), None);
    let mut deliver = |id| session.on_event(Event::Push(Push { id, ..Push::default() })).event.is_some();
    assert_eq!([deliver(1), deliver(3), deliver(2), deliver(3)], [true, true, false, false]);
    session.push_taken(Priority::NORMAL, 3);
    assert_eq!((session.take_push_ack(), session.take_push_ack()), (Some((Priority::NORMAL, 3)), None));
}

/// A session that knows its server's numbering of pushes by this name.
fn session_on_line(push_line: u64) -> Session {
    let mut session = Session::new("phone-7", [7; 16], 0);
    welcome_on_line(&mut session, push_line);
    session
}

fn welcome_on_line(session: &mut Session, push_line: u64) -> Hello {
    let hello = session.hello(Hello::default());
    session.on_welcome(&hello, &Welcome { push_line, ..Welcome::default() });
    hello
}

fn deliver(session: &mut Session, urgency: u8, id: u64) -> bool {
    let push = Push { id, priority: Priority::new(urgency), ..Push::default() };
    session.on_event(Event::Push(push)).event.is_some()
}

#[test]
fn pushes_of_each_urgency_are_counted_apart() {
    let mut session = session_on_line(5);
    assert!(deliver(&mut session, 7, 1));
    assert!(deliver(&mut session, 0, 3), "an urgent push overtakes");
    assert!(deliver(&mut session, 7, 2), "what it has overtaken is new");
    assert!(!deliver(&mut session, 7, 1) && !deliver(&mut session, 0, 3), "what comes again is not");
    session.push_taken(Priority::BACKGROUND, 1);
    session.push_taken(Priority::CRITICAL, 9);
    let acks: Vec<_> = std::iter::from_fn(|| session.take_push_ack()).collect();
    assert_eq!(acks, [(Priority::CRITICAL, 3), (Priority::BACKGROUND, 1)], "at most what was received");
    let taken = session.hello(Hello::default()).pushes_taken;
    assert_eq!(taken, Some(PushesTaken { push_line: 5, ids: vec![3, 0, 0, 0, 0, 0, 0, 1] }));
}

#[test]
fn a_numbering_outlives_the_servers_memory_of_requests_and_the_program() {
    let mut session = session_on_line(5);
    assert!(deliver(&mut session, 3, 1) && deliver(&mut session, 3, 2));
    session.push_taken(Priority::NORMAL, 1);
    welcome_on_line(&mut session, 5);
    assert!(!deliver(&mut session, 3, 2), "not resumed, the same pushes");
    let (line, taken) = session.pushes_taken();
    let mut again = Session::new("phone-7", [7; 16], 2);
    again.restore_pushes(line, taken);
    assert_eq!(welcome_on_line(&mut again, 5).pushes_taken.unwrap().ids, [0, 0, 0, 1]);
    assert!(!deliver(&mut again, 3, 1), "taken by the program before");
    assert!(deliver(&mut again, 3, 2), "received before, not taken");
    welcome_on_line(&mut again, 6);
    assert!(deliver(&mut again, 3, 1), "the server numbers anew");
    assert_eq!(again.pushes_taken(), (6, PushMarks::default()));
}

#[test]
fn only_what_did_not_run_or_may_run_twice_is_retried() {
    let options = CallOptions { replayable: true, ..CallOptions::default() };
    let mut session = Session::new("phone-7", [7; 16], 0);
    let seq = session.open(options);
    let error = |execution| RpcError::new(RpcErrorKind::Draining, execution, "");
    assert_eq!(session.retry(seq, &error(Execution::MayHaveRun)), None);
    assert_eq!(session.retry(seq, &error(Execution::NotRun)), Some(2));
    assert_eq!(session.cancel(2), Execution::NotRun);
    assert!(!format!("{session:?}").contains("[7, 7"), "the secret stays out of Debug");
}
