//! What the client counts, and what it says of itself to the gateway.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use towline_protocols::{
    link::{
        Arm, ClientFacts, Hello, LearntBeat, Outcome, QualitySnapshot, Report, Welcome,
        report::{LatencyHistogram, TEXT_BYTES_MAX},
    },
    policy::{Level, Network, ReportCause, ReportClock, ReportPolicy},
};

use crate::{
    config::AppInfo,
    error::{RpcError, RpcErrorKind},
};

/// Bytes of the link, both ways, since the start.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    sent: AtomicU64,
    received: AtomicU64,
}

impl Traffic {
    pub(crate) fn sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn counts(&self) -> (u64, u64) {
        (self.sent.load(Ordering::Relaxed), self.received.load(Ordering::Relaxed))
    }
}

/// What is to be reported.
pub(crate) struct Reports {
    app: AppInfo,
    /// The session of the last WELCOME, and what it is known to hold of what the client is. `None` as well while other
    /// facts are under way, or were when a connection ended.
    session_id: u64,
    told: Option<ClientFacts>,
    level_told: Option<Level>,
    /// What the live connection has said behind WELCOME and the gateway may not have.
    said: Option<Said>,
    /// The gateway asks for a report.
    wanted: bool,
    clock: ReportClock,
    since: Option<Instant>,
    tally: Tally,
    /// Of the traffic that was reported.
    traffic: (u64, u64),
    /// PINGs of the live connection that were counted.
    pings: u64,
}

/// What REPORT said. The gateway does not answer it, but has it when it answers a PING that left behind it.
#[derive(Debug)]
struct Said {
    facts: Option<ClientFacts>,
    level: Option<Level>,
    /// PINGs that had left before.
    pings: u64,
}

#[derive(Default)]
struct Tally {
    outcomes: BTreeMap<u32, u32>,
    latencies: LatencyHistogram,
    connects: u32,
    connects_failed: u32,
    beats: u32,
}

/// The state that a report is made of, beside what [`Reports`] counts.
pub(crate) struct Standing<'a> {
    pub(crate) network: &'a Network,
    pub(crate) level: Option<Level>,
    pub(crate) quality: QualitySnapshot,
    pub(crate) beats_learnt: &'a [LearntBeat],
    pub(crate) traffic: &'a Traffic,
    pub(crate) policy_revision: u64,
    pub(crate) arms: &'a [Arm],
    /// By the policy, the gateway wants to hear what it does not ask for.
    pub(crate) is_enabled: bool,
}

impl Reports {
    pub(crate) fn new(app: AppInfo) -> Self {
        Self {
            app,
            session_id: 0,
            told: None,
            level_told: None,
            said: None,
            wanted: false,
            clock: ReportClock::default(),
            since: None,
            tally: Tally::default(),
            traffic: (0, 0),
            pings: 0,
        }
    }

    /// A call of the app has ended; `took`: where the time to its whole answer says something.
    pub(crate) fn ended(&mut self, end: &Result<(), RpcError>, took: Option<Duration>) {
        let kind = end.as_ref().map_or_else(|error| error.kind as u32, |()| 0);
        let count = self.tally.outcomes.entry(kind).or_default();
        *count = count.saturating_add(1);
        if let (Ok(()), Some(took)) = (end, took) {
            self.tally.latencies.record(took);
        }
    }

    /// The app gave a call up.
    pub(crate) fn given_up(&mut self) {
        let count = self.tally.outcomes.entry(RpcErrorKind::Cancelled as u32).or_default();
        *count = count.saturating_add(1);
    }

    /// A connection of the link was tried; whether it came to WELCOME.
    pub(crate) fn connected(&mut self, online: bool) {
        self.tally.connects = self.tally.connects.saturating_add(1);
        self.tally.connects_failed = self.tally.connects_failed.saturating_add((!online).into());
    }

    /// The live connection has sent so many PINGs.
    pub(crate) fn pinged(&mut self, pings: u64) {
        let new = pings.saturating_sub(self.pings);
        self.tally.beats = self.tally.beats.saturating_add(new.try_into().unwrap_or(u32::MAX));
        self.pings = pings;
    }

    /// The gateway has answered the PING of that number of the live connection.
    pub(crate) fn answered(&mut self, ping: u64) {
        if let Some(Said { facts, level, .. }) = self.said.take_if(|said| said.pings < ping) {
            self.told = facts.or(self.told.take());
            self.level_told = level;
        }
    }

    /// HELLO says what the client is, unless its session was told the same.
    pub(crate) fn greet(&mut self, hello: &mut Hello, network: &Network) {
        self.pings = 0;
        if self.said.take().is_some() {
            self.level_told = None;
        }
        let facts = self.facts(network);
        if hello.session_id == 0 || hello.session_id != self.session_id || self.told.as_ref() != Some(&facts)
        {
            // Whether the session gets them is not known before WELCOME.
            self.told = None;
            hello.facts = Some(facts);
        }
    }

    pub(crate) fn on_welcome(&mut self, hello: &Hello, welcome: &Welcome) {
        let is_same = welcome.session_id == self.session_id;
        match &hello.facts {
            Some(facts) => self.told = Some(facts.clone()),
            None => self.told = self.told.take().filter(|_| is_same && !welcome.report_wanted),
        }
        self.level_told = self.level_told.filter(|_| is_same);
        (self.session_id, self.wanted) = (welcome.session_id, self.wanted || welcome.report_wanted);
    }

    /// The gateway asks for a report.
    pub(crate) fn want(&mut self) {
        self.wanted = true;
    }

    /// Whether a report is to go now; `sends`: something else does. Asked at each turn of the line.
    pub(crate) fn is_due(
        &mut self,
        now: Instant,
        policy: &ReportPolicy,
        network: &Network,
        level: Option<Level>,
        sends: bool,
    ) -> bool {
        self.since.get_or_insert(now);
        let causes = [
            (self.wanted || !self.is_told(network), ReportCause::Needed),
            (sends && level != self.level_said(), ReportCause::Changed),
            (sends, ReportCause::Traffic),
        ];
        causes.into_iter().any(|(is_so, cause)| is_so && self.clock.is_due(now, policy, cause))
    }

    /// Whether the session was told what the client is, or is being told.
    fn is_told(&self, network: &Network) -> bool {
        let said = self.said.as_ref().and_then(|said| said.facts.as_ref());
        said.or(self.told.as_ref()).is_some_and(|facts| {
            let carrier = network.carrier.as_deref().unwrap_or_default();
            let is_same = facts.carrier == carrier || facts.carrier == short(carrier);
            is_same && facts.network == network.kind as u32
        })
    }

    fn level_said(&self) -> Option<Level> {
        self.said.as_ref().map_or(self.level_told, |said| said.level)
    }

    /// Whether anything was counted that the gateway wants to hear.
    pub(crate) fn has_counts(&self, is_enabled: bool) -> bool {
        let Tally { outcomes, connects, beats, .. } = &self.tally;
        let is_any = !outcomes.is_empty() || *connects > 0 || *beats > 0;
        is_any && (is_enabled || self.wanted)
    }

    /// Counting begins anew, and what was counted is told to nobody.
    pub(crate) fn begin_anew(&mut self, now: Instant, traffic: &Traffic) {
        (self.tally, self.since, self.traffic) = (Tally::default(), Some(now), traffic.counts());
    }

    /// The report, behind which counting begins anew. Where reports are off and none was asked for, it says what the
    /// client is and nothing else.
    pub(crate) fn take(&mut self, now: Instant, at: &Standing<'_>) -> Report {
        let facts = (!self.is_told(at.network)).then(|| self.facts(at.network));
        if facts.is_some() {
            self.told = None;
        }
        let (policy_revision, arms) = (at.policy_revision, at.arms.to_vec());
        let tells_all = at.is_enabled || self.wanted;
        let level = if tells_all { at.level } else { self.level_said() };
        let said_before = self.said.take().and_then(|said| said.facts);
        self.said = Some(Said { facts: facts.clone().or(said_before), level, pings: self.pings });
        self.clock.sent(now);
        if !tells_all {
            return Report { facts, policy_revision, arms, ..Report::default() };
        }
        let Tally { outcomes, latencies, connects, connects_failed, beats } = std::mem::take(&mut self.tally);
        let (sent, received) = at.traffic.counts();
        let span = now.saturating_duration_since(self.since.replace(now).unwrap_or(now));
        let report = Report {
            span_s: span.as_secs().try_into().unwrap_or(u32::MAX),
            facts,
            quality: Some(at.quality),
            beats_learnt: at.beats_learnt.to_vec(),
            outcomes: outcomes.into_iter().map(|(kind, count)| Outcome { kind, count }).collect(),
            latencies: (latencies.count() > 0).then(|| latencies.to_wire()),
            connects,
            connects_failed,
            bytes_sent: sent - self.traffic.0,
            bytes_received: received - self.traffic.1,
            beats,
            policy_revision,
            arms,
        };
        (self.wanted, self.traffic) = (false, (sent, received));
        report
    }

    fn facts(&self, network: &Network) -> ClientFacts {
        ClientFacts {
            app: self.app.name.clone(),
            app_version: self.app.version.clone(),
            platform: self.app.platform.clone(),
            region: self.app.region.clone(),
            network: network.kind as u32,
            carrier: short(network.carrier.as_deref().unwrap_or_default()),
        }
    }
}

/// What a carrier is called comes from the network: it is cut to what the link takes.
fn short(text: &str) -> String {
    let mut text: String = text.chars().filter(|c| !c.is_control()).collect();
    text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
    text
}

#[cfg(test)]
mod tests;
