//! What a crash of the gateway leaves of requests of durable routes. A crash keeps what the store has on disk,
//! and nothing else.

use towline_protocols::link::{Ack, Execution, Execution::*, RpcErrorKind, RpcErrorKind::*};

use super::*;
use crate::store::Table;

fn begin(lease: &Lease, seq: u64) -> (Producer, Consumer) {
    match lease.begin(seq) {
        Begin::Run(producer, consumer) => {
            consumer.exchange().request_complete();
            (producer, consumer)
        }
        _ => panic!("{seq} is not new"),
    }
}

/// A request of a durable route that has reached its backend.
async fn forwarded(lease: &Lease, seq: u64) -> (Producer, Consumer) {
    let (producer, consumer) = begin(lease, seq);
    producer.forward(true).await.unwrap().unwrap();
    (producer, consumer)
}

pub(super) async fn answered(lease: &Lease, seq: u64) -> Consumer {
    let (producer, consumer) = forwarded(lease, seq).await;
    producer.head(head()).unwrap();
    send(&producer, "paid").unwrap();
    producer.trailers(head()).unwrap().settled().await;
    consumer
}

fn refusals(opened: &Opened) -> Vec<(u64, RpcErrorKind, Execution)> {
    opened.refused.iter().map(|(seq, error)| (*seq, error.kind, error.execution)).collect()
}

/// The gateway's process is gone, with all that it knew; what waits for the writer is lost.
async fn crash(rig: Rig) -> Rig {
    let Rig { sessions, store, settings, clock, session_ids, .. } = rig;
    // It holds the hub and the hub it, and it must not end anything in an orderly way.
    std::mem::forget(sessions);
    Rig { session_ids, ..Rig::on(store, settings, clock) }
}

#[tokio::test]
async fn after_a_crash_a_repeat_gets_the_recorded_outcome() {
    let rig = Rig::new();
    let opened = rig.open(&hello(1));
    let mut consumer = answered(&opened.lease, 1).await;
    assert_eq!(drain(&mut consumer), "h paid t.");
    let rig = crash(rig).await;
    let mut again = rig.open(&waiting(2, &[(1, 0)]));
    assert!(again.resumed);
    assert_eq!(drain(&mut again.attached[0]), "h paid t.");
    assert_eq!(rig.sessions.held_bytes(), drain_bytes(), "as much as before the crash");
    again.attached.clear();
    again.lease.acknowledge(&Ack { floor: 1, seqs: vec![] });
    assert_eq!(rig.sessions.held_bytes(), 0);
    rig.store.barrier().await.unwrap();
    let keys: Vec<_> =
        rig.store.scan(Table::Outcomes).unwrap().into_iter().map(|(key, _)| key.len()).collect();
    assert_eq!(keys.len(), 1, "the mark is left, the outcome gone");
}

/// Head and trailers of one field, and "paid".
fn drain_bytes() -> usize {
    2 * head()[0].size() + 4
}

#[tokio::test]
async fn an_answer_is_held_back_until_it_is_on_disk() {
    let rig = Rig::new();
    let opened = rig.open(&hello(1));
    let (producer, mut consumer) = forwarded(&opened.lease, 1).await;
    producer.head(head()).unwrap();
    send(&producer, "paid").unwrap();
    assert_eq!((drain(&mut consumer).as_str(), opened.lease.poll_event()), ("", None));
    let stalled = rig.store.stall();
    let settling = producer.trailers(head()).unwrap();
    let settled = settling.settled();
    tokio::pin!(settled);
    assert!((&mut settled).now_or_never().is_none());
    assert_eq!((drain(&mut consumer).as_str(), opened.lease.poll_event()), ("", None));
    let mut repeat = again(&opened.lease, 1);
    assert_eq!(drain(&mut repeat), "", "a repeat waits as well");
    drop(stalled);
    settled.await;
    assert_eq!(opened.lease.poll_event(), Some(SessionEvent::Ready(1)));
    assert_eq!(drain(&mut repeat), "h paid t.");
}

#[tokio::test]
async fn nothing_is_forwarded_before_the_mark_is_on_disk() {
    let rig = Rig::new();
    let opened = rig.open(&hello(1));
    let (producer, _consumer) = begin(&opened.lease, 1);
    let stalled = rig.store.stall();
    let forward = producer.forward(true);
    tokio::pin!(forward);
    assert!((&mut forward).now_or_never().is_none());
    let (other, _other) = begin(&opened.lease, 2);
    assert!(other.forward(false).now_or_never().is_none(), "nor any other request of the session");
    drop(stalled);
    assert_eq!(forward.await, Ok(Ok(())));
    assert_eq!(other.forward(false).now_or_never(), Some(Ok(Ok(()))), "one mark covers many");
}

#[tokio::test]
async fn a_request_that_is_cancelled_while_its_mark_is_written_is_not_forwarded() {
    let rig = Rig::new();
    let opened = rig.open(&hello(1));
    let (producer, _consumer) = begin(&opened.lease, 1);
    let stalled = rig.store.stall();
    let forward = producer.forward(true);
    tokio::pin!(forward);
    assert!((&mut forward).now_or_never().is_none());
    opened.lease.cancel(1, "the client lost interest");
    drop(stalled);
    assert_eq!(forward.await, Err(Ended));
}

#[tokio::test]
async fn what_a_crash_cuts_may_have_run_and_what_lies_above_the_mark_has_not() {
    let rig = Rig::new();
    let opened = rig.open(&hello(1));
    let (before, _) = begin(&opened.lease, 1);
    before.forwarded();
    let running = forwarded(&opened.lease, 2).await;
    let rig = crash(rig).await;
    let again = rig.open(&waiting(2, &[(1, 0), (2, 0), (1000, 0)]));
    assert_eq!(refusals(&again), [(1, OutcomeExpired, NotNow), (2, OutcomeExpired, NotNow)]);
    assert_eq!(again.unknown, [1000]);
    assert!(again.seq_min >= 2 && again.seq_min < 1000, "{}", again.seq_min);
    let error = refused(&again.lease, again.seq_min);
    assert_eq!((error.kind, error.execution), (OutcomeExpired, NotNow));
    _ = begin(&again.lease, again.seq_min + 1);
    drop((running, before));
}

#[tokio::test]
async fn a_second_crash_finds_the_same() {
    let rig = Rig::new();
    let opened = rig.open(&hello(1));
    answered(&opened.lease, 1).await;
    let rig = crash(crash(rig).await).await;
    let mut again = rig.open(&waiting(2, &[(1, 1)]));
    assert_eq!(drain(&mut again.attached[0]), "h t.", "from the message on that the client has not");
    let next = again.seq_min + 1;
    answered(&again.lease, next).await;
    let rig = crash(rig).await;
    let mut again = rig.open(&waiting(3, &[(next, 0)]));
    assert_eq!(drain(&mut again.attached[0]), "h paid t.");
}

#[tokio::test]
async fn a_session_without_durable_requests_is_another_one_after_a_crash() {
    let rig = Rig::new();
    let opened = rig.open(&hello(1));
    run(&opened.lease, 1).0.end();
    rig.store.barrier().await.unwrap();
    let rig = crash(rig).await;
    assert!(!rig.open(&waiting(2, &[(1, 0)])).resumed);
    assert!(rig.store.scan(Table::Outcomes).unwrap().is_empty());
}

#[tokio::test]
async fn a_session_that_begins_anew_forwards_nothing_under_the_earlier_mark() {
    let rig = Rig::new();
    let opened = rig.open(&hello(1));
    answered(&opened.lease, 1).await;
    let first_id = opened.session_id;
    // The client lost what it knew, and its WELCOME gets lost as well.
    let opened = rig.sessions.open(&hello(2), None).unwrap();
    assert!(!opened.resumed);
    let stalled = rig.store.stall();
    let (producer, _consumer) = begin(&opened.lease, 2);
    let forward = producer.forward(false);
    tokio::pin!(forward);
    assert!((&mut forward).now_or_never().is_none(), "the store still holds the earlier id");
    drop(stalled);
    assert_eq!(forward.await, Ok(Ok(())));
    let rig = crash(rig).await;
    let again = rig.sessions.open(&Hello { session_id: first_id, ..waiting(3, &[(1, 0)]) }, None).unwrap();
    assert!(!again.resumed);
}

#[tokio::test]
async fn a_client_whose_session_expired_waits_until_its_mark_is_gone() {
    let rig = Rig::new();
    let opened = rig.open(&hello(1));
    answered(&opened.lease, 1).await;
    drop(opened);
    let stalled = rig.store.stall();
    assert_eq!(rig.advance(rig.settings.session.expiry), 1);
    let opened = rig.sessions.open(&hello(2), None).unwrap();
    let (producer, _consumer) = begin(&opened.lease, 2);
    let forward = producer.forward(false);
    tokio::pin!(forward);
    assert!((&mut forward).now_or_never().is_none());
    drop(stalled);
    assert_eq!(forward.await, Ok(Ok(())));
    rig.advance(Duration::ZERO);
    drop(opened);
    rig.advance(rig.settings.session.expiry);
    rig.store.barrier().await.unwrap();
    rig.advance(Duration::ZERO);
    let opened = rig.sessions.open(&hello(3), None).unwrap();
    let (producer, _consumer) = begin(&opened.lease, 3);
    assert_eq!(producer.forward(false).now_or_never(), Some(Ok(Ok(()))), "nothing is left to wait for");
}

#[tokio::test]
async fn beyond_the_age_an_outcome_is_gone_from_the_disk_as_well() {
    let rig = Rig::with(|settings| settings.session.outcome_age_max = Duration::from_secs(10));
    let opened = rig.open(&hello(1));
    answered(&opened.lease, 1).await;
    rig.advance(Duration::from_secs(6));
    let rig = crash(rig).await;
    rig.advance(Duration::from_secs(3));
    assert!(rig.sessions.held_bytes() > 0);
    rig.advance(Duration::from_secs(1));
    assert_eq!(rig.limit_hits("session.outcome_age_max"), 1);
    rig.store.barrier().await.unwrap();
    let rig = crash(rig).await;
    assert_eq!(refusals(&rig.open(&waiting(2, &[(1, 0)]))), [(1, OutcomeExpired, NotNow)]);
}

#[tokio::test]
async fn beyond_the_bytes_on_disk_a_durable_request_is_refused_as_not_run() {
    let rig = Rig::with(|settings| settings.session.durable_bytes_max = 50);
    let opened = rig.open(&hello(1));
    answered(&opened.lease, 1).await;
    let (producer, _consumer) = begin(&opened.lease, 2);
    let error = producer.forward(true).await.unwrap().unwrap_err();
    assert_eq!((error.kind, error.execution), (LimitExceeded, NotRun));
    assert_eq!(rig.limit_hits("session.durable_bytes_max"), 1);
    let (other, _other) = begin(&opened.lease, 3);
    assert_eq!(other.forward(false).await, Ok(Ok(())));
    opened.lease.acknowledge(&Ack { floor: 1, seqs: vec![] });
    assert_eq!(producer.forward(true).await, Ok(Ok(())));
}

#[tokio::test]
async fn an_answer_beyond_the_record_is_handed_out_as_it_comes_and_may_have_run_after_a_crash() {
    let rig = Rig::with(|settings| settings.session.outcome_bytes_max = 1000);
    let opened = rig.open(&hello(1));
    let (producer, mut consumer) = forwarded(&opened.lease, 1).await;
    send(&producer, vec![0; 600]).unwrap();
    assert_eq!(drain(&mut consumer), "");
    send(&producer, vec![0; 600]).unwrap();
    assert_eq!(drain(&mut consumer), "600 600");
    assert!(producer.end().is_none(), "there is nothing to write");
    assert_eq!(drain(&mut consumer), "e.");
    let rig = crash(rig).await;
    assert_eq!(refusals(&rig.open(&waiting(2, &[(1, 0)]))), [(1, OutcomeExpired, NotNow)]);
}

#[tokio::test]
async fn a_visitor_is_told_of_the_mark_too() {
    let rig = Rig::new();
    let opened = rig.open(&hello(1));
    answered(&opened.lease, 1).await;
    let rig = crash(rig).await;
    let hello = Hello { session_id: opened.session_id, ..waiting(2, &[(1, 0), (900, 0)]) };
    let visited = rig.sessions.visit(&hello, None).unwrap();
    assert_eq!((visited.awaited, visited.unknown), (vec![1], vec![900]));
    assert!(visited.seq_min >= 1);
    assert!(matches!(visited.lease.begin(2), Begin::Later), "it may have run");
}

#[tokio::test]
async fn an_outcome_of_an_earlier_session_is_not_taken_for_one_of_this() {
    let rig = Rig::new();
    let opened = rig.open(&hello(1));
    answered(&opened.lease, 1).await;
    let record = rig.store.scan(Table::Outcomes).unwrap().pop().unwrap();
    let opened = rig.sessions.open(&hello(2), None).unwrap();
    answered(&opened.lease, 5).await;
    // As if the deletion had failed.
    let write = crate::store::Write::Put { table: Table::Outcomes, key: record.0, value: record.1 };
    rig.store.append(write).await.unwrap();
    let rig = crash(rig).await;
    let hello = Hello { session_id: opened.session_id, ..waiting(3, &[(1, 0), (5, 0)]) };
    let mut again = rig.sessions.open(&hello, None).unwrap();
    assert_eq!(refusals(&again), [(1, OutcomeExpired, NotNow)]);
    assert_eq!(drain(&mut again.attached[0]), "h paid t.");
}

#[tokio::test]
async fn an_outcome_that_reaches_the_disk_late_ends_no_other_request_of_its_number() {
    let rig = Rig::with(|settings| settings.limits.streams_max = 1);
    let opened = rig.open(&hello(1));
    let (producer, _consumer) = forwarded(&opened.lease, 1).await;
    let stalled = rig.store.stall();
    let settling = producer.trailers(head()).unwrap();
    let anew = rig.sessions.open(&hello(2), None).unwrap();
    assert!(!anew.resumed);
    let running = run(&anew.lease, 1);
    drop(stalled);
    settling.settled().await;
    assert_eq!(refused(&anew.lease, 2).kind, LimitExceeded, "1 runs still");
    drop(running);
}

/// The deletion found the store's queue full, and is tried again when the client is back.
#[tokio::test]
async fn the_marks_of_a_session_that_is_over_are_not_deleted_under_its_successor() {
    let rig = Rig::new();
    let opened = rig.open(&hello(1));
    answered(&opened.lease, 1).await;
    drop(opened);
    let stalled = rig.store.stall();
    let filler = |bytes| crate::store::Write::Put {
        table: Table::Receipts,
        key: b"filler".to_vec(),
        value: vec![0; bytes],
    };
    for bytes in [1 << 20, 1 << 10, 1] {
        while rig.store.write(filler(bytes)).is_ok() {}
    }
    assert_eq!(rig.sessions.expire(rig.clock.now() + rig.settings.session.expiry), 1);
    drop(stalled);
    rig.store.barrier().await.unwrap();
    let delete = crate::store::Write::Delete { table: Table::Receipts, key: b"filler".to_vec() };
    rig.store.append(delete).await.unwrap();

    let opened = rig.open(&hello(2));
    let session_id = opened.session_id;
    answered(&opened.lease, 1).await;
    rig.advance(Duration::ZERO);
    rig.store.barrier().await.unwrap();
    let rig = crash(rig).await;
    let hello = Hello { session_id, ..waiting(3, &[(1, 0)]) };
    let mut again = rig.sessions.open(&hello, None).unwrap();
    assert!(again.resumed);
    assert_eq!(drain(&mut again.attached[0]), "h paid t.");
}
