//! Guessers after each other, and at one time.

use futures_util::FutureExt as _;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn settings() -> settings::Guesses {
    settings::Guesses {
        failures_max: 3,
        address_failures_max: 6,
        within: 60 * SECOND,
        refused_for: 30 * SECOND,
        entries_max: 100,
    }
}

fn address(last: u8) -> IpAddr {
    [192, 0, 2, last].into()
}

/// A wrong password that is looked at by itself.
#[track_caller]
fn note(
    guesses: &Guesses,
    settings: &settings::Guesses,
    address: IpAddr,
    user: &str,
    now: Instant,
) -> Vec<&'static str> {
    match guesses.try_begin(settings, guesses.guessers(address, Some(user)), now) {
        Begun::Attempt(attempt) => attempt.wrong(settings, now),
        Begun::Refused(left) => panic!("{user} is refused for {left:?}"),
        Begun::Full(_) => panic!("{user} has to wait"),
    }
}

fn refused_for(guesses: &Guesses, address: IpAddr, user: &str, now: Instant) -> Option<Duration> {
    guesses.refused_for(address, Some(user), now)
}

#[test]
fn who_is_wrong_too_often_is_refused_for_a_while() {
    let (guesses, settings, now) = (Guesses::default(), settings(), Instant::now());
    for _ in 0..2 {
        assert!(note(&guesses, &settings, address(1), "ada", now).is_empty());
        assert_eq!(refused_for(&guesses, address(1), "ada", now), None);
    }
    let met = note(&guesses, &settings, address(1), "ada", now + 59 * SECOND);
    assert_eq!(met, ["auth.guesses.failures_max"]);
    let then = now + 60 * SECOND;
    assert_eq!(refused_for(&guesses, address(1), "ada", then), Some(29 * SECOND));
    assert_eq!(refused_for(&guesses, address(1), "bob", then), None, "another user");
    assert_eq!(refused_for(&guesses, address(2), "ada", then), None, "elsewhere nobody is locked out");
    assert_eq!(refused_for(&guesses, address(1), "ada", now + 89 * SECOND), None);
    assert!(note(&guesses, &settings, address(1), "ada", now + 90 * SECOND).is_empty(), "counted anew");
}

#[test]
fn mistakes_far_apart_and_before_a_right_password_do_not_add_up() {
    let (guesses, settings, now) = (Guesses::default(), settings(), Instant::now());
    for at in 0..10 {
        assert!(note(&guesses, &settings, address(1), "ada", now + at * 60 * SECOND).is_empty());
    }
    for _ in 0..2 {
        assert!(note(&guesses, &settings, address(3), "bob", now).is_empty());
        assert!(note(&guesses, &settings, address(3), "bob", now).is_empty());
        let right = guesses.begin(&settings, address(3), Some("bob")).now_or_never();
        right.unwrap().unwrap().right();
    }
}

#[test]
fn who_tries_many_users_is_refused_for_all() {
    let (guesses, settings, now) = (Guesses::default(), settings(), Instant::now());
    let met: Vec<_> = ["a", "b", "c", "d", "e", "f"]
        .iter()
        .flat_map(|user| note(&guesses, &settings, address(1), user, now))
        .collect();
    assert_eq!(met, ["auth.guesses.address_failures_max"]);
    assert_eq!(refused_for(&guesses, address(1), "z", now), Some(30 * SECOND));
    let neighbours = ["2001:db8::1", "2001:db8::2:1", "2001:db8:0:1::1"].map(|it| it.parse().unwrap());
    for user in ["a", "b", "c", "d", "e", "f"] {
        note(&guesses, &settings, neighbours[0], user, now);
    }
    let refused = neighbours.map(|it| refused_for(&guesses, it, "z", now).is_some());
    assert_eq!(refused, [true, true, false], "by /64");
}

#[test]
fn who_names_no_user_counts_by_address_alone() {
    let (guesses, settings, now) = (Guesses::default(), settings(), Instant::now());
    for user in [None, Some(""), None, Some(""), None] {
        let begun = guesses.begin(&settings, address(1), user).now_or_never().unwrap();
        assert!(begun.unwrap().wrong(&settings, now).is_empty(), "each may be another");
    }
    assert_eq!(refused_for(&guesses, address(1), "ada", now), None);
    let begun = guesses.begin(&settings, address(1), None).now_or_never().unwrap();
    assert_eq!(begun.unwrap().wrong(&settings, now), ["auth.guesses.address_failures_max"]);
}

#[test]
fn the_table_is_bounded_and_zero_counts_nothing() {
    let (guesses, now) = (Guesses::default(), Instant::now());
    let small = settings::Guesses { entries_max: 4, ..settings() };
    let met: Vec<_> = (0..9).flat_map(|at| note(&guesses, &small, address(at), "a", now)).collect();
    assert_eq!(met, ["auth.guesses.entries_max"; 14]);
    assert_eq!(guesses.state.lock().counted.len(), 4);
    let off = settings::Guesses { failures_max: 0, address_failures_max: 0, ..settings() };
    for _ in 0..1000 {
        assert!(note(&guesses, &off, address(77), "a", now).is_empty());
    }
    assert_eq!(refused_for(&guesses, address(77), "a", now), None);
    assert!(guesses.state.lock().running.is_empty());
}

#[tokio::test(start_paused = true)]
async fn as_many_are_looked_at_as_may_yet_be_wrong_and_the_others_wait() {
    let (guesses, settings) = (Guesses::default(), settings());
    let begin = |user: &'static str| Box::pin(guesses.begin(&settings, address(1), Some(user)));
    let first = begin("ada").await.unwrap();
    let second = begin("ada").await.unwrap();
    let third = begin("ada").await.unwrap();
    let (mut fourth, mut fifth) = (begin("ada"), begin("ada"));
    assert!((&mut fourth).now_or_never().is_none() && (&mut fifth).now_or_never().is_none());
    assert!(begin("bob").now_or_never().is_some(), "another user does not wait for them");
    // One that was wrong leaves no room.
    assert!(first.wrong(&settings, now()).is_empty());
    assert!((&mut fourth).now_or_never().is_none());
    // One that was right leaves room for two, since nobody was wrong then.
    second.right();
    let (fourth, fifth) = futures_util::join!(fourth, fifth);
    // What nobody could judge only leaves its place.
    drop((third, fourth.unwrap(), fifth.unwrap()));
    assert!(guesses.state.lock().running.is_empty());
    assert_eq!(refused_for(&guesses, address(1), "ada", now()), None);
}

#[tokio::test(start_paused = true)]
async fn those_who_wait_for_wrong_ones_are_refused_with_them_and_nobody_waits_for_ever() {
    let (guesses, settings) = (Guesses::default(), settings());
    let begin = || Box::pin(guesses.begin(&settings, address(1), Some("ada")));
    let attempts = [begin().await.unwrap(), begin().await.unwrap(), begin().await.unwrap()];
    let (mut fourth, mut fifth) = (begin(), begin());
    assert!((&mut fourth).now_or_never().is_none() && (&mut fifth).now_or_never().is_none());
    for attempt in attempts {
        attempt.wrong(&settings, now());
    }
    for waiting in [fourth, fifth] {
        assert_eq!(waiting.now_or_never().unwrap().unwrap_err(), TooMany::Wrong(30 * SECOND));
    }
    let mut held = Vec::new();
    for user in ["a", "b", "c"] {
        held.push(guesses.begin(&settings, address(1), Some(user)).await.unwrap());
    }
    let seventh = guesses.begin(&settings, address(1), Some("d")).await;
    assert_eq!(
        seventh.unwrap_err(),
        TooMany::AtOneTime("auth.guesses.address_failures_max"),
        "with 3 that were wrong"
    );
    drop(held);
    assert!(guesses.state.lock().running.is_empty());
}

#[test]
fn a_bound_that_was_lowered_refuses_who_is_beyond_it_already() {
    let (guesses, settings, now) = (Guesses::default(), settings(), Instant::now());
    for _ in 0..2 {
        note(&guesses, &settings, address(1), "ada", now);
    }
    let lowered = settings::Guesses { failures_max: 1, ..settings };
    let begun = guesses.try_begin(&lowered, guesses.guessers(address(1), Some("ada")), now);
    assert!(matches!(begun, Begun::Refused(left) if left == 30 * SECOND), "there is nothing to wait for");
    assert_eq!(refused_for(&guesses, address(1), "ada", now), Some(30 * SECOND));
}
