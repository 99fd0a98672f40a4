//! Readers that take nothing for a while, of messages that are small on the wire and large in memory.

#![allow(clippy::unwrap_used, clippy::panic, reason = "test support: a failure here is the test's")]

use bytes::Bytes;
use towline_protocols::link::{
    Config, Event, Execution, Limits, Priority, RpcError, RpcErrorKind,
    frame::{self, DataFrame, Frame, Part},
};

use crate::pair::{Pair, head, noise, status_200};

const MESSAGE_BYTES: usize = 16 * 1024;

/// What one connection may hold decompressed, beside one message.
fn room(limits: Limits) -> usize {
    (limits.message_bytes_max + 4 * limits.connection_window) as usize
}

/// A message that says its number and compresses to almost nothing.
fn numbered(number: u64, bytes: usize) -> Bytes {
    let mut message = vec![0; bytes];
    message[..8].copy_from_slice(&number.to_be_bytes());
    message.into()
}

/// A message that compresses to about half.
fn half_noise(bytes: usize, seed: u64) -> Bytes {
    noise(bytes, seed).iter().map(|byte| byte & 0x0f).collect()
}

/// A pair whose client has opened requests 1 to `requests`.
fn opened(config: Config, requests: u64) -> Pair {
    let mut pair = Pair::introduced(config);
    for seq in 1..=requests {
        pair.client.send_request(seq, head(Priority::NORMAL), false).unwrap();
    }
    pair.run().unwrap();
    assert_eq!(pair.server_events.drain(..).count() as u64, requests);
    pair
}

/// Consumes everything that the server was given, until nothing more comes. Gives the messages in the order
/// of their arrival.
fn take_all(pair: &mut Pair) -> Vec<(u64, Bytes)> {
    let mut taken = Vec::new();
    while !pair.server_events.is_empty() {
        for event in std::mem::take(&mut pair.server_events) {
            match event {
                Event::MessagePart { seq, bytes, end_of_message: true, .. } => {
                    pair.server.credit(seq, bytes.len());
                    taken.push((seq, bytes));
                }
                Event::End { .. } => {}
                other => panic!("{other:?}"),
            }
        }
        pair.run().unwrap();
    }
    taken
}

#[test]
fn a_flood_of_small_wire_bytes_waits_as_it_came() {
    const COUNT: u64 = 10_000;
    let mut pair = opened(Config::default(), 1);
    let window = Config::default().limits.stream_window as usize;
    let mut sent = 0;
    let mut taken: Vec<(u64, Bytes)> = Vec::new();
    while sent < COUNT {
        while sent < COUNT && pair.client.send_capacity(1) > 0 {
            pair.client.send_message(1, numbered(sent, MESSAGE_BYTES), sent + 1 == COUNT).unwrap();
            sent += 1;
        }
        pair.run().unwrap();
        let held = pair.server.held_bytes();
        assert!(held <= window + window + MESSAGE_BYTES, "{held} bytes are held");
        if taken.is_empty() {
            assert!(sent < COUNT, "the sender is held back");
        }
        taken.extend(take_all(&mut pair));
    }
    pair.run().unwrap();
    taken.extend(take_all(&mut pair));
    let numbers: Vec<u64> =
        taken.iter().map(|(_, bytes)| u64::from_be_bytes(bytes[..8].try_into().unwrap())).collect();
    assert_eq!(numbers, (0..COUNT).collect::<Vec<_>>());
    assert_eq!(pair.server.held_bytes(), 0);
}

#[test]
fn large_messages_of_many_requests_wait_for_room() {
    let mut pair = opened(Config::default(), 20);
    let message = numbered(0, 1024 * 1024);
    for seq in 1..=20 {
        pair.client.send_message(seq, message.clone(), true).unwrap();
    }
    pair.run().unwrap();
    let limits = Config::default().limits;
    let arrived = (1..=20).filter(|&seq| pair.server_bytes(seq) > 0).count();
    assert!((1..20).contains(&arrived), "{arrived} arrived");
    let bound = room(limits) + message.len() + limits.connection_window as usize;
    assert!(pair.server.held_bytes() <= bound);
    let mut seqs: Vec<u64> = take_all(&mut pair).into_iter().map(|(seq, _)| seq).collect();
    seqs.sort_unstable();
    assert_eq!(seqs, (1..=20).collect::<Vec<_>>());
    assert!(pair.client_events.is_empty(), "{:?}", pair.client_events);
}

/// Each is larger than every window, and together they are larger than what is reserved for them.
#[test]
fn compressed_messages_larger_than_the_windows_all_pass() {
    let mut pair = opened(Config::default(), 16);
    let message = |seq| half_noise(1024 * 1024, seq);
    for seq in 1..=16 {
        pair.client.send_message(seq, message(seq), true).unwrap();
    }
    pair.run().unwrap();
    let limits = Config::default().limits;
    let bound = 2 * room(limits) + message(1).len() + 16 * limits.stream_window as usize;
    assert!(pair.server.held_bytes() <= bound, "{}", pair.server.held_bytes());
    let mut taken = take_all(&mut pair);
    taken.sort_unstable();
    assert!(taken == (1..=16).map(|seq| (seq, message(seq))).collect::<Vec<_>>());
}

/// One after the other on one request: none arrives on credit before the one ahead of it was consumed.
#[test]
fn compressed_messages_larger_than_the_window_queue_up() {
    let mut pair = opened(Config::default(), 1);
    let message = |n| half_noise(300_000, n);
    for n in 0..10 {
        pair.client.send_message(1, message(n), n == 9).unwrap();
    }
    pair.run().unwrap();
    let limits = Config::default().limits;
    assert!(pair.server.held_bytes() <= message(0).len() + limits.stream_window as usize);
    let taken = take_all(&mut pair);
    assert!(taken == (0..10).map(|n| (1, message(n))).collect::<Vec<_>>());
}

#[test]
fn what_came_behind_a_waiting_message_keeps_its_order() {
    let mut pair = opened(Config::default(), 1);
    let mut sent: Vec<Bytes> = Vec::new();
    for n in 0..8 {
        sent.extend([numbered(n, 50_000), noise(1000, n), Bytes::new(), Bytes::new()]);
    }
    for message in &sent {
        pair.client.send_message(1, message.clone(), false).unwrap();
    }
    pair.client.send_end(1).unwrap();
    pair.run().unwrap();
    assert!(pair.server_bytes(1) < 3 * 50_000);
    let taken: Vec<Bytes> = take_all(&mut pair).into_iter().map(|(_, bytes)| bytes).collect();
    assert!(taken == sent);
}

#[test]
fn messages_without_bytes_cost_nothing_while_they_wait() {
    let mut pair = opened(Config::default(), 1);
    pair.client.send_message(1, numbered(0, 100_000), false).unwrap();
    pair.client.send_message(1, numbered(1, 100_000), false).unwrap();
    pair.run().unwrap();
    let before = pair.server.held_bytes();
    for _ in 0..5000 {
        pair.client.send_message(1, Bytes::new(), false).unwrap();
    }
    pair.run().unwrap();
    assert_eq!(pair.server.held_bytes(), before);
    assert_eq!(take_all(&mut pair).len(), 5002);
}

#[test]
fn a_slow_reader_leaves_its_neighbours_alone() {
    let mut pair = opened(Config::default(), 2);
    for n in 0..100 {
        pair.client.send_message(1, numbered(n, MESSAGE_BYTES), false).unwrap();
    }
    pair.run().unwrap();
    let held_back = pair.server_bytes(1);
    pair.client.send_message(2, numbered(0, MESSAGE_BYTES), true).unwrap();
    pair.run().unwrap();
    assert_eq!((pair.server_bytes(1), pair.server_bytes(2)), (held_back, MESSAGE_BYTES));
}

#[test]
fn an_answer_that_breaks_off_is_handed_on_up_to_there() {
    let mut pair = opened(Config::default(), 1);
    pair.server.send_response(1, status_200(), false).unwrap();
    for n in 0..20 {
        pair.server.send_message(1, numbered(n, MESSAGE_BYTES), false).unwrap();
    }
    pair.run().unwrap();
    pair.server.reset(1, &RpcError::new(RpcErrorKind::BackendFailed, Execution::MayHaveRun, "it broke"));
    pair.run().unwrap();
    let mut messages = 0;
    let broke_off = loop {
        assert!(!pair.client_events.is_empty(), "stalled behind {messages} messages");
        match pair.client_events.remove(0) {
            Event::MessagePart { bytes, .. } => {
                messages += 1;
                pair.client.credit(1, bytes.len());
                pair.run().unwrap();
            }
            Event::Reset { error, .. } => break error,
            _ => {}
        }
    };
    assert_eq!((messages, broke_off.kind), (20, RpcErrorKind::BackendFailed));
    assert_eq!((pair.client.held_bytes(), pair.client.streams_open()), (0, 0));
}

#[test]
fn a_client_that_gives_up_is_heard_at_once_and_its_credit_returns() {
    let mut pair = Pair::introduced(Config::default());
    let cancelled = RpcError::new(RpcErrorKind::Cancelled, Execution::MayHaveRun, "not wanted");
    for seq in 1..=20 {
        pair.client.send_request(seq, head(Priority::NORMAL), false).unwrap();
        for n in 0..10 {
            pair.client.send_message(seq, half_noise(40_000, n), false).unwrap();
        }
        pair.run().unwrap();
        pair.client.reset(seq, &cancelled);
        pair.run().unwrap();
        assert!(matches!(pair.server_events.last(), Some(Event::Reset { .. })));
        assert_eq!(pair.server.held_bytes(), 0);
    }
    pair.server_events.clear();
    pair.client.send_request(21, head(Priority::NORMAL), false).unwrap();
    pair.client.send_message(21, noise(200_000, 21), true).unwrap();
    pair.run().unwrap();
    assert!(pair.server_bytes(21) > 60_000, "the connection's window is whole again");
}

#[test]
fn a_request_that_was_answered_gives_up_what_nobody_takes() {
    let mut pair = opened(Config::default(), 1);
    for n in 0..10 {
        pair.client.send_message(1, numbered(n, MESSAGE_BYTES), n == 9).unwrap();
    }
    pair.run().unwrap();
    pair.server.send_response(1, status_200(), true).unwrap();
    pair.run().unwrap();
    let Some(Event::Reset { error, .. }) = pair.server_events.last() else {
        panic!("{:?}", pair.server_events)
    };
    assert_eq!((error.kind, error.execution), (RpcErrorKind::Cancelled, Execution::Ran));
    assert_eq!((pair.server.held_bytes(), pair.server.streams_open()), (0, 0));
    assert!(
        matches!(pair.client_events[..], [Event::Response { end: true, .. }]),
        "the client has its answer"
    );
}

/// A frame whose header is right and whose blocks are not; it is found out when its turn has come.
#[test]
fn a_corrupt_message_resets_its_request_only() {
    let mut pair = opened(Config::default(), 2);
    let mut corrupt = vec![0x28, 0xb5, 0x2f, 0xfd, 0x20, 8, 0x15, 0, 0, 0xff, 0xff];
    corrupt.insert(0, 8);
    let part = Part { compressed: true, more: false, bytes: corrupt.into() };
    frame::encode(&Frame::Data(DataFrame { seq: 1, part, end: true }), &mut pair.to_server);
    pair.client.send_message(2, Bytes::from_static(b"tea"), true).unwrap();
    pair.run().unwrap();
    let reset = |event: &Event| match event {
        Event::Reset { seq: 1, error } => error.kind == RpcErrorKind::Malformed,
        _ => false,
    };
    assert!(pair.server_events.iter().any(reset) && pair.client_events.iter().any(reset));
    assert_eq!(pair.server_bytes(2), 3);
}

#[test]
fn a_declared_length_above_the_bound_resets_before_anything_is_decompressed() {
    let mut config = Config::default();
    config.limits.message_bytes_max = 100_000;
    let mut generous = Pair::introduced(Config::default());
    let mut strict = Pair::introduced(config);
    generous.client.send_request(1, head(Priority::NORMAL), false).unwrap();
    generous.client.send_message(1, numbered(0, 100_001), true).unwrap();
    generous.client.poll_transmit(generous.now, &mut strict.to_server, usize::MAX);
    strict.run().unwrap();
    assert!(strict.server_events.is_empty());
    assert_eq!((strict.server.held_bytes(), strict.server.streams_open()), (0, 0));
}
