//! What a session is told of its client, and when it counts as told.

use towline_protocols::policy::NetworkKind;

use super::*;

fn standing<'a>(network: &'a Network, traffic: &'a Traffic) -> Standing<'a> {
    let quality = QualitySnapshot::default();
    Standing {
        network,
        level: None,
        quality,
        beats_learnt: &[],
        traffic,
        policy_revision: 7,
        arms: &[],
        is_enabled: true,
    }
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
    reports.answered(1);
    let mut again = Hello { session_id: 5, ..Hello::default() };
    reports.greet(&mut again, &cellular);
    assert_eq!(again.facts, None);
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

/// A client whose session 5 knows it on Wi-Fi.
fn known() -> (Reports, Network, Welcome) {
    let (mut reports, wifi) = (Reports::new(AppInfo::default()), Network::new(NetworkKind::Wifi, "home"));
    let welcome = Welcome { session_id: 5, ..Welcome::default() };
    let mut hello = Hello::default();
    reports.greet(&mut hello, &wifi);
    reports.on_welcome(&hello, &welcome);
    (reports, wifi, welcome)
}

/// Whether the next HELLO brings facts.
fn greets(reports: &mut Reports, network: &Network) -> Hello {
    let mut hello = Hello { session_id: 5, ..Hello::default() };
    reports.greet(&mut hello, network);
    hello
}

#[test]
fn facts_of_a_report_count_as_told_when_a_later_ping_is_answered() {
    let cellular = Network::new(NetworkKind::Cellular4g, "");
    for (answered, is_told) in [(None, false), (Some(3), false), (Some(4), true)] {
        let (mut reports, wifi, _) = known();
        reports.pinged(3);
        let now = Instant::now();
        assert!(reports.take(now, &standing(&cellular, &Traffic::default())).facts.is_some());
        assert!(!reports.is_due(now, &ReportPolicy::default(), &cellular, None, false), "it is under way");
        answered.into_iter().for_each(|ping| reports.answered(ping));
        // The connection ended.
        assert_eq!(greets(&mut reports, &cellular).facts.is_none(), is_told, "{answered:?}");
        // Nor does anybody know that the session has the ones of before.
        let (mut reports, _, _) = known();
        reports.take(now, &standing(&cellular, &Traffic::default()));
        assert!(greets(&mut reports, &wifi).facts.is_some());
    }
}

#[test]
fn facts_of_a_hello_that_was_not_answered_may_have_arrived() {
    let (mut reports, wifi, welcome) = known();
    let cellular = Network::new(NetworkKind::Cellular4g, "");
    assert!(greets(&mut reports, &cellular).facts.is_some());
    let back = greets(&mut reports, &wifi);
    assert!(back.facts.is_some(), "the session may hold those of the HELLO before");
    reports.on_welcome(&back, &welcome);
    assert!(greets(&mut reports, &wifi).facts.is_none());
}

#[test]
fn a_level_is_told_again_where_the_report_of_it_may_be_lost() {
    let (mut reports, wifi, welcome) = known();
    let (now, policy, traffic) = (Instant::now(), ReportPolicy::default(), Traffic::default());
    let later = now + policy.change_pause;
    reports.clock.sent(now);
    assert!(reports.is_due(later, &policy, &wifi, Some(Level::Good), true));
    reports.take(later, &Standing { level: Some(Level::Good), ..standing(&wifi, &traffic) });
    let later = later + policy.change_pause;
    assert!(!reports.is_due(later, &policy, &wifi, Some(Level::Good), true));
    let hello = greets(&mut reports, &wifi);
    assert_eq!(hello.facts, None, "the report said nothing of them");
    reports.on_welcome(&hello, &welcome);
    assert!(reports.is_due(later, &policy, &wifi, Some(Level::Good), true));
    reports.take(later, &Standing { level: Some(Level::Good), ..standing(&wifi, &traffic) });
    reports.answered(1);
    let hello = greets(&mut reports, &wifi);
    reports.on_welcome(&hello, &welcome);
    let later = later + policy.change_pause;
    assert!(!reports.is_due(later, &policy, &wifi, Some(Level::Good), true));
}

#[test]
fn switched_off_a_report_says_what_the_client_is_and_what_it_is_asked_for() {
    let (mut reports, _, _) = known();
    let (now, traffic, cellular) =
        (Instant::now(), Traffic::default(), Network::new(NetworkKind::Cellular4g, ""));
    let off = || Standing { is_enabled: false, ..standing(&cellular, &traffic) };
    reports.ended(&Ok(()), Some(Duration::from_millis(40)));
    let report = reports.take(now, &off());
    assert!(report.facts.is_some());
    assert_eq!(Report { facts: None, ..report }, Report { policy_revision: 7, ..Report::default() });
    assert!(!reports.has_counts(false));
    reports.want();
    assert!(reports.has_counts(false));
    let asked = reports.take(now, &off());
    assert_eq!((asked.outcomes.len(), asked.quality), (1, Some(QualitySnapshot::default())));
}
