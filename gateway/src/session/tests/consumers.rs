//! One answer, taken by several connections of its client.

use towline_protocols::link::{Execution::*, RpcErrorKind::*};

use super::*;
use crate::session::signal::Signal;

/// Another connection of the client takes the answer to request `seq`, from message `message` on.
fn beside(opened: &Opened, seq: u64, message: u64) -> (Arc<Signal>, Result<Consumer, RpcError>) {
    let signal = Arc::new(Signal::default());
    let session = opened.lease.session();
    let taken = session
        .attach(&mut session.lock(), seq, Place::behind(message), &signal)
        .expect("the request is known");
    (signal, taken)
}

#[test]
fn two_connections_take_one_answer_each_from_where_it_is() {
    let rig = Rig::new();
    let opened = rig.open(&hello(1));
    let (producer, mut link) = run(&opened.lease, 1);
    producer.head(head()).unwrap();
    send(&producer, "one").unwrap();
    assert_eq!(drain(&mut link), "h one");
    let (signal, short) = beside(&opened, 1, 0);
    let mut short = short.unwrap();
    assert_eq!(signal.poll(), Some(SessionEvent::Ready(1)));
    assert_eq!(drain(&mut short), "h one");
    while opened.lease.poll_event().is_some() {}
    send(&producer, "two").unwrap();
    producer.end();
    assert_eq!(
        (signal.poll(), opened.lease.poll_event()),
        (Some(SessionEvent::Ready(1)), Some(SessionEvent::Ready(1)))
    );
    assert_eq!((drain(&mut short), drain(&mut link)), ("two.".to_owned(), "two.".to_owned()));
}

#[test]
fn a_connection_that_hangs_holds_nobody_up() {
    let rig = Rig::with(|settings| settings.session.stream_window = 100);
    let opened = rig.open(&hello(1));
    let (producer, _hangs) = run(&opened.lease, 1);
    let (_signal, short) = beside(&opened, 1, 0);
    let mut short = short.unwrap();
    for _ in 0..5 {
        assert_eq!(producer.message(vec![0; 60].into()).now_or_never(), Some(Ok(())));
        assert_eq!(drain(&mut short), "60");
    }
    assert_eq!(producer.message(vec![0; 100].into()).now_or_never(), None, "until none is within a window");
    drop(short);
    assert_eq!(producer.room().now_or_never(), None, "what hangs is waited for when it is alone");
}

#[test]
fn an_answer_that_is_too_large_to_be_kept_stays_with_who_has_most_of_it() {
    let rig = Rig::with(|settings| settings.session.outcome_bytes_max = 100);
    let opened = rig.open(&hello(1));
    let (producer, mut link) = run(&opened.lease, 1);
    let (_signal, short) = beside(&opened, 1, 0);
    let mut short = short.unwrap();
    send(&producer, vec![0; 60]).unwrap();
    assert_eq!(drain(&mut short), "60");
    while opened.lease.poll_event().is_some() {}
    send(&producer, vec![0; 60]).unwrap();
    assert_eq!(opened.lease.poll_event(), Some(SessionEvent::Ready(1)));
    assert_eq!(drain(&mut link), "!TakenElsewhere/MayHaveRun.");
    assert_eq!(link.try_next(), Next::Done);
    let (_, late) = beside(&opened, 1, 1);
    assert_eq!(late.err().map(|error| (error.kind, error.execution)), Some((OutcomeExpired, MayHaveRun)));
    producer.end();
    assert_eq!(drain(&mut short), "60.");
}

#[test]
fn a_lost_connection_ends_only_what_it_had_not_sent_whole() {
    let rig = Rig::new();
    let opened = rig.open(&hello(1));
    let (whole, _) = run(&opened.lease, 1);
    let Begin::Run(cut, _) = opened.lease.begin(2) else { panic!("2 is new") };
    let (signal, short) = beside(&opened, 1, 0);
    let session = opened.lease.session().clone();
    let lost = session.lock().exchange(2).unwrap().connection_lost(&signal, rig.clock.now(), true);
    assert_eq!(lost, exchange::Lost::Kept, "it was not the one to send it");
    drop(opened);
    assert_eq!((whole.ended().now_or_never(), cut.ended().now_or_never()), (None, Some(Ended)));
    whole.end();
    assert_eq!(drain(&mut short.unwrap()), "e.", "the short connection is there still");
}

#[test]
fn too_many_connections_displace_the_oldest() {
    let rig = Rig::new();
    let opened = rig.open(&hello(1));
    let (producer, mut link) = run(&opened.lease, 1);
    let mut beside: Vec<_> = (0..4).map(|_| beside(&opened, 1, 0).1.unwrap()).collect();
    assert_eq!(rig.limit_hits("exchange_consumers_max"), 1);
    assert_eq!(drain(&mut link), "!TakenElsewhere/MayHaveRun.");
    producer.end();
    assert_eq!(beside.iter_mut().map(drain).collect::<Vec<_>>(), ["e."; 4]);
}
