//! Second connections beside the line's own, on the links of the file above.

use towline_protocols::link::GoAway;

use super::*;
use crate::Network as Place;

fn goaway(spread: Duration) -> GoAway {
    GoAway { spread_ms: spread.as_millis() as u32, ..GoAway::default() }
}

/// What the app saw of its line since then.
fn watch(client: &Client) -> Arc<Mutex<Vec<ConnectionState>>> {
    let (seen, mut states) = (Arc::<Mutex<Vec<_>>>::default(), client.states());
    states.mark_unchanged();
    let told = Arc::clone(&seen);
    tokio::spawn(async move {
        while states.changed().await.is_ok() {
            told.lock().push(states.borrow_and_update().clone());
        }
    });
    seen
}

fn was_offline(seen: &Mutex<Vec<ConnectionState>>) -> bool {
    seen.lock().iter().any(|state| matches!(state, ConnectionState::Offline { .. }))
}

#[tokio::test(start_paused = true)]
async fn no_call_waits_for_a_connection_while_a_gateway_takes_its_time_to_go() {
    let round_trip = ms(300);
    let network = Network::new(round_trip);
    let client = network.client(|_| {});
    online(&client).await;
    let seen = watch(&client);
    network.with(|world| world.goaways.push(goaway(ms(10_000))));
    let mut longest = Duration::ZERO;
    for _ in 0..100 {
        let began = Instant::now();
        let answer = call(&client, "x").await.unwrap();
        longest = longest.max(began.elapsed());
        assert_eq!(answer.timeline.attempts, 1);
        sleep(ms(37)).await;
    }
    assert_eq!(network.connections(), 2);
    assert!(longest < round_trip * 3 / 2, "{longest:?}");
    assert!(!was_offline(&seen));
    assert!(network.with(|world| world.runs.values().all(|runs| *runs == 1)));
}

/// Something runs all the time: the line moves in a gap that it makes itself.
#[tokio::test(start_paused = true)]
async fn a_line_with_much_to_do_moves_in_its_turn_and_loses_nothing() {
    let network = Network::new(ms(100));
    let client = network.client(|_| {});
    online(&client).await;
    let seen = watch(&client);
    network.with(|world| (world.work, world.goaways) = (ms(200), vec![goaway(ms(10_000))]));
    let calls = (0..300u64).map(|number| {
        let client = client.clone();
        tokio::spawn(async move {
            sleep(ms(50 * number)).await;
            call(&client, "x").await.map(|answer| answer.timeline)
        })
    });
    for call in calls.collect::<Vec<_>>() {
        let timeline = call.await.unwrap().unwrap();
        assert_eq!(timeline.attempts, 1);
        assert!(timeline.queue < ms(500), "{timeline:?}");
    }
    assert_eq!(network.connections(), 2);
    assert!(!was_offline(&seen));
    assert!(network.with(|world| world.runs.values().all(|runs| *runs == 1)));
}

#[tokio::test(start_paused = true)]
async fn switched_off_a_gateway_that_goes_is_left_first() {
    let network = Network::new(ms(300));
    let client = network.client(|config| config.strategies.handover.enabled = false);
    online(&client).await;
    network.with(|world| world.goaways.push(goaway(ms(1000))));
    let mut longest = Duration::ZERO;
    for _ in 0..20 {
        let began = Instant::now();
        call(&client, "x").await.unwrap();
        longest = longest.max(began.elapsed());
    }
    assert_eq!(network.connections(), 2);
    assert!(longest > ms(600), "{longest:?}: one waited for the connection and its answer");
}

#[tokio::test(start_paused = true)]
async fn where_no_second_connection_can_be_made_the_gateway_is_left_when_its_time_is_over() {
    let network = Network::new(ms(300));
    let client = network.client(|_| {});
    online(&client).await;
    let seen = watch(&client);
    network.with(|world| world.goaways.push(goaway(ms(10_000))));
    call(&client, "x").await.unwrap();
    network.with(|world| world.refuses = true);
    sleep(ms(7000)).await;
    call(&client, "x").await.unwrap();
    assert!(!was_offline(&seen), "it serves as long as it is there");
    sleep(ms(15_000)).await;
    assert!(was_offline(&seen));
    assert!((4..20).contains(&network.connections()), "{}", network.connections());
    network.with(|world| world.refuses = false);
    call(&client, "x").await.unwrap();
}

/// Every gateway says GOAWAY to whoever comes.
#[tokio::test(start_paused = true)]
async fn a_client_that_is_sent_in_circles_makes_few_connections() {
    for enabled in [true, false] {
        let network = Network::new(ms(10));
        let client = network.client(|config| config.strategies.handover.enabled = enabled);
        online(&client).await;
        network.with(|world| world.goaways = vec![goaway(Duration::ZERO); 1000]);
        let began = Instant::now();
        while began.elapsed() < 2 * MINUTE {
            call(&client, "x").await.unwrap();
        }
        assert!(network.connections() < 20, "{enabled}: {}", network.connections());
    }
}

#[tokio::test(start_paused = true)]
async fn a_network_that_has_joined_takes_the_line_once_it_was_found_good() {
    let network = Network::new(ms(100));
    let client = network.client(|_| {});
    online(&client).await;
    let seen = watch(&client);
    network.with(|world| world.work = ms(5000));
    let caller = client.clone();
    let running = tokio::spawn(async move { call(&caller, "pay").await });
    sleep(ms(200)).await;
    let wifi = Place::new(NetworkKind::Wifi, "home");
    client.network_joined(wifi.clone());
    sleep(ms(1000)).await;
    assert_eq!((network.connections(), client.network()), (2, Place::default()), "one may be luck");
    sleep(ms(1000)).await;
    assert_eq!((network.connections(), client.network()), (3, wifi));
    assert!(!was_offline(&seen));
    // The gateway of these tests keeps no session: it says that it does not know the request, and it runs there.
    assert_eq!(running.await.unwrap().unwrap().messages.concat(), b"pay");
}

#[tokio::test(start_paused = true)]
async fn a_network_that_is_no_good_leaves_the_line_where_it_is() {
    let network = Network::new(ms(100));
    let client = network.client(|_| {});
    online(&client).await;
    let seen = watch(&client);
    network.with(|world| world.refuses = true);
    client.network_joined(Place::new(NetworkKind::Wifi, "cafe"));
    for _ in 0..60 {
        let answer = call(&client, "x").await.unwrap();
        assert_eq!(answer.timeline.attempts, 1);
        sleep(ms(1000)).await;
    }
    assert!(seen.lock().is_empty(), "{:?}", seen.lock());
    assert_eq!(client.network(), Place::default());
    assert!((10..=31).contains(&network.connections()), "{}", network.connections());
    // And what is said of it later counts.
    network.with(|world| world.refuses = false);
    client.network_joined(Place::new(NetworkKind::Wifi, "cafe"));
    sleep(ms(5000)).await;
    assert_eq!(client.network().kind, NetworkKind::Wifi);
}

#[tokio::test(start_paused = true)]
async fn without_a_line_or_where_it_is_switched_off_a_network_that_joins_is_one_that_changed() {
    for enabled in [true, false] {
        let network = Network::new(ms(100));
        let client = network.client(|config| config.strategies.handover.enabled = enabled);
        let wifi = Place::new(NetworkKind::Wifi, "home");
        if !enabled {
            online(&client).await;
        }
        client.network_joined(wifi.clone());
        assert_eq!(client.network(), wifi, "{enabled}");
        online(&client).await;
        call(&client, "x").await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_line_that_breaks_while_a_network_joins_is_made_anew_there() {
    let network = Network::new(ms(100));
    let client = network.client(|_| {});
    online(&client).await;
    call(&client, "x").await.unwrap();
    let wifi = Place::new(NetworkKind::Wifi, "home");
    client.network_joined(wifi.clone());
    network.dies();
    call(&client, "x").await.unwrap();
    assert_eq!(client.network(), wifi);
}
