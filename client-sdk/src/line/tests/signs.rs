//! What counts as silence of the gateway, and what is told to it, on the links of the file above.

use tokio::time::advance;

use super::*;

#[tokio::test(start_paused = true)]
async fn whatever_waits_for_the_gateway_finds_a_dead_link() {
    for subscribes in [false, true] {
        let network = Network::new(ms(300));
        let client = network.client(|_| {});
        online(&client).await;
        sleep(ms(10_000)).await;
        network.dies();
        let began = Instant::now();
        match subscribes {
            true => client.subscribe("news/#").await.unwrap(),
            false => client.publish("news/today", "x").await.unwrap(),
        }
        let noticed = network.with(|world| world.dialed[1] - began);
        assert!(noticed < 3 * ms(300) + ms(1000), "subscribes {subscribes}: {noticed:?}");
        assert_eq!(network.connections(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_published_and_answered_is_waited_for_no_more() {
    let network = Network::new(ms(300));
    let client = network.client(|_| {});
    online(&client).await;
    client.publish("news/today", "x").await.unwrap();
    client.subscribe("news/#").await.unwrap();
    client.publish_and_forget("news/today", "y").unwrap();
    sleep(ms(1000)).await;
    network.with(|world| world.sent.clear());
    sleep(ms(20_000)).await;
    assert_eq!(network.with(|world| world.sent.len()), 0, "nobody asks for a sign of life");
}

#[tokio::test(start_paused = true)]
async fn beats_that_come_sooner_than_an_answer_give_a_dead_link_no_time() {
    for watched in [true, false] {
        let network = Network::new(ms(3000));
        let client = network.client(|config| {
            config.strategies.heartbeat.enabled = false;
            config.policy.heartbeat = ms(1000);
            config.strategies.liveness.enabled = watched;
        });
        online(&client).await;
        sleep(ms(20_000)).await;
        assert_eq!(network.connections(), 1, "watched {watched}");
        network.dies();
        sleep(ms(25_000)).await;
        assert_eq!(network.connections(), 2, "watched {watched}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_device_that_slept_gives_a_link_that_lives_the_time_to_say_so() {
    for (watched, ping_is_out) in [(true, ms(2500)), (false, ms(5500))] {
        let network = Network::new(ms(1000));
        network.with(|world| world.work = 2 * MINUTE);
        let client = network.client(|config| config.strategies.liveness.enabled = watched);
        online(&client).await;
        sleep(ms(10_000)).await;
        let calling = tokio::spawn({
            let client = client.clone();
            async move { call(&client, "x").await }
        });
        sleep(ms(100)).await;
        // The PING that leaves now passes when the radio is on again.
        network.with(|world| (world.dead, world.blocks) = (1, true));
        sleep(ping_is_out).await;
        advance(3 * MINUTE).await;
        network.with(|world| world.dead = 0);
        calling.await.unwrap().unwrap();
        sleep(ms(10_000)).await;
        assert_eq!(network.connections(), 1, "watched {watched}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_device_that_slept_finds_a_link_that_died_meanwhile() {
    let network = Network::new(ms(300));
    let client = network.client(|_| {});
    online(&client).await;
    sleep(ms(10_000)).await;
    network.dies();
    advance(60 * MINUTE).await;
    let began = Instant::now();
    sleep(ms(5000)).await;
    assert_eq!(network.connections(), 2);
    assert!(network.with(|world| world.dialed[1] - began) < 3 * ms(300) + ms(1000));
}

#[tokio::test(start_paused = true)]
async fn switched_off_nothing_is_reported_that_was_not_asked_for() {
    for enabled in [true, false] {
        let network = Network::new(ms(50));
        let client = network.client(|config| config.strategies.report.enabled = enabled);
        online(&client).await;
        call(&client, "of no policy").await.unwrap();
        let policy = link::Policy { revision: 4, ..link::Policy::default() };
        network.with(|world| world.policy = Some(policy.clone()));
        call(&client, "of revision 4").await.unwrap();
        client.policies().wait_for(|policy| policy.revision == 4).await.unwrap();
        sleep(ms(1000)).await;
        let reports = network.with(|world| std::mem::take(&mut world.reports));
        let told = |report: &link::Report| !report.outcomes.is_empty() || report.quality.is_some();
        assert_eq!(reports.iter().any(told), enabled, "{reports:?}");
        // What it is asked for is of the policy in use alone.
        network.with(|world| world.policy = Some(link::Policy { report_wanted: true, ..policy }));
        call(&client, "in whose answer it is asked").await.unwrap();
        sleep(ms(1000)).await;
        let reports = network.with(|world| std::mem::take(&mut world.reports));
        let count: u32 = reports.iter().flat_map(|it| &it.outcomes).map(|outcome| outcome.count).sum();
        assert_eq!(count, 1, "enabled {enabled}: {reports:?}");
    }
}

/// What was answered has arrived, and is not held in a dead link's favour as bytes that a slow one has still to carry.
#[tokio::test(start_paused = true)]
async fn calls_that_were_answered_give_a_dead_link_no_time() {
    let network = Network::new(ms(300));
    let client = network.client(|config| config.strategies.liveness.follow = false);
    online(&client).await;
    for round in 0..14u8 {
        // It does not compress.
        let mut body = vec![0; 500];
        fastrand::Rng::with_seed(round.into()).fill(&mut body);
        call(&client, body).await.unwrap();
    }
    network.dies();
    let began = Instant::now();
    call(&client, "x").await.unwrap();
    let noticed = network.with(|world| world.dialed[1] - began);
    assert!(noticed < 3 * ms(300) + ms(1000), "{noticed:?}");
}

#[tokio::test(start_paused = true)]
async fn a_ping_follows_a_call_where_packets_may_be_lost_and_not_where_none_was_for_long() {
    for (follows, pause, bursts) in [(true, ms(1000), 2), (true, 6 * MINUTE, 1), (false, ms(1000), 1)] {
        let network = Network::new(ms(300));
        network.with(|world| world.work = ms(10));
        let client = network.client(|config| config.strategies.liveness.follow = follows);
        online(&client).await;
        call(&client, "x").await.unwrap();
        sleep(pause).await;
        network.with(|world| world.sent.clear());
        let began = Instant::now();
        call(&client, "y").await.unwrap();
        let sent: Vec<_> = network.with(|world| world.sent.iter().map(|(at, _)| *at - began).collect());
        assert_eq!(sent.len(), bursts, "follows {follows}, {pause:?}: {sent:?}");
        assert!(sent.iter().all(|at| *at < ms(50)), "behind the call, before its answer: {sent:?}");
    }
}
