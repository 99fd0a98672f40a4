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
    /// The session of the last WELCOME, and what it was told that the client is.
    session_id: u64,
    told: Option<ClientFacts>,
    level_told: Option<Level>,
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
}

impl Reports {
    pub(crate) fn new(app: AppInfo) -> Self {
        Self {
            app,
            session_id: 0,
            told: None,
            level_told: None,
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

    /// HELLO says what the client is, unless its session was told the same.
    pub(crate) fn greet(&mut self, hello: &mut Hello, network: &Network) {
        self.pings = 0;
        let facts = self.facts(network);
        if hello.session_id == 0 || hello.session_id != self.session_id || self.told.as_ref() != Some(&facts)
        {
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
            (sends && level != self.level_told, ReportCause::Changed),
            (sends, ReportCause::Traffic),
        ];
        causes.into_iter().any(|(is_so, cause)| is_so && self.clock.is_due(now, policy, cause))
    }

    /// Whether the session was told what the client is.
    fn is_told(&self, network: &Network) -> bool {
        self.told.as_ref().is_some_and(|facts| {
            let carrier = network.carrier.as_deref().unwrap_or_default();
            let is_same = facts.carrier == carrier || facts.carrier == short(carrier);
            is_same && facts.network == network.kind as u32
        })
    }

    /// Whether anything was counted.
    pub(crate) fn has_counts(&self) -> bool {
        let Tally { outcomes, connects, beats, .. } = &self.tally;
        !outcomes.is_empty() || *connects > 0 || *beats > 0
    }

    /// The report, behind which counting begins anew.
    pub(crate) fn take(&mut self, now: Instant, at: &Standing<'_>) -> Report {
        let (facts, is_told) = (self.facts(at.network), self.is_told(at.network));
        let Tally { outcomes, latencies, connects, connects_failed, beats } = std::mem::take(&mut self.tally);
        let (sent, received) = at.traffic.counts();
        let span = now.saturating_duration_since(self.since.replace(now).unwrap_or(now));
        let report = Report {
            span_s: span.as_secs().try_into().unwrap_or(u32::MAX),
            facts: (!is_told).then(|| facts.clone()),
            quality: Some(at.quality),
            beats_learnt: at.beats_learnt.to_vec(),
            outcomes: outcomes.into_iter().map(|(kind, count)| Outcome { kind, count }).collect(),
            latencies: (latencies.count() > 0).then(|| latencies.to_wire()),
            connects,
            connects_failed,
            bytes_sent: sent - self.traffic.0,
            bytes_received: received - self.traffic.1,
            beats,
            policy_revision: at.policy_revision,
            arms: at.arms.to_vec(),
        };
        self.told = Some(facts);
        (self.level_told, self.wanted, self.traffic) = (at.level, false, (sent, received));
        self.clock.sent(now);
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
mod tests {
    use towline_protocols::policy::NetworkKind;

    use super::*;

    fn standing<'a>(network: &'a Network, traffic: &'a Traffic) -> Standing<'a> {
        let quality = QualitySnapshot::default();
        Standing { network, level: None, quality, beats_learnt: &[], traffic, policy_revision: 7, arms: &[] }
    }

    #[test]
    fn a_session_is_told_once_what_the_client_is_and_again_when_that_changes() {
        let (mut reports, traffic) = (Reports::new(AppInfo::default()), Traffic::default());
        let (now, policy) = (Instant::now(), ReportPolicy::default());
        let wifi = Network::new(NetworkKind::Wifi, "home");
        let mut hello = Hello::default();
        reports.greet(&mut hello, &wifi);
        assert!(hello.facts.is_some());
        let welcome = Welcome { session_id: 5, ..Welcome::default() };
        reports.on_welcome(&hello, &welcome);
        assert!(!reports.is_due(now, &policy, &wifi, None, false));
        let mut again = Hello { session_id: 5, ..Hello::default() };
        reports.greet(&mut again, &wifi);
        assert_eq!(again.facts, None);
        let cellular = Network::new(NetworkKind::Cellular4g, "");
        assert!(reports.is_due(now, &policy, &cellular, None, false));
        let report = reports.take(now, &standing(&cellular, &traffic));
        assert_eq!(report.facts.map(|facts| facts.network), Some(7));
        assert!(!reports.is_due(now, &policy, &cellular, None, false));
        // A gateway that forgot asks for it.
        reports.on_welcome(&again, &Welcome { report_wanted: true, ..welcome });
        assert!(reports.is_due(now, &policy, &cellular, None, false));
        assert!(reports.take(now, &standing(&cellular, &traffic)).facts.is_some());
        // Another session has heard nothing.
        let mut other = Hello { session_id: 6, ..Hello::default() };
        reports.greet(&mut other, &cellular);
        assert!(other.facts.is_some());
    }

    #[test]
    fn a_report_has_what_happened_since_the_last() {
        let (mut reports, traffic) = (Reports::new(AppInfo::default()), Traffic::default());
        let (now, network) = (Instant::now(), Network::default());
        traffic.sent(10);
        reports.ended(&Ok(()), Some(Duration::from_millis(40)));
        reports.given_up();
        reports.connected(true);
        reports.connected(false);
        reports.pinged(3);
        let report = reports.take(now, &standing(&network, &traffic));
        let outcomes: Vec<_> = report.outcomes.iter().map(|outcome| (outcome.kind, outcome.count)).collect();
        assert_eq!(outcomes, [(0, 1), (1, 1)]);
        assert_eq!((report.connects, report.connects_failed, report.beats, report.bytes_sent), (2, 1, 3, 10));
        assert_eq!(report.policy_revision, 7);
        traffic.sent(5);
        reports.pinged(4);
        let report = reports.take(now + Duration::from_secs(60), &standing(&network, &traffic));
        assert_eq!((report.outcomes.len(), report.connects, report.span_s), (0, 0, 60));
        assert_eq!((report.beats, report.bytes_sent), (1, 5));
    }

    #[test]
    fn a_carriers_name_is_cut_to_what_the_link_takes() {
        assert_eq!(short("a\nb"), "ab");
        assert_eq!(short(&"ä".repeat(40)).len(), 64);
    }
}
