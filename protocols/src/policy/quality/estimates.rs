//! What follows from what was seen.

use std::time::{Duration, Instant};

use super::{
    Arrival, Impression, Prior, Quality, REPEAT_MIN, Step,
    window::{Window, mean, quantile},
};

impl Quality {
    /// The median round trip, as near as is known: of probes and of the transport, or else of what takes a round trip
    /// and the server's work, or two. `None` where nothing was seen, now or on an earlier stay.
    pub fn round_trip(&self, now: Instant) -> Option<Duration> {
        let mut trips = self.weighted(now, &self.seen.probes);
        trips.extend(self.weighted(now, &self.seen.paths));
        trips.extend(self.remembered(|it| it.round_trip));
        let median = |window: &Window<Duration>| quantile(self.weighted(now, window), 0.5);
        let of_gateway = || median(&self.seen.steps[Step::FirstByte as usize]);
        let of_calls = || median(&self.seen.requests);
        let of_connects =
            || median(&self.seen.steps[Step::Connect as usize]).map(|connect| connect / CONNECT_TRIPS);
        quantile(trips, 0.5).or_else(of_gateway).or_else(of_calls).or_else(of_connects)
    }

    /// The same, or what networks of this kind are usually like.
    pub fn expected_round_trip(&self, now: Instant) -> Option<Duration> {
        self.round_trip(now).or(self.prior().map(|prior| prior.round_trip))
    }

    /// The mean deviation of round trips from their median, without those of packets that were sent again. A smoothed
    /// one of the transport's deviates too little to tell.
    pub fn jitter(&self, now: Instant) -> Option<Duration> {
        let mut probes = self.weighted(now, &self.seen.probes);
        let remembered = self.before.and_then(|(before, _)| before.jitter);
        let Some(median) = quantile(probes.clone(), 0.5).filter(|_| probes.len() >= JITTER_SAMPLES_MIN)
        else {
            return remembered;
        };
        probes.retain(|(probe, _)| *probe < (2 * median).max(median + REPEAT_MIN));
        mean(&probes, |probe| probe.abs_diff(median).as_secs_f64()).map(Duration::from_secs_f64)
    }

    /// The median time from a request to the first byte of its answer, without the server's own time where that is known.
    pub fn request_round_trip(&self, now: Instant) -> Option<Duration> {
        let mut times = self.weighted(now, &self.seen.requests);
        times.extend(self.remembered(|it| it.request));
        quantile(times, 0.5)
    }

    /// The median time that connecting takes, or else what follows from round trips: a handshake of TCP and one of TLS.
    pub fn connect(&self, now: Instant) -> Option<Duration> {
        let seen = quantile(self.weighted(now, &self.seen.steps[Step::Connect as usize]), 0.5);
        seen.or_else(|| self.round_trip(now).map(|trip| trip * CONNECT_TRIPS))
    }

    /// The same, or what follows for networks of this kind.
    pub fn expected_connect(&self, now: Instant) -> Option<Duration> {
        self.connect(now).or(self.prior().map(|prior| prior.round_trip * CONNECT_TRIPS))
    }

    /// The share of packets that are lost: as the transport counts them; else from how many probes took as long as ones
    /// do that are sent again, where one or the other of two packets was lost.
    pub fn loss(&self, now: Instant) -> Option<f64> {
        self.seen_loss(now).or(self.before.and_then(|(before, _)| before.loss))
    }

    pub(super) fn seen_loss(&self, now: Instant) -> Option<f64> {
        let packets = self.weighted(now, &self.seen.packets);
        let sent: f64 = packets.iter().map(|((sent, _), weight)| f64::from(*sent) * weight).sum();
        if sent >= PACKETS_MIN {
            let lost: f64 = packets.iter().map(|((_, lost), weight)| f64::from(*lost) * weight).sum();
            return Some(lost / sent);
        }
        let late = self.weighted(now, &self.seen.late);
        let share = mean(&late, |late| f64::from(u8::from(late)));
        share.filter(|_| late.len() >= LATE_MIN).map(|share| 1.0 - (1.0 - share).sqrt())
    }

    /// Bytes per second that come, from transfers that were long enough.
    pub fn receive_rate(&self, now: Instant) -> Option<f64> {
        let mut rates = self.weighted(now, &self.seen.received);
        rates.extend(self.remembered(|it| it.receive_rate));
        quantile(rates, 0.5)
    }

    /// The same, or what networks of this kind are usually like.
    pub fn expected_receive_rate(&self, now: Instant) -> Option<f64> {
        self.receive_rate(now).or(self.prior().map(|prior| prior.receive_rate))
    }

    /// Bytes per second that can be sent, from transfers that were long enough.
    pub fn send_rate(&self, now: Instant) -> Option<f64> {
        let mut rates = self.weighted(now, &self.seen.sent);
        rates.extend(self.remembered(|it| it.send_rate));
        quantile(rates, 0.5)
    }

    /// The same, or what is to be expected where so much comes: few apps send enough to tell.
    pub fn expected_send_rate(&self, now: Instant) -> Option<f64> {
        self.send_rate(now).or(self.expected_receive_rate(now).map(|rate| rate * SEND_SHARE))
    }

    /// The same of a network that need not be the one in use: as it was on earlier stays, or is usual for its kind.
    pub fn expected_send_rate_on(&self, arrival: Arrival) -> Option<f64> {
        let (before, usual) = self.known_of(arrival);
        let received =
            before.and_then(|before| before.receive_rate).or(usual.map(|prior| prior.receive_rate));
        before.and_then(|before| before.send_rate).or(received.map(|rate| rate * SEND_SHARE))
    }

    /// [`Quality::expected_round_trip`] of a network that need not be the one in use.
    pub fn expected_round_trip_on(&self, arrival: Arrival) -> Option<Duration> {
        let (before, usual) = self.known_of(arrival);
        before.and_then(|before| before.round_trip).or(usual.map(|prior| prior.round_trip))
    }

    /// [`Quality::expected_connect`] of a network that need not be the one in use.
    pub fn expected_connect_on(&self, arrival: Arrival) -> Option<Duration> {
        self.expected_round_trip_on(arrival).map(|trip| trip * CONNECT_TRIPS)
    }

    /// What earlier stays on a network saw, and what is usual for its kind.
    fn known_of(&self, arrival: Arrival) -> (Option<Impression>, Option<Prior>) {
        let Arrival { network, kind, unix_s, .. } = arrival;
        let known = network.filter(|_| self.policy.enabled);
        let before =
            known.and_then(|network| self.records.get(network, unix_s, self.policy.record_half_life));
        (before.map(|(before, _)| before), Prior::of(kind).filter(|_| self.policy.enabled))
    }

    /// The share of attempts that failed; `None` where none was made lately.
    pub fn failure_share(&self, now: Instant) -> Option<f64> {
        mean(&self.weighted(now, &self.seen.failures), |failed| f64::from(u8::from(failed)))
    }

    /// The time within which the messages of the given share of answers began, whatever of it was the server's, if enough
    /// were seen.
    pub fn answer_quantile(&self, now: Instant, share: f64, samples_min: usize) -> Option<Duration> {
        let answers = self.weighted(now, &self.seen.answers);
        (answers.len() >= samples_min).then(|| quantile(answers, share)).flatten()
    }

    /// The time that 99 of 100 of what was waited for did not exceed: of so many at least, or of an earlier stay.
    pub(in crate::policy) fn highest(
        &self,
        now: Instant,
        step: Step,
        samples_min: usize,
    ) -> Option<Duration> {
        let seen = self.seen_highest(now, step, samples_min);
        let remembered = self.before.and_then(|(before, _)| before.highest[step as usize]);
        seen.max(remembered)
    }

    fn seen_highest(&self, now: Instant, step: Step, samples_min: usize) -> Option<Duration> {
        let times = self.weighted(now, &self.seen.steps[step as usize]);
        (times.len() >= samples_min).then(|| quantile(times, 0.99)).flatten()
    }

    /// Limits in a row that were not kept.
    pub(in crate::policy) fn expired(&self, step: Step) -> u32 {
        self.expired[step as usize]
    }

    /// What networks of this kind are usually like.
    pub(in crate::policy) fn prior(&self) -> Option<Prior> {
        let (arrival, _) = self.place.filter(|_| self.policy.enabled)?;
        Prior::of(arrival.kind)
    }

    /// What there is to remember of the network.
    pub(super) fn impression(&self, now: Instant) -> Impression {
        Impression {
            round_trip: self.round_trip(now),
            jitter: self.jitter(now),
            request: self.request_round_trip(now),
            loss: self.seen_loss(now),
            receive_rate: self.receive_rate(now),
            send_rate: self.send_rate(now),
            highest: Step::ALL.map(|step| self.seen_highest(now, step, HIGHEST_SAMPLES_MIN)),
        }
    }

    /// An earlier stay counts like a few new observations.
    fn remembered<T>(&self, of: impl Fn(&Impression) -> Option<T>) -> Option<(T, f64)> {
        let (before, weight) = self.before.as_ref()?;
        of(before).map(|value| (value, weight * REMEMBERED_SAMPLES))
    }

    pub(super) fn weighted<T: Copy>(&self, now: Instant, window: &Window<T>) -> Vec<(T, f64)> {
        window.weighted(now, self.policy.half_life)
    }
}

/// Fewer probes do not show how much they vary.
const JITTER_SAMPLES_MIN: usize = 3;
/// Fewer packets do not show how many are lost.
const PACKETS_MIN: f64 = 20.0;
/// Nor fewer probes.
const LATE_MIN: usize = 10;
/// Fewer times are no measure of the longest.
const HIGHEST_SAMPLES_MIN: usize = 3;
const REMEMBERED_SAMPLES: f64 = 2.0;
/// Round trips of a connection with TLS.
const CONNECT_TRIPS: u32 = 2;
/// Radio networks send slower than they receive.
const SEND_SHARE: f64 = 0.5;
