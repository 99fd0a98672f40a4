//! What must be true after a run, whatever happened in it, as PROTOCOL.md promises it. Of each failure the model
//! asks what excuses it, and looks for that in what happened.

use std::{collections::BTreeMap, time::Duration};

use towline_client::{Execution, RpcErrorKind};

/// One call of an app, as it went.
#[derive(Debug, Default)]
pub(crate) struct Call {
    pub(crate) idempotent: bool,
    /// Its route says `outcome = "durable"`.
    pub(crate) durable: bool,
    pub(crate) began: Duration,
    /// The life of the app that made it.
    pub(crate) life: u32,
    /// Times that the backend was given any of it.
    pub(crate) seen: u32,
    /// Times that the backend had all of it and did it.
    pub(crate) runs: u32,
    /// When the backend had given its whole answer, the last time.
    pub(crate) answered: Option<Duration>,
    /// The backend has said that it failed.
    pub(crate) backend_failed: bool,
    pub(crate) end: Option<(Duration, End)>,
}

/// How a call ended.
#[derive(Debug)]
pub(crate) enum End {
    /// With the whole answer.
    Answered,
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

/// The app's line came up.
#[derive(Debug)]
pub(crate) struct Welcome {
    /// In which life of the app.
    pub(crate) life: u32,
    /// When the connection was begun.
    pub(crate) dialed: Duration,
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

/// The longest that the simulated disk takes for a write.
pub(crate) const DISK_MAX: Duration = Duration::from_millis(100);
/// How long the body of an answer may be on its way from the backend to where it is recorded.
const RECORDING_MAX: Duration = Duration::from_millis(10);
/// From the beginning of a drain to the end of the gateway.
const DRAIN_MAX: Duration = Duration::from_secs(20);

/// All that was seen.
#[derive(Debug, Default)]
pub(crate) struct Model {
    pub(crate) calls: BTreeMap<u64, Call>,
    pub(crate) pushes: Pushes,
    /// When the gateway died.
    pub(crate) deaths: Vec<Duration>,
    /// When it was asked to drain.
    pub(crate) drains: Vec<Duration>,
    pub(crate) welcomes: Vec<Welcome>,
    /// When an app's line was made, or broke.
    pub(crate) line_changes: Vec<Duration>,
    /// When the disk began to fail, until the gateway's next life.
    pub(crate) disk_faults: Vec<Duration>,
}

impl Model {
    /// Every rule that is broken, as text.
    pub(crate) fn mistakes(&self) -> Vec<String> {
        let calls = self.calls.iter().flat_map(|(id, call)| {
            let mistakes = self.check_call(call);
            mistakes.into_iter().map(move |mistake| format!("call {id} {mistake}"))
        });
        calls.chain(self.check_pushes()).collect()
    }

    fn check_call(&self, call: &Call) -> Option<String> {
        let Some((ended, end)) = &call.end else { return Some("never ended".to_owned()) };
        if call.runs > 1 && !(call.idempotent && self.may_repeat(call, *ended)) {
            return Some(format!("ran {} times", call.runs));
        }
        match end {
            End::WrongAnswer(what) => Some(format!("got a wrong answer: {what}")),
            End::Answered if call.runs == 0 => Some("was answered and never ran".to_owned()),
            End::Failed { execution: Execution::NotRun, kind, text } if call.seen > 0 => {
                Some(format!("reached the backend and is said not to have: {kind:?} {text}"))
            }
            End::Failed { execution: Execution::Ran, kind, text } if call.runs == 0 => {
                Some(format!("is said to have run and did not: {kind:?} {text}"))
            }
            End::Failed { kind, execution, text } if !self.may_fail(call, *ended, *kind, *execution) => {
                Some(format!("failed without need: {kind:?} {execution:?} {text}"))
            }
            End::Failed { .. } | End::Answered | End::GivenUp => None,
        }
    }

    /// A gateway that lives answers, however bad the network; only what happened there excuses it.
    fn may_fail(&self, call: &Call, ended: Duration, kind: RpcErrorKind, execution: Execution) -> bool {
        match (kind, execution) {
            (RpcErrorKind::BackendUnavailable | RpcErrorKind::BackendFailed, _) => call.backend_failed,
            // Cut while it was uploaded, and its head had gone on to the backend: the gateway keeps no half of it.
            (RpcErrorKind::Cancelled, Execution::MayHaveRun) => self.was_cut(call, ended),
            // What a stream has sent is not kept: when none of it was kept by the gateway either, it is over.
            (RpcErrorKind::SessionLost, Execution::NotRun) => self.was_cut(call, ended),
            (RpcErrorKind::SessionLost, Execution::MayHaveRun) => {
                self.was_forgotten(call, ended) || self.was_before_welcome(call)
            }
            // NotRun where the client knows that no earlier connection carried it, but has not kept it.
            (RpcErrorKind::OutcomeExpired, Execution::MayHaveRun | Execution::NotRun) => {
                self.was_forgotten(call, ended) || self.was_before_welcome(call)
            }
            (RpcErrorKind::Draining, Execution::NotRun) => {
                self.drains.iter().any(|&drain| drain <= ended && call.began <= drain + DRAIN_MAX)
            }
            // What the disk has no place for is not forwarded to where it would have to be remembered.
            (RpcErrorKind::Internal, _) => {
                let mends = |fault| self.deaths.iter().find(|&&death| death > fault);
                self.disk_faults
                    .iter()
                    .any(|&at| at <= ended && mends(at).is_none_or(|&mended| call.began <= mended))
            }
            _ => false,
        }
    }

    /// What may be run again is, where the gateway cannot know any more whether it ran.
    fn may_repeat(&self, call: &Call, ended: Duration) -> bool {
        call.backend_failed
            || self.was_cut(call, ended)
            || self.was_forgotten(call, ended)
            || self.was_before_welcome(call)
    }

    /// Its request was on its way when the line changed. Any may be cut, since a message waits for credit that its
    /// head does not need.
    fn was_cut(&self, call: &Call, ended: Duration) -> bool {
        self.line_changes.iter().any(|&at| call.began <= at && at <= ended)
    }

    /// A gateway died that knew of it: before its outcome was safe, and when the client called as if that gateway
    /// lived.
    fn was_forgotten(&self, call: &Call, ended: Duration) -> bool {
        let safe = match call.answered {
            Some(answered) if call.durable && call.runs == 1 && !self.disk_failed(answered) => {
                answered + DISK_MAX + RECORDING_MAX
            }
            _ => ended,
        };
        self.deaths.iter().any(|&death| {
            let heard_of = self.welcomes.iter().find(|welcome| welcome.dialed > death);
            death <= safe.min(ended) && heard_of.is_none_or(|welcome| call.began <= welcome.at)
        })
    }

    /// Whether an answer of that time may not have been stored.
    fn disk_failed(&self, answered: Duration) -> bool {
        let mends = |fault| self.deaths.iter().find(|&&death| death > fault);
        self.disk_faults
            .iter()
            .any(|&at| at <= answered + 2 * DISK_MAX && mends(at).is_none_or(|&mended| answered <= mended))
    }

    /// Before its first WELCOME a client cannot name its session, and a gateway that never had its HELLO knows of
    /// nothing.
    fn was_before_welcome(&self, call: &Call) -> bool {
        let first = self.welcomes.iter().find(|welcome| welcome.life == call.life);
        first.is_none_or(|welcome| call.began <= welcome.at)
    }

    /// A push is done when the app asks for the next one: an app that died while it handled one gets that one, and
    /// no other, again.
    fn check_pushes(&self) -> Vec<String> {
        let Pushes { accepted, taken } = &self.pushes;
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
