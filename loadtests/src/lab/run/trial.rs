//! One client in one network: what it is made to do, and what happened.

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use towline_protocols::policy::Value;

use super::orders::{Done, Order, Sample, SetValue, Setup, Start, Who};
use crate::{
    clock,
    lab::{
        ground::{Ground, Runs, Servers, Wire},
        model::{Counts, EDGE, Order as LinkOrder},
        profiles::Profile,
    },
};

/// How much is done.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Effort {
    /// Starts of an app, each for the first time and again.
    pub(super) starts: u32,
    /// Time that each of the two may take.
    pub(super) starts_time: Duration,
    /// Time of calls on a connection that is there.
    pub(super) calls_time: Duration,
    /// Time of silence.
    pub(super) idle_time: Duration,
    /// Hand-overs, and flows that die.
    pub(super) breaks: u32,
    pub(super) request_bytes: usize,
    pub(super) answer_bytes: usize,
}

/// From the beginning of one call to that of the next.
const INTERVAL: Duration = Duration::from_millis(500);
/// The same where something is about to break.
const INTERVAL_BREAK: Duration = Duration::from_millis(100);
/// Calls before a break, and after it.
const BEFORE_BREAK: Duration = Duration::from_secs(4);
const AFTER_BREAK: Duration = Duration::from_secs(14);
/// How long a phone has no network when it is handed over.
const HAND_OVER_GAP: Duration = Duration::from_millis(200);
/// Calls where the network is quiet between them.
const QUIET_CALLS: u32 = 4;
/// A client that says nothing for so long beyond an order's time does not live.
const WORD_TIMEOUT: Duration = Duration::from_secs(60);
/// How often the link is asked for moves.
const LOOK: Duration = Duration::from_millis(10);

/// A connection was broken at `at`, while calls were made.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::lab) struct Break {
    pub(in crate::lab) at: u64,
    pub(in crate::lab) samples: Vec<Sample>,
    pub(in crate::lab) states: Vec<(u64, String)>,
}

/// What happened.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::lab) struct Trial {
    pub(in crate::lab) profile: String,
    pub(in crate::lab) who: Who,
    /// Strategies that were switched off.
    pub(in crate::lab) without: Vec<String>,
    pub(in crate::lab) cold: Vec<Sample>,
    /// The same with the server's address built into the app.
    pub(in crate::lab) bundled: Vec<Sample>,
    pub(in crate::lab) again: Vec<Sample>,
    pub(in crate::lab) calls: Vec<Sample>,
    /// What the link carried for `calls`.
    pub(in crate::lab) carried: Carried,
    pub(in crate::lab) hand_overs: Vec<Break>,
    pub(in crate::lab) half_open: Vec<Break>,
    /// Times that the phone spoke in a time of silence, and the time in seconds.
    pub(in crate::lab) wakes: Option<(u64, f64)>,
    pub(in crate::lab) runs: Runs,
    /// What kept it from being done to the end.
    pub(in crate::lab) failure: Option<String>,
}

/// Bytes of IP packets that were sent into the link.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(in crate::lab) struct Carried {
    pub(in crate::lab) up_bytes: u64,
    pub(in crate::lab) down_bytes: u64,
}

impl Carried {
    fn between(before: Counts, after: Counts) -> Self {
        Self {
            up_bytes: after.up.offered_bytes - before.up.offered_bytes,
            down_bytes: after.down.offered_bytes - before.down.offered_bytes,
        }
    }
}

/// What is tried.
#[derive(Clone, Debug)]
pub(super) struct Task {
    pub(super) number: usize,
    pub(super) profile: Profile,
    pub(super) who: Who,
    pub(super) without: Vec<String>,
    /// Parameters of the SDK's.
    pub(super) set: Vec<(String, Value)>,
    /// The SDK is told the network's kind.
    pub(super) tell_kind: bool,
    pub(super) seed: u64,
}

impl Task {
    /// For people.
    pub(super) fn label(&self) -> String {
        let off: String = self.without.iter().map(|name| format!(" without {name}")).collect();
        format!("{}{off}", self.who.name())
    }

    /// Does it. What fails is told in the result.
    pub(super) fn run(&self, ground: &Ground, effort: &Effort) -> Trial {
        let mut trial = Trial {
            profile: self.profile.name.to_owned(),
            who: self.who,
            without: self.without.clone(),
            cold: Vec::new(),
            bundled: Vec::new(),
            again: Vec::new(),
            calls: Vec::new(),
            carried: Carried::default(),
            hand_overs: Vec::new(),
            half_open: Vec::new(),
            wakes: None,
            runs: Runs::default(),
            failure: None,
        };
        trial.failure = self.fill(ground, effort, &mut trial).err();
        trial
    }

    fn fill(&self, ground: &Ground, effort: &Effort, trial: &mut Trial) -> Result<(), String> {
        let folder = ground.folder(&format!("trial-{}", self.number))?;
        let wire = Wire::make(self.number, &self.profile.link, self.seed)?;
        let servers = Servers::start(ground, &wire, &folder, self.profile.link.hostile.portal)?;
        let mut phone = Phone::start(self, ground, effort, &wire, &folder)?;
        let steps = phone.steps(self, effort, trial);
        // What ran is to be known whatever else went wrong.
        trial.runs = servers.runs(&wire)?;
        steps
    }
}

/// The client process.
struct Phone<'a> {
    wire: &'a Wire,
    child: Child,
    input: ChildStdin,
    words: mpsc::Receiver<Done>,
}

impl Drop for Phone<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl<'a> Phone<'a> {
    fn start(
        task: &Task,
        ground: &Ground,
        effort: &Effort,
        wire: &'a Wire,
        folder: &Path,
    ) -> Result<Self, String> {
        let setup = Setup {
            who: task.who,
            server: match task.who {
                Who::Sdk | Who::H3 => "edge.lab.test:443".to_owned(),
                Who::H1 | Who::H2 => format!("peer.lab.test:{}", ground.programs.peer_port()),
            },
            address: EDGE.into(),
            ca: ground.certificates.ca.clone(),
            folder: folder.to_owned(),
            curl: ground.programs.curl.clone(),
            request_bytes: effort.request_bytes,
            answer_bytes: effort.answer_bytes,
            seed: task.seed,
            without: task.without.clone(),
            set: task.set.iter().map(|(name, value)| (name.clone(), SetValue::of(*value))).collect(),
            kind: task.tell_kind.then(|| task.profile.kind().name().to_owned()),
        };
        let failed = |error: &dyn std::fmt::Display| format!("the client process: {error}");
        let setup = serde_json::to_string(&setup).map_err(|error| failed(&error))?;
        let mut command = wire.phone.command(ground.programs.own());
        command.arg("client").arg("--setup").arg(setup);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(|error| failed(&error))?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(failed(&"no pipes"));
        };
        let (say, words) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let Ok(done) = serde_json::from_str(&line) else { continue };
                if say.send(done).is_err() {
                    return;
                }
            }
        });
        let mut phone = Self { wire, child, input, words };
        phone.wait(Duration::ZERO, |_| {})?;
        Ok(phone)
    }

    fn steps(&mut self, task: &Task, effort: &Effort, trial: &mut Trial) -> Result<(), String> {
        let link = &task.profile.link;
        trial.cold = self.starts("cold", Start::First, effort)?;
        if task.who == Who::Sdk {
            trial.bundled = self.starts("bundled", Start::Bundled, effort)?;
        }
        // curl keeps no sessions from one process to the next.
        if matches!(task.who, Who::Sdk | Who::H3) {
            // The first of them is where the others come back from.
            trial.again = self.starts("again", Start::Again, effort)?.split_off(1);
        }
        self.wire.order(LinkOrder::Begin);
        let before = self.wire.counts();
        let (time, interval) = match task.profile.quiet {
            Some(quiet) => (quiet * (QUIET_CALLS - 1) + INTERVAL, quiet),
            None => (effort.calls_time, INTERVAL),
        };
        trial.calls = self.calls("call", time, interval)?;
        trial.carried = Carried::between(before, self.wire.counts());
        let is_calm = link.outages.is_none() && link.hostile.lasts.is_none() && task.profile.quiet.is_none();
        for number in 0..if is_calm { effort.breaks } else { 0 } {
            // A death comes first in a network that is known, and then after each hand-over.
            trial.half_open.push(self.broken(&format!("dead-{number}"), LinkOrder::HalfOpen)?);
            let order = LinkOrder::HandOver(HAND_OVER_GAP);
            trial.hand_overs.push(self.broken(&format!("move-{number}"), order)?);
        }
        // curl's process ends with its calls: there is nothing to be silent.
        if matches!(task.who, Who::Sdk | Who::H3) && effort.idle_time > Duration::ZERO {
            trial.wakes = Some(self.idle(effort.idle_time)?);
        }
        Ok(())
    }

    fn starts(&mut self, name: &str, start: Start, effort: &Effort) -> Result<Vec<Sample>, String> {
        let began = Instant::now();
        let mut samples = Vec::new();
        let count = effort.starts + u32::from(start == Start::Again);
        while samples.len() < count as usize && (began.elapsed() < effort.starts_time || samples.len() < 2) {
            self.wire.order(LinkOrder::Begin);
            let name = format!("{name}-{}", samples.len());
            samples.extend(self.order(&Order::Cold { name, start }, Duration::ZERO)?.samples);
        }
        Ok(samples)
    }

    fn calls(&mut self, prefix: &str, time: Duration, interval: Duration) -> Result<Vec<Sample>, String> {
        Ok(self.order(&calls(prefix, time, interval), time)?.samples)
    }

    /// Calls, and in the midst of them something happens to the link.
    fn broken(&mut self, prefix: &str, order: LinkOrder) -> Result<Break, String> {
        let time = BEFORE_BREAK + AFTER_BREAK;
        let (wire, began, mut at) = (self.wire, Instant::now(), None);
        self.say(&calls(prefix, time, INTERVAL_BREAK))?;
        let mut is_moved = None;
        let mut done = self.wait(time, |moved| {
            if at.is_none() && began.elapsed() >= BEFORE_BREAK {
                at = Some(clock::now());
                wire.order(order);
            }
            is_moved = is_moved.or(moved);
        })?;
        // A hand-over is over when there is an address.
        let at = is_moved.or(at).unwrap_or_default();
        done.states.retain(|(when, _)| *when >= at.saturating_sub(clock::SECOND));
        Ok(Break { at, samples: done.samples, states: done.states })
    }

    fn idle(&mut self, time: Duration) -> Result<(u64, f64), String> {
        let before = self.wire.counts();
        let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.order(&Order::Idle { millis }, time)?;
        Ok((self.wire.counts().up.wakes - before.up.wakes, time.as_secs_f64()))
    }

    fn order(&mut self, order: &Order, time: Duration) -> Result<Done, String> {
        self.say(order)?;
        self.wait(time, |_| {})
    }

    fn say(&mut self, order: &Order) -> Result<(), String> {
        let line = serde_json::to_string(order).map_err(|error| error.to_string())?;
        let said = writeln!(self.input, "{line}").and_then(|()| self.input.flush());
        said.map_err(|error| format!("the client process takes no order: {error}"))
    }

    /// Passes moves on until the client has done what takes it `time`; `look` is called all the while, with the time
    /// of a move if there was one.
    fn wait(&mut self, time: Duration, mut look: impl FnMut(Option<u64>)) -> Result<Done, String> {
        let deadline = Instant::now() + time + WORD_TIMEOUT;
        loop {
            let moved = self.wire.moves().last();
            if moved.is_some() {
                self.say(&Order::Moved)?;
            }
            look(moved);
            match self.words.recv_timeout(LOOK) {
                Ok(Done { failure: Some(failure), .. }) => return Err(failure),
                Ok(done) => return Ok(done),
                Err(mpsc::RecvTimeoutError::Timeout) if Instant::now() < deadline => {}
                Err(_) => return Err("the client process says nothing".to_owned()),
            }
        }
    }
}

fn calls(prefix: &str, time: Duration, interval: Duration) -> Order {
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    Order::Calls { prefix: prefix.to_owned(), millis: millis(time), interval_ms: millis(interval) }
}
