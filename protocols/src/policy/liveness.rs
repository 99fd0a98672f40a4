//! Whether the peer of a link is still there, judged by what it leaves unanswered.
//!
//! ```text
//!  said something ──> a round trip passed, nothing heard: PING ──> round_trips x srtt + grace after the first word: dead
//!         ^                          |                                    |
//!         +────── heard anything ────+────────────────────────────────────+  heard anything: alive
//! ```
//!
//! The kernel's time-outs play no part: bytes that a socket does not take, or takes and never delivers, are silence like
//! any other. The machine looks at signs that the link keeps anyway and has no state in which it could be stuck.

#[cfg(test)]
mod tests;

use std::time::{Duration, Instant, SystemTime};

use super::parameters::{hours, millis, minutes, parameters, seconds};

parameters! {
    /// How long a link may be silent while something waits for it.
    pub struct LivenessPolicy in "liveness" {
        /// Off: a link is dead when a PING is not answered within the client's `limits.pong_timeout`.
        enabled: bool = true, false => true;
        /// A link is dead so many smoothed round trips and `grace` after the first word that was not answered.
        round_trips: f64 = 3.0, 1.5 => 20.0;
        /// What is waited beside the round trips: a lost packet and its repeat, and a busy machine.
        grace: Duration = millis(900), millis(200) => seconds(60);
        /// A PING asks for a sign of life a round trip after the first word and so much later, or later still where round
        /// trips vary, but leaves half of the patience for its answer.
        probe_after: Duration = millis(400), millis(10) => seconds(30);
        /// PINGs follow what waits for longer than answers usually take: a packet behind a lost one tells its sender at once,
        /// where timers of TCP and QUIC take a good while, and twice as long each time that the repeat is lost as well, as
        /// it is where losses come in rows. Off: none does.
        repair: bool = true, false => true;
        /// The first follows so much later than that at least, and the next no sooner behind it.
        repair_after: Duration = millis(20), millis(1) => seconds(10);
        /// The next follows after this share of a round trip, where nothing was heard meanwhile.
        repair_share: f64 = 0.5, 0.1 => 4.0;
        /// So many follow one call.
        repair_max: u32 = 5, 1 => 20;
        /// Where packets were lost lately, a PING follows a call, so that it comes to the gateway just behind the call and its
        /// PONG just behind the answer: what is lost of either is then found by what comes behind it, half a round trip
        /// before a timer of QUIC or TCP would find it. Off: none does.
        follow: bool = true, false => true;
        /// Behind a loss, or the first link on a network, of which nothing is known, one does for so long.
        follow_for: Duration = minutes(5), Duration::ZERO => hours(24);
        /// It follows so long after the call, and after what the server usually takes, where that is little.
        follow_after: Duration = millis(5), millis(1) => seconds(1);
        /// While an answer is waited for and nothing passes, a PING asks so often.
        probe_every: Duration = seconds(1), millis(100) => minutes(10);
        /// The pause between these PINGs grows with the waiting: it is at least this share of it.
        probe_share: f64 = 0.25, 0.0 => 1.0;
        /// Where nothing waits, a link is given so many times as long.
        idle_factor: f64 = 2.0, 1.0 => 20.0;
        /// On 2G and 3G, what the radio takes until it sends after a pause of `radio_sleeps_after`.
        radio_wakes: Duration = seconds(2), Duration::ZERO => seconds(30);
        /// After so long without traffic a radio of 2G or 3G sleeps.
        radio_sleeps_after: Duration = seconds(5), seconds(1) => minutes(10);
        /// Bytes that wait in a socket may take so long as this many per second need, until more is known.
        rate_min: u64 = 8_000, 100 => 100_000_000;
        /// After a death the next link is given twice as long, and so on so often, until one has settled (`settled_after`,
        /// `settled_answers`).
        doublings_max: u32 = 3, 0 => 10;
        /// How long a link has to be alive until earlier deaths are forgotten.
        settled_after: Duration = seconds(30), seconds(1) => minutes(60);
        /// They are forgotten sooner where so many answers in a row came within what is given to a link that none died
        /// before: it is as quick as it is taken for. Zero: time alone counts.
        settled_answers: u32 = 8, 0 => 1000;
        /// A clock that jumped by this, or a wake-up that came so late, says that the device slept.
        sleep_min: Duration = seconds(5), seconds(1) => minutes(10);
    }
}

/// What a link shows of its peer.
#[derive(Clone, Copy, Debug)]
pub struct Signs {
    /// When anything arrived last; the beginning of the link before that.
    pub heard: Instant,
    /// When something was sent last.
    pub spoke: Instant,
    /// The first word since then, if one was said.
    pub unanswered: Option<Instant>,
    /// When the oldest PING left that is not answered. Later ones, which keep a promise, move no limit.
    pub ping: Option<Instant>,
    /// Bytes that were given to the link and that its peer is not known to have.
    pub outstanding: u64,
    /// Since when the app waits for an answer; `None` where it does not.
    pub waiting: Option<Instant>,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pulse {
    /// Nothing, until then.
    Fine(Option<Instant>),
    /// The peer is to be asked for a sign of life.
    Probe,
    /// The same, so that something follows what may be lost. How long its answer takes says nothing of the network: it
    /// waits behind what is sent again.
    Repair,
    /// The link is dead.
    Dead,
}

/// Judges the links of one client, one after the other.
#[derive(Clone, Debug)]
pub struct Liveness {
    policy: LivenessPolicy,
    /// RFC 6298, section 2: the smoothed round trip and its variation.
    round_trip: Option<(Duration, Duration)>,
    /// The round trip is the time to a link's first answer, which may have had more to wait for than the network.
    is_guess: bool,
    /// The same of answers to calls, from when they are given to a connection.
    answers: Option<(Duration, Duration)>,
    /// Bytes per second that the link was seen to carry.
    rate: Option<f64>,
    /// 2G and 3G: first words wait for the radio.
    radio_sleeps: bool,
    deaths: u32,
    /// Answers in a row, since a death, that came within what is given to a link where none died before.
    prompt: u32,
    began: Option<Instant>,
    /// When a packet was lost last, as far as that is known, or when the first link was up.
    lost: Option<Instant>,
}

impl Liveness {
    /// Of a network of which nothing is known.
    pub fn new(policy: LivenessPolicy) -> Self {
        Self {
            policy,
            round_trip: None,
            is_guess: false,
            answers: None,
            rate: None,
            radio_sleeps: false,
            deaths: 0,
            prompt: 0,
            began: None,
            lost: None,
        }
    }

    /// Other parameters, from now on.
    pub fn set_policy(&mut self, policy: LivenessPolicy) {
        self.policy = policy;
    }

    /// Another network, of which nothing is known but its kind.
    pub fn network_changed(&mut self, radio_sleeps: bool) {
        *self = Self { radio_sleeps, ..Self::new(self.policy.clone()) };
    }

    /// A link is up: its first answer took so long. That is no shorter than a round trip, but may be a good deal longer,
    /// behind whatever is sent at a beginning: it counts until something was measured. One that is shorter than what was
    /// measured counts as much as all of that, which may be of another place, or have waited for a blackout's end.
    pub fn begin(&mut self, now: Instant, took: Duration) {
        self.began = Some(now);
        self.lost.get_or_insert(now);
        (self.round_trip, self.is_guess) = match self.round_trip {
            Some((smoothed, variation)) if took <= smoothed => {
                let varies = variation * 3 / 4 + (smoothed - took) / 4;
                (Some(((smoothed + took) / 2, varies)), self.is_guess)
            }
            _ => (Some((took, took / 2)), true),
        };
    }

    /// A PING was answered, and with it the peer has `bytes` more.
    pub fn answered(&mut self, now: Instant, after: Duration, bytes: u64) {
        if !self.is_prompt(after) {
            self.prompt = 0;
        }
        self.settles(after);
        self.measured(after);
        if bytes >= RATE_BYTES_MIN {
            let seen = bytes as f64 / after.as_secs_f64().max(1e-3);
            self.rate = Some(self.rate.map_or(seen, |rate| rate * 0.75 + seen * 0.25));
        }
        self.heard(now);
    }

    /// The first byte of an answer came so long after its request was given to a connection: a round trip takes no longer.
    pub fn came_within(&mut self, after: Duration) {
        // One that came later may have kept the server busy.
        self.settles(after);
        // One that was lost, or asked of a server for long, is not what answers take.
        let bound = self.answers.map(|(usual, variation)| 2 * usual + 4 * variation);
        self.answers = Some(smooth(self.answers, bound.map_or(after, |bound| after.min(bound))));
        if self.round_trip.is_some_and(|(smoothed, _)| after < smoothed) {
            self.measured(after);
        }
    }

    /// A transport that measures its packets has smoothed their round trips to this.
    pub fn path(&mut self, smoothed: Duration) {
        let before = self.round_trip.filter(|_| !self.is_guess);
        let variation = before
            .map_or(smoothed / 2, |(before, variation)| variation * 3 / 4 + before.abs_diff(smoothed) / 4);
        (self.round_trip, self.is_guess) = (Some((smoothed, variation)), false);
    }

    /// A packet was lost, or may have been: [`Pulse::Repair`] was called for.
    pub fn lost(&mut self, now: Instant) {
        self.lost = Some(now);
    }

    /// Something came.
    pub fn heard(&mut self, now: Instant) {
        if self.began.is_some_and(|began| now.saturating_duration_since(began) >= self.policy.settled_after) {
            self.deaths = 0;
        }
    }

    /// An answer came after that time: for a link that none died before it was in time, or was not.
    fn settles(&mut self, after: Duration) {
        if self.deaths == 0 || self.policy.settled_answers == 0 || !self.is_prompt(after) {
            return;
        }
        self.prompt += 1;
        if self.prompt >= self.policy.settled_answers {
            (self.deaths, self.prompt) = (0, 0);
        }
    }

    fn is_prompt(&self, after: Duration) -> bool {
        self.round_trip.is_some_and(|(smoothed, _)| after < self.given(smoothed))
    }

    /// What a link is given at least.
    fn given(&self, smoothed: Duration) -> Duration {
        smoothed.mul_f64(self.policy.round_trips) + self.policy.grace
    }

    fn measured(&mut self, after: Duration) {
        let before = self.round_trip.filter(|_| !self.is_guess);
        (self.round_trip, self.is_guess) = (Some(smooth(before, after)), false);
    }

    /// The smoothed round trip.
    pub fn round_trip(&self) -> Option<Duration> {
        self.round_trip.map(|(smoothed, _)| smoothed)
    }

    /// What the link's signs call for. Nothing where nothing is known: then the client's fixed limit holds.
    pub fn judge(&self, now: Instant, signs: &Signs) -> Pulse {
        let Some((smoothed, _)) = self.round_trip.filter(|_| self.policy.enabled) else {
            return Pulse::Fine(None);
        };
        let signs = &Signs { unanswered: self.first_word(smoothed, signs), ..*signs };
        let patience = self.patience(smoothed, signs);
        let repair = signs.waiting.and_then(|waiting| self.repair(smoothed, waiting, signs));
        if let Some(ping) = signs.ping {
            let first = signs.unanswered.unwrap_or(signs.heard).max(signs.heard);
            // A PING that left late has its round trip all the same.
            let dead = (first + patience).max(ping + patience.mul_f64(PING_SHARE));
            // One that left before a call follows nothing of it. Where that is late, so is what answers the next one.
            let follow = self.follow(smoothed, now, signs);
            let is_late = ping + self.probe_after(smoothed, patience) <= now;
            return match (follow, repair) {
                _ if dead <= now => Pulse::Dead,
                (_, Some(repair)) if repair <= now => Pulse::Repair,
                (Some(follow), _) if follow <= now && is_late => Pulse::Repair,
                (Some(follow), _) if follow <= now => Pulse::Probe,
                _ => Pulse::Fine(follow.into_iter().chain(repair).chain([dead]).min()),
            };
        }
        let Some(waiting) = signs.waiting else { return Pulse::Fine(None) };
        let probe = match signs.unanswered {
            Some(first) => {
                if let Some(follow) = self.follow(smoothed, now, signs) {
                    return if follow <= now { Pulse::Probe } else { Pulse::Fine(Some(follow)) };
                }
                first + self.probe_after(smoothed, patience)
            }
            None => {
                let since = signs.heard.max(signs.spoke);
                let waited = since.saturating_duration_since(waiting);
                since + self.policy.probe_every.max(waited.mul_f64(self.policy.probe_share))
            }
        };
        match repair.filter(|repair| *repair < probe) {
            _ if probe <= now => Pulse::Probe,
            Some(repair) if repair <= now => Pulse::Repair,
            repair => Pulse::Fine(Some(repair.unwrap_or(probe))),
        }
    }

    /// The link was found dead.
    pub fn died(&mut self) {
        self.deaths = (self.deaths + 1).min(self.policy.doublings_max);
        self.prompt = 0;
        self.began = None;
    }

    /// The first word that was not answered. What is heard sooner behind a call than half a round trip was on its way before
    /// the call, and is no answer to it.
    fn first_word(&self, smoothed: Duration, signs: &Signs) -> Option<Instant> {
        let call = signs.waiting.filter(|called| signs.heard < *called + smoothed / 2);
        signs.unanswered.into_iter().chain(call.map(|called| called.max(signs.heard))).min()
    }

    /// Answers of usual speed come before it.
    fn probe_after(&self, smoothed: Duration, patience: Duration) -> Duration {
        let variation = self.round_trip.map_or(smoothed, |(_, variation)| variation);
        (smoothed + (4 * variation).max(self.policy.probe_after)).min(patience / 2)
    }

    /// When a PING is to follow the call that waits, unless one has, or it is too late for that.
    fn follow(&self, smoothed: Duration, now: Instant, signs: &Signs) -> Option<Instant> {
        let (first, waiting) = signs.unanswered.zip(signs.waiting)?;
        // What was said before the call waited for nothing.
        let follow = first.max(waiting) + self.follow_after(smoothed, now)?;
        let has_followed = signs.ping.is_some_and(|ping| ping >= waiting) || signs.spoke >= follow;
        (!has_followed && now < follow + FOLLOW_LATE_MAX).then_some(follow)
    }

    /// How long after a call a PING follows it, on a network that loses packets.
    fn follow_after(&self, smoothed: Duration, now: Instant) -> Option<Duration> {
        let loses = self.lost.is_some_and(|lost| now < lost + self.policy.follow_for);
        if !self.policy.follow || !loses {
            return None;
        }
        let (usual, _) = self.usual(smoothed);
        // Behind the answer of a server that takes long it would not be soon enough for the call.
        let work = usual.saturating_sub(smoothed);
        Some(self.policy.follow_after + if work <= smoothed / 2 { work } else { Duration::ZERO })
    }

    /// How long answers take, and how that varies: of a quick server, while none is known.
    fn usual(&self, smoothed: Duration) -> (Duration, Duration) {
        self.answers.unwrap_or((smoothed, smoothed / 8))
    }

    /// When something is to follow a call, so that what was lost of it or of its answer is found. A word of any kind that
    /// followed it meanwhile will do, and who hears something loses nothing now.
    fn repair(&self, smoothed: Duration, called: Instant, signs: &Signs) -> Option<Instant> {
        let LivenessPolicy { repair, repair_after, repair_share, repair_max, .. } = self.policy;
        if !repair {
            return None;
        }
        let (usual, variation) = self.usual(smoothed);
        let first = called + usual + (4 * variation).max(repair_after);
        let pause = smoothed.mul_f64(repair_share).max(repair_after);
        let due = (0..repair_max).map(|turn| first + pause * turn).find(|due| *due > signs.spoke)?;
        Some(due.max(signs.heard + pause))
    }

    /// How long after the first word a link is dead.
    fn patience(&self, smoothed: Duration, signs: &Signs) -> Duration {
        let mut patience = self.given(smoothed);
        let first = signs.unanswered.or(signs.ping).unwrap_or(signs.heard);
        let was_quiet = first.saturating_duration_since(signs.heard) >= self.policy.radio_sleeps_after;
        if self.radio_sleeps && was_quiet {
            patience += self.policy.radio_wakes;
        }
        if signs.waiting.is_none() {
            patience = patience.mul_f64(self.policy.idle_factor);
        }
        let rate = self.rate.unwrap_or(0.0).max(self.policy.rate_min as f64);
        let queued = signs.outstanding.saturating_sub(OUTSTANDING_FREE) as f64 / rate;
        patience * (1 << self.deaths) + Duration::from_secs_f64(queued.min(QUEUED_S_MAX))
    }
}

/// RFC 6298, sections 2.2 and 2.3, with alpha 1/8 and beta 1/4.
fn smooth(before: Option<(Duration, Duration)>, after: Duration) -> (Duration, Duration) {
    before.map_or((after, after / 2), |(smoothed, variation)| {
        (smoothed * 7 / 8 + after / 8, variation * 3 / 4 + smoothed.abs_diff(after) / 4)
    })
}

/// A PING that would be later follows nothing any more: the transport's own timers are due.
const FOLLOW_LATE_MAX: Duration = Duration::from_millis(20);
/// A PING has at least this share of the patience to be answered.
const PING_SHARE: f64 = 0.5;
/// Smaller deliveries say nothing of a link's rate.
const RATE_BYTES_MIN: u64 = 4 << 10;
/// A link takes so many bytes in a round trip anyhow.
const OUTSTANDING_FREE: u64 = 4 << 10;
/// However much waits in a socket, a link is dead in the end.
const QUEUED_S_MAX: f64 = 60.0;

/// Finds that the device slept: by clocks that went apart, since one of them stands still while it does, or by a wake-up
/// that came late.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clocks {
    last: Option<(Instant, SystemTime)>,
}

impl Clocks {
    /// A look at both clocks, for a wake-up that was `due`. Whether the device slept since the look before.
    pub fn slept(&mut self, now: Instant, wall: SystemTime, due: Option<Instant>, least: Duration) -> bool {
        let apart = self.last.replace((now, wall)).is_some_and(|(then, wall_then)| {
            let passed = now.saturating_duration_since(then);
            wall.duration_since(wall_then).is_ok_and(|on_wall| on_wall >= passed + least)
        });
        apart || due.is_some_and(|due| now >= due + least)
    }
}
