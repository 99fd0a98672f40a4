//! What waits, for how long, and what is given up for it.

use super::*;

#[test]
fn a_message_expires_in_the_queue_or_carries_what_is_left() {
    let (mut pair, _) = Pair::new(&connect(Version::V5), settings());
    for seconds in [5, 10] {
        let expires = Some(pair.now + Duration::from_secs(seconds));
        let message = Message { topic: "t", expires, ..Default::default() };
        let terms = Terms { subscription_ids: &[7, 9], ..pair.terms(QoS::AtLeastOnce) };
        pair.session.push(Arc::new(message), terms, &pair.settings);
    }
    pair.now += Duration::from_millis(5500);
    let sent = pair.receive();
    assert_eq!(sent.len(), 1);
    assert_eq!(published(&sent[0]).properties.expiry, Some(5), "rounded up from 4.5");
    let ids: Vec<_> = published(&sent[0]).properties.subscription_ids.iter().map(|id| id.get()).collect();
    assert_eq!(ids, [7, 9]);
    assert_eq!(pair.connection.take_dropped(), 1);
}

#[test]
fn a_full_queue_drops_qos_0_first() {
    let (mut pair, _) = Pair::new(&connect(Version::V311), settings());
    assert_eq!(pair.deliver("a", QoS::AtMostOnce), Push::Queued);
    assert_eq!(pair.deliver("b", QoS::AtLeastOnce), Push::Queued);
    assert_eq!(pair.deliver("c", QoS::AtMostOnce), Push::Queued);
    assert_eq!(pair.deliver("d", QoS::AtMostOnce), Push::Dropped(0, Bound::Count));
    assert_eq!(pair.deliver("e", QoS::AtLeastOnce), Push::QueuedInsteadOf(1, Bound::Count));
    assert_eq!(pair.deliver("f", QoS::AtLeastOnce), Push::QueuedInsteadOf(1, Bound::Count));
    assert_eq!(pair.deliver("g", QoS::AtLeastOnce), Push::Dropped(0, Bound::Count));
    assert_eq!(pair.session.len(), 3);
}

/// What waits, in order.
fn waiting(pair: &mut Pair) -> Vec<String> {
    let mut sent = Vec::new();
    for packet in pair.receive() {
        sent.push(String::from_utf8(published(&packet).payload.to_vec()).unwrap());
    }
    sent
}

#[test]
fn a_full_queue_drops_what_its_policy_says() {
    for (policy, kept) in [(QueuePolicy::Oldest, ["b", "c", "d"]), (QueuePolicy::Newest, ["a", "b", "c"])] {
        let settings = Settings { queue_policy: policy, in_flight_max: 9, ..settings() };
        let (mut pair, _) = Pair::new(&connect(Version::V311), settings);
        for (payload, qos) in [("a", 1), ("b", 1), ("c", 0), ("d", 1)] {
            pair.deliver(payload, QoS::from_bits(qos).unwrap());
        }
        assert_eq!(waiting(&mut pair), kept, "{policy:?}");
        assert_eq!(pair.deliver("e", QoS::AtLeastOnce), Push::Queued, "{policy:?}");
    }
}

#[test]
fn beyond_what_all_sessions_may_hold_one_message_waits_or_a_few_small_ones() {
    let message =
        |bytes| Arc::new(Message { topic: "t", payload: vec![0; bytes].into(), ..Default::default() });
    let (queue_max, queue_bytes_max) = (99, 1 << 20);
    let settings = Settings { queue_max, queue_bytes_max, held_bytes_max: 20_000, ..settings() };
    let new = || Pair::new(&connect(Version::V311), settings.clone()).0;
    let (mut away, mut prompt, mut small) = (new(), new(), new());
    let mut queued = 0;
    while away.push(&message(6000), QoS::AtLeastOnce) == Push::Queued {
        queued += 1;
    }
    assert_eq!(queued, 4, "three are 18 KB, and the fourth is the last");
    let full = Push::Dropped(0, Bound::Held);
    assert_eq!(prompt.push(&message(50_000), QoS::AtLeastOnce), Push::Queued);
    assert_eq!(prompt.push(&message(6000), QoS::AtLeastOnce), full, "it has not taken the first");
    assert_eq!(prompt.receive().len(), 1);
    assert_eq!(prompt.push(&message(6000), QoS::AtLeastOnce), Push::Queued);
    while small.push(&message(100), QoS::AtLeastOnce) == Push::Queued {}
    assert!((10..40).contains(&small.session.len()) && small.session.bytes() < 4096);
    let held = settings.held.bytes();
    away.session.end();
    assert!(settings.held.bytes() < held - 20_000);
    drop((away, prompt));
    assert_eq!(small.push(&message(6000), QoS::AtLeastOnce), Push::Queued);
    drop(small);
    assert_eq!(settings.held.bytes(), 0);
}

/// What is given up makes room, but not in vain.
#[test]
fn beyond_what_all_sessions_may_hold_a_policy_gives_up_what_makes_room() {
    let message =
        |bytes| Arc::new(Message { topic: "t", payload: vec![0; bytes].into(), ..Default::default() });
    let full = Settings { held_bytes_max: 8192, queue_max: 99, queue_bytes_max: 1 << 20, ..settings() };
    for (queue_policy, sizes, pushed) in [
        (QueuePolicy::Oldest, [4000, 6000], Push::QueuedInsteadOf(1, Bound::Held)),
        (QueuePolicy::Newest, [4000, 6000], Push::Dropped(0, Bound::Held)),
        (QueuePolicy::Qos0, [4000, 6000], Push::Dropped(0, Bound::Held)),
    ] {
        let settings = Settings { queue_policy, held: Held::default(), ..full.clone() };
        let (mut pair, _) = Pair::new(&connect(Version::V311), settings);
        for bytes in sizes {
            assert_eq!(pair.push(&message(bytes), QoS::AtLeastOnce), Push::Queued);
        }
        assert_eq!(pair.push(&message(4000), QoS::AtLeastOnce), pushed, "{queue_policy:?}");
    }
}

#[test]
fn what_is_too_large_for_the_queue_does_not_empty_it() {
    let settings = Settings { queue_policy: QueuePolicy::Oldest, ..settings() };
    let (mut pair, _) = Pair::new(&connect(Version::V311), settings);
    pair.deliver("a", QoS::AtLeastOnce);
    let large = Message { topic: "t", payload: vec![0; 10_000].into(), ..Default::default() };
    assert_eq!(pair.push(&Arc::new(large), QoS::AtLeastOnce), Push::Dropped(0, Bound::Bytes));
    assert_eq!(waiting(&mut pair), ["a"]);
}

#[test]
fn nothing_is_given_up_for_what_does_not_fit_beside_what_is_in_flight() {
    let message =
        |bytes| Arc::new(Message { topic: "t", payload: vec![0; bytes].into(), ..Default::default() });
    for (policy, waits) in [(QueuePolicy::Oldest, QoS::AtLeastOnce), (QueuePolicy::Qos0, QoS::AtMostOnce)] {
        let settings = Settings { queue_policy: policy, in_flight_max: 1, queue_max: 9, ..settings() };
        let (mut pair, _) = Pair::new(&connect(Version::V311), settings);
        pair.push(&message(6000), QoS::AtLeastOnce);
        assert_eq!(pair.receive().len(), 1);
        for _ in 0..2 {
            assert_eq!(pair.push(&message(1000), waits), Push::Queued);
        }
        assert_eq!(pair.push(&message(5000), QoS::AtLeastOnce), Push::Dropped(0, Bound::Bytes), "{policy:?}");
        assert_eq!(pair.session.len(), 3, "{policy:?}");
        let pushed = pair.push(&message(2000), QoS::AtLeastOnce);
        assert_eq!(pushed, Push::QueuedInsteadOf(1, Bound::Bytes), "{policy:?}");
    }
}

#[test]
fn what_a_message_overtakes_that_is_dropped_itself_is_told() {
    let settings = Settings { queue_age_max: Duration::from_secs(9), ..settings() };
    let (mut pair, _) = Pair::new(&connect(Version::V311), settings);
    for payload in ["a", "b"] {
        pair.deliver(payload, QoS::AtLeastOnce);
    }
    pair.now += Duration::from_secs(9);
    let large = Message { topic: "t", payload: vec![0; 10_000].into(), ..Default::default() };
    assert_eq!(pair.push(&Arc::new(large), QoS::AtLeastOnce), Push::Dropped(0, Bound::Bytes));
    assert_eq!((pair.session.take_overtaken(), pair.session.take_aged()), (2, 2));
}

#[test]
fn a_message_waits_for_a_bounded_time() {
    let settings = Settings { queue_age_max: Duration::from_secs(9), ..settings() };
    let (mut pair, _) = Pair::new(&connect(Version::V311), settings);
    for payload in ["a", "b"] {
        pair.deliver(payload, QoS::AtLeastOnce);
        pair.now += Duration::from_secs(5);
    }
    assert_eq!(waiting(&mut pair), ["b"]);
    assert_eq!((pair.session.take_aged(), pair.connection.take_dropped()), (1, 1));
}

#[test]
fn what_has_waited_for_too_long_makes_room() {
    let settings = Settings { queue_age_max: Duration::from_secs(9), ..settings() };
    let (mut pair, _) = Pair::new(&connect(Version::V311), settings);
    for payload in ["a", "b", "c"] {
        pair.deliver(payload, QoS::AtLeastOnce);
    }
    pair.now += Duration::from_secs(9);
    assert_eq!(pair.deliver("d", QoS::AtLeastOnce), Push::Queued);
    assert_eq!(waiting(&mut pair), ["d"]);
}

#[test]
fn what_has_waited_for_too_long_goes_as_another_comes_though_the_client_takes_nothing() {
    let settings =
        Settings { queue_age_max: Duration::from_secs(9), in_flight_max: 1, queue_max: 9, ..settings() };
    let (mut pair, _) = Pair::new(&connect(Version::V311), settings);
    pair.deliver("sent", QoS::AtLeastOnce);
    assert_eq!(waiting(&mut pair), ["sent"]);
    for payload in ["a", "b"] {
        pair.deliver(payload, QoS::AtLeastOnce);
        pair.now += Duration::from_secs(5);
    }
    assert_eq!(pair.deliver("c", QoS::AtLeastOnce), Push::Queued);
    assert_eq!((pair.session.take_overtaken(), pair.session.take_aged()), (1, 1));
    assert_eq!(pair.session.len(), 3, "one in flight, and b and c");
}

#[test]
fn a_queue_is_bounded_in_bytes() {
    let (mut pair, _) = Pair::new(&connect(Version::V311), settings());
    let payload = Bytes::from(vec![0; 6000]);
    let message = Arc::new(Message { topic: "t", payload, ..Default::default() });
    assert_eq!(pair.push(&message, QoS::AtLeastOnce), Push::Queued);
    assert_eq!(pair.push(&message, QoS::AtLeastOnce), Push::Dropped(0, Bound::Bytes));
    assert_eq!(pair.receive().len(), 1);
    let pushed = pair.push(&message, QoS::AtLeastOnce);
    assert_eq!(pushed, Push::Dropped(0, Bound::Bytes), "what is in flight takes memory too");
}

#[test]
fn qos_0_is_not_kept_for_the_next_connection() {
    let (mut pair, _) = Pair::new(&connect(Version::V311), settings());
    pair.deliver("a", QoS::AtMostOnce);
    pair.deliver("b", QoS::AtLeastOnce);
    assert_eq!(pair.session.detach(), 1);
    assert_eq!(pair.session.len(), 1);
}

#[test]
fn an_idle_session_keeps_no_memory_of_a_busy_past() {
    let (mut pair, _) = Pair::new(&connect(Version::V311), settings());
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce] {
        for _ in 0..2 {
            pair.deliver("m", qos);
        }
        let ids: Vec<_> = pair.receive().iter().filter_map(|packet| published(packet).packet_id).collect();
        assert_eq!(pair.session.holds_memory(), qos == QoS::AtLeastOnce, "until it is acknowledged");
        for id in ids {
            pair.send(Packet::Puback(Ack::new(id, ReasonCode::Success))).unwrap();
        }
        pair.receive();
        assert!(!pair.session.holds_memory(), "{qos:?}");
    }
    pair.deliver("m", QoS::AtMostOnce);
    pair.session.detach();
    assert!(!pair.session.holds_memory(), "nor one whose client is away");
}
