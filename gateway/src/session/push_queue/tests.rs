//! Order, bounds and replacement, at their boundaries.

use bytes::Bytes;

use super::*;

const BOUNDS: PushBounds = PushBounds { count_max: 3, bytes_max: 1000, age_max: Duration::from_secs(60) };

fn push(id: u64, urgency: u8, at: Instant) -> QueuedPush {
    of_topic(&format!("topic/{id}"), id, urgency, at)
}

fn of_topic(topic: &str, id: u64, urgency: u8, at: Instant) -> QueuedPush {
    let lane = Priority::new(urgency);
    let message = Message { topic: topic.into(), priority: lane, ..Message::default() };
    QueuedPush { id, lane, message: Arc::new(message), qos: 1, queued_at: at, stored: true }
}

fn keyed(key: &str, id: u64, at: Instant) -> QueuedPush {
    let mut push = push(id, 3, at);
    Arc::make_mut(&mut push.message).collapse_key = Some(key.into());
    push
}

fn given_ids(given: &[Given]) -> Vec<(u64, Loss)> {
    given.iter().map(|given| (given.push.id, given.why)).collect()
}

fn drain(queue: &mut PushQueue, now: Instant) -> Vec<u64> {
    std::iter::from_fn(|| queue.next(&BOUNDS, now, &mut Vec::new())).map(|push| push.id).collect()
}

fn acknowledge(queue: &mut PushQueue, urgency: u8, id: u64) -> Vec<u64> {
    queue.acknowledge(Priority::new(urgency), id).iter().map(|push| push.id).collect()
}

#[test]
fn beyond_the_count_the_oldest_of_the_least_urgent_is_given_up() {
    let now = Instant::now();
    let mut queue = PushQueue::default();
    for (id, urgency) in [(1, 3), (2, 5), (3, 5)] {
        assert!(queue.push(push(id, urgency, now), &BOUNDS).is_empty());
    }
    let full = Loss::Bound("session.pushes_max");
    assert_eq!(given_ids(&queue.push(push(4, 3, now), &BOUNDS)), [(2, full)]);
    assert_eq!(given_ids(&queue.push(push(5, 7, now), &BOUNDS)), [(5, full)]);
    assert_eq!(drain(&mut queue, now), [1, 4, 3]);
}

#[test]
fn what_has_expired_is_given_up_before_what_is_wanted() {
    let now = Instant::now();
    let mut queue = PushQueue::default();
    for id in 1..=3 {
        queue.push(push(id, if id == 2 { 0 } else { 7 }, now), &BOUNDS);
    }
    let late = now + Duration::from_secs(61);
    let given = queue.push(push(4, 7, late), &BOUNDS);
    let expired = Loss::Expired;
    assert_eq!(given_ids(&given), [(2, expired), (1, expired), (3, expired)]);
    assert_eq!(drain(&mut queue, late), [4]);
}

#[test]
fn beyond_the_bytes_room_is_made_for_a_large_push() {
    let now = Instant::now();
    let mut queue = PushQueue::default();
    queue.push(push(1, 3, now), &BOUNDS);
    let mut large = of_topic("t", 2, 3, now);
    Arc::make_mut(&mut large.message).payload = Bytes::from(vec![0; 930]);
    assert_eq!(given_ids(&queue.push(large, &BOUNDS)), [(1, Loss::Bound("session.push_bytes_max"))]);
    assert_eq!(queue.bytes(), 995);
}

#[test]
fn what_is_urgent_overtakes_but_not_within_its_topic() {
    let now = Instant::now();
    let bounds = PushBounds { count_max: 10, ..BOUNDS };
    let mut queue = PushQueue::default();
    for (id, topic, urgency) in [(1, "bulk", 7), (2, "pay", 0), (3, "bulk", 0), (4, "bulk", 3)] {
        queue.push(of_topic(topic, id, urgency, now), &bounds);
    }
    assert_eq!(drain(&mut queue, now), [2, 1, 3, 4]);
    queue.push(of_topic("bulk", 5, 0, now), &bounds);
    assert_eq!(drain(&mut queue, now), [5], "behind what was sent and is not acknowledged");
    assert_eq!(acknowledge(&mut queue, 7, 5), [1, 3, 4, 5]);
    queue.push(of_topic("bulk", 6, 0, now), &bounds);
    queue.push(of_topic("bulk", 7, 7, now), &bounds);
    queue.push(of_topic("other", 8, 3, now), &bounds);
    assert_eq!(drain(&mut queue, now), [6, 7, 8], "a topic without waiting pushes has its own urgency");
}

#[test]
fn a_newer_push_replaces_the_waiting_one_of_its_key() {
    let now = Instant::now();
    let mut queue = PushQueue::default();
    queue.push(keyed("score", 1, now), &BOUNDS);
    queue.push(keyed("weather", 2, now), &BOUNDS);
    assert_eq!(given_ids(&queue.push(keyed("score", 3, now), &BOUNDS)), [(1, Loss::Replaced)]);
    assert_eq!(drain(&mut queue, now), [2, 3]);
}

#[test]
fn a_push_that_was_sent_is_replaced_when_it_would_be_sent_again() {
    let now = Instant::now();
    let mut queue = PushQueue::default();
    queue.push(keyed("score", 1, now), &BOUNDS);
    assert_eq!(drain(&mut queue, now), [1]);
    assert!(queue.push(keyed("score", 2, now), &BOUNDS).is_empty(), "the client may be about to take it");
    queue.connection_lost();
    let mut given = Vec::new();
    assert_eq!(queue.next(&BOUNDS, now, &mut given).map(|push| push.id), Some(2));
    assert_eq!(given_ids(&given), [(1, Loss::Replaced)]);
}

#[test]
fn unacknowledged_pushes_are_sent_again_and_acknowledged_ones_never() {
    let now = Instant::now();
    let mut queue = PushQueue::default();
    for id in 1..=3 {
        queue.push(push(id, 3, now), &BOUNDS);
    }
    assert_eq!(drain(&mut queue, now), [1, 2, 3]);
    assert_eq!(acknowledge(&mut queue, 3, 1), [1]);
    queue.connection_lost();
    assert_eq!(acknowledge(&mut queue, 3, 2), [2]);
    queue.resume_after(PushMarks::new(&[0, 0, 0, 2]));
    assert_eq!(drain(&mut queue, now), [3]);
}

#[test]
fn an_acknowledgement_stands_for_its_lane_alone() {
    let now = Instant::now();
    let mut queue = PushQueue::default();
    for (id, urgency) in [(1, 7), (2, 0), (3, 7)] {
        queue.push(push(id, urgency, now), &BOUNDS);
    }
    let (critical, background) = (Priority::CRITICAL, Priority::BACKGROUND);
    assert!(!queue.was_sent(critical, 2) && queue.was_sent(critical, 1));
    assert_eq!(drain(&mut queue, now), [2, 1, 3]);
    assert_eq!(acknowledge(&mut queue, 0, 3), [2]);
    assert!(queue.was_sent(background, 3));
    assert_eq!(acknowledge(&mut queue, 7, 3), [1, 3]);
}

#[test]
fn one_attempt_is_not_made_again() {
    let now = Instant::now();
    let mut queue = PushQueue::default();
    queue.push(QueuedPush { qos: 0, ..push(1, 3, now) }, &BOUNDS);
    queue.push(push(2, 3, now), &BOUNDS);
    assert_eq!(given_ids(&queue.connection_lost()), [(1, Loss::Attempted)]);
    assert_eq!(drain(&mut queue, now), [2]);
}

#[test]
fn a_push_that_expires_in_the_queue_is_not_sent() {
    let now = Instant::now();
    let mut queue = PushQueue::default();
    let mut brief = push(1, 3, now);
    Arc::make_mut(&mut brief.message).expires = Some(now + Duration::from_secs(1));
    queue.push(brief, &BOUNDS);
    queue.push(push(2, 3, now), &BOUNDS);
    assert_eq!(drain(&mut queue, now + Duration::from_secs(1)), [2]);
}
