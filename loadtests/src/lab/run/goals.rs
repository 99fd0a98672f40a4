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
}

/// The goals that can be judged. `peers` are HTTP/2's and HTTP/3's figures, `rtt_ms` the network's round trip for a
/// request and its answer.
pub(super) fn goals(sdk: &Figures, peers: &[&Figures], rtt_ms: f64) -> Vec<Goal> {
    let best = |of: fn(&Figures) -> Option<f64>| peers.iter().filter_map(|it| of(it)).reduce(f64::min);
    let most = |name, value: Option<f64>, bound: Option<f64>| {
        let (value, bound) = value.zip(bound)?;
        Some(Goal { name, value, bound, is_met: value <= bound })
    };
    let success = sdk.success.map(|value| Goal {
        name: "success",
        value,
        bound: SUCCESS_MIN,
        is_met: value >= SUCCESS_MIN,
    });
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
        let judged: Vec<_> = goals(&sdk, &[&h2, &h3], 60.0)
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
}
