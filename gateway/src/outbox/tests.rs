use super::{
    waiting::{Held, WINDOW_BYTES, WINDOW_COUNT},
    *,
};
use crate::store::{Memory, Writer};

static NAMES: Names = Names { count: "c", bytes: "b", age: "a" };

fn bounds(count_max: usize, policy: DropPolicy) -> QueueBounds {
    let age_max = Duration::from_secs(10);
    QueueBounds { count_max, bytes_max: 1 << 20, age_max, policy }
}

fn open(memory: &Memory, count_max: usize, policy: DropPolicy) -> (Arc<Outbox>, Writer) {
    let (store, writer) = Store::by_hand(memory);
    let outbox = Outboxes::restore(&store, &Metrics::new()).unwrap().get("q");
    outbox.set_bounds(bounds(count_max, policy), &NAMES);
    (outbox, writer)
}

fn push(outbox: &Outbox, payload: &str) -> Result<(), Full> {
    let payload = payload.to_owned().into();
    let message = Message { topic: "t".into(), payload, qos: 1, ..Message::default() };
    outbox.push(Arc::new(message), None, None, true)
}

fn payloads(outbox: &Outbox) -> Vec<String> {
    let text = |letter: Letter| String::from_utf8(letter.message.payload.to_vec()).unwrap();
    outbox.list(0, 100).into_iter().map(text).collect()
}

#[tokio::test]
async fn what_was_written_is_back_in_order_and_what_was_taken_is_not() {
    let memory = Memory::new().unwrap();
    let (outbox, writer) = open(&memory, 10, DropPolicy::Newest);
    for payload in ["1", "2", "3"] {
        push(&outbox, payload).unwrap();
    }
    writer.write();
    outbox.remove(2);
    writer.write();
    push(&outbox, "4").unwrap();
    drop((outbox, writer));
    let (outbox, _writer) = open(&memory, 10, DropPolicy::Newest);
    assert_eq!(payloads(&outbox), ["1", "3"]);
    assert_eq!(outbox.next_after(1).await.number, 3);
}

fn held(outbox: &Outbox) -> Held {
    outbox.waiting.lock().held()
}

/// More than three windows, by count.
const MANY: u64 = 3500;

#[tokio::test(start_paused = true)]
async fn memory_has_a_window_of_what_waits_and_everything_comes_in_order() {
    let memory = Memory::new().unwrap();
    let (outbox, writer) = open(&memory, usize::MAX, DropPolicy::Newest);
    for number in 1..=MANY {
        push(&outbox, &number.to_string()).unwrap();
        if number % 100 == 0 {
            writer.write();
        }
        assert!(
            held(&outbox).count <= WINDOW_COUNT + 100,
            "the window, and what the store does not have yet"
        );
    }
    assert_eq!(outbox.size().0, MANY as usize);
    let check = |outbox: &Outbox| {
        for number in 1..=MANY {
            // As an upstream connection does: some are on their way when the next one is asked for.
            let letter = outbox.after(number - 1).unwrap();
            assert_eq!((letter.number, &letter.message.payload[..]), (number, number.to_string().as_bytes()));
            assert!(held(outbox).count <= WINDOW_COUNT + 256);
            assert!(number <= 256 || outbox.remove(number - 256));
        }
        assert_eq!((outbox.size().0, held(outbox).count), (256, 256));
    };
    let listed: Vec<_> = outbox.list(900, 2000).into_iter().map(|letter| letter.number).collect();
    assert!(listed.into_iter().eq(901..=2900), "as an operator looks at them");
    assert_eq!(held(&outbox).count, WINDOW_COUNT, "which keeps none");
    let (restarted, _writer) = open(&memory, usize::MAX, DropPolicy::Newest);
    assert_eq!((restarted.size(), held(&restarted).count), (outbox.size(), WINDOW_COUNT));
    check(&restarted);
    check(&outbox);
}

#[tokio::test(start_paused = true)]
async fn the_window_is_one_of_bytes_too_and_what_is_larger_still_comes() {
    let (outbox, writer) = open(&Memory::new().unwrap(), 100, DropPolicy::Newest);
    outbox.set_bounds(QueueBounds { bytes_max: usize::MAX, ..bounds(100, DropPolicy::Newest) }, &NAMES);
    let payload = "x".repeat(WINDOW_BYTES / 4);
    for _ in 0..20 {
        push(&outbox, &payload).unwrap();
        writer.write();
    }
    assert_eq!(outbox.size().0, 20);
    assert!(held(&outbox).count <= 5, "{:?}", held(&outbox));
    for number in 0..20 {
        assert_eq!(outbox.after(number).unwrap().message.payload.len(), payload.len());
        assert!(held(&outbox).count <= 5 + 1 && outbox.remove(number + 1));
    }
    assert_eq!((outbox.size(), held(&outbox)), ((0, 0), Held::default()));
}

#[tokio::test(start_paused = true)]
async fn what_left_the_queue_does_not_come_back_from_the_store() {
    let (outbox, writer) = open(&Memory::new().unwrap(), usize::MAX, DropPolicy::Newest);
    for number in 1..=MANY {
        push(&outbox, &number.to_string()).unwrap();
    }
    writer.write();
    // The store has not heard of that when it is read.
    assert_eq!(outbox.purge(2000, 1000), 1000);
    assert!(outbox.remove(2000) && !outbox.remove(2000));
    assert_eq!(outbox.after(1998).unwrap().number, 1999);
    assert_eq!(outbox.after(1999).unwrap().number, 3001);
    let listed: Vec<_> = outbox.list(1990, 20).into_iter().map(|letter| letter.number).collect();
    assert!(listed.into_iter().eq((1991..=1999).chain(3001..=3011)));
}

#[tokio::test(start_paused = true)]
async fn what_memory_has_no_room_for_is_stored_whatever_its_quality() {
    let memory = Memory::new().unwrap();
    let (outbox, writer) = open(&memory, usize::MAX, DropPolicy::Newest);
    for number in 1..=MANY {
        let message = Message { topic: "t".into(), payload: "x".into(), ..Message::default() };
        outbox.push(Arc::new(message), None, None, false).unwrap();
        if number % 100 == 0 {
            writer.write();
        }
        assert!(held(&outbox).count <= WINDOW_COUNT + 101, "{:?}", held(&outbox));
    }
    assert_eq!(outbox.list(0, usize::MAX).len(), MANY as usize);
}

#[tokio::test]
async fn the_policy_says_what_goes_when_it_is_full() {
    let memory = Memory::new().unwrap();
    let (outbox, _writer) = open(&memory, 2, DropPolicy::Newest);
    push(&outbox, "1").unwrap();
    push(&outbox, "2").unwrap();
    assert_eq!(push(&outbox, "3"), Err(Full("c")));
    assert_eq!(payloads(&outbox), ["1", "2"]);
    outbox.set_bounds(bounds(2, DropPolicy::Oldest), &NAMES);
    push(&outbox, "3").unwrap();
    assert_eq!(payloads(&outbox), ["2", "3"]);
    assert_eq!(outbox.counters.dropped.get(), 1);
}

#[tokio::test]
async fn a_message_larger_than_the_queue_is_refused_whatever_the_policy() {
    let (outbox, _writer) = open(&Memory::new().unwrap(), 2, DropPolicy::Oldest);
    assert_eq!(push(&outbox, &"x".repeat(2 << 20)), Err(Full("b")));
}

#[tokio::test(start_paused = true)]
async fn nothing_goes_before_the_owner_has_said_what_may() {
    let (store, _writer) = Store::by_hand(&Memory::new().unwrap());
    let outbox = Outboxes::restore(&store, &Metrics::new()).unwrap().get("q");
    push(&outbox, "1").unwrap();
    tokio::time::advance(Duration::from_secs(400 * 86_400)).await;
    assert_eq!(payloads(&outbox), ["1"]);
    outbox.set_bounds(bounds(9, DropPolicy::Newest), &NAMES);
    assert!(payloads(&outbox).is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_has_waited_too_long_is_given_up() {
    let (outbox, _writer) = open(&Memory::new().unwrap(), 9, DropPolicy::Newest);
    push(&outbox, "1").unwrap();
    tokio::time::advance(Duration::from_secs(6)).await;
    push(&outbox, "2").unwrap();
    tokio::time::advance(Duration::from_secs(6)).await;
    assert_eq!(payloads(&outbox), ["2"]);
    assert_eq!(outbox.counters.waiting.get(), 1);
}
