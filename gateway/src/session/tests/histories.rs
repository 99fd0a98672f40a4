//! Whatever the order of loss, return, acknowledgement and restart: nothing is lost, repeated or out of
//! order within the bounds.

use proptest::prelude::*;
use towline_protocols::link::{Ack, client::PushMarks};

use super::*;
use crate::hub::Delivered;

/// Requests of one history; their numbers are 1 to this.
const SEQS: u64 = 3;

#[derive(Clone, Debug)]
enum Step {
    Begin(u64),
    Produce(u64),
    End(u64),
    Take(u64),
    Acknowledge(u64),
    Reconnect,
}

fn step() -> impl Strategy<Value = Step> {
    let seq = 1..=SEQS;
    prop_oneof![
        2 => seq.clone().prop_map(Step::Begin),
        6 => seq.clone().prop_map(Step::Produce),
        1 => seq.clone().prop_map(Step::End),
        4 => seq.clone().prop_map(Step::Take),
        1 => seq.prop_map(Step::Acknowledge),
        2 => Just(Step::Reconnect),
    ]
}

/// A client, its gateway and its backend, with what each knows.
struct World {
    rig: Rig,
    opened: Option<Opened>,
    epoch: u64,
    producers: BTreeMap<u64, Producer>,
    consumers: BTreeMap<u64, Consumer>,
    runs: BTreeMap<u64, u32>,
    produced: BTreeMap<u64, Vec<String>>,
    /// Messages that the client has, whether it has the end, and what it acknowledged.
    received: BTreeMap<u64, Vec<String>>,
    ended: BTreeMap<u64, bool>,
}

impl World {
    fn new(rig: Rig) -> Self {
        let (opened, epoch) = (Some(rig.open(&hello(1))), 1);
        let (producers, consumers, runs) = Default::default();
        let (produced, received, ended) = Default::default();
        Self { rig, opened, epoch, producers, consumers, runs, produced, received, ended }
    }

    fn lease(&self) -> &Lease {
        &self.opened.as_ref().unwrap().lease
    }

    fn apply(&mut self, step: Step) {
        match step {
            Step::Begin(seq) if self.received.contains_key(&seq) => {}
            Step::Begin(seq) => {
                self.received.insert(seq, Vec::new());
                self.begin(seq);
            }
            Step::Produce(seq) => {
                let Some(producer) = self.producers.get(&seq) else { return };
                let sent = self.produced.entry(seq).or_default();
                let message = format!("{seq}.{}", sent.len());
                if send(producer, message.clone()).is_ok() {
                    sent.push(message);
                }
            }
            Step::End(seq) => {
                if let Some(producer) = self.producers.remove(&seq) {
                    producer.end();
                }
            }
            Step::Take(seq) => self.take(seq, 1),
            Step::Acknowledge(seq) => {
                if self.ended.get(&seq) == Some(&true) {
                    self.lease().acknowledge(&Ack { floor: 0, seqs: vec![seq] });
                }
            }
            Step::Reconnect => self.reconnect(),
        }
    }

    fn begin(&mut self, seq: u64) {
        let (producer, consumer) = run(self.lease(), seq);
        *self.runs.entry(seq).or_default() += 1;
        self.producers.insert(seq, producer);
        self.consumers.insert(seq, consumer);
    }

    fn take(&mut self, seq: u64, messages: usize) {
        let Some(consumer) = self.consumers.get_mut(&seq) else { return };
        for _ in 0..messages {
            let Next::Part { part, ends } = consumer.try_next() else { return };
            if let ExchangePart::Message(bytes) = part {
                let text = String::from_utf8(bytes.to_vec()).unwrap();
                self.received.entry(seq).or_default().push(text);
            }
            if ends {
                self.ended.insert(seq, true);
            }
        }
    }

    fn reconnect(&mut self) {
        self.epoch += 1;
        let wanted = self.received.iter().filter(|(seq, _)| !self.ended.contains_key(seq));
        let wanted: Vec<_> = wanted.map(|(&seq, messages)| (seq, messages.len() as u64)).collect();
        self.consumers.clear();
        let mut opened = self.rig.open(&waiting(self.epoch, &wanted));
        assert!(opened.unknown.is_empty() && opened.refused.is_empty());
        for consumer in opened.attached.drain(..) {
            self.consumers.insert(consumer.seq(), consumer);
        }
        self.opened = Some(opened);
    }
}

proptest! {
    #[test]
    fn each_request_runs_once_and_its_answer_arrives_exactly(steps in prop::collection::vec(step(), 1..80)) {
        let mut world = World::new(Rig::new());
        for step in steps {
            world.apply(step);
        }
        for seq in 1..=SEQS {
            world.apply(Step::End(seq));
        }
        world.reconnect();
        for seq in 1..=SEQS {
            world.take(seq, usize::MAX);
            let received = world.received.remove(&seq).unwrap_or_default();
            prop_assert_eq!(&received, &world.produced.remove(&seq).unwrap_or_default());
        }
        prop_assert!(world.runs.values().all(|&runs| runs == 1));
        world.lease().acknowledge(&Ack { floor: SEQS, seqs: vec![] });
        drop(world.consumers);
        prop_assert_eq!(world.rig.sessions.held_bytes(), 0);
    }

}

proptest! {
    // Each case restarts gateways, which costs milliseconds.
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn each_accepted_push_arrives_once_in_the_order_of_its_topic(steps in prop::collection::vec(0..6u8, 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut rig = Rig::new();
        let mut client = PushClient::default();
        let mut pushed = BTreeMap::<&str, u32>::new();
        let mut epoch = 1;
        let mut opened = Some(rig.open(&hello(epoch)));
        for step in steps {
            match step {
                0..=2 => {
                    let (topic, urgency) = [("news", 7), ("news", 0), ("pay", 0)][usize::from(step)];
                    let count = pushed.entry(topic).or_default();
                    let delivered = rig.hub.push_to_client("phone", &numbered(topic, urgency, *count));
                    let expected = if opened.is_some() { Delivered::Sent } else { Delivered::Stored };
                    prop_assert_eq!(delivered, Some(expected));
                    *count += 1;
                }
                3 => opened.iter().for_each(|opened| client.take(&opened.lease)),
                4 => {
                    opened = match opened {
                        Some(_) => None,
                        None => {
                            epoch += 1;
                            Some(rig.open(&taken(&rig, client.marks.ids(), hello(epoch))))
                        }
                    };
                }
                _ => {
                    opened = None;
                    rig = runtime.block_on(rig.restart());
                }
            }
        }
        drop(opened);
        let opened = rig.open(&taken(&rig, client.marks.ids(), hello(epoch + 1)));
        client.take(&opened.lease);
        for (topic, count) in pushed {
            prop_assert_eq!(&client.taken[topic], &(0..count).map(|n| n.to_string()).collect::<Vec<_>>());
        }
        prop_assert_eq!(rig.sessions.held_bytes(), 0);
    }
}

/// A client that takes all it is sent.
#[derive(Default)]
struct PushClient {
    marks: PushMarks,
    taken: BTreeMap<String, Vec<String>>,
}

impl PushClient {
    fn take(&mut self, lease: &Lease) {
        while let Some(push) = lease.next_push() {
            if self.marks.raise(push.priority, push.id) {
                let text = String::from_utf8(push.message.payload.to_vec()).unwrap();
                self.taken.entry(push.message.topic.to_string()).or_default().push(text);
            }
            lease.push_ack(push.priority, push.id).unwrap();
        }
    }
}

fn numbered(topic: &str, urgency: u8, number: u32) -> Arc<Message> {
    let priority = Priority::new(urgency);
    Arc::new(Message { topic: topic.into(), priority, ..(*push(&number.to_string())).clone() })
}
