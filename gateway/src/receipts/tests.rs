//! Receipts as a backend gets them.

use std::time::Duration;

use super::*;

/// The queues of one gateway after another.
struct Rig {
    receipts: Receipts,
    store: Store,
    clock: Clock,
    metrics: Metrics,
    settings: Settings,
}

impl Rig {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings::default();
        change(&mut settings);
        Self::on(Store::in_memory().unwrap(), Clock::simulated(), settings)
    }

    fn on(store: Store, clock: Clock, settings: Settings) -> Self {
        let metrics = Metrics::new();
        let receipts = Receipts::restore(&settings, store.clone(), &metrics, clock.clone()).unwrap();
        Self { receipts, store, clock, metrics, settings }
    }

    async fn restart(self) -> Self {
        self.store.barrier().await.unwrap();
        Self::on(self.store, self.clock, self.settings)
    }

    fn note(&self, push_id: &str, progress: Progress) {
        self.receipts.ticket("shop", push_id, false).unwrap().note("phone", progress);
    }

    /// Push, state and reason of all that waits, and how many were lost before each.
    fn waiting(&self) -> Vec<(String, u8, String, u64)> {
        let queue = self.receipts.queue("shop").unwrap();
        let mut number = 0;
        std::iter::from_fn(|| {
            let receipt = queue.after(number)?;
            number = receipt.number;
            Some((receipt.push_id.to_string(), receipt.state, receipt.reason.to_string(), receipt.lost))
        })
        .collect()
    }

    fn waiting_ids(&self) -> Vec<String> {
        self.waiting().into_iter().map(|(push_id, ..)| push_id).collect()
    }

    fn limit_hits(&self, limit: &str) -> u64 {
        self.metrics.limit_hits.with_label_values(&[limit]).get()
    }
}

#[tokio::test]
async fn what_is_not_taken_is_told_again_after_a_restart_and_what_is_taken_never() {
    let rig = Rig::new();
    rig.note("a", Progress::Acknowledged);
    rig.note("b", Progress::Dropped("session.pushes_max"));
    rig.note("c", Progress::Expired);
    let rig = rig.restart().await;
    assert_eq!(
        rig.waiting(),
        [
            ("a".to_owned(), 3, String::new(), 0),
            ("b".to_owned(), 5, "session.pushes_max".to_owned(), 0),
            ("c".to_owned(), 4, String::new(), 0)
        ]
    );
    let queue = rig.receipts.queue("shop").unwrap();
    queue.taken(queue.after(0).unwrap().number);
    let rig = rig.restart().await;
    assert_eq!(rig.waiting_ids(), ["b", "c"]);
}

#[tokio::test]
async fn numbers_do_not_come_back_after_a_restart_that_finds_nothing() {
    let rig = Rig::new();
    rig.note("a", Progress::Acknowledged);
    let queue = rig.receipts.queue("shop").unwrap();
    let first = queue.after(0).unwrap().number;
    queue.taken(first);
    let rig = rig.restart().await;
    rig.clock.advance(Duration::from_millis(1));
    rig.note("b", Progress::Acknowledged);
    assert!(rig.receipts.queue("shop").unwrap().after(first).is_some());
}

#[test]
fn beyond_their_bounds_the_oldest_are_given_up_and_counted() {
    let rig = Rig::with(|settings| settings.push.receipts_max = 2);
    ["a", "b", "c", "d"].into_iter().for_each(|push_id| rig.note(push_id, Progress::Acknowledged));
    assert_eq!(rig.waiting_ids(), ["c", "d"]);
    assert_eq!(rig.waiting()[0].3, 2, "the backend learns how many it does not get");
    assert_eq!(rig.limit_hits("push.receipts_max"), 2);
    rig.clock.advance(rig.settings.push.receipt_age_max + Duration::from_secs(1));
    rig.note("e", Progress::Acknowledged);
    assert_eq!((rig.waiting_ids(), rig.waiting()[0].3), (vec!["e".to_owned()], 4));
    assert_eq!(rig.limit_hits("push.receipt_age_max"), 2);
}

#[test]
fn one_queue_too_many_is_refused_unless_an_unused_one_is_empty() {
    let rig = Rig::with(|settings| settings.push.receipt_queues_max = 1);
    rig.note("a", Progress::Acknowledged);
    assert_eq!(rig.receipts.queue("bank").err(), Some(QueuesFull));
    assert_eq!(rig.limit_hits("push.receipt_queues_max"), 1);
    rig.receipts.queue("shop").unwrap().taken(u64::MAX);
    assert!(rig.receipts.queue("bank").is_ok());
}

#[test]
fn what_is_not_final_is_told_to_who_asked_for_it() {
    let rig = Rig::new();
    rig.note("a", Progress::Accepted);
    rig.note("a", Progress::Sent);
    assert!(rig.waiting().is_empty());
    let ticket = rig.receipts.ticket("shop", "b", true).unwrap();
    ticket.note("phone", Progress::Accepted);
    ticket.note("phone", Progress::Sent);
    assert_eq!(rig.waiting_ids(), ["b", "b"]);
}

#[tokio::test]
async fn whoever_waits_is_woken() {
    let rig = Rig::new();
    let queue = rig.receipts.queue("shop").unwrap();
    let waiting = tokio::spawn(async move { queue.next_after(0).await });
    tokio::task::yield_now().await;
    rig.note("a", Progress::Acknowledged);
    assert_eq!(&*waiting.await.unwrap().push_id, "a");
}

#[test]
fn a_cut_record_is_no_receipt() {
    let receipt = Receipt {
        number: 7,
        push_id: "a".into(),
        client_id: "phone".into(),
        state: 5,
        reason: "why".into(),
        unix_ms: 9,
        lost: 3,
    };
    let encoded = record::encode(&receipt);
    assert_eq!(record::decode(7, &encoded), Some(receipt));
    for cut in 0..encoded.len() {
        assert_eq!(record::decode(7, &encoded[..cut]), None, "cut at {cut}");
    }
    assert_eq!(store::parse_queue_key(&store::queue_key("shop", 9)), Some(("shop", 9)));
    assert_eq!(store::parse_queue_key(b"short"), None);
}
