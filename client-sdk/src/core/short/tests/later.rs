//! Calls whose backend asks for later.

use towline_protocols::{hpack::HeaderField, link::Priority};

use super::{
    again::{answer, call, client, said},
    *,
};

type Fields = &'static [(&'static str, &'static str)];

fn fields(fields: Fields) -> Vec<HeaderField> {
    fields.iter().map(|(name, value)| HeaderField::new(*name, *value)).collect()
}

/// One that the link has.
fn on_link(shared: &Shared, idempotent: bool) -> (Key, u64) {
    shared.with(|core| {
        let key = call(core, Priority::NORMAL, idempotent, 10);
        assert_eq!(said(core, key), ["request", "message"]);
        (key, core.calls[&key].seq)
    })
}

/// An answer with a body, as many proxies give one.
fn refuses(shared: &Shared, seq: u64, head: Fields) {
    shared.on_event(Event::Response { seq, fields: fields(head), end: false });
    let bytes = Bytes::from_static(b"<html>");
    let (message_bytes, wire_bytes) = (Some(6), 6);
    let (end_of_message, end) = (true, true);
    shared.on_event(Event::MessagePart { seq, message_bytes, bytes, wire_bytes, end_of_message, end });
}

/// What the app sees of the call.
fn outcome(shared: &Shared, key: Key) -> Option<(u16, usize)> {
    shared.with(|core| {
        let incoming = &core.calls[&key].incoming;
        incoming.end.clone().map(|_| (incoming.status, incoming.messages.len()))
    })
}

const BUSY: Fields = &[(":status", "503"), ("retry-after", "2")];

#[tokio::test(start_paused = true)]
async fn an_idempotent_call_is_a_new_request_behind_the_wait_and_the_app_sees_its_answer_only() {
    let shared = client(|_| {});
    let (key, mut seq) = on_link(&shared, true);
    for refusals in 1..3 {
        refuses(&shared, seq, BUSY);
        assert_eq!(outcome(&shared, key), None);
        let ends = shared.with(|core| {
            let again = core.calls[&key].seq;
            assert!(again > seq, "the gateway has an answer for the old number");
            assert_eq!(core.take_forgets(), [seq]);
            assert!(said(core, key).is_empty(), "not before the wait is over");
            seq = again;
            core.pause_ends().unwrap()
        });
        assert!(ends - now() >= Duration::from_secs(2));
        tokio::time::advance(ends - now()).await;
        shared.with(|core| {
            core.end_pauses(now());
            assert_eq!(said(core, key), ["request", "message"]);
            assert_eq!(core.calls[&key].attempts, refusals + 1);
        });
    }
    answer(seq).into_iter().for_each(|event| _ = shared.on_event(event));
    assert_eq!(outcome(&shared, key), Some((200, 1)));
    let timeline = shared.with(|core| core.calls[&key].timeline(now()));
    assert_eq!((timeline.attempts, timeline.response.plain), (3, 4));
    assert!(timeline.first_byte >= Some(Duration::from_secs(4)), "of the answer, not of a refusal");
}

#[tokio::test(start_paused = true)]
async fn what_may_not_run_twice_or_is_definite_or_asks_for_too_much_is_the_apps_as_it_is() {
    let is_again = |idempotent: bool, head: Fields, change: fn(&mut ClientConfig)| {
        let shared = client(change);
        let (key, seq) = on_link(&shared, idempotent);
        refuses(&shared, seq, head);
        let status = head[0].1.parse().unwrap();
        assert!(outcome(&shared, key).is_none_or(|seen| seen == (status, 1)));
        outcome(&shared, key).is_none()
    };
    assert!(is_again(true, BUSY, |_| {}));
    assert!(!is_again(false, BUSY, |_| {}), "it may have run");
    assert!(is_again(true, &[(":status", "503")], |_| {}));
    assert!(is_again(true, &[(":status", "429"), ("retry-after", "1")], |_| {}));
    assert!(!is_again(true, &[(":status", "429")], |_| {}));
    assert!(!is_again(true, &[(":status", "500"), ("retry-after", "1")], |_| {}));
    assert!(!is_again(true, &[(":status", "503"), ("retry-after", "60")], |_| {}), "the deadline is before");
    assert!(!is_again(true, BUSY, |it| it.strategies.retry.asked_max = Duration::from_secs(1)));
    assert!(!is_again(true, BUSY, |it| it.strategies.retry.answers = false));
    assert!(!is_again(true, BUSY, |it| it.strategies.retry.enabled = false));
    assert!(!is_again(true, BUSY, |it| it.strategies.retry.attempts_max = 1));
}

#[tokio::test(start_paused = true)]
async fn the_last_refusal_is_the_apps_and_all_calls_share_one_budget() {
    let shared = client(|config| {
        (config.strategies.retry.budget_share, config.strategies.retry.budget_per_minute) = (0.0, 0.0);
    });
    let again = (0..20).filter(|_| {
        let (key, seq) = on_link(&shared, true);
        refuses(&shared, seq, BUSY);
        outcome(&shared, key).is_none()
    });
    assert_eq!(again.count(), 10, "budget_max");
}

#[tokio::test(start_paused = true)]
async fn a_status_of_grpc_behind_no_message_asks_for_later_too() {
    let is_again = |trailers: Fields, has_message: bool| {
        let shared = client(|_| {});
        let (key, seq) = on_link(&shared, true);
        shared.on_event(Event::Response { seq, fields: fields(&[(":status", "200")]), end: false });
        if has_message {
            let part = answer(seq)[1].clone();
            let Event::MessagePart { message_bytes, bytes, wire_bytes, .. } = part else { unreachable!() };
            let (end_of_message, end) = (true, false);
            shared.on_event(Event::MessagePart {
                seq,
                message_bytes,
                bytes,
                wire_bytes,
                end_of_message,
                end,
            });
        }
        shared.on_event(Event::Trailers { seq, fields: fields(trailers) });
        outcome(&shared, key).is_none()
    };
    let pushed_back: Fields = &[("grpc-status", "14"), ("grpc-retry-pushback-ms", "100")];
    assert!(is_again(pushed_back, false));
    assert!(!is_again(pushed_back, true));
    assert!(!is_again(&[("grpc-status", "14"), ("grpc-retry-pushback-ms", "-1")], false));
    assert!(!is_again(&[("grpc-status", "5"), ("grpc-retry-pushback-ms", "100")], false));
}

#[tokio::test(start_paused = true)]
async fn a_stream_is_begun_again_only_where_the_app_has_seen_nothing_of_its_answer() {
    let is_again = |at_once: bool| {
        let shared = client(|_| {});
        let (key, seq) = shared.with(|core| {
            let head = RequestHead { idempotent: true, ..RequestHead::default() };
            let (deadline, message) = (now() + Duration::from_secs(60), None);
            let key = core.open(Outgoing { head, deadline, message, bodiless: false }, now()).unwrap();
            let call = core.call(key).unwrap();
            call.push_message(Bytes::from_static(b"one"));
            call.finish();
            assert_eq!(said(core, key), ["request", "message"]);
            (key, core.calls[&key].seq)
        });
        let ended: Fields = &[(":status", "200"), ("grpc-status", "14")];
        shared.on_event(Event::Response { seq, fields: fields(ended), end: at_once });
        if !at_once {
            shared.on_event(Event::End { seq });
        }
        if outcome(&shared, key).is_none() {
            shared.with(|core| {
                core.end_pauses(now() + Duration::from_secs(1));
                assert_eq!(said(core, key), ["request", "message"], "all of it");
            });
            return true;
        }
        false
    };
    assert!(is_again(true));
    assert!(!is_again(false));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_that_a_post_brings_is_obeyed_as_well() {
    let shared = client(|config| config.short_calls = ShortCalls::Always);
    let key = shared.with(|core| call(core, Priority::NORMAL, true, 10));
    let (errand, number, seq) = shared.with(|core| {
        let seq = core.calls[&key].seq;
        let (errand, number, _) = core.begin_post(false);
        (errand, number, seq)
    });
    let busy = Event::Response { seq, fields: fields(BUSY), end: true };
    shared.on_short_event(number, None, busy);
    assert_eq!(outcome(&shared, key), None);
    shared.with(|core| {
        core.short_over(errand, Some(number), Some(true));
        assert!(core.calls[&key].seq > seq && said(core, key).is_empty());
        assert!(matches!(core.next_short(Busy::default(), &WAITS), Next::At(_)));
    });
}
