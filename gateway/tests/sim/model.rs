//! What must be true after a run, whatever happened in it, as PROTOCOL.md promises it. excuses.rs says what may go
//! wrong, and looks for the reason in what happened.

use std::{collections::BTreeMap, time::Duration};

use towline_client::{Execution, RpcErrorKind, ShortCalls, Transports};

use crate::{app::CLIENT_IDS, world::Plan};

/// One call of an app, as it went.
#[derive(Debug, Default)]
pub(crate) struct Call {
    pub(crate) idempotent: bool,
    /// Its route says `outcome = "durable"`.
    pub(crate) durable: bool,
    /// The app's own disk keeps it, until its outcome is acknowledged.
    pub(crate) kept: bool,
    /// What the app was handed of it, once in each life that did not acknowledge it.
    pub(crate) handed: Vec<String>,
    /// The app heard that its outcome is acknowledged.
    pub(crate) acknowledged: bool,
    /// The app sends messages after the first.
    pub(crate) streams: bool,
    /// Bytes of its first message, about.
    pub(crate) size: usize,
    /// The session headers of the app that made it.
    pub(crate) shared: Vec<(String, String)>,
    pub(crate) began: Duration,
    /// The app that made it, and in which life.
    pub(crate) client: usize,
    pub(crate) life: u32,
    /// Times that the backend was given any of it.
    pub(crate) seen: u32,
    /// The same when it ended.
    pub(crate) seen_at_end: u32,
    /// Times that the backend had all of it and did it.
    pub(crate) runs: u32,
    /// When the backend had given its whole answer, the last time.
    pub(crate) answered: Option<Duration>,
    /// The backend has said that it failed.
    pub(crate) backend_failed: bool,
    /// It has asked for the call to come later.
    pub(crate) refused: bool,
    /// How often it said either of a call that it had done.
    pub(crate) runs_failed: u32,
    /// The backend was given what the app did not send.
    pub(crate) wrong: Option<String>,
    pub(crate) end: Option<(Duration, End)>,
}

/// How a call ended.
#[derive(Debug)]
pub(crate) enum End {
    /// With the whole answer.
    Answered,
    /// With the backend's wish that it came later.
    Refused,
    /// With an answer that the backend did not give.
    WrongAnswer(String),
    Failed {
        kind: RpcErrorKind,
        execution: Execution,
        text: String,
    },
    /// The app gave it up, or died: it knows nothing, and nothing was promised.
    GivenUp,
}

/// What an app saw of its line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LineChange {
    pub(crate) client: usize,
    /// In which life of the app.
    pub(crate) life: u32,
    pub(crate) at: Duration,
    pub(crate) line: Line,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    Dialing,
    /// WELCOME came.
    Up,
    Down,
}

/// Something that happened to a gateway.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    pub(crate) gateway: usize,
    pub(crate) at: Duration,
}

/// An app turned to another gateway.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Move {
    pub(crate) client: usize,
    pub(crate) at: Duration,
}

/// What happened to one client's pushes.
#[derive(Debug, Default)]
pub(crate) struct Pushes {
    /// Numbers that the gateway said to have durably.
    pub(crate) accepted: Vec<u64>,
    /// What each run of the app got, in order.
    pub(crate) taken: Vec<Vec<u64>>,
}

/// What a world has, as far as it excuses something.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Habits {
    pub(crate) gateways: usize,
    pub(crate) posts: bool,
    pub(crate) early_data: bool,
    pub(crate) quic: bool,
    pub(crate) short_memory: bool,
    pub(crate) session_headers: bool,
}

impl Habits {
    pub(crate) fn of(plan: &Plan) -> Self {
        Self {
            gateways: plan.gateways,
            posts: plan.posts != ShortCalls::Off,
            early_data: plan.early > 0.0,
            quic: plan.transports != Transports::Tcp,
            short_memory: plan.short_memory,
            session_headers: plan.session_headers,
        }
    }
}

/// The longest that the simulated disk takes for a write.
pub(crate) const DISK_MAX: Duration = Duration::from_millis(100);
/// The session headers of one client, bytes.
const HEADERS_MAX: usize = 200;

/// All that was seen.
#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) habits: Habits,
    pub(crate) calls: BTreeMap<u64, Call>,
    /// Of each client.
    pub(crate) pushes: [Pushes; CLIENT_IDS.len()],
    /// When gateways died.
    pub(crate) deaths: Vec<Fault>,
    /// When their disks began to fail, until the gateway's next life.
    pub(crate) disk_faults: Vec<Fault>,
    /// When disks of apps were full.
    pub(crate) phone_faults: Vec<Duration>,
    /// When one was asked to drain.
    pub(crate) drains: Vec<Duration>,
    /// When byte streams were cut.
    pub(crate) cuts: Vec<Duration>,
    pub(crate) lines: Vec<LineChange>,
    pub(crate) moves: Vec<Move>,
    /// Which client was told when that another network is there.
    pub(crate) joins: Vec<(usize, Duration)>,
    /// When first flights were not taken as early data, or left for another attempt, and whose.
    pub(crate) flights_lost: Vec<(usize, Duration)>,
    /// When a byte stream of the link was made or given a first flight, and whose.
    pub(crate) carried: Vec<(usize, Duration)>,
    /// When each client dialed last.
    dialed: [Option<Duration>; CLIENT_IDS.len()],
    /// Where each client turned last, for its link and for a POST.
    places: [[Option<usize>; 2]; CLIENT_IDS.len()],
}

impl Model {
    pub(crate) fn new(habits: Habits) -> Self {
        Self {
            habits,
            calls: BTreeMap::new(),
            pushes: Default::default(),
            deaths: Vec::new(),
            disk_faults: Vec::new(),
            phone_faults: Vec::new(),
            drains: Vec::new(),
            cuts: Vec::new(),
            lines: Vec::new(),
            moves: Vec::new(),
            joins: Vec::new(),
            flights_lost: Vec::new(),
            carried: Vec::new(),
            dialed: [None; CLIENT_IDS.len()],
            places: [[None; 2]; CLIENT_IDS.len()],
        }
    }

    /// An app dials for its link. Where nothing has come of its attempt before, that one was left, as when the network
    /// changes: what it carried may arrive.
    pub(crate) fn dials(&mut self, client: usize, at: Duration) {
        let ended = self.lines.iter().rfind(|it| it.client == client && it.line != Line::Dialing);
        let before = self.dialed[client].replace(at);
        if before.is_some_and(|before| ended.is_none_or(|ended| ended.at < before)) {
            self.flights_lost.push((client, at));
        }
    }

    /// An app connects to a gateway, where it or its other carrier may have been elsewhere.
    pub(crate) fn goes_to(&mut self, client: usize, gateway: usize, for_post: bool, at: Duration) {
        let places = &mut self.places[client];
        let moves = places.iter().flatten().any(|&before| before != gateway);
        places[usize::from(for_post)] = Some(gateway);
        if moves {
            self.moves.push(Move { client, at });
        }
    }

    /// Every rule that is broken, as text. `held`: bytes that the sessions of each gateway hold in the end.
    pub(crate) fn mistakes(&self, held: &[usize]) -> Vec<String> {
        let calls = self.calls.iter().flat_map(|(id, call)| {
            let mistakes = self.check_call(call);
            mistakes.into_iter().map(move |mistake| format!("call {id} {mistake}"))
        });
        let pushes = self.pushes.iter().flat_map(Pushes::mistakes);
        calls.chain(pushes).chain(self.check_held(held)).collect()
    }

    fn check_call(&self, call: &Call) -> Option<String> {
        let Some((ended, end)) = &call.end else { return Some("never ended".to_owned()) };
        if let Some(wrong) = &call.wrong {
            return Some(format!("is not what was sent: {wrong}"));
        }
        // An app that says that it does no harm has it tried again each time that the backend failed.
        let runs_max = if call.idempotent { 1 + call.runs_failed } else { 1 };
        let may_repeat = call.idempotent && self.may_repeat(call, *ended);
        if call.runs > runs_max && !may_repeat {
            return Some(format!("ran {} times, of which {} failed", call.runs, call.runs_failed));
        }
        // What the disk did not take is asked for once more.
        if call.handed.iter().any(|other| *other != call.handed[0]) && self.phone_faults.is_empty() {
            return Some(format!("was handed out with different outcomes: {:?}", call.handed));
        }
        match end {
            End::WrongAnswer(what) => Some(format!("got a wrong answer: {what}")),
            End::Answered if call.runs == 0 => Some("was answered and never ran".to_owned()),
            End::Refused if !call.refused => Some("was refused by nobody".to_owned()),
            End::Failed { execution: Execution::NotRun, kind, text } if self.was_seen(call) => {
                Some(format!("reached the backend and is said not to have: {kind:?} {text}"))
            }
            End::Failed { execution: Execution::Ran, kind, text } if call.runs == 0 => {
                Some(format!("is said to have run and did not: {kind:?} {text}"))
            }
            End::Failed { kind, execution, text } if !self.may_fail(call, *ended, *kind, *execution) => {
                Some(format!("failed without need: {kind:?} {execution:?} {text}"))
            }
            End::Failed { .. } | End::Answered | End::Refused | End::GivenUp => None,
        }
    }

    /// Whether the backend was given any of it. A POST that somebody sends again later runs where the gateway has died
    /// since, if it may be repeated: of those it counts what had happened when the client was told.
    fn was_seen(&self, call: &Call) -> bool {
        let by_post = self.habits.posts && !call.streams;
        let seen = if by_post && call.idempotent { call.seen_at_end } else { call.seen };
        seen > 0
    }

    /// What clients have taken is acknowledged, and what is acknowledged is forgotten. A client that uses POSTs alone
    /// acknowledges with the next one; and a gateway that clients have left hears of nothing.
    fn check_held(&self, held: &[usize]) -> Option<String> {
        if self.habits.posts || self.habits.gateways > 1 {
            return None;
        }
        let expected = if self.habits.session_headers { HEADERS_MAX * CLIENT_IDS.len() } else { 0 };
        let held = held.iter().find(|held| **held > expected)?;
        Some(format!("the gateway still holds {held} bytes of answers and pushes that were taken"))
    }
}

impl Pushes {
    /// A push is done when the app asks for the next one: an app that died while it handled one gets that one, and
    /// no other, again.
    fn mistakes(&self) -> Vec<String> {
        let Self { accepted, taken } = self;
        let mut mistakes = Vec::new();
        let mut last = 0;
        for (life, run) in taken.iter().enumerate() {
            let begins_well = run.first().is_none_or(|&first| first >= last);
            if !begins_well || !run.is_sorted_by(|a, b| a < b) {
                mistakes.push(format!(
                    "pushes twice or out of order, behind {last} in life {}: {run:?}",
                    life + 1
                ));
            }
            last = run.last().copied().unwrap_or(last);
        }
        let lost = accepted.iter().filter(|push| !taken.iter().any(|run| run.contains(push)));
        mistakes.extend(lost.map(|push| format!("push {push} was accepted and never came")));
        mistakes
    }
}
