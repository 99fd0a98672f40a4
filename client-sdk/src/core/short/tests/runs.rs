//! Calls that run in the link's session and, by a POST that was led elsewhere, in another.

use std::sync::Arc;

use tokio::time::timeout;
use towline_protocols::{hpack::HeaderField, link::Priority};

use super::{
    again::{answer, call, client, said},
    *,
};

/// An idempotent call that the link, silent since, took to session 5, and a POST, which was led to session 8.
fn by_both(shared: &Shared) -> (Key, u64, Errand, u64) {
    let (key, seq, errand, number) = shared.with(|core| {
        let key = call(core, Priority::NORMAL, true, 10);
        assert_eq!(said(core, key), ["request", "message"]);
        let Some(call) = core.call(key) else { panic!("it is there") };
        (call.posting, call.hedged) = (true, true);
        let (errand, seq) = (Errand::Carry(key), call.seq);
        let begun = core.begin_short(errand, Hello::default()).unwrap().unwrap();
        assert!(core.post(&begun, &mut Sink::default(), None));
        (key, seq, errand, begun.number)
    });
    let hello = Hello { session_id: 5, ..Hello::default() };
    shared.on_short_event(number, None, Event::Welcome(Box::new(named(8))));
    shared.with(|core| core.short_welcomed(&gateway(), &hello, &named(8)));
    (key, seq, errand, number)
}

fn head(seq: u64, status: &'static str) -> Event {
    Event::Response { seq, fields: vec![HeaderField::from_static(":status", status)], end: false }
}

fn part(seq: u64, bytes: &'static str, end: bool) -> Event {
    let (bytes, wire_bytes) = (Bytes::from_static(bytes.as_bytes()), bytes.len());
    Event::MessagePart { seq, message_bytes: None, bytes, wire_bytes, end_of_message: end, end }
}

#[tokio::test(start_paused = true)]
async fn the_link_resets_what_a_post_has_begun_to_answer_from_another_session() {
    let shared = client(|_| {});
    let (key, seq, errand, number) = by_both(&shared);
    shared.on_short_event(number, None, head(seq, "201"));
    shared.with(|core| {
        assert_eq!(core.take_resets(), [seq]);
        assert!(core.is_gone(seq), "a stream that carries it is cancelled");
        assert!(!core.calls[&key].is_over() && !core.calls[&key].is_on_line());
        assert!(said(core, key).is_empty(), "the rest is not asked for here");
    });
    // What was on its way when it was reset.
    [head(seq, "200"), part(seq, "paid by the link", true)]
        .into_iter()
        .for_each(|it| _ = shared.on_event(it));
    shared.on_short_event(number, None, part(seq, "paid", true));
    shared.with(|core| {
        let incoming = &core.calls[&key].incoming;
        assert_eq!((incoming.status, &incoming.end), (201, &Some(Ok(()))));
        assert_eq!(incoming.messages, ["paid"]);
        core.short_over(errand, Some(number), Some(true));
        core.release(key);
        assert_eq!((core.take_resets(), core.take_forgets()), (vec![], vec![]), "the link was told");
    });
}

#[tokio::test(start_paused = true)]
async fn what_the_link_has_begun_to_answer_it_answers_to_the_end() {
    let shared = client(|_| {});
    let (key, seq, errand, number) = by_both(&shared);
    shared.on_event(head(seq, "200"));
    let wakers = shared.with(|core| Arc::clone(&core.calls[&key].wakers));
    // Whoever reads the POST is told.
    timeout(Duration::from_secs(1), wakers.short.notified()).await.unwrap();
    shared.with(|core| assert!(core.calls[&key].is_post_unwanted()));
    let elsewhere = [head(seq, "201"), part(seq, "paid elsewhere", true)];
    elsewhere.into_iter().for_each(|event| _ = shared.on_short_event(number, None, event));
    shared.with(|core| {
        core.short_over(errand, Some(number), Some(true));
        assert!(!core.calls[&key].is_post_unwanted(), "the next one would be");
    });
    shared.on_event(part(seq, "paid", true));
    shared.with(|core| {
        let incoming = &core.calls[&key].incoming;
        assert_eq!((incoming.status, &incoming.end), (200, &Some(Ok(()))));
        assert_eq!(incoming.messages, ["paid"]);
        assert!(core.take_resets().is_empty());
    });
}

/// The app waits for the whole answer, so what has come of one that is lost is nothing to it.
#[tokio::test(start_paused = true)]
async fn an_answer_that_a_post_lost_begins_anew_on_the_link() {
    let shared = client(|_| {});
    let (key, seq, errand, number) = by_both(&shared);
    shared.on_short_event(number, None, head(seq, "201"));
    shared.on_short_event(number, None, part(seq, "pa", false));
    let again = shared.with(|core| {
        core.short_over(errand, Some(number), Some(true));
        assert!(!core.calls[&key].is_over(), "{:?}", core.calls[&key].incoming.end);
        assert_eq!(core.take_resets(), [seq]);
        assert_eq!(said(core, key), ["request", "message"], "under another number");
        core.calls[&key].seq
    });
    assert!(again > seq);
    answer(again).into_iter().for_each(|event| _ = shared.on_event(event));
    shared.with(|core| {
        let incoming = &core.calls[&key].incoming;
        assert_eq!((incoming.status, &incoming.end), (200, &Some(Ok(()))));
        assert_eq!(incoming.messages, ["paid"], "nothing of the lost one is in it");
        core.release(key);
        assert_eq!(core.take_forgets(), [again]);
    });
}

#[tokio::test(start_paused = true)]
async fn an_answer_whose_session_is_lost_in_the_middle_begins_anew_if_the_call_is_idempotent() {
    for idempotent in [true, false] {
        let shared = client(|_| {});
        let (key, seq) = shared.with(|core| {
            let key = call(core, Priority::NORMAL, idempotent, 10);
            said(core, key);
            (key, core.calls[&key].seq)
        });
        shared.on_event(head(seq, "201"));
        shared.on_event(part(seq, "pa", false));
        shared.with(|core| {
            core.link_down("the gateway died".into(), true);
            core.connect(&named(6));
            let end = core.calls[&key].incoming.end.clone();
            match idempotent {
                true => assert_eq!((end, said(core, key)), (None, vec!["request", "message"])),
                false => assert_eq!(end.unwrap().unwrap_err().execution, Execution::MayHaveRun),
            }
        });
        if idempotent {
            let again = shared.with(|core| core.calls[&key].seq);
            answer(again).into_iter().for_each(|event| _ = shared.on_event(event));
            shared.with(|core| assert_eq!(core.calls[&key].incoming.messages, ["paid"]));
        }
    }
}

/// The gateway has let go of an answer of which some has come.
#[tokio::test(start_paused = true)]
async fn an_answer_whose_outcome_has_expired_in_the_middle_begins_anew() {
    let shared = client(|_| {});
    let (key, seq) = shared.with(|core| {
        let key = call(core, Priority::NORMAL, true, 10);
        said(core, key);
        (key, core.calls[&key].seq)
    });
    shared.on_event(head(seq, "201"));
    shared.on_event(part(seq, "pa", false));
    let error = RpcError::new(RpcErrorKind::OutcomeExpired, Execution::Ran, "");
    shared.on_event(Event::Reset { seq, error });
    let again = shared.with(|core| {
        assert_eq!(said(core, key), ["request", "message"]);
        core.calls[&key].seq
    });
    answer(again).into_iter().for_each(|event| _ = shared.on_event(event));
    shared.with(|core| assert_eq!(core.calls[&key].incoming.messages, ["paid"]));
}
