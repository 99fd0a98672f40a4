//! Short connections: POSTs that visit a session.

use towline_protocols::link::{Ack, Execution, Filter, RpcErrorKind, Subscribe};

use super::*;

/// A session of which the client knows the id, held at epoch 2.
fn held(rig: &Rig) -> Opened {
    drop(rig.open(&hello(1)));
    rig.open(&hello(2))
}

fn post(rig: &Rig, session_id: u64, hello: Hello) -> ShortVisit {
    rig.sessions.visit_short(&Hello { session_id, short: true, ..hello }, None).unwrap()
}

fn outcome(error: &RpcError) -> (RpcErrorKind, Execution) {
    (error.kind, error.execution)
}

#[test]
fn a_post_runs_and_the_holder_goes_on_undisturbed() {
    let rig = Rig::new();
    let holder = held(&rig);
    let (link, mut link_answer) = run(&holder.lease, 1);
    let visit = post(&rig, holder.session_id, hello(3));
    assert!(visit.resumed && visit.session_id == holder.session_id);
    let (producer, mut answer) = run(&visit.lease, 2);
    producer.end();
    assert_eq!(drain(&mut answer), "e.");
    assert_eq!(visit.lease.poll_event(), Some(SessionEvent::Ready(2)));
    drop(visit);
    link.end();
    assert_eq!(drain(&mut link_answer), "e.");
    assert_eq!(holder.lease.revoked(), None);
    assert_eq!(rig.hub.is_connected("phone"), Some(true));
}

#[test]
fn a_post_that_is_sent_again_gets_the_recorded_outcome() {
    let rig = Rig::new();
    let holder = held(&rig);
    let first = post(&rig, holder.session_id, hello(3));
    let (producer, consumer) = run(&first.lease, 1);
    drop((first, consumer));
    let again_running = post(&rig, holder.session_id, hello(3));
    let mut attached = again(&again_running.lease, 1);
    producer.head(head()).unwrap();
    producer.end();
    assert_eq!(drain(&mut attached), "h.");
    let once_more = post(&rig, holder.session_id, hello(3));
    assert_eq!(drain(&mut again(&once_more.lease, 1)), "h.");
}

#[test]
fn what_began_on_a_link_is_fetched_by_a_post_and_the_other_way_round() {
    let rig = Rig::new();
    let holder = held(&rig);
    let (producer, consumer) = run(&holder.lease, 1);
    drop(consumer);
    let mut visit = post(&rig, holder.session_id, waiting(3, &[(1, 0)]));
    producer.end();
    assert_eq!(drain(&mut visit.attached[0]), "e.");
    let (producer, consumer) = run(&visit.lease, 2);
    drop((visit, consumer));
    producer.end();
    let mut opened = rig.open(&waiting(4, &[(2, 0)]));
    assert_eq!(drain(&mut opened.attached[0]), "e.");
}

#[test]
fn a_number_that_was_asked_for_in_vain_never_runs() {
    let rig = Rig::new();
    let holder = held(&rig);
    let mut visit = post(&rig, holder.session_id, waiting(3, &[(5, 0)]));
    assert_eq!(drain(&mut visit.attached[0]), "!Cancelled/NotRun.");
    drop(visit);
    // It was on its way, on the link that the client gave up.
    assert_eq!(drain(&mut again(&holder.lease, 5)), "!Cancelled/NotRun.");
    // A HELLO that was written before the POST says nothing of it.
    let rig = Rig::new();
    let holder = held(&rig);
    drop(post(&rig, holder.session_id, waiting(4, &[(5, 0)])));
    let late = rig.open(&hello(3));
    assert_eq!(drain(&mut again(&late.lease, 5)), "!Cancelled/NotRun.");
}

#[test]
fn the_first_post_makes_the_session_and_the_next_runs() {
    let rig = Rig::new();
    let first = rig.sessions.visit_short(&hello(1), None).unwrap();
    assert!(!first.resumed && first.session_id != 0);
    assert_eq!((rig.sessions.len(), rig.hub.is_connected("phone")), (1, Some(false)));
    let id = first.session_id;
    drop(first);
    let second = post(&rig, id, hello(2));
    assert!(second.resumed);
    run(&second.lease, 1).0.end();
    // A link that knows the id finds what the POST began.
    let mut opened = rig.sessions.open(&Hello { session_id: id, ..waiting(3, &[(1, 0)]) }, None).unwrap();
    assert!(opened.resumed);
    assert_eq!(drain(&mut opened.attached[0]), "e.");
}

#[test]
fn a_post_that_names_another_session_asks_for_nothing_and_forgets_nothing() {
    let rig = Rig::new();
    let holder = held(&rig);
    let (producer, mut answer) = run(&holder.lease, 1);
    for id in [0, !holder.session_id] {
        let stranger = post(&rig, id, Hello { outcome_floor: 9, ..waiting(3, &[(1, 0), (2, 0)]) });
        assert_eq!((stranger.resumed, stranger.session_id), (false, holder.session_id));
        assert!(stranger.attached.is_empty() && stranger.refused.is_empty());
    }
    producer.end();
    assert_eq!(drain(&mut answer), "e.");
    assert!(matches!(holder.lease.begin(2), Begin::Run(..)), "2 was not closed");
}

#[test]
fn only_the_owner_posts_and_not_behind_a_newer_connection() {
    let rig = Rig::new();
    let holder = held(&rig);
    let refused = |hello: Hello, user: Option<&str>| {
        let hello = Hello { session_id: holder.session_id, ..hello };
        rig.sessions.visit_short(&hello, user.map(Arc::from)).err()
    };
    assert_eq!(refused(hello(2), None), Some(OpenError::TakenOver), "the link was newer");
    assert_eq!(
        refused(Hello { session_secret: vec![2; 16].into(), ..hello(3) }, None),
        Some(OpenError::WrongSecret)
    );
    assert_eq!(refused(hello(3), Some("ann")), Some(OpenError::WrongUser));
    let visit = post(&rig, holder.session_id, hello(3));
    let newer = rig.open(&hello(4));
    assert_eq!(visit.lease.poll_event(), Some(SessionEvent::Revoked(Revoked::TakenOver)));
    assert_eq!(outcome(&self::refused(&visit.lease, 1)), (RpcErrorKind::SessionLost, Execution::NotRun));
    assert_eq!(newer.lease.revoked(), None);
}

#[test]
fn a_post_says_what_was_taken_and_silence_says_nothing() {
    let rig = Rig::new();
    let holder = held(&rig);
    for seq in 1..=3 {
        run(&holder.lease, seq).0.end();
    }
    let visit = post(&rig, holder.session_id, Hello { outcome_floor: 1, ..hello(3) });
    visit.lease.acknowledge(&Ack { floor: 1, seqs: vec![3] });
    let late = (RpcErrorKind::OutcomeExpired, Execution::Ran);
    assert_eq!([1, 3].map(|seq| outcome(&refused(&visit.lease, seq))), [late, late]);
    assert_eq!(drain(&mut again(&visit.lease, 2)), "e.", "nobody said that it was taken");
}

#[test]
fn pushes_are_taken_along_within_bounds_until_they_are_acknowledged() {
    let rig = Rig::with(|settings| settings.short.pushes_max = 2);
    let id = held(&rig).session_id;
    for text in ["a", "b", "c"] {
        rig.hub.push_to_client("phone", &push(text));
    }
    let texts = |visit: &ShortVisit| -> Vec<String> {
        let text = |push: &PendingPush| String::from_utf8(push.message.payload.to_vec()).unwrap();
        visit.pushes.iter().map(text).collect()
    };
    let visit = post(&rig, id, hello(3));
    assert_eq!(texts(&visit), ["a", "b"]);
    let taken_to = visit.pushes[1].id;
    drop(visit);
    let ids = [0, 0, 0, taken_to];
    assert_eq!(texts(&post(&rig, id, taken(&rig, &ids, hello(4)))), ["c"]);
    let link = rig.open(&taken(&rig, &ids, hello(5)));
    assert_eq!(super::texts(&link.lease), ["c"], "a link sends what was not acknowledged");
    let small = Rig::with(|settings| settings.short.push_bytes_max = 1);
    let id = held(&small).session_id;
    small.hub.push_to_client("phone", &push("large"));
    assert_eq!(texts(&post(&small, id, hello(3))), ["large"], "one goes in any case");
}

#[test]
fn a_session_lives_from_post_to_post() {
    let rig = Rig::with(|settings| settings.session.expiry = Duration::from_secs(100));
    let id = rig.sessions.visit_short(&hello(1), None).unwrap().session_id;
    for epoch in 2..6 {
        assert_eq!(rig.advance(Duration::from_secs(80)), 0);
        let visit = post(&rig, id, hello(epoch));
        assert!(visit.resumed);
        assert_eq!(rig.advance(Duration::from_secs(80)), 0, "the visit itself counts");
    }
    assert_eq!(rig.advance(Duration::from_secs(110)), 1);
}

#[test]
fn posts_of_one_session_are_few_and_what_they_begin_is_bounded_by_what_is_kept() {
    let rig = Rig::with(|settings| {
        settings.limits.streams_max = 10_000;
        settings.session.outcomes_max = 10_000;
    });
    let id = held(&rig).session_id;
    let visits: Vec<_> = (0..8).map(|_| post(&rig, id, hello(3))).collect();
    let full = rig.sessions.visit_short(&Hello { session_id: id, ..hello(3) }, None);
    assert_eq!((full.err(), rig.limit_hits("short.posts_max")), (Some(OpenError::ShortFull), 1));
    drop(visits);
    let visit = post(&rig, id, hello(3));
    for seq in 1..=256 {
        run(&visit.lease, seq).0.end();
    }
    assert_eq!(outcome(&refused(&visit.lease, 257)), (RpcErrorKind::LimitExceeded, Execution::NotRun));
    assert_eq!(rig.limit_hits("session_visits_begun_max"), 1);
    visit.lease.acknowledge(&Ack { floor: 100, seqs: vec![] });
    assert!(matches!(visit.lease.begin(257), Begin::Run(..)), "what was taken makes room");
}

#[test]
fn what_is_asked_for_in_vain_is_noted_only_as_long_as_it_is_remembered() {
    let rig = Rig::with(|settings| settings.session.outcomes_max = 100);
    let id = held(&rig).session_id;
    for round in 0..100 {
        let seqs: Vec<_> = (1..=32).map(|seq| (round * 32 + seq, 0)).collect();
        assert_eq!(post(&rig, id, waiting(3, &seqs)).attached.len(), 32);
    }
    let noted = rig.sessions.get("phone").unwrap().lock().visitors.begun_count();
    assert!(noted < 256 + 32, "{noted}");
}

#[test]
fn a_post_subscribes() {
    let rig = Rig::new();
    let visit = rig.sessions.visit_short(&hello(1), None).unwrap();
    let filter = Filter { filter: "news".to_owned(), qos: 1 };
    let changed = visit.lease.subscribe(&Subscribe { add: vec![filter], remove: vec![] });
    assert_eq!(changed.subscribed.results[0].error, "");
    assert_eq!(rig.hub.subscriptions("phone").len(), 1);
}

#[tokio::test]
async fn after_a_restart_a_post_learns_the_new_id() {
    let rig = Rig::new();
    let id = rig.sessions.visit_short(&hello(1), None).unwrap().session_id;
    run(&post(&rig, id, hello(2)).lease, 1).0.end();
    let rig = rig.restart().await;
    let visit = post(&rig, id, waiting(3, &[(1, 0)]));
    assert!(!visit.resumed && visit.session_id != id);
    assert!(visit.attached.is_empty());
}

#[test]
fn what_is_given_up_ends_wherever_it_runs_and_its_number_is_taken() {
    let rig = Rig::new();
    let holder = held(&rig);
    let (by_link, _) = run(&holder.lease, 1);
    let first = post(&rig, holder.session_id, hello(3));
    let (by_post, consumer) = run(&first.lease, 2);
    drop((first, consumer));
    let visit = post(&rig, holder.session_id, hello(4));
    [1, 2, 3].iter().for_each(|&seq| visit.lease.give_up(seq));
    assert!([by_link.head(head()), by_post.head(head())].iter().all(Result::is_err));
    drop(visit);
    // Late, by the link, by another POST, and over the next link.
    let late = post(&rig, holder.session_id, hello(3));
    for lease in [&holder.lease, &late.lease] {
        for seq in [1, 2, 3] {
            let Begin::Refused(error) = lease.begin(seq) else { panic!("{seq} begins") };
            assert_eq!(error.kind, RpcErrorKind::OutcomeExpired);
        }
    }
    let next = rig.open(&hello(5));
    assert!(matches!(next.lease.begin(3), Begin::Refused(_)));
}
