//! What excuses a call that failed, by PROTOCOL.md. A gateway that lives answers, however bad the network: only what
//! happened there, or to the way of a request that had not arrived whole, is a reason.

use std::time::Duration;

use towline_client::{Execution, RpcErrorKind};

use crate::model::{Call, DISK_MAX, Line, LineChange, Model};

/// How long the body of an answer may be on its way from the backend to where it is recorded.
const RECORDING_MAX: Duration = Duration::from_millis(10);
/// From the beginning of a drain to the end of the gateway.
const DRAIN_MAX: Duration = Duration::from_secs(20);
/// How long a gateway waits for the rest of a request (`session.upload_wait`).
const UPLOAD_WAIT: Duration = Duration::from_secs(30);
/// For how long a network that has joined is tried (`handover.give_up`).
const JOINS_MAX: Duration = Duration::from_secs(30);
/// Over TCP a request of a message that is not larger arrives whole, or not at all. Packets of QUIC cut it anywhere.
const FRAME_MAX: usize = 16 << 10;

impl Model {
    pub(crate) fn may_fail(
        &self,
        call: &Call,
        ended: Duration,
        kind: RpcErrorKind,
        execution: Execution,
    ) -> bool {
        use RpcErrorKind::{
            BackendFailed, BackendUnavailable, Cancelled, Draining, Internal, LimitExceeded, OutcomeExpired,
            SessionLost,
        };
        let drained = |&drain: &Duration| drain <= ended && call.began <= drain + DRAIN_MAX;
        match (kind, execution) {
            (BackendUnavailable | BackendFailed, _) => call.backend_failed,
            (Cancelled, Execution::MayHaveRun) => self.upload_was_given_up(call, ended),
            (SessionLost | OutcomeExpired, Execution::MayHaveRun) => {
                let was_refused = kind == OutcomeExpired && self.was_kept_over(call, ended);
                self.was_lost(call, ended)
                    || self.is_kept_no_longer(call)
                    || was_refused && self.drains.iter().any(drained)
            }
            // What has not run is sent again, to the next gateway or under the next number, if it is there to be sent.
            (SessionLost | OutcomeExpired, Execution::NotRun) => {
                self.is_kept_no_longer(call) || self.died_with_its_half(call, ended)
            }
            // A POST that refuses it says nothing of the connections that had it before, and a connection that visits
            // nothing of the one that has the session.
            (Draining, execution) => {
                let may_say_so = match execution {
                    Execution::NotRun => self.is_kept_no_longer(call),
                    _ => {
                        // And what is idempotent, and was sent once, may have run behind a HELLO that began a session.
                        let says_little = self.habits.early_data || call.idempotent;
                        let was_sent = says_little && self.was_cut(call, ended);
                        self.habits.posts || was_sent || self.was_kept_over(call, ended)
                    }
                };
                may_say_so && self.drains.iter().any(drained)
            }
            // The app's own disk has no place for it.
            (LimitExceeded, Execution::NotRun) => call.kept && !self.phone_faults.is_empty(),
            // What the disk has no place for is not forwarded to where it would have to be remembered.
            (Internal, _) => self.disk_faults.iter().any(|fault| {
                let mends = self.deaths.iter().find(|it| it.gateway == fault.gateway && it.at > fault.at);
                fault.at <= ended && mends.is_none_or(|mended| call.began <= mended.at)
            }),
            _ => false,
        }
    }

    /// What may be run again is, where the gateway cannot know any more whether it ran: a POST that leads to another
    /// session, or is sent again by whomever, runs there too.
    pub(crate) fn may_repeat(&self, call: &Call, ended: Duration) -> bool {
        let by_post = self.habits.posts && !call.streams;
        by_post || self.was_lost(call, ended)
    }

    /// The session that had it is lost, or the client cannot tell whether any has it.
    fn was_lost(&self, call: &Call, ended: Duration) -> bool {
        self.was_forgotten(call, ended) || self.was_left(call, ended) || self.was_before_welcome(call, ended)
    }

    /// Its connection was lost when its body may not have arrived whole, and the rest did not come: the client has it
    /// no more, or came too late, or with early data, behind which no body goes on. A POST brings no rest at all.
    fn upload_was_given_up(&self, call: &Call, ended: Duration) -> bool {
        let is_large = call.streams || call.size > FRAME_MAX;
        let by_post = self.habits.posts && !call.streams && is_large;
        let has_parts = is_large || self.habits.quic;
        let is_late = self.habits.short_memory || self.habits.early_data || self.was_away(call, ended);
        by_post || has_parts && self.was_cut(call, ended) && is_late
    }

    /// A stream keeps its newest messages only.
    fn is_kept_no_longer(&self, call: &Call) -> bool {
        self.habits.short_memory && call.streams
    }

    /// What a gateway told at a resume to have of a stream, the client keeps no more; then that one died.
    fn died_with_its_half(&self, call: &Call, ended: Duration) -> bool {
        let mut deaths = self.deaths.iter().map(|death| death.at);
        call.streams && deaths.any(|at| at <= ended && self.breaks(call, call.began, at))
    }

    /// Its app died with it, and the next life does not know what carried it: a POST of then might still arrive
    /// (PROTOCOL.md, section 9).
    fn was_kept_over(&self, call: &Call, ended: Duration) -> bool {
        let mut lines = self.lines_of(call.client);
        call.kept && lines.any(|change| change.life > call.life && change.at <= ended)
    }

    /// Its line broke while it was under way.
    fn was_cut(&self, call: &Call, ended: Duration) -> bool {
        self.breaks(call, call.began, ended)
    }

    /// Whether a connection of a call's app broke in that time, or a flight may have been in vain. Where the next
    /// one is made at once, the app does not see the end of the one before. An attempt that came to no connection and
    /// gave none a first flight has carried nothing.
    fn breaks(&self, call: &Call, from: Duration, to: Duration) -> bool {
        let is_then = |at: Duration| from <= at && at <= to;
        let mut last: Option<&LineChange> = None;
        let mut ends = self.lines_of(call.client).filter(|change| {
            let Some(before) = last.replace(change) else { return false };
            // A durable call may go on in the app's next life, which does not know what carried it.
            let is_end = before.line != Line::Down && change.line != Line::Up;
            before.life != change.life || is_end && self.may_have_carried(before, change.at)
        });
        let mut flights = self.flights_lost.iter().filter(|(client, _)| *client == call.client);
        // The simulation does not see what QUIC itself sends early.
        let flies_unseen = self.habits.early_data && self.habits.quic;
        flies_unseen || ends.any(|change| is_then(change.at)) || flights.any(|(_, at)| is_then(*at))
    }

    /// Whether anything may have gone by a line that was so since `since`, until then. The simulation does not see the
    /// connections that QUIC makes. A line that goes on over a second connection is given one that was made while it was
    /// up.
    fn may_have_carried(&self, since: &LineChange, until: Duration) -> bool {
        let before = self.lines_of(since.client).take_while(|change| change.at < since.at).last();
        let from = before.filter(|before| before.line == Line::Up).map_or(since.at, |before| before.at);
        let is_its = |&(client, at): &(usize, Duration)| client == since.client && from <= at && at <= until;
        match since.line {
            Line::Up => true,
            Line::Dialing => self.habits.quic || self.carried.iter().any(is_its),
            Line::Down => false,
        }
    }

    /// Its app was without a line for as long as the gateway waits for the rest of a request.
    fn was_away(&self, call: &Call, ended: Duration) -> bool {
        let mut since = None;
        let lines = self.lines_of(call.client).map(|change| (change.at, change.line == Line::Up));
        let mut events: Vec<_> = lines.chain(self.cuts.iter().map(|&at| (at, false))).collect();
        events.sort_unstable();
        events.into_iter().any(|(at, is_up)| {
            if !is_up {
                since.get_or_insert(at);
                return false;
            }
            let away = since.take().map_or(Duration::ZERO, |since| at.saturating_sub(since));
            away >= UPLOAD_WAIT && call.began <= at && at <= ended
        })
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
        self.deaths.iter().any(|death| death.at <= safe && self.was_unheard_of(call, ended, death.at))
    }

    /// The client turned to another gateway, which knows nothing of it.
    fn was_left(&self, call: &Call, ended: Duration) -> bool {
        let mut moves = self.moves.iter().filter(|it| it.client == call.client);
        moves.any(|it| self.was_unheard_of(call, ended, it.at))
    }

    /// Whether the app called when what happened at `at` to its session was still to come, or to be told by a WELCOME.
    /// What was called since is sent to the next session, unless a connection broke that may have done so, or that was
    /// to say that its number is of the session before.
    fn was_unheard_of(&self, call: &Call, ended: Duration, at: Duration) -> bool {
        let heard =
            self.welcomes(call.client).find(|(_, dialed, _)| *dialed >= at).map(|(_, _, heard)| heard);
        let is_early = heard.is_none_or(|heard| call.began <= heard);
        let may_be_there = call.began <= at || self.habits.posts || self.breaks(call, call.began, ended);
        at <= ended && is_early && may_be_there
    }

    /// Before its first WELCOME a client cannot name its session: what a connection carried that broke before may be
    /// in any.
    fn was_before_welcome(&self, call: &Call, ended: Duration) -> bool {
        let mut welcomes = self.welcomes(call.client).filter(|(life, ..)| *life == call.life);
        let first = welcomes.next().map(|(_, _, at)| at);
        let until = first.unwrap_or(ended);
        // The HELLO of a connection that broke before may arrive behind that of a POST, and begin a session in place of
        // the one that this was told of.
        let from = if self.habits.posts { self.life_begins(call) } else { call.began };
        let broke = || self.breaks(call, from, until) || self.has_joined(call, until);
        first.is_none_or(|first| call.began <= first) && broke()
    }

    /// Just behind the first sign of the life of its app that called.
    fn life_begins(&self, call: &Call) -> Duration {
        let first = self.lines_of(call.client).find(|change| change.life == call.life);
        first.map_or(call.began, |change| call.began.min(change.at + Duration::from_nanos(1)))
    }

    /// Whether another network that joined may have taken over what a connection was carrying that was not up yet: no
    /// change of the line is seen then.
    fn has_joined(&self, call: &Call, until: Duration) -> bool {
        let moves_late = |at: Duration| at <= until && call.began <= at + JOINS_MAX;
        self.joins.iter().any(|&(client, at)| client == call.client && moves_late(at))
    }

    /// Whether an answer of that time may not have been stored.
    fn disk_failed(&self, answered: Duration) -> bool {
        self.disk_faults.iter().any(|fault| {
            let mends = self.deaths.iter().find(|it| it.gateway == fault.gateway && it.at > fault.at);
            fault.at <= answered + 2 * DISK_MAX && mends.is_none_or(|mended| answered <= mended.at)
        })
    }

    fn lines_of(&self, client: usize) -> impl Iterator<Item = &LineChange> {
        self.lines.iter().filter(move |change| change.client == client)
    }

    /// A client's WELCOMEs: in which life, when the connection was begun, and when it came.
    fn welcomes(&self, client: usize) -> impl Iterator<Item = (u32, Duration, Duration)> {
        let mut dialed = Duration::ZERO;
        self.lines_of(client).filter_map(move |change| {
            match change.line {
                Line::Dialing => dialed = change.at,
                Line::Up => return Some((change.life, dialed, change.at)),
                Line::Down => {}
            }
            None
        })
    }
}
