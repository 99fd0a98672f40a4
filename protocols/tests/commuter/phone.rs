//! A phone in a month: an app that calls now and then, and the machines that keep its link, driven as the SDK drives
//! them.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Range,
    time::{Duration, Instant},
};

use towline_protocols::policy::{
    AppMode, AppState, Arrival, Carrier, Event, Ground, Handover, HandoverAction, Heartbeat, Liveness,
    NetworkKey, Pulse, Quality, Race, RaceAction, Records, Signs, Step, Strategies, Transport, Way, Ways,
};

use crate::month::{Month, Stay};

/// The gateway's name.
const GATEWAY: &str = "edge:443";
/// The highest limit of connecting, and of a PONG where nothing is known of the link.
const CONNECT_MAX: Duration = Duration::from_secs(10);
const PONG_TIMEOUT: Duration = Duration::from_secs(10);
/// Beats where nothing is known, and the longest that the gateway allows.
const HEARTBEAT: Duration = Duration::from_secs(30);
const HEARTBEAT_MAX: Duration = Duration::from_secs(900);
/// TCP behind QUIC where nothing is known of the network.
const FALLBACK_DELAY: Duration = Duration::from_millis(300);
/// The SDK's delays between attempts.
const BACKOFF_MIN: Duration = Duration::from_millis(500);
const BACKOFF_MAX: Duration = Duration::from_secs(60);
const DEADLINE: Duration = Duration::from_secs(60);
/// Somebody looks at the app while it calls, and for so long behind.
const LOOKED_AT: Duration = Duration::from_secs(60);
/// Attempts in one hour from which on a phone is beyond help: its month ends there.
const RUNAWAY: usize = 2000;
/// What a call is judged by that has the network to itself.
const UP_FOR: Duration = Duration::from_secs(30);
/// In doze timers come together, so far apart.
const DOZE_WINDOW: Duration = Duration::from_secs(600);
const UNIX_S: u64 = 1_767_225_600;

/// What a month came to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    pub calls: u32,
    /// Calls that came to their deadline although the network was up for long before it.
    pub hung: u32,
    /// The longest that a call took whose network was up all the while.
    pub slowest_where_up: Duration,
    pub connects_per_hour_max: usize,
    /// Connections on networks that answer at once and lose nothing, and those of them that took more than one way.
    pub made_where_calm: u32,
    pub raced_where_calm: u32,
    /// Connections that were found dead because a NAT had forgotten them.
    pub lost_to_nat: BTreeMap<(&'static str, Transport), u32>,
    /// The longest that a timer in time left a flow quiet, in time-outs of its NAT.
    pub quiet_max: BTreeMap<(&'static str, Transport), f64>,
    /// Of `lost_to_nat`, those of the month's second half on networks without blackouts, when all of these are known.
    pub lost_when_known: u32,
    /// Connections that were taken for dead, and those of them whose gateway was about to be heard: where a blackout
    /// held its word back, as nobody can tell from a death, and where all had passed since the first unanswered word.
    pub died: u32,
    pub died_in_blackout: u32,
    pub died_alive: u32,
    /// Connections that were made, and attempts that were given up and would have come.
    pub made: u32,
    pub cut_short: u32,
    /// Networks that joined one that was in use, and those of them that took its link over before it was gone.
    pub joined: u32,
    pub taken_over: u32,
    /// Beats, and how long the app was in the background meanwhile, not in doze, in the month's second half.
    pub hidden: BTreeMap<&'static str, (u32, Duration)>,
    /// Moves of the link to the other carrier.
    pub carried: u32,
}

struct Link {
    transport: Transport,
    /// The NAT knows it.
    is_known: bool,
    /// A timer came late, as in doze: that says nothing of what was learnt.
    is_late: bool,
    heard: Duration,
    spoke: Duration,
    unanswered: Option<Duration>,
    ping: Option<Duration>,
    interval: Duration,
    /// Words of the gateway on their way: when they come, and whether one is the call's answer.
    coming: VecDeque<(Duration, bool)>,
}

struct Call {
    began: Duration,
    is_sent: bool,
}

pub struct Phone<'a> {
    month: &'a Month,
    random: fastrand::Rng,
    origin: Instant,
    now: Duration,
    strategies: Strategies,
    heartbeat: Heartbeat,
    liveness: Liveness,
    quality: Quality,
    ways: Ways,
    app: AppState,
    link: Option<Link>,
    /// Failures in a row, and when to connect where there is no link.
    failures: u32,
    connects_at: Duration,
    call: Option<Call>,
    calls_at: Duration,
    /// Attempts of the last hour.
    attempts: VecDeque<Duration>,
    handover: Handover,
    carrier: Carrier,
    /// When the app goes to the background, where it is not there.
    hides_at: Option<Duration>,
    /// Since when it is there, not in doze, and where the phone is.
    hidden_since: Option<(Duration, &'static str)>,
    /// The network of the next stay has joined.
    is_joined: bool,
    /// When the second connection is there, or has failed.
    second: Option<(Duration, bool)>,
    /// The link has moved to the next stay's network, which begins then.
    ahead: Option<Duration>,
    report: Report,
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Next {
    Arrives,
    Moves,
    Joins,
    Second,
    Deadline,
    Calls,
    Connects,
    Judges,
    Beats,
    Hides,
}

impl<'a> Phone<'a> {
    #[allow(clippy::disallowed_methods, reason = "any origin will do; only differences count")]
    pub fn new(seed: u64, month: &'a Month, strategies: Strategies) -> Self {
        Self {
            month,
            random: fastrand::Rng::with_seed(!seed),
            origin: Instant::now(),
            now: Duration::ZERO,
            heartbeat: Heartbeat::new(strategies.heartbeat.clone(), Records::default()),
            liveness: Liveness::new(strategies.liveness.clone()),
            quality: Quality::new(strategies.quality.clone()),
            ways: Ways::default(),
            strategies,
            app: AppState::default(),
            link: None,
            failures: 0,
            connects_at: Duration::ZERO,
            call: None,
            calls_at: Duration::ZERO,
            attempts: VecDeque::new(),
            handover: Handover::default(),
            carrier: Carrier::default(),
            hides_at: Some(LOOKED_AT),
            hidden_since: None,
            is_joined: false,
            second: None,
            ahead: None,
            report: Report::default(),
        }
    }

    /// To the month's end, or until it does nothing but connect.
    pub fn live(mut self) -> Report {
        self.settle();
        let mut stay_ends = self.stay().until;
        loop {
            let (at, next) = self.next(stay_ends);
            self.now = self.now.max(at);
            if self.now >= self.month.end() || self.attempts.len() > RUNAWAY {
                return self.report;
            }
            match next {
                Next::Arrives => self.hear(),
                Next::Moves => {
                    let is_there = self.ahead.take().is_some();
                    (self.is_joined, self.second) = (false, None);
                    let key = self.network();
                    stay_ends = self.stay().until;
                    self.moved(key, is_there);
                }
                Next::Joins => self.joined(),
                Next::Second => self.follow_second(),
                Next::Deadline => self.expire(),
                Next::Calls => self.begin_call(),
                Next::Connects => self.connect(),
                Next::Judges => self.judge(),
                Next::Beats => self.beat(),
                Next::Hides => self.is_looked_at(false),
            }
        }
    }

    fn stay(&self) -> &'a Stay {
        self.month.at(self.ahead.unwrap_or(self.now))
    }

    /// The next moment, not before `time`, at which something passes where the phone is.
    fn passes_from(&self, time: Duration) -> Duration {
        // Before the stay there begins, what joined early passes as it does then.
        match self.ahead.filter(|begins| time < *begins) {
            Some(_) if self.stay().place.is_captive => self.stay().until,
            Some(_) => time,
            None => self.month.passes_from(time),
        }
    }

    /// Whether everything passes in that time, in one place and where the phone is.
    fn is_up_during(&self, time: Range<Duration>) -> bool {
        self.month.is_up_during(time) && !self.stay().place.is_captive
    }

    fn network(&self) -> NetworkKey {
        self.stay().place.network().place()
    }

    fn at(&self, time: Duration) -> Instant {
        self.origin + time
    }

    fn next(&self, stay_ends: Duration) -> (Duration, Next) {
        let mut all = vec![(stay_ends, Next::Moves)];
        let joined_from = self.month.at(self.now).joined_from;
        if !self.is_joined && joined_from < stay_ends {
            all.push((joined_from, Next::Joins));
        }
        let second = self.second.map(|(at, _)| at);
        let polled = self.handover.poll_timeout().map(|at| at - self.origin);
        all.extend(second.into_iter().chain(polled).map(|at| (at, Next::Second)));
        all.extend(self.hides_at.map(|at| (at, Next::Hides)));
        match &self.call {
            Some(call) => all.push((call.began + DEADLINE, Next::Deadline)),
            None => all.push((self.calls_at, Next::Calls)),
        }
        match &self.link {
            None => all.push((self.awake(self.connects_at), Next::Connects)),
            Some(link) => {
                all.extend(link.coming.front().map(|(at, _)| (*at, Next::Arrives)));
                all.extend(self.due(link).map(|at| (self.awake(at), Next::Judges)));
                if link.ping.is_none() {
                    all.push((self.awake(link.spoke.max(link.heard) + link.interval), Next::Beats));
                }
            }
        }
        all.into_iter().min().unwrap()
    }

    /// When a timer comes that is due then.
    fn awake(&self, due: Duration) -> Duration {
        if !self.app.dozing || self.call.is_some() {
            return due;
        }
        let windows = due.as_secs().div_ceil(DOZE_WINDOW.as_secs());
        Duration::from_secs(windows * DOZE_WINDOW.as_secs()).max(due)
    }

    fn signs(&self, link: &Link) -> Signs {
        Signs {
            heard: self.at(link.heard),
            spoke: self.at(link.spoke),
            unanswered: link.unanswered.map(|at| self.at(at)),
            ping: link.ping.map(|at| self.at(at)),
            outstanding: 0,
            waiting: self.call.as_ref().map(|call| self.at(call.began)),
        }
    }

    /// When the link is to be judged.
    fn due(&self, link: &Link) -> Option<Duration> {
        let known = match self.liveness.judge(self.at(self.now), &self.signs(link)) {
            Pulse::Fine(at) => at.map(|at| at - self.origin),
            Pulse::Probe | Pulse::Repair | Pulse::Dead => Some(self.now),
        };
        known.into_iter().chain(link.ping.map(|at| at + PONG_TIMEOUT)).min()
    }

    /// Says something; the gateway answers what arrives.
    fn say(&mut self, is_call: bool, is_beat: bool) {
        let Some(mut link) = self.link.take() else { return };
        let quiet = self.now - link.heard.max(link.spoke);
        let place = self.stay().place;
        let nat_timeout = place.nat_timeout(link.transport);
        link.is_known &= quiet < nat_timeout;
        link.is_late |= quiet >= link.interval + self.strategies.liveness.sleep_min;
        // By less than a sleep as well, which nobody notices.
        link.is_late |= self.app.dozing && quiet > link.interval && link.interval < nat_timeout;
        if !link.is_late {
            let longest = self.report.quiet_max.entry((place.network_name(), link.transport)).or_default();
            *longest = longest.max(quiet.as_secs_f64() / nat_timeout.as_secs_f64());
        }
        if link.unanswered.is_none() {
            link.unanswered = Some(self.now);
            if !is_beat {
                self.heartbeat.spoke(quiet);
            }
        }
        link.spoke = self.now;
        if link.is_known {
            // What a blackout swallows is sent again behind it.
            let passes = self.passes_from(self.now);
            let round_trip = place.round_trip(&mut self.random);
            let at = self.passes_from(passes + round_trip);
            let at = link.coming.back().map_or(at, |(last, _)| at.max(*last));
            link.coming.push_back((at, is_call));
        }
        self.link = Some(link);
    }

    fn hear(&mut self) {
        let Some(link) = &mut self.link else { return };
        let Some((_, is_answer)) = link.coming.pop_front() else { return };
        link.heard = self.now;
        link.unanswered = None;
        let is_pong = link.ping.is_some();
        let transport = link.transport;
        if let Some(ping) = link.ping.take() {
            let after = self.now - ping;
            self.liveness.answered(self.at(self.now), after, 0);
            self.quality.on(self.at(self.now), Event::RoundTrip(after));
        }
        self.heartbeat.heard();
        if is_answer && let Some(call) = self.call.take() {
            let took = self.now - call.began;
            self.liveness.came_within(took);
            if self.is_up_during(call.began..call.began + UP_FOR) {
                self.report.slowest_where_up = self.report.slowest_where_up.max(took);
            }
        }
        if is_pong {
            self.choose_carrier(transport);
        }
    }

    /// A PONG has come: the radio is awake.
    fn choose_carrier(&mut self, present: Transport) {
        let now = self.at(self.now);
        if self.handover.is_under_way() || !self.strategies.handover.enabled {
            return;
        }
        if self.carrier.moves(&self.strategies.carrier, &self.heartbeat, present, now).is_some() {
            self.handover.carried(&self.strategies.handover, now);
            self.follow_second();
        }
    }

    /// Somebody looks at the app from now on, or nobody does.
    fn is_looked_at(&mut self, is_looked_at: bool) {
        self.count_hidden();
        let mode = if is_looked_at { AppMode::Foreground } else { AppMode::Background };
        let place = self.stay().place;
        self.hides_at = is_looked_at.then_some(self.now + LOOKED_AT);
        self.hidden_since = (!is_looked_at && !place.dozes).then_some((self.now, place.name));
        self.app = AppState { mode, dozing: place.dozes, ..AppState::default() };
        self.heartbeat.set_app(self.app);
        self.carrier.set_app(self.app, self.at(self.now));
        let interval = self.heartbeat.interval(self.at(self.now));
        if let Some(link) = &mut self.link {
            link.interval = link.interval.min(interval);
        }
    }

    fn count_hidden(&mut self) {
        if let Some((since, place)) = self.hidden_since.filter(|_| self.is_second_half()) {
            self.report.hidden.entry(place).or_default().1 += self.now - since;
        }
    }

    fn is_second_half(&self) -> bool {
        self.now > self.month.end() / 2
    }

    fn begin_call(&mut self) {
        let hours = if self.app.dozing { 3.0 } else { 0.25 };
        self.calls_at = self.now + Duration::from_secs_f64(3600.0 * hours * 2.0 * self.random.f64());
        self.report.calls += 1;
        self.call = Some(Call { began: self.now, is_sent: false });
        self.is_looked_at(true);
        self.send_call();
        if self.link.is_none() {
            // An app that wants something does not wait for a timer of the night.
            self.connects_at = self.connects_at.min(self.now + BACKOFF_MAX);
        }
    }

    fn expire(&mut self) {
        let Some(call) = self.call.take() else { return };
        let ends = call.began + DEADLINE;
        self.report.hung += u32::from(self.is_up_during(ends - UP_FOR..ends));
    }

    fn send_call(&mut self) {
        if self.link.is_some()
            && let Some(call) = self.call.as_mut().filter(|call| !call.is_sent)
        {
            call.is_sent = true;
            self.say(true, false);
        }
    }

    fn beat(&mut self) {
        let Some(link) = &mut self.link else { return };
        let quiet = self.now - link.heard.max(link.spoke);
        if quiet >= link.interval + self.strategies.liveness.sleep_min {
            self.heartbeat.slept();
            link.is_late = true;
        }
        link.interval = self.heartbeat.beat(self.origin + self.now, quiet);
        link.ping = Some(self.now);
        if let Some((_, place)) = self.hidden_since.filter(|_| self.is_second_half()) {
            self.report.hidden.entry(place).or_default().0 += 1;
        }
        self.say(false, true);
    }

    fn judge(&mut self) {
        let Some(link) = &mut self.link else { return };
        let is_late = link.ping.is_some_and(|ping| self.now >= ping + PONG_TIMEOUT);
        let Some(link) = self.link.take() else { return };
        let pulse = self.liveness.judge(self.at(self.now), &self.signs(&link));
        match pulse {
            _ if is_late => self.died(&link),
            Pulse::Dead => self.died(&link),
            Pulse::Probe | Pulse::Repair => {
                self.link = Some(Link { ping: Some(self.now), ..link });
                self.say(false, false);
            }
            Pulse::Fine(_) => self.link = Some(link),
        }
    }

    fn died(&mut self, link: &Link) {
        self.report.died += 1;
        if !link.coming.is_empty() {
            let first = link.unanswered.or(link.ping).unwrap_or(link.heard);
            let is_alive = self.month.is_up_during(first..self.now);
            self.report.died_alive += u32::from(is_alive);
            self.report.died_in_blackout += u32::from(!is_alive);
        }
        if !link.is_known && !link.is_late {
            let key = (self.stay().place.network_name(), link.transport);
            *self.report.lost_to_nat.entry(key).or_default() += 1;
            let is_known = self.stay().place.is_calm() && self.now > self.month.end() / 2;
            // The street is known as the subway's network.
            self.report.lost_when_known += u32::from(is_known && key.0 != "street");
        }
        self.liveness.died();
        self.liveness.died();
        self.heartbeat.lost(self.at(self.now));
        // What broke while a network joined is made anew there.
        if self.handover.is_for_network() {
            self.go_ahead();
        }
        if self.handover.is_for_carrier() {
            self.handover.line_ended(false, self.at(self.now));
            self.second = None;
        }
        self.reconnect(Duration::ZERO);
    }

    /// The next stay's network is there, and this one still.
    fn joined(&mut self) {
        self.is_joined = true;
        let policy = &self.strategies.handover;
        if policy.enabled && self.link.is_some() {
            self.report.joined += 1;
            self.handover.joined(policy, self.origin + self.now);
            return self.follow_second();
        }
        self.heartbeat.ended();
        self.go_ahead();
        self.reconnect(Duration::ZERO);
    }

    /// What comes of the second connection.
    fn follow_second(&mut self) {
        let (now, policy) = (self.at(self.now), self.strategies.handover.clone());
        if let Some((_, is_made)) = self.second.take_if(|(at, _)| *at <= self.now) {
            match is_made {
                true if self.handover.made(&policy, now) => return self.take_over(),
                true => {}
                false => self.handover.failed(&policy, now),
            }
        }
        while let Some(action) = self.handover.poll(now) {
            self.second = match action {
                HandoverAction::GiveUp => None,
                HandoverAction::Connect => Some(self.second_connection()),
            };
        }
    }

    /// When one on the next stay's network is there, or fails, and which of both: it lasts two round trips.
    fn second_connection(&mut self) -> (Duration, bool) {
        self.count_attempt();
        if let Some(transport) = self.carrier.moves_to().filter(|_| self.handover.is_for_carrier()) {
            let way = Way { gateway: GATEWAY.into(), address: None, transport };
            let (made, _) = self.arrives(self.now, Some(&way));
            let is_in_time = made < self.now + CONNECT_MAX;
            return (made.min(self.now + CONNECT_MAX), is_in_time);
        }
        let place = self.month.at(self.month.at(self.now).until).place;
        match place.is_captive {
            true => (self.now + CONNECT_MAX, false),
            false => (self.now + 2 * place.round_trip(&mut self.random), true),
        }
    }

    /// The link goes on over the second connection, and the call with it.
    fn take_over(&mut self) {
        if let Some(transport) = self.carrier.moves_to().filter(|_| self.handover.is_for_carrier()) {
            return self.carry(transport);
        }
        self.report.taken_over += 1;
        self.heartbeat.ended();
        self.go_ahead();
        self.reconnect(Duration::ZERO);
        let round_trip = self.stay().place.round_trip(&mut self.random);
        self.begin_link(self.network(), Transport::Quic, round_trip);
    }

    /// The link goes on by the other carrier, and the call with it.
    fn carry(&mut self, transport: Transport) {
        self.report.carried += 1;
        self.heartbeat.ended();
        self.handover.line_ended(false, self.at(self.now));
        self.reconnect(Duration::ZERO);
        let round_trip = self.stay().place.round_trip(&mut self.random);
        self.begin_link(self.network(), transport, round_trip);
    }

    /// The phone uses the next stay's network from now on.
    fn go_ahead(&mut self) {
        self.ahead = Some(self.month.at(self.now).until);
        self.second = None;
        self.handover.line_ended(false, self.origin + self.now);
        self.settle();
    }

    /// `is_there`: the phone uses that network already.
    fn moved(&mut self, key: NetworkKey, is_there: bool) {
        self.is_looked_at(self.call.is_some());
        let before = self.month.at(self.now.saturating_sub(Duration::from_millis(1)));
        if is_there || before.place.network().place() == key && !self.stay().is_handover {
            return;
        }
        self.handover.network_changed(self.origin + self.now);
        self.heartbeat.ended();
        self.settle();
        self.reconnect(Duration::ZERO);
    }

    /// The machines learn of a network that is new to them.
    fn settle(&mut self) {
        let network = self.stay().place.network();
        self.liveness.network_changed(network.kind.wakes_slowly());
        self.carrier.network_changed(self.at(self.now));
        let arrival = Arrival::at(&network, UNIX_S + self.now.as_secs());
        self.quality.on(self.at(self.now), Event::NetworkChanged(arrival));
        self.failures = 0;
    }

    fn reconnect(&mut self, delay: Duration) {
        self.link = None;
        if let Some(call) = &mut self.call {
            call.is_sent = false;
        }
        self.connects_at = self.now + delay;
    }

    /// Full jitter below a ceiling that doubles.
    fn back_off(&mut self) {
        let ceiling = BACKOFF_MIN.saturating_mul(1 << self.failures.min(20)).min(BACKOFF_MAX);
        self.failures += 1;
        let delay = BACKOFF_MIN / 2 + ceiling.mul_f64(self.random.f64());
        self.reconnect(delay);
    }

    /// Races the ways; time passes meanwhile.
    fn connect(&mut self) {
        self.count_attempt();
        let (began, network) = (self.now, self.network());
        let limit = self.strategies.timeouts.limit(self.at(began), Step::Connect, &self.quality, CONNECT_MAX);
        let policy = &self.strategies.race;
        let pace = policy.pace(self.quality.expected_connect(self.at(began)), FALLBACK_DELAY);
        let mut race = Race::new(policy, pace, limit, self.at(began));
        let way = |transport| Way { gateway: GATEWAY.into(), address: None, transport };
        let ways = [Transport::Quic, Transport::Tcp].map(way).to_vec();
        let mut ways = self.ways.rank(policy, network, ways, self.at(began));
        let first = self.carrier.prefers();
        ways.sort_by_key(|ranked| first.is_some_and(|first| ranked.way.transport != first));
        race.add(0, ways, self.at(began));
        // When each is there, and how long the gateway's first answer takes of that.
        let mut running: Vec<(Duration, usize, Duration)> = Vec::new();
        let (mut at, mut begun) = (began, 0);
        let won = loop {
            while let Some(action) = race.poll(self.origin + at) {
                match action {
                    RaceAction::Start(number) => {
                        begun += 1;
                        let (made, welcomed) = self.arrives(at, race.way(number));
                        running.push((made, number, welcomed));
                    }
                    // An attempt is whole here: nobody says that it is connected only.
                    RaceAction::GoOn(_) => {}
                    RaceAction::Abandon(number) => running.retain(|(_, other, _)| *other != number),
                }
            }
            let first = running.iter().min().copied();
            let again = race.poll_timeout() - self.origin;
            match first {
                Some((made, number, welcomed)) if made <= again && made < began + limit => {
                    at = made;
                    break Some((number, welcomed));
                }
                _ => at = again.max(at + Duration::from_millis(1)),
            }
            if race.is_late(self.origin + at) {
                break None;
            }
        };
        // Whoever moves on the way begins anew there.
        let until = self.stay().until;
        self.now = at.min(until);
        match won.filter(|_| at < until) {
            Some((number, welcomed)) => {
                if self.stay().place.is_calm() {
                    self.report.made_where_calm += 1;
                    self.report.raced_where_calm += u32::from(begun > 1);
                }
                self.connected(began, network, &race, number, welcomed);
            }
            None => {
                let soonest = running.iter().min().map_or(Duration::MAX, |(made, ..)| *made);
                let would_come = soonest < began + CONNECT_MAX && self.month.is_up_during(began..soonest);
                self.report.cut_short += u32::from(would_come && at < until);
                self.quality.on(self.at(self.now), Event::Expired(Step::Connect));
                self.back_off();
            }
        }
    }

    /// When a connection is there that is begun at `at`: two round trips, by TCP three, if they pass. The last one is that
    /// of HELLO and WELCOME, and how long it takes.
    fn arrives(&mut self, at: Duration, way: Option<&Way>) -> (Duration, Duration) {
        let place = self.stay().place;
        let trips = if way.is_some_and(|way| way.transport == Transport::Tcp) { 3 } else { 2 };
        (0..trips).fold((at, Duration::ZERO), |(at, _), _| {
            let passes = self.passes_from(at);
            // What is lost is repeated, later and later.
            let late = if passes > at { (passes - at) / 2 } else { Duration::ZERO };
            let made = passes + late + place.round_trip(&mut self.random);
            (made, made - at)
        })
    }

    fn connected(
        &mut self,
        began: Duration,
        network: NetworkKey,
        race: &Race,
        number: usize,
        welcomed: Duration,
    ) {
        let (took, now) = (self.now - began, self.at(self.now));
        let Some(way) = race.way(number) else { return };
        let transport = way.transport;
        self.ways.learn(&self.strategies.race, network, &race.won(number), now);
        self.quality.on(now, Event::Came(Step::Connect, took));
        self.begin_link(network, transport, welcomed);
    }

    fn begin_link(&mut self, network: NetworkKey, transport: Transport, welcomed: Duration) {
        let now = self.at(self.now);
        self.report.made += 1;
        self.failures = 0;
        self.liveness.begin(now, welcomed);
        self.carrier.begin(transport);
        let ground = Ground {
            network,
            transport,
            start: HEARTBEAT,
            highest: HEARTBEAT_MAX,
            unix_s: UNIX_S + self.now.as_secs(),
        };
        self.heartbeat.begin(now, ground);
        self.link = Some(Link {
            transport,
            is_known: true,
            is_late: false,
            heard: self.now,
            spoke: self.now,
            unanswered: None,
            ping: None,
            interval: self.heartbeat.interval(now),
            coming: VecDeque::new(),
        });
        self.send_call();
    }

    fn count_attempt(&mut self) {
        self.attempts.push_back(self.now);
        let hour = Duration::from_secs(3600);
        while self.attempts.front().is_some_and(|at| *at + hour < self.now) {
            self.attempts.pop_front();
        }
        let most = &mut self.report.connects_per_hour_max;
        *most = (*most).max(self.attempts.len());
    }
}
