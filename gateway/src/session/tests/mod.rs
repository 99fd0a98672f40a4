//! Sessions as their connections see them. Time is simulated; nothing waits.

mod consumers;
mod durable;
mod durable_shares;
mod exchanges;
mod flights;
mod headers;
mod histories;
mod ownership;
mod presence;
mod pushes;
mod receipts;
mod short_visits;
mod unheard;
mod uploads;
mod visits;

use std::{cell::RefCell, collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::FutureExt;
use towline_protocols::{
    hpack::HeaderField,
    link::{Hello, Place, Priority, PushesTaken, RpcError, Waiting},
};

use super::*;
use crate::hub::Message;

/// A gateway's sessions without its sockets.
struct Rig {
    sessions: Sessions,
    hub: Hub,
    store: Store,
    metrics: Metrics,
    clock: Clock,
    settings: Settings,
    /// What each client was told last by WELCOME.
    session_ids: RefCell<BTreeMap<String, u64>>,
}

impl Rig {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings::default();
        change(&mut settings);
        Self::on(Store::in_memory().unwrap(), settings, Clock::simulated())
    }

    fn on(store: Store, settings: Settings, clock: Clock) -> Self {
        let (hub, metrics) = (Hub::new(16), Metrics::new());
        let sessions =
            Sessions::restore(&settings, hub.clone(), store.clone(), &metrics, clock.clone()).unwrap();
        Self { sessions, hub, store, metrics, clock, settings, session_ids: RefCell::default() }
    }

    /// Ends this gateway and starts the next one on what it left in the store.
    async fn restart(self) -> Self {
        let Self { sessions, store, settings, clock, session_ids, .. } = self;
        drop(sessions);
        store.barrier().await.unwrap();
        Self { session_ids, ..Self::on(store, settings, clock) }
    }

    /// Opens a session as a client that took every WELCOME.
    fn open(&self, hello: &Hello) -> Opened {
        let mut session_ids = self.session_ids.borrow_mut();
        let session_id = session_ids.entry(hello.client_id.clone()).or_default();
        let hello = Hello { session_id: *session_id, ..hello.clone() };
        let opened = self.sessions.open(&hello, None).unwrap();
        *session_id = opened.session_id;
        opened
    }

    fn refusal(&self, hello: &Hello, user: Option<&str>) -> OpenError {
        self.sessions.open(hello, user.map(Arc::from)).err().unwrap()
    }

    fn limit_hits(&self, limit: &str) -> u64 {
        self.metrics.limit_hits.with_label_values(&[limit]).get()
    }

    fn advance(&self, by: Duration) -> usize {
        self.clock.advance(by);
        self.sessions.expire(self.clock.now())
    }
}

fn hello(epoch: u64) -> Hello {
    Hello { client_id: "phone".to_owned(), session_secret: vec![1; 16].into(), epoch, ..Hello::default() }
}

fn waiting(epoch: u64, seqs: &[(u64, u64)]) -> Hello {
    let waiting = seqs
        .iter()
        .map(|&(seq, messages_received)| Waiting { seq, messages_received, ..Waiting::default() })
        .collect();
    Hello { waiting, ..hello(epoch) }
}

fn run(lease: &Lease, seq: u64) -> (Producer, Consumer) {
    match lease.begin(seq) {
        Begin::Run(producer, consumer) => {
            consumer.exchange().request_complete();
            producer.forwarded();
            (producer, consumer)
        }
        Begin::Attached(_) | Begin::Later => panic!("{seq} is known"),
        Begin::Refused(error) => panic!("{seq}: {error}"),
    }
}

fn refused(lease: &Lease, seq: u64) -> RpcError {
    match lease.begin(seq) {
        Begin::Refused(error) => error,
        _ => panic!("{seq} is not refused"),
    }
}

fn again(lease: &Lease, seq: u64) -> Consumer {
    match lease.begin(seq) {
        Begin::Attached(consumer) => consumer,
        _ => panic!("{seq} is not attached"),
    }
}

fn head() -> Vec<HeaderField> {
    vec![HeaderField::from_static(":status", "200")]
}

/// Records a message without waiting for the consumer.
fn send(producer: &Producer, message: impl Into<Bytes>) -> Result<(), Ended> {
    producer.message(message.into()).now_or_never().unwrap_or(Ok(()))
}

/// All that a consumer is handed now, in a form that is easy to compare: `h` for the head, messages as
/// they are (long ones by length), `t` for trailers, `e` for an end of its own, `!Kind/Execution` for an
/// error; a `.` where the part is said to be the last.
fn drain(consumer: &mut Consumer) -> String {
    let mut seen = Vec::new();
    while let Next::Part { part, ends } = consumer.try_next() {
        let text = match part {
            ExchangePart::Head(_) => "h".to_owned(),
            ExchangePart::Message(bytes) if bytes.len() > 8 => bytes.len().to_string(),
            ExchangePart::Message(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
            ExchangePart::Trailers(_) => "t".to_owned(),
            ExchangePart::End => "e".to_owned(),
            ExchangePart::Error(error) => format!("!{:?}/{:?}", error.kind, error.execution),
        };
        seen.push(if ends { text + "." } else { text });
    }
    seen.join(" ")
}

fn push(text: &str) -> Arc<Message> {
    let payload = Bytes::copy_from_slice(text.as_bytes());
    Arc::new(Message { topic: "news".into(), payload, qos: 1, ..Message::default() })
}

/// HELLO of a client that has taken pushes: the ids by urgency.
fn taken(rig: &Rig, ids: &[u64], hello: Hello) -> Hello {
    let push_line = rig.sessions.get("phone").unwrap().push_line();
    Hello { pushes_taken: Some(PushesTaken { push_line, ids: ids.to_vec() }), ..hello }
}

/// The pushes that the connection is handed now.
fn pushes(lease: &Lease) -> Vec<(u64, String)> {
    let next = || lease.next_push();
    std::iter::from_fn(next)
        .map(|push| (push.id, String::from_utf8(push.message.payload.to_vec()).unwrap()))
        .collect()
}

fn texts(lease: &Lease) -> Vec<String> {
    pushes(lease).into_iter().map(|(_, text)| text).collect()
}
