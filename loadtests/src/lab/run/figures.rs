//! From what happened to figures.

use serde::Serialize;

use super::{
    orders::{Sample, Who},
    trial::{Break, Trial},
};

/// The figures of one client in one network; times in milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(in crate::lab) struct Figures {
    /// Calls that were made, starts included.
    pub(in crate::lab) calls: usize,
    /// Share of them that was answered within ten seconds.
    pub(in crate::lab) success: Option<f64>,
    /// Connecting from a cold start, TLS included, median.
    pub(in crate::lab) connect_ms: Option<f64>,
    /// From the cold start to the first answer.
    pub(in crate::lab) cold_p50_ms: Option<f64>,
    pub(in crate::lab) cold_p90_ms: Option<f64>,
    /// From a cold start to the first answer, where the server's address is built into the app.
    pub(in crate::lab) bundled_p50_ms: Option<f64>,
    /// From the start of an app that was there before to the first answer.
    pub(in crate::lab) again_p50_ms: Option<f64>,
    /// Of a call on a connection that is there.
    pub(in crate::lab) p50_ms: Option<f64>,
    pub(in crate::lab) p90_ms: Option<f64>,
    pub(in crate::lab) p99_ms: Option<f64>,
    /// Calls that those three are of.
    pub(in crate::lab) warm_calls: usize,
    /// IP packets' bytes for a call, both ways.
    pub(in crate::lab) bytes: Option<f64>,
    /// Times an hour that the phone speaks though nothing is asked of it.
    pub(in crate::lab) wakes_per_hour: Option<f64>,
    /// From the death of a flow to the moment at which the client does not believe in it any more, the longest seen.
    pub(in crate::lab) noticed_ms: Option<f64>,
    /// From the death of a flow to the next answer, the longest seen.
    pub(in crate::lab) dead_ms: Option<f64>,
    /// From the address after a hand-over to the next answer, the longest seen.
    pub(in crate::lab) moved_ms: Option<f64>,
    /// Requests that ran more than once.
    pub(in crate::lab) twice: usize,
}

/// What a break that no call survived is counted as: the time that calls went on behind it.
const NEVER_MS: f64 = 14_000.0;

impl Figures {
    pub(in crate::lab) fn of(trial: &Trial) -> Self {
        let all = || trial.cold.iter().chain(&trial.bundled).chain(&trial.again).chain(&trial.calls);
        let answered = all().filter(|sample| sample.error.is_none()).count();
        let calls = all().count();
        // The first makes the connection.
        let warm: Vec<f64> = trial.calls.iter().skip(1).map(took_ms).collect();
        let connects = trial.cold.iter().filter_map(|sample| sample.connect).map(ms).collect();
        let carried = trial.carried.up_bytes + trial.carried.down_bytes;
        let longest = |times: Vec<f64>| times.into_iter().reduce(f64::max);
        Self {
            calls,
            success: (calls > 0).then(|| answered as f64 / calls as f64),
            connect_ms: quantile(connects, 0.5),
            cold_p50_ms: quantile(trial.cold.iter().map(took_ms).collect(), 0.5),
            cold_p90_ms: quantile(trial.cold.iter().map(took_ms).collect(), 0.9),
            bundled_p50_ms: quantile(trial.bundled.iter().map(took_ms).collect(), 0.5),
            again_p50_ms: quantile(trial.again.iter().map(took_ms).collect(), 0.5),
            p50_ms: quantile(warm.clone(), 0.5),
            p90_ms: quantile(warm.clone(), 0.9),
            p99_ms: quantile(warm.clone(), 0.99),
            warm_calls: warm.len(),
            bytes: (!trial.calls.is_empty()).then(|| carried as f64 / trial.calls.len() as f64),
            wakes_per_hour: trial.wakes.map(|(wakes, seconds)| wakes as f64 * 3600.0 / seconds),
            noticed_ms: longest(trial.half_open.iter().filter_map(noticed_ms).collect())
                .filter(|_| trial.who == Who::Sdk),
            dead_ms: longest(trial.half_open.iter().map(recovered_ms).collect()),
            moved_ms: longest(trial.hand_overs.iter().map(recovered_ms).collect()),
            twice: trial.runs.twice.len(),
        }
    }
}

/// From the break to the first answer behind it. A client that was between two calls is not charged for its pause.
fn recovered_ms(broken: &Break) -> f64 {
    let answered = broken.samples.iter().filter(|sample| sample.error.is_none() && sample.end() > broken.at);
    // An answer that was on its way before the break says nothing.
    let first = answered.min_by_key(|sample| sample.end());
    first.map_or(NEVER_MS, |sample| ms(sample.end() - sample.start.max(broken.at)))
}

/// From the first call that waits on a dead connection to the moment at which the line is not up any more.
fn noticed_ms(broken: &Break) -> Option<f64> {
    let waits = broken.samples.iter().find(|sample| sample.end() > broken.at)?.start.max(broken.at);
    let left = |(_, state): &&(u64, String)| !state.starts_with("online");
    let noticed = broken.states.iter().filter(|(when, _)| *when >= broken.at).find(left);
    noticed.map(|(when, _)| ms(when.saturating_sub(waits)))
}

fn took_ms(sample: &Sample) -> f64 {
    // Who got no answer has waited for all that time, and would wait for more.
    let took = ms(sample.took);
    if sample.error.is_some() { took.max(PATIENCE_MS) } else { took }
}

const PATIENCE_MS: f64 = 10_000.0;

fn ms(nanos: u64) -> f64 {
    nanos as f64 / 1e6
}

/// The smallest value that so large a share does not exceed.
pub(in crate::lab) fn quantile(mut values: Vec<f64>, share: f64) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let place = (share * values.len() as f64).ceil() as usize;
    values.get(place.saturating_sub(1)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::{ground::Runs, run::trial::Carried};

    const S: u64 = 1_000_000_000;

    fn sample(start: u64, took: u64, error: Option<&str>) -> Sample {
        let error = error.map(str::to_owned);
        Sample { start, took, error, connect: None, by: String::new(), timeline: None }
    }

    fn broken(samples: Vec<Sample>, states: &[(u64, &str)]) -> Break {
        let states = states.iter().map(|(when, state)| (*when, (*state).to_owned())).collect();
        Break { at: 10 * S, samples, states }
    }

    #[test]
    fn recovery_is_counted_from_the_break_or_from_the_call() {
        let check = |samples: Vec<Sample>, expected: f64| {
            assert_eq!(recovered_ms(&broken(samples, &[])), expected);
        };
        // It waited all the while.
        check(vec![sample(9 * S, 3 * S, None)], 2000.0);
        // It began later.
        check(vec![sample(9 * S, S / 2, None), sample(11 * S, S, None)], 1000.0);
        check(vec![sample(9 * S, 2 * S, Some("lost")), sample(12 * S, S, None)], 1000.0);
        check(vec![sample(9 * S, 9 * S, Some("lost"))], NEVER_MS);
    }

    #[test]
    fn a_death_is_noticed_when_the_line_goes_down() {
        let samples = vec![sample(10 * S + S / 2, S, None)];
        let states =
            [(S, "connecting"), (9 * S, "online"), (11 * S, "offline: no answer"), (12 * S, "online")];
        assert_eq!(noticed_ms(&broken(samples.clone(), &states)), Some(500.0));
        assert_eq!(noticed_ms(&broken(samples, &states[..2])), None);
    }

    #[test]
    fn calls_without_an_answer_are_the_slowest_of_all() {
        let trial = Trial {
            profile: "4g".into(),
            who: Who::H2,
            without: Vec::new(),
            cold: vec![sample(0, S, None), sample(S, S / 10, Some("refused"))],
            bundled: vec![sample(0, S / 2, None)],
            again: Vec::new(),
            calls: (0..5).map(|n| sample(n * S, S / 10 * (n + 1), None)).collect(),
            carried: Carried { up_bytes: 3000, down_bytes: 7000 },
            hand_overs: Vec::new(),
            half_open: Vec::new(),
            wakes: Some((2, 60.0)),
            runs: Runs { calls: 7, twice: vec!["call-1".into()] },
            failure: None,
        };
        let figures = Figures::of(&trial);
        assert_eq!(figures.success, Some(7.0 / 8.0));
        assert_eq!(figures.bundled_p50_ms, Some(500.0));
        assert_eq!((figures.cold_p50_ms, figures.cold_p90_ms), (Some(1000.0), Some(10_000.0)));
        assert_eq!((figures.p50_ms, figures.p99_ms, figures.warm_calls), (Some(300.0), Some(500.0), 4));
        assert_eq!((figures.bytes, figures.wakes_per_hour, figures.twice), (Some(2000.0), Some(120.0), 1));
    }

    #[test]
    fn quantiles_are_values_that_were_seen() {
        let check = |share, expected| assert_eq!(quantile(vec![3.0, 1.0, 2.0], share), Some(expected));
        check(0.0, 1.0);
        check(0.5, 2.0);
        check(0.99, 3.0);
        assert_eq!(quantile(Vec::new(), 0.5), None);
    }
}
