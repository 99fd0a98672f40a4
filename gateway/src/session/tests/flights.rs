//! Whatever becomes of a client's first flights, and whoever sends them again: no request runs twice, and as
//! long as the session is there, none is lost.

use proptest::prelude::*;

use super::*;

/// What the client, the network and the gateway do.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// The client sends a flight with so many new requests.
    Fly(u64),
    /// Somebody delivers this one of the flights.
    Copy(usize),
    /// The client's newest flight arrives, and its handshake is completed.
    Land,
    /// It is rejected: the client asks for its requests.
    Reject,
    /// The backend answers the oldest request that runs.
    Finish,
    /// The oldest connection of somebody ends.
    Leave,
    /// The client has forgotten everything but its identity.
    Anew,
    /// The gateway ends and begins again.
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..3u64).prop_map(Step::Fly),
        8 => (0..64usize).prop_map(Step::Copy),
        4 => Just(Step::Land),
        3 => Just(Step::Reject),
        3 => Just(Step::Finish),
        2 => Just(Step::Leave),
        1 => Just(Step::Anew),
        1 => Just(Step::Restart),
    ]
}

struct Flight {
    hello: Hello,
    seqs: Vec<u64>,
    /// TLS takes it no more: somebody delivered it, or the process that issued its ticket is gone.
    spent: bool,
}

struct World {
    rig: Rig,
    flights: Vec<Flight>,
    /// The newest flight is under way.
    flying: bool,
    epoch: u64,
    session_id: u64,
    seq: u64,
    /// Sent, and not known to have ended.
    waiting: Vec<u64>,
    held: Option<Lease>,
    visitors: Vec<Lease>,
    producers: Vec<Producer>,
    runs: BTreeMap<u64, u32>,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            rig: Rig::new(),
            flights: Vec::new(),
            flying: false,
            epoch: 0,
            session_id: 0,
            seq: 0,
            waiting: Vec::new(),
            held: None,
            visitors: Vec::new(),
            producers: Vec::new(),
            runs: BTreeMap::new(),
        };
        world.reconnect();
        world
    }

    fn apply(&mut self, step: Step, runtime: &tokio::runtime::Runtime) {
        match step {
            Step::Fly(count) => self.fly(count),
            Step::Copy(index) if index < self.flights.len() => self.copy(index),
            Step::Copy(_) => {}
            Step::Land if self.flying && self.flights.last().is_some_and(|flight| !flight.spent) => {
                self.land()
            }
            Step::Land | Step::Reject if self.flying => self.reconnect(),
            Step::Land | Step::Reject => {}
            Step::Finish if !self.producers.is_empty() => drop(self.producers.remove(0).end()),
            Step::Finish => {}
            Step::Leave => drop((!self.visitors.is_empty()).then(|| self.visitors.remove(0))),
            Step::Anew => {
                (self.session_id, self.waiting) = (0, Vec::new());
                self.reconnect();
            }
            Step::Restart => {
                (self.held, self.visitors, self.producers) = Default::default();
                self.flights.iter_mut().for_each(|flight| flight.spent = true);
                let rig = std::mem::replace(&mut self.rig, Rig::new());
                self.rig = runtime.block_on(rig.restart());
            }
        }
    }

    fn hello(&mut self) -> Hello {
        self.epoch += 1;
        let waiting: Vec<_> = self.waiting.iter().map(|&seq| (seq, 0)).collect();
        let outcome_floor = self.waiting.first().map_or(self.seq, |first| first - 1);
        Hello { session_id: self.session_id, outcome_floor, ..super::waiting(self.epoch, &waiting) }
    }

    fn fly(&mut self, count: u64) {
        let hello = self.hello();
        let seqs: Vec<_> = (self.seq + 1..=self.seq + count).collect();
        self.seq += count;
        self.waiting.extend(&seqs);
        self.flights.push(Flight { hello, seqs, spent: false });
        self.flying = true;
    }

    fn copy(&mut self, index: usize) {
        self.flights[index].spent = true;
        let (hello, seqs) = (self.flights[index].hello.clone(), self.flights[index].seqs.clone());
        let Some(visit) = self.rig.sessions.visit(&hello, None) else { return };
        seqs.iter().for_each(|&seq| self.begin(&visit.lease, seq));
        self.visitors.push(visit.lease);
    }

    fn land(&mut self) {
        let Some(Flight { hello, seqs, spent }) = self.flights.last_mut() else { return };
        *spent = true;
        let (hello, seqs) = (hello.clone(), seqs.clone());
        self.flying = false;
        let Some(visit) = self.rig.sessions.visit(&hello, None) else {
            let opened = self.rig.sessions.open(&hello, None).unwrap();
            self.welcomed(opened.session_id, opened.resumed, &seqs);
            seqs.iter().for_each(|&seq| self.begin(&opened.lease, seq));
            self.held = Some(opened.lease);
            return;
        };
        seqs.iter().for_each(|&seq| self.begin(&visit.lease, seq));
        let established = visit.lease.establish(&hello, &visit.awaited).unwrap();
        assert!(established.refused.is_empty());
        assert_eq!(established.attached.len(), visit.awaited.len());
        visit.unknown.iter().for_each(|&seq| self.begin(&visit.lease, seq));
        self.held = Some(visit.lease);
    }

    fn reconnect(&mut self) {
        self.flying = false;
        let hello = self.hello();
        let opened = self.rig.sessions.open(&hello, None).unwrap();
        assert!(opened.refused.is_empty(), "{:?}", opened.refused);
        self.welcomed(opened.session_id, opened.resumed, &[]);
        opened.unknown.iter().for_each(|&seq| self.begin(&opened.lease, seq));
        self.held = Some(opened.lease);
    }

    /// What was sent in a session that is lost is not sent again; `behind` HELLO is in the new one.
    fn welcomed(&mut self, session_id: u64, resumed: bool, behind: &[u64]) {
        self.session_id = session_id;
        if !resumed {
            self.waiting.retain(|seq| behind.contains(seq));
        }
    }

    fn begin(&mut self, lease: &Lease, seq: u64) {
        match lease.begin(seq) {
            Begin::Run(producer, consumer) => {
                consumer.exchange().request_complete();
                producer.forwarded();
                *self.runs.entry(seq).or_default() += 1;
                self.producers.push(producer);
            }
            Begin::Attached(_) | Begin::Later => {}
            Begin::Refused(error) => panic!("{seq}: {error}"),
        }
    }
}

proptest! {
    // Some cases restart gateways, which costs milliseconds.
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn no_request_runs_twice_whoever_sends_its_flight(steps in prop::collection::vec(step(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut world = World::new();
        for step in steps {
            world.apply(step, &runtime);
            let twice = world.runs.iter().find(|(_, runs)| **runs > 1);
            prop_assert_eq!(twice, None);
        }
        // What the client still waits for, it gets.
        world.reconnect();
        let lost: Vec<_> = world.waiting.iter().filter(|seq| !world.runs.contains_key(seq)).collect();
        prop_assert!(lost.is_empty(), "{:?}", lost);
    }
}
