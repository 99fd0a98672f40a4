use super::*;
use KeyExchange::{Classical, ClassicalResumed, Hybrid};

fn offered(policy: &HandshakePolicy, level: Option<Level>, rate: Option<f64>) -> KeyExchange {
    Handshakes::default().offer(policy, level, rate)
}

#[test]
fn the_hybrid_is_left_out_below_the_rate_and_comes_back_above_a_higher_one() {
    let policy = HandshakePolicy::default();
    let mut network = Handshakes::default();
    let mut check = |rate: f64, expected: KeyExchange| {
        assert_eq!(network.offer(&policy, Some(Level::Fair), Some(rate)), expected, "{rate}");
    };
    check(25_000.0, Hybrid);
    check(24_999.0, ClassicalResumed);
    check(25_000.0, ClassicalResumed);
    check(37_499.0, ClassicalResumed);
    check(37_500.0, Hybrid);
    check(25_000.0, Hybrid);
}

#[test]
fn a_weak_network_is_slow_whatever_it_sends() {
    let mut policy = HandshakePolicy::default();
    let quick = Some(1e6);
    assert_eq!(offered(&policy, Some(Level::Fair), quick), Hybrid);
    for level in [Level::Weak, Level::Poor] {
        assert_eq!(offered(&policy, Some(level), quick), ClassicalResumed, "{level:?}");
        assert_eq!(offered(&policy, Some(level), None), ClassicalResumed, "{level:?}");
    }
    policy.when_weak = false;
    assert_eq!(offered(&policy, Some(Level::Poor), quick), Hybrid);
    assert_eq!(
        offered(&policy, Some(Level::Good), Some(1e3)),
        ClassicalResumed,
        "the rate counts all the same"
    );
}

#[test]
fn of_an_unknown_network_nothing_is_assumed() {
    assert_eq!(offered(&HandshakePolicy::default(), None, None), Hybrid);
}

#[test]
fn whole_handshakes_stay_hybrid_unless_the_operator_says_otherwise() {
    let check = |enabled: bool, resumptions: bool, whole: bool, expected: KeyExchange| {
        let policy = HandshakePolicy { enabled, resumptions, whole, ..HandshakePolicy::default() };
        assert_eq!(offered(&policy, None, Some(1e3)), expected, "{enabled} {resumptions} {whole}");
        assert_eq!(offered(&policy, None, Some(1e6)), Hybrid, "{enabled} {resumptions} {whole}");
    };
    check(true, true, false, ClassicalResumed);
    check(true, false, false, Hybrid);
    check(true, true, true, Classical);
    check(true, false, true, Classical);
    check(false, true, true, Hybrid);
}
