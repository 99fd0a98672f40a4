//! WELCOMEs that were lost: whatever is lost and forgotten, and wherever the client is led, no request runs twice.

use proptest::prelude::*;
use towline_protocols::link::{
    Event, Execution, RpcErrorKind, Welcome,
    client::{CallOptions, Fate, Session},
};

use super::*;

/// What HELLO's answer says of the requests that the client waits for: answered, unknown, refused.
fn told(opened: &Opened) -> (Vec<u64>, Vec<u64>, Vec<u64>) {
    let attached = opened.attached.iter().map(Consumer::seq).collect();
    (attached, opened.unknown.clone(), opened.refused.iter().map(|(seq, _)| *seq).collect())
}

#[test]
fn a_client_that_heard_no_welcome_finds_what_it_began() {
    for claimed in [0, 77] {
        let rig = Rig::new();
        let claiming = |hello: Hello| Hello { session_id: claimed, ..hello };
        let first = rig.sessions.open(&claiming(waiting(4, &[(1, 0)])), None).unwrap();
        assert!(!first.resumed);
        run(&first.lease, 2).0.end();
        let again = rig.sessions.open(&claiming(waiting(5, &[(1, 0), (2, 0), (3, 0)])), None).unwrap();
        assert!(again.resumed && again.session_id == first.session_id);
        assert_eq!(told(&again), (vec![2], vec![3], vec![1]));
        assert_eq!(
            (again.refused[0].1.kind, again.refused[0].1.execution),
            (RpcErrorKind::OutcomeExpired, Execution::MayHaveRun)
        );
        let third = rig.sessions.open(&claiming(waiting(6, &[(3, 0), (4, 0)])), None).unwrap();
        assert_eq!(told(&third), (vec![], vec![3, 4], vec![]));
    }
}

#[test]
fn what_was_sent_on_a_connection_that_did_not_come_here_is_in_doubt() {
    let rig = Rig::new();
    let first = rig.sessions.open(&hello(1), None).unwrap();
    run(&first.lease, 1).0.end();
    let again = rig.sessions.open(&waiting(3, &[(1, 0), (2, 0)]), None).unwrap();
    assert!(again.resumed);
    assert_eq!(told(&again), (vec![1], vec![], vec![2]));
}

#[test]
fn a_client_that_named_the_session_or_waits_for_nothing_begins_anew_without_its_id() {
    let rig = Rig::new();
    let first = rig.sessions.open(&hello(1), None).unwrap();
    assert!(!rig.sessions.open(&hello(2), None).unwrap().resumed, "it may have been started again");
    let named = rig.sessions.open(&hello(3), None).unwrap().session_id;
    assert_ne!(named, first.session_id);
    assert!(rig.sessions.open(&Hello { session_id: named, ..hello(4) }, None).unwrap().resumed);
    assert!(!rig.sessions.open(&waiting(5, &[(1, 0)]), None).unwrap().resumed);
}

/// A connection of the client's, and what becomes of it.
#[derive(Clone, Debug)]
struct Step {
    /// Which of two gateways it leads to while none has been heard, and whether that one forgets everything before.
    gateway: usize,
    forgets: bool,
    /// Whether HELLO arrives, how many of three new requests do, and whether WELCOME does.
    hello: bool,
    requests: usize,
    welcome: bool,
}

fn step() -> impl Strategy<Value = Step> {
    let often = || prop::bool::weighted(0.8);
    (0..2usize, prop::bool::weighted(0.15), often(), 0..4usize, prop::bool::ANY).prop_map(
        |(gateway, forgets, hello, requests, welcome)| {
            // Mostly the same one.
            Step { gateway: gateway * usize::from(forgets), forgets, hello, requests, welcome }
        },
    )
}

struct World {
    /// The gateway whose WELCOME was heard last.
    home: Option<usize>,
    rigs: [Rig; 2],
    client: Session,
    runs: BTreeMap<u64, u32>,
    said_not_run: Vec<u64>,
}

impl World {
    fn connect(&mut self, step: &Step) {
        let gateway = self.home.unwrap_or(step.gateway);
        if step.forgets {
            self.rigs[gateway] = Rig::new();
        }
        let hello = self.client.hello(Hello::default());
        let new: Vec<u64> = (0..3)
            .map(|_| {
                let seq = self.client.open(CallOptions { replayable: true, ..CallOptions::default() });
                self.client.on_request_sent(seq);
                seq
            })
            .collect();
        if !step.hello {
            return;
        }
        let opened = self.rigs[gateway].sessions.open(&hello, None).unwrap();
        new.iter().take(step.requests).for_each(|&seq| self.request(&opened.lease, seq));
        if step.welcome {
            self.home = Some(gateway);
            self.welcomed(&hello, &opened);
        }
    }

    fn request(&mut self, lease: &Lease, seq: u64) {
        if let Begin::Run(producer, consumer) = lease.begin(seq) {
            consumer.exchange().request_complete();
            producer.forwarded();
            producer.end();
            *self.runs.entry(seq).or_default() += 1;
        }
    }

    fn welcomed(&mut self, hello: &Hello, opened: &Opened) {
        let Opened { session_id, resumed, seq_min, .. } = *opened;
        let welcome =
            Welcome { session_id, resumed, seq_min, unknown: opened.unknown.clone(), ..Welcome::default() };
        for (seq, fate) in self.client.on_welcome(hello, &welcome) {
            match fate {
                Fate::Send => {
                    self.client.on_request_sent(seq);
                    self.request(&opened.lease, seq);
                }
                Fate::Keep { .. } if opened.attached.iter().any(|consumer| consumer.seq() == seq) => {
                    assert_eq!(self.runs.get(&seq), Some(&1));
                    self.client.taken(seq);
                }
                Fate::Keep { .. } => self.refused(opened, seq),
                Fate::Ask | Fate::Anew => panic!("nothing is answered by a POST, or in part"),
                Fate::Fail(error) => self.failed(seq, error.execution),
            }
        }
    }

    fn refused(&mut self, opened: &Opened, seq: u64) {
        let error =
            opened.refused.iter().find(|(refused, _)| *refused == seq).map(|(_, error)| error.clone());
        let error = error.expect("what is kept is answered or refused");
        let told = self.client.on_event(Event::Reset { seq, error }).event;
        let Some(Event::Reset { error, .. }) = told else { panic!("{told:?}") };
        self.failed(seq, error.execution);
        self.client.taken(seq);
    }

    fn failed(&mut self, seq: u64, execution: Execution) {
        if execution == Execution::NotRun {
            self.said_not_run.push(seq);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_request_runs_twice_and_none_that_ran_is_said_not_to_have(steps in prop::collection::vec(step(), 1..12)) {
        let client = Session::new("phone", [1; 16], 0);
        let rigs = [Rig::new(), Rig::new()];
        let mut world = World { home: None, rigs, client, runs: BTreeMap::new(), said_not_run: Vec::new() };
        steps.iter().for_each(|step| world.connect(step));
        prop_assert!(world.runs.values().all(|&runs| runs == 1), "{:?}", world.runs);
        for seq in world.said_not_run {
            prop_assert_eq!(world.runs.get(&seq), None);
        }
    }
}
