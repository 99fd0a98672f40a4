//! What must be true after a run, whatever happened in it.

use std::collections::BTreeMap;

use towline_client::{Execution, RpcErrorKind};

/// One call of an app, as it went.
#[derive(Debug, Default)]
pub(crate) struct Call {
    pub(crate) idempotent: bool,
    /// Times that the backend had all of it and did it.
    pub(crate) runs: u32,
    pub(crate) end: Option<End>,
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

/// What happened to one client's pushes.
#[derive(Debug, Default)]
pub(crate) struct Pushes {
    /// Numbers that the gateway said to have durably.
    pub(crate) accepted: Vec<u64>,
    /// What each run of the app got, in order.
    pub(crate) taken: Vec<Vec<u64>>,
}

/// Every fourth call is a stream.
pub(crate) fn is_stream(id: u64) -> bool {
    id.is_multiple_of(4)
}

/// All that was seen.
#[derive(Debug, Default)]
pub(crate) struct Model {
    pub(crate) calls: BTreeMap<u64, Call>,
    pub(crate) pushes: Pushes,
    /// The gateway has lost its memory: what had run may be unknown.
    pub(crate) gateway_died: bool,
    /// A backend has said that it failed.
    pub(crate) backend_failed: bool,
}

impl Model {
    /// Every rule that is broken, as text.
    pub(crate) fn mistakes(&self) -> Vec<String> {
        let calls = self.calls.iter().flat_map(|(id, call)| self.check_call(*id, call));
        calls.chain(self.check_pushes()).collect()
    }

    fn check_call(&self, id: u64, call: &Call) -> Vec<String> {
        let mut mistakes = Vec::new();
        if call.runs > 1 && !call.idempotent {
            mistakes.push(format!("call {id} ran {} times", call.runs));
        }
        match &call.end {
            None => mistakes.push(format!("call {id} never ended")),
            Some(End::WrongAnswer(what)) => mistakes.push(format!("call {id} got a wrong answer: {what}")),
            Some(End::Answered) if call.runs == 0 => {
                mistakes.push(format!("call {id} was answered and never ran"));
            }
            Some(End::Failed { execution: Execution::NotRun, kind, text }) if call.runs > 0 => {
                mistakes.push(format!("call {id} ran and is said not to have: {kind:?} {text}"));
            }
            Some(End::Failed { execution: Execution::Ran, kind, text }) if call.runs == 0 => {
                mistakes.push(format!("call {id} is said to have run and did not: {kind:?} {text}"));
            }
            Some(End::Failed { kind, execution, text }) if !self.may_fail(id, *kind, *execution) => {
                mistakes.push(format!("call {id} failed without need: {kind:?} {text}"));
            }
            Some(End::Failed { .. } | End::Answered | End::GivenUp) => {}
        }
        mistakes
    }

    /// A gateway that lives answers, however bad the network; only what happened there excuses it.
    fn may_fail(&self, id: u64, kind: RpcErrorKind, execution: Execution) -> bool {
        match kind {
            // What a stream has sent is not kept, so that no other connection could send it again.
            RpcErrorKind::Cancelled | RpcErrorKind::SessionLost if is_stream(id) => true,
            // Cut while it was uploaded, and its head had gone on to the backend: the gateway keeps no half of it.
            RpcErrorKind::Cancelled if execution == Execution::MayHaveRun => true,
            // The first WELCOME of a session was lost: the client does not know the id of what it had begun.
            RpcErrorKind::SessionLost if execution == Execution::MayHaveRun => true,
            RpcErrorKind::BackendUnavailable | RpcErrorKind::BackendFailed => self.backend_failed,
            RpcErrorKind::SessionLost | RpcErrorKind::Draining => self.gateway_died,
            _ => false,
        }
    }

    fn check_pushes(&self) -> Vec<String> {
        let Pushes { accepted, taken } = &self.pushes;
        let mut mistakes = Vec::new();
        for run in taken.iter().filter(|run| !run.is_sorted_by(|a, b| a < b)) {
            mistakes.push(format!("pushes twice or out of order: {run:?}"));
        }
        let lost = accepted.iter().filter(|push| !taken.iter().any(|run| run.contains(push)));
        mistakes.extend(lost.map(|push| format!("push {push} was accepted and never came")));
        mistakes
    }
}
