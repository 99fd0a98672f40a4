//! Requests that had not arrived whole when their connection was lost.

use http_body_util::BodyExt as _;
use towline_protocols::link::{Execution::*, LimitsMessage, RpcErrorKind::*};

use super::{super::upload::LinkBody, *};

/// A request that runs, and whose body is under way.
struct Uploading {
    producer: Producer,
    _consumer: Consumer,
    sender: BodySender,
    body: LinkBody,
}

fn upload(lease: &Lease, seq: u64) -> Uploading {
    let Begin::Run(producer, consumer) = lease.begin(seq) else { panic!("{seq} is known") };
    let (sender, body) = channel(seq, true, Arc::default());
    consumer.exchange().uploads(sender.upload());
    producer.forwarded();
    Uploading { producer, _consumer: consumer, sender, body }
}

/// HELLO of a client that goes on with its request 1.
fn goes_on(epoch: u64) -> Hello {
    let mut hello = waiting(epoch, &[(1, 0)]);
    hello.waiting[0].continues = true;
    hello
}

fn outcome(mut opened: Opened) -> String {
    drain(&mut opened.attached[0])
}

fn message(sender: &BodySender, text: &'static str) {
    sender.part(Some(text.len() as u64), Bytes::from_static(text.as_bytes()), true).unwrap();
}

async fn whole(body: LinkBody) -> Bytes {
    body.collect().await.unwrap().to_bytes()
}

#[tokio::test]
async fn the_next_connection_goes_on_where_the_lost_one_was() {
    let rig = Rig::new();
    let opened = rig.open(&hello(1));
    let Uploading { sender, body, producer, .. } = upload(&opened.lease, 1);
    message(&sender, "one");
    sender.part(Some(6), Bytes::from_static(b"tw"), false).unwrap();
    drop((opened, sender));
    let opened = rig.open(&goes_on(2));
    assert_eq!(opened.partial, [Partial { seq: 1, messages_received: 1, window_used: 5, bytes_received: 0 }]);
    assert!(opened.unknown.is_empty());
    let credits = Arc::new(Credits::default());
    let (sender, used) = opened.lease.take_up(1, &credits).unwrap();
    assert_eq!(used, 5);
    assert!(opened.lease.take_up(1, &credits).is_none(), "once");
    sender.part(Some(6), Bytes::from_static(b"two"), false).unwrap();
    assert_eq!(credits.take().taken, [(1, 2)], "what came again is given back at once");
    sender.part(None, Bytes::from_static(b"two"), true).unwrap();
    assert_eq!(sender.end(), Ok(true));
    assert_eq!(whole(body).await, &b"\0\0\0\0\x03one\0\0\0\0\x06twotwo"[..]);
    assert_eq!(credits.take().taken, [(1, 9)], "of both connections");
    producer.end();
    assert_eq!(outcome(opened), "e.");
}

/// HELLO of a client that goes on with its request 1, inside a message.
fn goes_inside(epoch: u64) -> Hello {
    let limits = LimitsMessage { message_rests: true, ..LimitsMessage::default() };
    Hello { limits: Some(limits), ..goes_on(epoch) }
}

#[tokio::test]
async fn the_rest_of_a_message_goes_on_where_the_lost_connection_was() {
    let rig = Rig::new();
    let opened = rig.open(&hello(1));
    let Uploading { sender, body, producer, .. } = upload(&opened.lease, 1);
    message(&sender, "one");
    sender.part(Some(6), Bytes::from_static(b"tw"), false).unwrap();
    drop((opened, sender));
    for (epoch, has, bytes) in [(2, 2, "o"), (3, 3, "tw")] {
        let opened = rig.open(&goes_inside(epoch));
        let partial = Partial { seq: 1, messages_received: 1, bytes_received: has, ..opened.partial[0] };
        assert_eq!(opened.partial, [partial]);
        let (sender, _) = opened.lease.take_up(1, &Arc::default()).unwrap();
        sender.part(Some(6 - has), Bytes::from_static(bytes.as_bytes()), false).unwrap();
    }
    // One that does not go on inside a message brings it again from its beginning.
    let opened = rig.open(&goes_on(4));
    assert_eq!(opened.partial[0].bytes_received, 0);
    let (sender, _) = opened.lease.take_up(1, &Arc::default()).unwrap();
    sender.part(Some(6), Bytes::from_static(b"twotwo"), true).unwrap();
    assert_eq!(sender.end(), Ok(true));
    assert_eq!(whole(body).await, &b"\0\0\0\0\x03one\0\0\0\0\x06twotwo"[..]);
    producer.end();
    assert_eq!(outcome(opened), "e.");
}

#[test]
fn a_rest_of_another_length_is_refused() {
    let rig = Rig::new();
    let opened = rig.open(&hello(1));
    let Uploading { sender, body: _body, producer: _producer, .. } = upload(&opened.lease, 1);
    sender.part(Some(6), Bytes::from_static(b"tw"), false).unwrap();
    drop(opened);
    let opened = rig.open(&goes_inside(2));
    let (sender, _) = opened.lease.take_up(1, &Arc::default()).unwrap();
    let error = sender.part(Some(6), Bytes::from_static(b"twotwo"), true).unwrap_err();
    assert_eq!((error.kind, error.execution), (Malformed, MayHaveRun));
}

#[tokio::test]
async fn what_the_backend_takes_before_the_next_connection_goes_on_is_given_back_to_that() {
    let rig = Rig::new();
    let opened = rig.open(&hello(1));
    let Uploading { sender, mut body, producer: _producer, .. } = upload(&opened.lease, 1);
    message(&sender, "one");
    drop(opened);
    body.frame().await.unwrap().unwrap();
    let opened = rig.open(&goes_on(2));
    assert_eq!(opened.partial[0].window_used, 0, "taken while nobody was there");
    drop(opened);
    let opened = rig.open(&goes_on(3));
    let credits = Arc::new(Credits::default());
    let (sender, _) = opened.lease.take_up(1, &credits).unwrap();
    message(&sender, "two");
    drop(opened);
    let opened = rig.open(&goes_on(4));
    assert_eq!(opened.partial[0].window_used, 3);
    body.frame().await.unwrap().unwrap();
    let (_sender, used) = opened.lease.take_up(1, &credits).unwrap();
    assert_eq!((used, credits.take().taken), (3, vec![(1, 3)]));
}

#[tokio::test]
async fn what_is_large_of_a_request_is_held_until_its_backend_lets_go_of_it() {
    const LARGE: usize = 20_000;
    let rig = Rig::with(|settings| settings.session.held_bytes_max = LARGE);
    let opened = rig.open(&hello(1));
    let Uploading { sender, mut body, producer: _producer, _consumer: consumer } = upload(&opened.lease, 1);
    sender.part(Some(16_384), vec![1; 16_384].into(), true).unwrap();
    assert_eq!(rig.sessions.held_bytes(), 0, "windows bound what is small");
    sender.part(Some(LARGE as u64), vec![2; LARGE].into(), true).unwrap();
    let mut taken = Vec::new();
    while taken.last().is_none_or(|piece: &Bytes| piece.len() < LARGE) {
        taken.push(body.frame().await.unwrap().unwrap().into_data().unwrap());
    }
    assert_eq!(sender.end(), Ok(true));
    consumer.exchange().request_complete();
    // Credit is given back; and yet it waits at the backend's end, also when the connection is gone.
    drop((opened.lease, consumer, body));
    assert_eq!(rig.sessions.held_bytes(), LARGE);
    let opened = rig.open(&Hello { session_id: opened.session_id, ..waiting(2, &[(1, 0)]) });
    let error = refused(&opened.lease, 2);
    assert_eq!((error.kind, error.execution), (LimitExceeded, NotRun));
    assert_eq!(rig.limit_hits("session.held_bytes_max"), 1);
    drop(taken);
    assert_eq!(rig.sessions.held_bytes(), 0);
    run(&opened.lease, 2);
}

#[tokio::test]
async fn a_connection_that_was_taken_over_feeds_nothing_more() {
    let rig = Rig::new();
    let older = rig.open(&hello(1));
    let Uploading { sender: late, body, producer: _producer, .. } = upload(&older.lease, 1);
    message(&late, "one");
    let newer = rig.open(&goes_on(2));
    message(&late, "lost");
    let (sender, _) = newer.lease.take_up(1, &Arc::default()).unwrap();
    message(&late, "lost");
    assert!(older.lease.take_up(1, &Arc::default()).is_none());
    assert_eq!(late.end(), Ok(false));
    message(&sender, "two");
    drop(older);
    assert_eq!(sender.end(), Ok(true));
    assert_eq!(whole(body).await, &b"\0\0\0\0\x03one\0\0\0\0\x03two"[..]);
}

#[test]
fn the_rest_is_waited_for_so_long() {
    let rig = Rig::with(|settings| settings.session.upload_wait = Duration::from_secs(10));
    let opened = rig.open(&hello(1));
    let uploading = upload(&opened.lease, 1);
    drop(opened);
    rig.advance(Duration::from_secs(6));
    // It comes, and is lost again: the time begins anew.
    let opened = rig.open(&goes_on(2));
    let (sender, _) = opened.lease.take_up(1, &Arc::default()).unwrap();
    rig.advance(Duration::from_secs(6));
    message(&sender, "one");
    drop((opened, sender));
    rig.advance(Duration::from_secs(9));
    assert_eq!(uploading.producer.ended().now_or_never(), None);
    rig.advance(Duration::from_secs(2));
    assert_eq!(uploading.producer.ended().now_or_never(), Some(Ended));
    assert_eq!(rig.limit_hits("session.upload_wait"), 1);
    let opened = rig.open(&goes_on(3));
    assert!(opened.partial.is_empty());
    assert_eq!(outcome(opened), "!Cancelled/MayHaveRun.");
}

#[test]
fn a_connection_that_lives_may_take_its_time_with_the_rest() {
    let rig = Rig::with(|settings| settings.session.upload_wait = Duration::from_secs(10));
    let opened = rig.open(&hello(1));
    let uploading = upload(&opened.lease, 1);
    drop(opened);
    // Its client has more urgent things to send, and is lost before their end.
    let opened = rig.open(&goes_on(2));
    rig.advance(Duration::from_secs(60));
    assert_eq!(uploading.producer.ended().now_or_never(), None);
    drop(opened);
    rig.advance(Duration::from_secs(9));
    let opened = rig.open(&goes_on(3));
    assert_eq!(opened.partial.len(), 1);
    // Taken over, which ends it as well, and then nobody comes any more.
    drop(rig.open(&goes_on(4)));
    rig.advance(Duration::from_secs(9));
    assert_eq!(uploading.producer.ended().now_or_never(), None);
    rig.advance(Duration::from_secs(2));
    assert_eq!(uploading.producer.ended().now_or_never(), Some(Ended));
    assert_eq!(rig.limit_hits("session.upload_wait"), 1);
    drop(opened);
}

#[test]
fn with_upload_wait_0_nothing_is_waited_for() {
    let rig = Rig::with(|settings| settings.session.upload_wait = Duration::ZERO);
    let opened = rig.open(&hello(1));
    let uploading = upload(&opened.lease, 1);
    drop(opened);
    assert_eq!(uploading.producer.ended().now_or_never(), Some(Ended));
    let opened = rig.open(&goes_on(2));
    assert!(opened.partial.is_empty());
    assert_eq!(outcome(opened), "!Cancelled/MayHaveRun.");
}

#[tokio::test]
async fn a_client_that_does_not_go_on_says_so_and_the_backend_hears_it() {
    let rig = Rig::new();
    let opened = rig.open(&hello(1));
    let Uploading { body, producer: _producer, .. } = upload(&opened.lease, 1);
    let Begin::Run(unforwarded, _consumer) = opened.lease.begin(2) else { panic!("2 is new") };
    let (sender, _body) = channel(2, true, Arc::default());
    _consumer.exchange().uploads(sender.upload());
    drop(opened);
    assert_eq!(unforwarded.ended().now_or_never(), None);
    let opened = rig.open(&waiting(2, &[(1, 0), (2, 0)]));
    assert_eq!((opened.partial.len(), &opened.unknown[..]), (0, &[2][..]), "2 has not run");
    assert_eq!(body.collect().await.unwrap_err().kind, Cancelled);
    assert_eq!(outcome(opened), "!Cancelled/MayHaveRun.");
}

#[test]
fn a_body_of_which_nobody_takes_more_is_not_waited_for() {
    let rig = Rig::with(|settings| settings.session.upload_wait = Duration::from_secs(10));
    let opened = rig.open(&hello(1));
    let Uploading { body, producer, .. } = upload(&opened.lease, 1);
    drop(body);
    drop(opened);
    rig.advance(Duration::from_secs(60));
    let opened = rig.open(&goes_on(2));
    assert!(opened.partial.is_empty());
    producer.end();
    assert_eq!(outcome(opened), "e.");
}

#[test]
fn an_answer_that_ended_before_its_request_is_taken_as_it_is() {
    let rig = Rig::new();
    let opened = rig.open(&hello(1));
    let Uploading { producer, .. } = upload(&opened.lease, 1);
    producer.end();
    drop(opened);
    let opened = rig.open(&goes_on(2));
    assert!(opened.partial.is_empty());
    assert_eq!(outcome(opened), "e.");
}

#[test]
fn another_message_than_the_one_that_was_cut_is_refused() {
    let rig = Rig::new();
    let opened = rig.open(&hello(1));
    let Uploading { sender, body: _body, producer: _producer, .. } = upload(&opened.lease, 1);
    sender.part(Some(6), Bytes::from_static(b"tw"), false).unwrap();
    drop(opened);
    for epoch in [2, 3] {
        let opened = rig.open(&goes_on(epoch));
        let (sender, _) = opened.lease.take_up(1, &Arc::default()).unwrap();
        let error = match epoch {
            2 => sender.part(Some(7), Bytes::from_static(b"two"), false).unwrap_err(),
            _ => sender.end().unwrap_err(),
        };
        assert_eq!((error.kind, error.execution), (Malformed, MayHaveRun));
    }
}

#[test]
fn a_hello_in_early_data_waits_where_a_request_goes_on() {
    let rig = Rig::new();
    drop(rig.open(&hello(1)));
    let opened = rig.open(&hello(2));
    let _uploading = upload(&opened.lease, 1);
    let visits = |hello: Hello| {
        let hello = Hello { session_id: opened.session_id, ..hello };
        rig.sessions.visit(&hello, None).is_some()
    };
    assert!(!visits(goes_on(3)));
    assert!(visits(waiting(3, &[(1, 0)])), "one that does not go on");
}

#[test]
fn a_visitor_whose_request_was_cut_behind_its_welcome_gets_an_error() {
    let rig = Rig::new();
    drop(rig.open(&hello(1)));
    let older = rig.open(&hello(2));
    let hello = Hello { session_id: older.session_id, ..goes_on(3) };
    let visit = rig.sessions.visit(&hello, None).unwrap();
    assert_eq!(visit.unknown, [1]);
    // It arrives on the older connection after all, and is cut there.
    let uploading = upload(&older.lease, 1);
    let established = visit.lease.establish(&hello, &visit.awaited).unwrap();
    assert_eq!(uploading.producer.ended().now_or_never(), Some(Ended));
    assert_eq!(established.attached.len(), 1);
    assert!(visit.lease.take_up(1, &Arc::default()).is_none());
}
