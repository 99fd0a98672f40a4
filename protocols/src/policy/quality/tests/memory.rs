//! What is remembered of networks.

use super::*;
use crate::policy::NETWORKS_MAX;

const UNIX_S: u64 = 1_790_000_000;
const DAY_S: u64 = 86_400;

fn at(network: u64, unix_s: u64) -> Event {
    let network = Some(NetworkKey(network));
    Event::NetworkChanged(Arrival { network, kind: NetworkKind::Wifi, unix_s })
}

/// After ten minutes on network 1.
fn after_a_stay() -> Run {
    let mut run = Run::new(1);
    run.on(at(1, UNIX_S));
    for _ in 0..200 {
        run.now += ms(3000);
        run.on(Event::RoundTrip(ms(500)));
        run.on(Event::Came(Step::Connect, ms(1500)));
        run.on(Event::Received(250_000.0));
    }
    run
}

#[test]
fn a_known_network_begins_as_it_was_left_and_an_unknown_one_as_its_kind() {
    let mut run = after_a_stay();
    run.on(at(2, UNIX_S + 600));
    let quality = &run.quality;
    assert_eq!(
        (quality.level(), quality.round_trip(run.now), quality.receive_rate(run.now)),
        (None, None, None)
    );
    let prior = Prior::of(NetworkKind::Wifi).unwrap();
    assert_eq!(quality.expected_round_trip(run.now), Some(prior.round_trip));
    assert_eq!(quality.expected_receive_rate(run.now), Some(prior.receive_rate));
    assert_eq!(run.limit(Step::Connect), HIGHEST);
    run.now += Duration::from_secs(3600);
    run.on(at(1, UNIX_S + 4200));
    let quality = &run.quality;
    assert_eq!(quality.level(), Some(Level::Fair));
    assert_eq!(quality.round_trip(run.now), Some(ms(500)));
    assert_eq!(quality.receive_rate(run.now), Some(250_000.0));
    assert_eq!(run.limit(Step::Connect), ms(4500));
}

#[test]
fn a_network_that_is_not_in_use_is_taken_for_what_it_was_or_what_its_kind_is() {
    let mut run = after_a_stay();
    run.on(at(2, UNIX_S + 600));
    run.every(ms(1000), 20, Event::RoundTrip(ms(20)));
    let Event::NetworkChanged(known) = at(1, UNIX_S + 700) else { unreachable!() };
    let (quality, trips) = (&run.quality, |trip: Duration| Some(trip * 2));
    assert_eq!(quality.expected_round_trip_on(known), Some(ms(500)));
    assert_eq!(quality.expected_connect_on(known), trips(ms(500)));
    assert_eq!(quality.expected_send_rate_on(known), Some(125_000.0));
    let unknown = Arrival { network: Some(NetworkKey(3)), kind: NetworkKind::Cellular2g, ..known };
    let prior = Prior::of(NetworkKind::Cellular2g).unwrap();
    assert_eq!(quality.expected_round_trip_on(unknown), Some(prior.round_trip));
    assert_eq!(quality.expected_connect_on(unknown), trips(prior.round_trip));
    assert_eq!(quality.expected_send_rate_on(unknown), Some(prior.receive_rate / 2.0));
}

#[test]
fn what_is_remembered_gives_way_to_what_is_seen_the_sooner_the_older_it_is() {
    let until_believed = |away_s: u64| {
        let mut run = after_a_stay();
        run.on(at(1, UNIX_S + away_s));
        let seen = |run: &Run| run.quality.round_trip(run.now) == Some(ms(20));
        (0..64)
            .find(|_| {
                run.now += ms(1000);
                run.on(Event::RoundTrip(ms(20)));
                seen(&run)
            })
            .unwrap()
    };
    assert!(until_believed(60) > until_believed(9 * DAY_S), "{} probes", until_believed(60));
    assert!(until_believed(60) <= 4);
    let mut run = after_a_stay();
    run.on(at(1, UNIX_S + 40 * DAY_S));
    assert_eq!(run.quality.round_trip(run.now), None, "so old that it says nothing");
}

#[test]
fn what_99_of_100_took_is_remembered_for_longer_than_one_good_stay() {
    let mut run = after_a_stay();
    run.on(at(1, UNIX_S + 600));
    run.every(ms(1000), 120, Event::Came(Step::Connect, ms(100)));
    let limit = run.limit(Step::Connect);
    assert!(limit > ms(2500), "{limit:?}");
    run.every(ms(3000), 600, Event::Came(Step::Connect, ms(100)));
    assert_eq!(run.limit(Step::Connect), run.timeouts.connect_min);
}

#[test]
fn networks_that_cannot_be_told_apart_are_not_remembered() {
    let network = Network::new(NetworkKind::Wifi, "");
    assert_eq!(Arrival::at(&network, 0).network, None);
    let cellular = Network { carrier: Some("46001".into()), ..Network::new(NetworkKind::Cellular4g, "") };
    assert_eq!(Arrival::at(&cellular, 0).network, Some(cellular.place()));
    let mut run = Run::new(3);
    run.on(Event::NetworkChanged(Arrival::at(&network, UNIX_S)));
    run.every(ms(1000), 100, Event::RoundTrip(ms(50)));
    run.quality.note(run.now);
    assert!(run.quality.changed_records().is_none());
}

#[test]
fn so_many_networks_are_remembered_and_not_for_ever() {
    let mut run = Run::new(4);
    for network in 0..200 {
        run.on(at(network, UNIX_S + network));
        run.every(ms(1000), 3, Event::RoundTrip(ms(50)));
    }
    run.quality.note(run.now);
    let records = run.quality.changed_records().unwrap().clone();
    assert!(run.quality.changed_records().is_none(), "told once");
    assert_eq!(records.iter().count(), NETWORKS_MAX);
    assert_eq!(records.iter().next().unwrap().network, NetworkKey(199));
    let later = |days: u64| Impressions::restore(records.iter().copied(), UNIX_S + days * DAY_S);
    assert_eq!(later(1), records);
    assert_eq!(later(90), Impressions::default());
}

#[test]
fn switched_off_nothing_is_known_or_remembered() {
    let mut run = after_a_stay();
    let off = QualityPolicy { enabled: false, ..QualityPolicy::default() };
    assert_eq!(run.quality.set_policy(run.now, off), Some(None));
    run.on(at(1, UNIX_S + 700));
    run.every(ms(1000), 10, Event::RoundTrip(ms(50)));
    assert_eq!((run.quality.level(), run.quality.expected_round_trip(run.now)), (None, None));
    assert_eq!(run.limit(Step::Connect), HIGHEST);
}
