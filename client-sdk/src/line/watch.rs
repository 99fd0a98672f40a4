//! When the line gives a sign of life and when it takes the gateway for gone: asks the strategies, and has the protocol's
//! machine do what they say.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tokio::sync::watch;
use towline_protocols::{
    link::{self, Welcome},
    policy::{self, AppState, Clocks, Ground, Pulse, Signs, Strategies},
};

use super::gauge::Gauge;
use crate::{connect::PathCounts, core::Shared, state::Transport, wall::since_1970};

/// Bytes that are sent between two PINGs that find out how far they have come.
const MARK_BYTES: u64 = 8 << 10;

/// What is seen of one line.
pub(super) struct Watch {
    shared: Arc<Shared>,
    strategies: watch::Receiver<Strategies>,
    transport: policy::Transport,
    /// When HELLO was given to the connection.
    began: Instant,
    is_online: bool,
    clocks: Clocks,
    /// The longest silence that the gateway allows; zero: any.
    highest: Duration,
    /// The next wake-up that was asked for.
    due: Option<Instant>,
    /// When anything passed last, on whichever stream.
    moved: Instant,
    /// Bytes given to the connection.
    filled: u64,
    /// Of these, what the gateway is known to have.
    arrived: u64,
    /// Of these, what was before the PING that is not answered.
    marked: Option<u64>,
    /// Datagrams that had come at the last look.
    datagrams: u64,
    /// At the last look something was waited for.
    listens: bool,
    /// The app's state that the promise was made for.
    app: AppState,
    /// Since when the gateway is asked for a sign of life without a call that waits.
    asked: Option<Instant>,
    /// The PING that is out follows what may be lost.
    repairs: bool,
    gauge: Gauge,
    /// The transport's smoothed round trip at the last look, and the packets that it had lost.
    path: (Duration, u64),
}

/// What a look at the line came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Finding {
    Alive,
    /// The gateway is gone.
    Dead,
}

impl Watch {
    pub(super) fn new(shared: Arc<Shared>, transport: Transport, now: Instant) -> Self {
        let strategies = shared.strategies.subscribe();
        let transport = match transport {
            Transport::Quic => policy::Transport::Quic,
            Transport::Tcp | Transport::Post => policy::Transport::Tcp,
        };
        Self {
            gauge: Gauge::new(Arc::clone(&shared)),
            shared,
            strategies,
            transport,
            began: now,
            is_online: false,
            clocks: Clocks::default(),
            highest: Duration::ZERO,
            due: None,
            moved: now,
            filled: 0,
            arrived: 0,
            marked: None,
            datagrams: 0,
            listens: false,
            app: AppState::default(),
            asked: None,
            repairs: false,
            path: (Duration::ZERO, 0),
        }
    }

    /// The gateway said WELCOME.
    pub(super) fn on_welcome(&mut self, control: &mut link::Control, welcome: &Welcome, now: Instant) {
        self.is_online = true;
        self.highest = Duration::from_secs(welcome.heartbeat_max_s.into());
        let (ground, took) = (self.ground(), now.saturating_duration_since(self.began));
        self.take_strategies();
        let shared = Arc::clone(&self.shared);
        let interval = shared.with(|core| {
            core.liveness.begin(now, took);
            core.carrier.begin(self.transport);
            self.app = core.app;
            core.beats.heartbeat.set_app(core.app);
            if core.beats.heartbeat.begin(now, ground) {
                core.beats.write();
            }
            core.beats.heartbeat.offer(Duration::from_secs(welcome.silence_kept_s.into()));
            core.beats.heartbeat.interval(now)
        });
        self.mark(control);
        self.promise(control, interval, now);
    }

    /// What beats follow has changed. A shorter interval is kept at once; a longer one has to be promised, which the
    /// next beat does.
    pub(super) fn on_change(&mut self, control: &mut link::Control, now: Instant) {
        self.take_strategies();
        let shared = Arc::clone(&self.shared);
        let interval = shared.with(|core| {
            self.app = core.app;
            core.beats.heartbeat.set_app(core.app);
            core.beats.heartbeat.interval(now)
        });
        if self.is_online && control.beat_interval().is_some_and(|kept| self.padded(interval) < kept) {
            self.mark(control);
            self.promise(control, interval, now);
        }
    }

    /// The policy may name another `heartbeat`, where beats follow that.
    pub(super) fn on_policy(&mut self, control: &mut link::Control, now: Instant) {
        let start = self.shared.policy.borrow().heartbeat;
        self.shared.with(|core| core.beats.heartbeat.set_start(start));
        self.take_strategies();
        let interval = self.shared.with(|core| core.beats.heartbeat.interval(now));
        self.mark(control);
        self.promise(control, interval, now);
    }

    /// To be called at each turn, with the datagrams that have come where that is QUIC.
    pub(super) fn look(&mut self, control: &mut link::Control, datagrams: Option<u64>, now: Instant) {
        let (app, is_known) = self.shared.with(|core| (core.app, core.liveness.round_trip().is_some()));
        if self.strategies.has_changed().unwrap_or(false) || app != self.app {
            self.on_change(control, now);
        }
        let is_watching = self.strategies.borrow().liveness.enabled && is_known;
        control.set_watched(is_watching);
        // All that waited for an answer has it: what was sent has arrived, but for words that need none.
        if self.shared.with(|core| core.waiting_since().is_none()) {
            self.arrived = self.filled;
        }
        self.take_datagrams(control, datagrams, now);
        self.notices_sleep(control, now);
    }

    /// Whether the device slept since the look before. Nothing that was said till then is held against the gateway.
    fn notices_sleep(&mut self, control: &mut link::Control, now: Instant) -> bool {
        let least = self.strategies.borrow().liveness.sleep_min;
        let has_slept = self.clocks.slept(now, SystemTime::now(), self.due.take(), least);
        if has_slept {
            tracing::debug!("the device slept: the gateway is asked for a sign of life");
            self.shared.with(|core| core.beats.heartbeat.slept());
            control.woke();
            self.asked = None;
            self.ask(control, now);
        }
        has_slept
    }

    /// QUIC acknowledges what it gets: a sign of life, if something was to be acknowledged since the look before.
    fn take_datagrams(&mut self, control: &mut link::Control, datagrams: Option<u64>, now: Instant) {
        let listens = self.is_waiting(control);
        let was_listening = std::mem::replace(&mut self.listens, listens);
        let before = std::mem::replace(&mut self.datagrams, datagrams.unwrap_or_default());
        if was_listening && self.datagrams > before {
            control.heard(now);
            self.heard(now);
        }
    }

    /// Where the transport counts its packets, what it has counted.
    pub(super) fn count(&mut self, counts: Option<PathCounts>, now: Instant) {
        let Some(counts) = counts else { return };
        self.gauge.look(counts, now);
        // Before WELCOME it may be what QUIC takes a path for that it knows nothing of.
        if !self.is_online {
            return;
        }
        let (round_trip, lost) = std::mem::replace(&mut self.path, (counts.round_trip, counts.packets_lost));
        if round_trip != counts.round_trip || counts.packets_lost > lost {
            self.shared.with(|core| {
                core.liveness.path(counts.round_trip);
                if counts.packets_lost > lost {
                    core.liveness.lost(now);
                }
            });
        }
    }

    fn is_waiting(&self, control: &link::Control) -> bool {
        control.signs().ping.is_some() || self.shared.with(|core| core.waiting_since().is_some())
    }

    /// Asks the gateway for a sign of life at once, unless it owes one already.
    pub(super) fn ask(&mut self, control: &mut link::Control, now: Instant) {
        if self.is_online && self.asked.is_none() {
            self.asked = Some(now);
            if control.signs().ping.is_none() {
                self.probe(control, now);
            }
        }
    }

    /// So many bytes are given to the connection, on which nothing passed since the time before.
    pub(super) fn sent(&mut self, bytes: usize, now: Instant) {
        self.filled += bytes as u64;
        self.said(now);
    }

    /// Something is sent, wherever.
    pub(super) fn said(&mut self, now: Instant) {
        let quiet = now.saturating_duration_since(std::mem::replace(&mut self.moved, now));
        if self.is_online && quiet >= QUIET_MIN {
            self.shared.with(|core| core.beats.heartbeat.spoke(quiet));
        }
    }

    /// Something arrived.
    pub(super) fn heard(&mut self, now: Instant) {
        let quiet = now.saturating_duration_since(std::mem::replace(&mut self.moved, now));
        self.asked = None;
        if !self.is_online {
            return;
        }
        let is_quic = self.transport == policy::Transport::Quic;
        self.shared.with(|core| {
            core.liveness.heard(now);
            // There MOVED comes first, if it comes, and then PONG.
            if is_quic && core.beats.heartbeat.is_alive() {
                return;
            }
            // What comes unasked has passed the NAT as well.
            if quiet >= QUIET_MIN {
                core.beats.heartbeat.spoke(quiet);
            }
            if core.beats.heartbeat.heard() {
                core.beats.write();
            }
        });
    }

    /// The gateway sees this client at another address, though its socket is the same.
    pub(super) fn on_moved(&mut self, control: &mut link::Control, now: Instant) {
        let interval = self.shared.with(|core| {
            if core.beats.heartbeat.forgotten() {
                core.beats.write();
            }
            core.beats.heartbeat.interval(now)
        });
        if control.beat_interval().is_some_and(|kept| self.padded(interval) < kept) {
            self.promise(control, interval, now);
        }
    }

    /// The connection goes on from another socket, and on another network, perhaps.
    pub(super) fn moves(&mut self, control: &mut link::Control, now: Instant) {
        let ground = self.ground();
        self.shared.with(|core| {
            core.beats.heartbeat.ended();
            core.beats.heartbeat.begin(now, ground);
        });
        self.on_change(control, now);
    }

    fn ground(&self) -> Ground {
        let (start, highest) = (self.shared.policy.borrow().heartbeat, self.highest);
        let network = self.shared.with(|core| core.network.place());
        Ground { network, transport: self.transport, start, highest, unix_s: since_1970().as_secs() }
    }

    /// A PING was answered. Whether that says how long the network takes.
    pub(super) fn on_round_trip(&mut self, after: Duration, now: Instant) -> bool {
        let repaired = std::mem::take(&mut self.repairs);
        let arrived = self.marked.take().unwrap_or_default().max(self.arrived);
        let bytes = arrived - std::mem::replace(&mut self.arrived, arrived);
        // QUIC counts its own.
        if self.transport == policy::Transport::Tcp && bytes > 0 {
            self.gauge.sent(bytes, now);
        }
        if self.arrived == self.filled {
            self.gauge.sent_all();
        }
        let (carrier, handover) = {
            let strategies = self.strategies.borrow();
            (strategies.carrier.clone(), strategies.handover.clone())
        };
        self.shared.with(|core| {
            match repaired {
                true => core.liveness.heard(now),
                false => core.liveness.answered(now, after, bytes),
            }
            if core.beats.heartbeat.heard() {
                core.beats.write();
            }
            core.choose_carrier((&carrier, &handover), self.transport, now);
        });
        !repaired
    }

    /// A timer rang: does what is due.
    pub(super) fn on_time(&mut self, control: &mut link::Control, now: Instant) -> Finding {
        if !self.is_online || self.notices_sleep(control, now) {
            return Finding::Alive;
        }
        match self.judge(control, now) {
            Pulse::Dead => {
                self.shared.with(|core| core.liveness.died());
                self.shared.quality.on(policy::Event::Failed);
                return Finding::Dead;
            }
            Pulse::Probe => self.probe(control, now),
            Pulse::Repair => {
                self.repairs = true;
                // QUIC knows what it has lost.
                if self.transport == policy::Transport::Tcp {
                    self.shared.with(|core| core.liveness.lost(now));
                }
                self.probe(control, now);
            }
            Pulse::Fine(_) => {}
        }
        self.beat(control, now);
        Finding::Alive
    }

    /// The connection ended: `silently`, or somebody said why.
    pub(super) fn ended(&mut self, silently: bool, now: Instant) {
        self.shared.with(|core| match silently {
            true => core.beats.heartbeat.lost(now),
            false => core.beats.heartbeat.ended(),
        });
    }

    /// When to wake, where the line's other timers ring at `others`.
    pub(super) fn next_wake(
        &mut self,
        control: &mut link::Control,
        others: &[Instant],
        now: Instant,
    ) -> Instant {
        let mut due: Vec<Instant> = others.to_vec();
        if self.is_online {
            match self.judge(control, now) {
                Pulse::Fine(at) => due.extend(at),
                Pulse::Probe | Pulse::Repair | Pulse::Dead => due.push(now),
            }
            if let (Some(at), Some(interval)) = (control.beat_due(), control.beat_interval()) {
                let others = due.iter().copied();
                due.push(self.shared.with(|core| core.beats.heartbeat.wake(at, interval, others)));
            }
        }
        due.extend(control.poll_timeout());
        let first = due.into_iter().min();
        self.due = first;
        first.unwrap_or(now + NOTHING_DUE)
    }

    fn judge(&self, control: &link::Control, now: Instant) -> Pulse {
        self.shared.with(|core| {
            let waiting = core.waiting_since().map(|since| since.max(self.began)).or(self.asked);
            let is_quic = self.transport == policy::Transport::Quic;
            // QUIC tells of what comes over by acknowledging it, which is heard.
            let outstanding = if is_quic { 0 } else { self.filled - self.arrived };
            let signs = Signs { outstanding, waiting, ..control.signs() };
            core.liveness.judge(now, &signs)
        })
    }

    /// What a line was judged by, for people.
    pub(super) fn seen(&self, control: &link::Control, now: Instant) -> String {
        let Signs { heard, unanswered, ping, .. } = control.signs();
        let ms = |at: Instant| now.saturating_duration_since(at).as_millis();
        let round_trip = self.shared.with(|core| core.liveness.round_trip()).unwrap_or_default();
        format!(
            "heard {} ms ago, spoken to {} ms and asked {} ms ago; a round trip takes {} ms",
            ms(heard),
            ms(unanswered.unwrap_or(heard)),
            ms(ping.unwrap_or(heard)),
            round_trip.as_millis()
        )
    }

    /// A beat, if one is due, or nearly and somebody is awake.
    fn beat(&mut self, control: &mut link::Control, now: Instant) {
        let (Some(due), Some(interval)) = (control.beat_due(), control.beat_interval()) else { return };
        let quiet = now.saturating_duration_since(self.moved);
        let next = self.shared.with(|core| {
            let heartbeat = &mut core.beats.heartbeat;
            heartbeat.rides(now, due, interval).then(|| heartbeat.beat(now, quiet))
        });
        if let Some(next) = next {
            self.moved = now;
            self.mark(control);
            self.promise(control, next, now);
        }
    }

    /// Sends a beat. The next is due when nothing has passed for `interval`: that counts from the answer.
    fn promise(&mut self, control: &mut link::Control, interval: Duration, now: Instant) {
        control.set_heartbeat(now, self.padded(interval));
    }

    fn padded(&self, interval: Duration) -> Duration {
        if !self.strategies.borrow().heartbeat.enabled {
            return interval;
        }
        let round_trip = self.shared.with(|core| core.liveness.round_trip());
        interval + round_trip.unwrap_or_default().min(interval / 10)
    }

    fn probe(&mut self, control: &mut link::Control, now: Instant) {
        self.mark(control);
        control.ping(now);
    }

    /// What was given to the connection before a PING has arrived when that is answered.
    fn mark(&mut self, control: &link::Control) {
        if control.signs().ping.is_none() {
            self.marked = Some(self.filled);
        }
    }

    /// A long upload is asked how far it has come, so that what waits in a socket is known.
    pub(super) fn measure(&mut self, control: &mut link::Control, now: Instant) {
        let is_due = self.filled - self.marked.unwrap_or(self.arrived) >= MARK_BYTES;
        let follows = self.transport == policy::Transport::Tcp && self.strategies.borrow().liveness.enabled;
        if self.is_online && is_due && follows && control.signs().ping.is_none() {
            self.probe(control, now);
        }
    }

    fn take_strategies(&mut self) {
        let strategies = self.strategies.borrow_and_update().clone();
        self.shared.with(|core| {
            core.beats.heartbeat.set_policy(strategies.heartbeat);
            core.liveness.set_policy(strategies.liveness);
        });
    }
}

/// A shorter silence says nothing of a NAT.
const QUIET_MIN: Duration = Duration::from_secs(1);
/// A look at the clock where nothing is due.
const NOTHING_DUE: Duration = Duration::from_secs(60);
