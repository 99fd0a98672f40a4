//! The whole machine, simulated: the real SDK, the real gateway, a network, a disk and a backend that follow a
//! seed, in time that jumps. A model checks after each run that no request ran twice, that every call ended with
//! its answer or an error that tells the truth, that the
//! outcome of each durable call is handed out until it is acknowledged and not again, that each accepted push came once and in order, that nobody saw header
//! fields or a body that were not sent, and that no list of places led anywhere that its operator did not sign for. Some
//! seeds have two apps, two gateways that know nothing of each other, networks that let POSTs alone pass, or such lists.
//!
//! Each seed is a process of its own (determinism.rs says why). `TOWLINE_SIM_SEEDS=100000` or `=500..600` says
//! how many or which; a seed that fails prints how to run it alone.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]
#![allow(unreachable_pub, reason = "a test has no outside")]

mod app;
mod backend;
mod datagrams;
mod determinism;
mod dialer;
mod excuses;
mod forks;
mod gateway;
mod lists;
mod model;
mod network;
mod phone;
mod questions;
mod runner;
mod world;

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, sleep_until, timeout};
use towline_client::ShortCalls;

use crate::{
    app::App,
    lists::Desk,
    network::Sees,
    world::{Plan, World},
};

/// After the last fault: the longest silence that is noticed, the longest pause between attempts, and the time
/// to carry what has waited over the slowest network.
const PEACE: Duration = Duration::from_secs(300);
/// For how long a network lets only some things pass.
const BLOCKED_MAX: Duration = Duration::from_secs(20);
/// Of simulated time.
const LASTS_MAX: Duration = Duration::from_secs(3600);

#[test]
fn seeds() {
    runner::run_all();
}

/// What [`seeds`] starts.
#[test]
fn one_share() {
    runner::run_share(run);
}

/// One seed in this process.
#[test]
fn one_seed() {
    runner::seed().into_iter().for_each(run);
}

/// Two runs of a seed are the same to the last event.
#[test]
fn a_seed_says_it_all() {
    runner::check_repeats(0..4);
}

fn run(seed: u64) {
    runner::watch();
    if world::is_traced() {
        // What either side logs, between what happens.
        let log =
            tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG).without_time().with_ansi(false);
        let _ = log.try_init();
    }
    determinism::run(seed, move || async move {
        timeout(LASTS_MAX, simulate(seed)).await.unwrap();
    });
}

async fn simulate(seed: u64) {
    let mut chance = fastrand::Rng::with_seed(seed);
    let mut plan = Plan::draw(&mut chance);
    // By a name that no draw decides on: one that is taken would cost another draw.
    let name = format!("towline-sim-{seed}-{}", std::process::id());
    let folder = tempfile::Builder::new().prefix(&name).rand_bytes(0).tempdir_in(runner::scratch()).unwrap();
    let desk = Desk::open(seed, plan.gateways, folder.path().to_owned());
    desk.calms(&mut plan);
    let world = World::new(plan, chance, desk, folder.path());
    world.note(format!("{:?}", world.plan));
    (0..world.plan.gateways).for_each(|place| world.start_gateway(place));
    let mut apps: Vec<App> = (0..world.plan.apps).map(|client| App::start(&world, client)).collect();
    let pushing = tokio::spawn(push_all(Arc::clone(&world)));

    let (mut next_call, calls) = (1, world.plan.calls as u64);
    let end = Instant::now() + world.plan.lasts;
    let faults = tokio::spawn(break_things(Arc::clone(&world), end));
    while Instant::now() < end || next_call <= calls {
        let pause = Duration::from_secs_f64(world.draw() * 2.0 / world.plan.calls_per_s);
        sleep(pause).await;
        if world.draw() < world.plan.app_deaths * pause.as_secs_f64() && Instant::now() < end {
            let app = apps.swap_remove(world.pick(apps.len()));
            let client = app.number();
            world.kill_app(app);
            let pause = world.draw_time(Duration::from_secs(3));
            sleep(pause).await;
            apps.push(App::start(&world, client));
        }
        let app = world.pick(apps.len());
        match world.draw() {
            ..0.05 => apps[app].network_changed(),
            0.05..0.1 => apps[app].network_joined(&world),
            _ => {}
        }
        if next_call <= calls {
            apps[app].call(&world, next_call);
            next_call += 1;
        }
    }
    faults.await.unwrap();
    world.make_peace();
    pushing.await.unwrap();
    // Calls that find the lines as the faults have left them.
    apps.iter_mut().for_each(|app| {
        app.call(&world, next_call);
        next_call += 1;
    });
    sleep_until(Instant::now() + PEACE).await;
    let held: Vec<usize> = (0..world.plan.gateways)
        .filter_map(|place| Some(world.living(place)?.sessions.held_bytes()))
        .collect();
    let mut mistakes = world.state().model.mistakes(&held);
    mistakes.extend(world.desk.mistakes(&world.state().model.lines));
    println!("{}{:016x}", runner::FINGERPRINT, world.fingerprint());
    assert!(mistakes.is_empty(), "seed {seed}:\n{}", mistakes.join("\n"));
}

async fn push_all(world: Arc<World>) {
    for number in 1..=world.plan.pushes as u64 {
        let pause = world.draw_time(Duration::from_secs(2));
        sleep(pause).await;
        let client = world.pick(world.plan.apps);
        world.push(client, number).await;
    }
}

/// What goes wrong until `end`.
async fn break_things(world: Arc<World>, end: Instant) {
    const STEP: Duration = Duration::from_millis(250);
    while Instant::now() < end {
        sleep(STEP).await;
        let happens = |odds: f64| world.draw() < odds * STEP.as_secs_f64();
        if happens(world.plan.breaks) {
            let client = if world.draw() < 0.6 { Sees::Reset } else { Sees::Silence };
            let gateway = world.draw_break();
            world.note(format!("cut: the client sees {client:?}, the gateway {gateway:?}"));
            world.cut_all(client, gateway);
        }
        if happens(world.plan.gateway_deaths) {
            world.restart_gateway(world.pick(world.plan.gateways)).await;
        }
        if happens(world.plan.drains) {
            world.drain_gateway(world.pick(world.plan.gateways)).await;
        }
        if happens(world.plan.replays) {
            world.replay();
        }
        if happens(world.plan.publications) && world.plan.dictionaries {
            let newer = world.pick(2) as u64;
            world.publish_dictionary(world.pick(world.plan.gateways), newer);
        }
        world.publishes_list(STEP);
        if happens(world.plan.udp_blocks) {
            let blocked = world.draw_time(BLOCKED_MAX);
            world.note(format!("UDP does not pass for {blocked:?}"));
            world.datagrams.block(true);
            let world = Arc::clone(&world);
            tokio::spawn(async move {
                sleep(blocked).await;
                world.datagrams.block(false);
            });
        }
        if happens(world.plan.link_blocks) && world.plan.posts != ShortCalls::Off {
            let blocked = world.draw_time(BLOCKED_MAX);
            world.note(format!("POSTs alone pass for {blocked:?}"));
            world.block_link(true);
            let world = Arc::clone(&world);
            tokio::spawn(async move {
                sleep(blocked).await;
                world.block_link(false);
            });
        }
    }
}
