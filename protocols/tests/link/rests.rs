//! Messages of an answer that a connection brought in part: the next one brings the rest alone, or all again.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failure here is the test's")]

use towline_protocols::link::{
    Event, Hello, LimitsMessage, Place, Welcome,
    client::{CallOptions, Fate, Session},
};

use crate::carriers::{Seen, known, named, part, response, short};

const STREAM: CallOptions =
    CallOptions { idempotent: true, replayable: true, continues: false, sees_whole: false };

/// WELCOME of a server that goes on inside a message.
fn goes_inside() -> Welcome {
    let limits = LimitsMessage { message_rests: true, ..LimitsMessage::default() };
    Welcome { limits: Some(limits), ..named(7) }
}

/// A request of whose answer the link has brought a message and three bytes of the next.
fn begun() -> (Session, u64, Seen) {
    let (mut session, mut seen) = (known(), Seen::default());
    let seq = session.open(STREAM);
    session.on_request_sent(seq);
    for event in [response(seq), part(seq, "one", true), part(seq, "two", false)] {
        seen.take(session.on_event(event));
    }
    session.on_link_lost();
    (session, seq, seen)
}

fn resumed(session: &mut Session, seq: u64, welcome: &Welcome) -> Place {
    let hello = session.hello(Hello::default());
    assert_eq!(hello.waiting[0].received(), Place { messages: 1, bytes: 3 });
    let fates = session.on_welcome(&hello, welcome);
    let [(kept, Fate::Keep { received, sent: None })] = fates[..] else { panic!("{fates:?}") };
    assert_eq!(kept, seq);
    received
}

#[test]
fn the_rest_is_handed_on_as_the_same_message() {
    let (mut session, seq, mut seen) = begun();
    assert_eq!(resumed(&mut session, seq, &goes_inside()), Place { messages: 1, bytes: 3 });
    seen.take(session.on_event(response(seq)));
    let Event::MessagePart { bytes, .. } = part(seq, "three", false) else { panic!("a part") };
    let first = Event::MessagePart {
        seq,
        message_bytes: Some(9),
        wire_bytes: bytes.len(),
        bytes,
        end_of_message: false,
        end: false,
    };
    let delivery = session.on_event(first);
    let Some(Event::MessagePart { message_bytes, .. }) = &delivery.event else { panic!("{delivery:?}") };
    assert_eq!(*message_bytes, None, "the application heard of the length before");
    seen.take(delivery);
    for event in [part(seq, "four", true), part(seq, "five", true), Event::End { seq }] {
        seen.take(session.on_event(event));
    }
    assert_eq!((seen.text.as_str(), seen.credit), ("hone|twothreefour|five|.", 0));
}

#[test]
fn a_rest_of_nothing_ends_the_message() {
    let (mut session, seq, mut seen) = begun();
    resumed(&mut session, seq, &goes_inside());
    for event in [response(seq), part(seq, "", true), Event::End { seq }] {
        seen.take(session.on_event(event));
    }
    assert_eq!(seen.text, "hone|two|.");
}

#[test]
fn a_server_that_does_not_say_so_sends_the_message_again() {
    let (mut session, seq, mut seen) = begun();
    assert_eq!(resumed(&mut session, seq, &named(7)), Place::behind(1));
    for event in [response(seq), part(seq, "twothree", true), Event::End { seq }] {
        seen.take(session.on_event(event));
    }
    assert_eq!((seen.text.as_str(), seen.credit), ("hone|twothree|.", 3));
}

/// The POST brings the same bytes while the link waits for its WELCOME.
#[test]
fn what_another_carrier_brought_meanwhile_is_left_out_of_the_rest() {
    let (mut session, seq, mut seen) = begun();
    let (post, _) = short(&mut session, &[seq]);
    let hello = session.hello(Hello::default());
    for event in [response(seq), part(seq, "one", true), part(seq, "twothr", false)] {
        seen.take(session.on_short_event(post, event));
    }
    let fates = session.on_welcome(&hello, &goes_inside());
    assert_eq!(fates, [(seq, Fate::Keep { received: Place { messages: 1, bytes: 3 }, sent: None })]);
    for event in [response(seq), part(seq, "th", false), part(seq, "reefour", true), Event::End { seq }] {
        seen.take(session.on_event(event));
    }
    assert_eq!((seen.text.as_str(), seen.credit), ("hone|twothreefour|.", 9), "one, two, and thr");
}
