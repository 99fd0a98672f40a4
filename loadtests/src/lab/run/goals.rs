//! What the SDK is to reach beside the others.

use super::figures::Figures;

/// Share by which the 99th percentile is to be lower than the better one of HTTP/2 and HTTP/3.
const P99_LOWER: f64 = 0.30;
/// The same of the time from the start of an app to its first answer: of one that was never there, with the server's address
/// built into it and without, and of one that was, beside others of which each does what it can.
const COLD_LOWER: f64 = 0.40;
const SUCCESS_MIN: f64 = 0.997;
/// A dead link is noticed within three round trips and this.
const NOTICE_GRACE_MS: f64 = 1000.0;
/// After an address changed, calls go on within two round trips and this.
const MOVE_GRACE_MS: f64 = 200.0;

/// One goal in one network.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub(super) struct Goal {
    pub(super) name: &'static str,
    pub(super) value: f64,
    /// The most that it may be; of the success ratio the least.
    pub(super) bound: f64,
    pub(super) is_met: bool,
    /// What the network itself takes, where that is above the bound: nobody meets it who sends nothing twice.
    pub(super) least: Option<f64>,
}

/// What a network does to one call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trip {
    /// Of a small packet and its answer, without jitter.
    pub(super) bare_ms: f64,
    /// Of a request and its answer on an idle link.
    pub(super) whole_ms: f64,
    /// Share of calls of which a packet is lost; 0 where losses come in bursts, which a share says little of.
    pub(super) lost: f64,
}

impl Trip {
    /// A packet that was lost is known to be when the one behind it is acknowledged, so that a call waits for another round
    /// trip: the 99th percentile does where more than one in a hundred is such a call.
    fn p99_ms(&self) -> f64 {
        if self.lost > 0.01 { 2.0 * self.whole_ms } else { self.whole_ms }
    }

    /// A handshake, which is no smaller than a call, and the call.
    fn bundled_ms(&self) -> f64 {
        2.0 * self.whole_ms
    }

    /// The same behind a question to DNS.
    fn cold_ms(&self) -> f64 {
        self.bare_ms + self.bundled_ms()
    }
}

/// The goals that can be judged. `peers` are HTTP/2's and HTTP/3's figures.
pub(super) fn goals(sdk: &Figures, peers: &[&Figures], trip: Trip) -> Vec<Goal> {
    let best = |of: fn(&Figures) -> Option<f64>| peers.iter().filter_map(|it| of(it)).reduce(f64::min);
    let most = |name, value: Option<f64>, bound: Option<f64>| {
        let (value, bound) = value.zip(bound)?;
        let least = match name {
            "p99" => Some(trip.p99_ms()),
            "bundled" => Some(trip.bundled_ms()),
            "cold" => Some(trip.cold_ms()),
            "again" => Some(trip.whole_ms),
            _ => None,
        };
        Some(Goal { name, value, bound, is_met: value <= bound, least: least.filter(|least| *least > bound) })
    };
    let success = sdk.success.map(|value| Goal {
        name: "success",
        value,
        bound: SUCCESS_MIN,
        is_met: value >= SUCCESS_MIN,
        least: None,
    });
    let rtt_ms = trip.whole_ms;
    let list = [
        success,
        most("bundled", sdk.bundled_p50_ms, best(|it| it.cold_p50_ms).map(|ms| ms * (1.0 - COLD_LOWER))),
        most("cold", sdk.cold_p50_ms, best(|it| it.cold_p50_ms).map(|ms| ms * (1.0 - COLD_LOWER))),
        most(
            "again",
            sdk.again_p50_ms,
            best(|it| it.again_p50_ms.or(it.cold_p50_ms)).map(|ms| ms * (1.0 - COLD_LOWER)),
        ),
        most("p99", sdk.p99_ms, best(|it| it.p99_ms).map(|ms| ms * (1.0 - P99_LOWER))),
        most("noticed", sdk.noticed_ms, Some(3.0 * rtt_ms + NOTICE_GRACE_MS)),
        most("moved", sdk.moved_ms, Some(2.0 * rtt_ms + MOVE_GRACE_MS)),
    ];
    list.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_better_peer_sets_the_bound() {
        let sdk = Figures {
            success: Some(0.998),
            bundled_p50_ms: Some(59.0),
            cold_p50_ms: Some(61.0),
            again_p50_ms: Some(50.0),
            p99_ms: Some(69.0),
            moved_ms: Some(330.0),
            ..Figures::default()
        };
        let h2 = Figures { cold_p50_ms: Some(200.0), p99_ms: Some(100.0), ..Figures::default() };
        let h3 = Figures {
            cold_p50_ms: Some(100.0),
            again_p50_ms: Some(90.0),
            p99_ms: Some(300.0),
            ..Figures::default()
        };
        let judged: Vec<_> = goals(&sdk, &[&h2, &h3], trip(60.0, 0.0))
            .into_iter()
            .map(|goal| (goal.name, goal.bound, goal.is_met))
            .collect();
        assert_eq!(
            judged,
            [
                ("success", 0.997, true),
                ("bundled", 60.0, true),
                ("cold", 60.0, false),
                ("again", 54.0, true),
                ("p99", 70.0, true),
                ("moved", 320.0, false)
            ]
        );
    }

    fn trip(whole_ms: f64, lost: f64) -> Trip {
        Trip { bare_ms: 50.0, whole_ms, lost }
    }

    #[test]
    fn a_bound_below_what_the_network_takes_is_told() {
        let sdk = Figures {
            cold_p50_ms: Some(180.0),
            bundled_p50_ms: Some(130.0),
            p99_ms: Some(130.0),
            ..Figures::default()
        };
        let peer = Figures { cold_p50_ms: Some(240.0), p99_ms: Some(100.0), ..Figures::default() };
        let check = |whole_ms, lost, expected: [Option<f64>; 3]| {
            let judged = goals(&sdk, &[&peer], trip(whole_ms, lost));
            let least: Vec<_> = judged.iter().map(|goal| goal.least).collect();
            assert_eq!(least, expected, "{judged:?}");
        };
        // Bounds: bundled and cold 144, p99 70.
        check(60.0, 0.005, [None, Some(170.0), None]);
        check(60.0, 0.02, [None, Some(170.0), Some(120.0)]);
        check(80.0, 0.005, [Some(160.0), Some(210.0), Some(80.0)]);
    }
}
