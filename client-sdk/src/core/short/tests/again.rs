//! Calls that are tried again, and calls that go both ways.

use towline_protocols::{hpack::HeaderField, link::Priority};

use super::*;

/// Longer than most answers took.
const AFTER: Duration = Duration::from_millis(700);

/// However silent the link is.
const HEARD: ShortWaits = ShortWaits { silent: None, ..WAITS };

pub(super) fn client(change: impl FnOnce(&mut ClientConfig)) -> Shared {
    let mut config = ClientConfig::plaintext(vec![gateway()]);
    config.seed = Some(1);
    change(&mut config);
    let shared = Shared::new(&config).unwrap().0;
    shared.with(|core| {
        core.answers_come_within(Some(AFTER));
        core.connect(&named(5));
    });
    shared
}

pub(super) fn call(core: &mut Core, priority: Priority, idempotent: bool, bytes: usize) -> Key {
    let head = RequestHead { priority, idempotent, ..RequestHead::default() };
    let (deadline, message) = (now() + Duration::from_secs(60), Some(Bytes::from(vec![1; bytes])));
    core.open(Outgoing { head, deadline, message, bodiless: false }, now()).unwrap()
}

/// One that the link has.
fn on_link(core: &mut Core, priority: Priority) -> Key {
    let key = call(core, priority, false, 10);
    assert_eq!(said(core, key), ["request", "message"]);
    key
}

pub(super) fn said(core: &mut Core, key: Key) -> Vec<&'static str> {
    let mut sink = Sink::default();
    core.pump(key, &mut sink, true, now());
    sink.said
}

pub(super) fn answer(seq: u64) -> [Event; 2] {
    let fields = vec![HeaderField::from_static(":status", "200")];
    let bytes = Bytes::from_static(b"paid");
    let part = Event::MessagePart {
        seq,
        message_bytes: Some(4),
        bytes,
        wire_bytes: 4,
        end_of_message: true,
        end: true,
    };
    [Event::Response { seq, fields, end: false }, part]
}

fn error(kind: RpcErrorKind, execution: Execution) -> RpcError {
    RpcError::new(kind, execution, "not now")
}

#[tokio::test(start_paused = true)]
async fn a_call_that_did_not_run_is_sent_again_behind_the_pause_that_was_asked_for() {
    let shared = client(|_| {});
    let (key, seq) = shared.with(|core| {
        let key = on_link(core, Priority::NORMAL);
        (key, core.calls[&key].seq)
    });
    let unavailable = error(RpcErrorKind::BackendUnavailable, Execution::NotRun);
    let asked = Duration::from_secs(2);
    shared.on_event(Event::Reset { seq, error: RpcError { retry_after: Some(asked), ..unavailable } });
    let ends = shared.with(|core| {
        assert!(!core.calls[&key].is_over() && core.calls[&key].seq > seq, "under another number");
        assert!(said(core, key).is_empty(), "not before its pause is over");
        assert_eq!(core.next_short(Busy::default(), &WAITS), Next::At(core.pause_ends().unwrap()));
        core.pause_ends().unwrap()
    });
    let pause = ends - now();
    assert!(pause >= asked && pause <= asked + Duration::from_millis(400), "{pause:?}");
    tokio::time::advance(pause).await;
    shared.with(|core| {
        core.end_pauses(now());
        assert_eq!((said(core, key), core.pause_ends()), (vec!["request", "message"], None));
    });
    let seq = shared.with(|core| core.calls[&key].seq);
    answer(seq).into_iter().for_each(|event| _ = shared.on_event(event));
    assert!(shared.with(|core| core.calls[&key].incoming.end == Some(Ok(()))));
}

#[tokio::test(start_paused = true)]
async fn what_is_definite_or_may_have_run_is_not_tried_again() {
    use Execution::{MayHaveRun, NotRun, Ran};
    use RpcErrorKind::{BackendFailed, BackendUnavailable, LimitExceeded, NoRoute, PermissionDenied};
    let check = |error: RpcError, idempotent: bool, is_off: bool, again: bool| {
        let shared = client(|config| config.strategies.retry.enabled = !is_off);
        let key = shared.with(|core| call(core, Priority::NORMAL, idempotent, 10));
        shared.with(|core| said(core, key));
        let seq = shared.with(|core| core.calls[&key].seq);
        shared.on_event(Event::Reset { seq, error: error.clone() });
        let is_over = shared.with(|core| core.calls[&key].is_over());
        assert_eq!(!is_over, again, "{error}, idempotent: {idempotent}");
    };
    check(error(BackendUnavailable, NotRun), false, false, true);
    check(error(BackendUnavailable, NotRun), false, true, false);
    check(error(BackendUnavailable, MayHaveRun), false, false, false);
    check(error(BackendFailed, MayHaveRun), false, false, false);
    check(error(BackendFailed, MayHaveRun), true, false, true);
    check(error(BackendFailed, Ran), true, false, false);
    check(error(NoRoute, NotRun), true, false, false);
    check(error(PermissionDenied, NotRun), true, false, false);
    check(error(LimitExceeded, NotRun), true, false, false);
    let second = Some(Duration::from_secs(1));
    check(RpcError { retry_after: second, ..error(LimitExceeded, NotRun) }, false, false, true);
    let hour = Some(Duration::from_secs(3600));
    check(RpcError { retry_after: hour, ..error(LimitExceeded, NotRun) }, false, false, false);
}

#[tokio::test(start_paused = true)]
async fn durable_calls_have_retries_of_their_own() {
    let shared = client(|_| {});
    let key = shared.with(|core| call(core, Priority::NORMAL, false, 10));
    let seq = shared.with(|core| {
        said(core, key);
        let call = core.calls.get_mut(&key).unwrap();
        call.permit = Some(crate::core::durable::Permit::default());
        call.seq
    });
    shared.on_event(Event::Reset { seq, error: error(RpcErrorKind::BackendUnavailable, Execution::NotRun) });
    assert!(shared.with(|core| core.calls[&key].is_over()));
}

#[tokio::test(start_paused = true)]
async fn a_small_urgent_call_that_waits_goes_by_post_too_and_the_first_answer_counts() {
    for first_by_post in [true, false] {
        let shared = client(|_| {});
        let key = shared.with(|core| {
            let key = on_link(core, Priority::CRITICAL);
            assert_eq!(core.next_short(Busy::default(), &HEARD), Next::At(now() + AFTER));
            key
        });
        tokio::time::advance(AFTER).await;
        let (seq, (errand, number, is_sent)) =
            shared.with(|core| (core.calls[&key].seq, core.begin_post(false)));
        assert!(is_sent && errand == Errand::Carry(key));
        shared.with(|core| {
            assert_eq!(core.next_short(Busy::default(), &HEARD), Next::Nothing, "once");
            assert!(core.session.is_on_link(seq) && core.session.is_on_short(seq), "under one number");
        });
        let by = |short: bool, event| match short {
            true => shared.on_short_event(number, None, event),
            false => shared.on_event(event),
        };
        answer(seq).into_iter().for_each(|event| _ = by(first_by_post, event));
        answer(seq).into_iter().for_each(|event| _ = by(!first_by_post, event));
        shared.with(|core| {
            let call = &core.calls[&key];
            assert_eq!((&call.incoming.end, call.incoming.messages.len()), (&Some(Ok(())), 1));
            assert_eq!(call.ended_by_short, first_by_post);
            core.short_over(errand, Some(number), Some(true));
            assert!(core.release(key).is_some());
        });
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_for_its_post_goes_by_the_link_too() {
    let shared = client(|config| config.short_calls = ShortCalls::Always);
    let key = shared.with(|core| call(core, Priority::CRITICAL, false, 10));
    shared.with(|core| {
        core.begin_post(false);
        assert!(said(core, key).is_empty(), "it is left to its POST");
        let Next::At(due) = core.next_short(Busy::default(), &HEARD) else { panic!("it is looked after") };
        assert!(due <= now() + AFTER + Duration::from_secs(1));
    });
    tokio::time::advance(AFTER + Duration::from_secs(1)).await;
    shared.with(|core| {
        assert_eq!(core.next_short(Busy::default(), &HEARD), Next::Nothing);
        assert_eq!(said(core, key), ["request", "message"]);
        let seq = core.calls[&key].seq;
        assert!(core.session.is_on_link(seq) && core.session.is_on_short(seq));
    });
}

#[tokio::test(start_paused = true)]
async fn only_small_urgent_calls_are_hedged_and_only_within_the_budget() {
    let next = |change: fn(&mut ClientConfig), priority: Priority, bytes: usize, known: bool| {
        let shared = client(change);
        shared.with(|core| {
            core.answers_come_within(known.then_some(AFTER));
            let key = call(core, priority, false, bytes);
            said(core, key);
            core.next_short(Busy::default(), &HEARD)
        })
    };
    let is_looked_after = |next: Next| matches!(next, Next::At(_));
    assert!(is_looked_after(next(|_| {}, Priority::CRITICAL, 10, true)));
    assert!(!is_looked_after(next(|_| {}, Priority::NORMAL, 10, true)));
    assert!(!is_looked_after(next(|_| {}, Priority::CRITICAL, 10_000, true)));
    assert!(
        !is_looked_after(next(|_| {}, Priority::CRITICAL, 10, false)),
        "nobody knows how long answers take"
    );
    assert!(!is_looked_after(next(|it| it.strategies.hedge.enabled = false, Priority::CRITICAL, 10, true)));
    let shared = client(|config| config.strategies.hedge.budget_share = 0.0);
    shared.with(|core| (0..10).for_each(|_| _ = on_link(core, Priority::CRITICAL)));
    tokio::time::advance(AFTER).await;
    let hedged = shared.with(|core| {
        std::iter::from_fn(|| {
            Some(core.next_short(Busy::default(), &HEARD)).filter(|it| *it != Next::Nothing)
        })
        .count()
    });
    assert_eq!(hedged, 4, "budget_max");
}
