//! Requests whose client half goes on over another connection.

#![allow(clippy::unwrap_used, reason = "test support: a failure here is the test's")]

use bytes::{Bytes, BytesMut};
use towline_protocols::link::{
    Config, Control, Event, Hello, Partial, Place, Priority, StreamCodec, Waiting, Welcome,
};

use crate::pair::{Pair, head, hello, noise, origin, status_200};

const WINDOW: usize = 65_536;

/// Both ends, where WELCOME names request 5 with two messages and `window_used` bytes in use.
fn resumed(window_used: usize) -> Pair {
    let waiting = vec![Waiting { seq: 5, continues: true, ..Waiting::default() }];
    let mut pair = Pair::with(Config::default(), Config::default(), Hello { waiting, ..hello() });
    pair.run().unwrap();
    pair.server.attach_open(5, Priority::NORMAL, window_used as u32);
    let partial =
        Partial { seq: 5, messages_received: 2, window_used: window_used as u32, bytes_received: 0 };
    let welcome = Welcome { resumed: true, partial: vec![partial], ..Welcome::default() };
    pair.server.control().welcome(welcome);
    pair.run().unwrap();
    pair.client.go_on(5, &head(Priority::NORMAL));
    pair.server_events.clear();
    pair.client_events.clear();
    pair
}

#[test]
fn a_half_goes_on_behind_what_the_server_has_and_the_answer_follows() {
    let mut pair = resumed(0);
    pair.client.send_message(5, Bytes::from_static(b"third"), false).unwrap();
    pair.client.send_end(5).unwrap();
    pair.server.send_response(5, status_200(), true).unwrap();
    pair.run().unwrap();
    assert!(matches!(&pair.server_events[..], [Event::MessagePart { bytes, .. }, Event::End { seq: 5 }]
        if &bytes[..] == b"third"));
    assert!(matches!(&pair.client_events[..], [Event::Response { seq: 5, end: true, .. }]));
    assert_eq!((pair.client.streams_open(), pair.server.streams_open()), (0, 0));
}

#[test]
fn what_is_in_use_of_the_window_is_given_back_like_all_else() {
    let mut pair = resumed(WINDOW - 1000);
    pair.client.send_message(5, noise(3 * WINDOW, 1), true).unwrap();
    pair.run().unwrap();
    let first = pair.server_bytes(5);
    assert!((900..=1000).contains(&first), "{first} bytes");
    pair.server.credit(5, WINDOW - 1000);
    pair.run().unwrap();
    assert!((WINDOW - 10..=WINDOW).contains(&pair.server_bytes(5)), "a whole window, and no more");
    while pair.server_bytes(5) < 3 * WINDOW {
        let before = pair.server_bytes(5);
        pair.server.credit(5, WINDOW / 2);
        pair.run().unwrap();
        assert!(pair.server_bytes(5) > before, "the sender stands still");
    }
}

#[test]
fn the_connection_has_its_own_window_whole() {
    // More than half a connection's window, of which it would be told.
    let carried = 3 * WINDOW;
    let mut pair = resumed(carried);
    // Its request and three others: no byte of the connection's window was in use.
    for seq in 6..10 {
        pair.client.send_request(seq, head(Priority::NORMAL), false).unwrap();
        pair.client.send_message(seq, noise(WINDOW, seq), true).unwrap();
    }
    pair.run().unwrap();
    let arrived: usize = (6..10).map(|seq| pair.server_bytes(seq)).sum();
    assert!((4 * WINDOW - 100..=4 * WINDOW).contains(&arrived), "{arrived} bytes");
    // Nor is any given back for what another connection had brought.
    pair.server.credit(5, carried);
    pair.client.send_request(10, head(Priority::NORMAL), false).unwrap();
    pair.client.send_message(10, noise(WINDOW, 10), true).unwrap();
    pair.run().unwrap();
    let more: usize = (6..11).map(|seq| pair.server_bytes(seq)).sum();
    assert!(more <= 4 * WINDOW, "{more} bytes");
}

#[test]
fn more_than_a_window_may_be_in_use_and_empty_messages_pass_all_the_same() {
    let mut pair = resumed(3 * WINDOW);
    pair.client.send_message(5, Bytes::new(), false).unwrap();
    pair.client.send_message(5, noise(10, 1), true).unwrap();
    pair.run().unwrap();
    assert!(matches!(&pair.server_events[..], [Event::MessagePart { bytes, .. }] if bytes.is_empty()));
    pair.server.credit(5, 3 * WINDOW);
    pair.run().unwrap();
    assert_eq!(pair.server_bytes(5), 10);
}

#[test]
fn a_half_that_the_server_does_not_name_has_ended() {
    let waiting = vec![Waiting { seq: 5, continues: true, ..Waiting::default() }];
    let mut pair = Pair::with(Config::default(), Config::default(), Hello { waiting, ..hello() });
    pair.run().unwrap();
    pair.server.attach(5, Priority::NORMAL);
    pair.server.control().welcome(Welcome { resumed: true, ..Welcome::default() });
    pair.run().unwrap();
    assert!(pair.client.send_message(5, Bytes::from_static(b"x"), false).is_err());
}

#[test]
fn a_stream_of_quic_goes_on_behind_attach() {
    let settings = Control::server(Default::default(), origin()).stream_settings();
    let (mut client, mut wire) = (StreamCodec::client(settings.clone(), 1, 5), BytesMut::new());
    client.send_attach(Place::default(), Some(&head(Priority::NORMAL)), &mut wire);
    client.send_message(Bytes::from_static(b"third"), true, &mut wire).unwrap();
    let mut server = StreamCodec::server(settings.clone(), 1);
    server.handle_bytes(&mut wire).unwrap();
    let attach = Event::Attach { seq: 5, received: Place::default(), continues: true };
    assert_eq!(server.poll_event(), Ok(Some(attach)));
    assert!(matches!(server.poll_event(), Ok(Some(Event::MessagePart { seq: 5, end: true, .. }))));
    assert_eq!(server.handle_fin(&wire), Ok(()));

    let mut client = StreamCodec::client(settings.clone(), 2, 5);
    client.send_attach(Place::default(), Some(&head(Priority::NORMAL)), &mut wire);
    let mut server = StreamCodec::server(settings, 2);
    server.handle_bytes(&mut wire).unwrap();
    assert!(server.handle_fin(&wire).is_err(), "the half was to go on");
}
