//! What becomes of a call that the link and short connections carry, without any network.

mod again;
mod later;
mod runs;
mod stalled;

use bytes::Bytes;
use towline_protocols::link::{Event, Execution, Partial, RequestHead, RpcErrorKind};

use super::*;
use crate::{
    config::ClientConfig,
    core::{Key, Outgoing, Shared},
    state::Transport,
};

/// Notes what it is given, or takes nothing.
#[derive(Default)]
struct Sink {
    said: Vec<&'static str>,
    messages: Vec<Bytes>,
    refuses: bool,
}

impl Sink {
    fn note(&mut self, what: &'static str) -> Result<(), RpcError> {
        if self.refuses {
            return Err(RpcError::new(RpcErrorKind::LimitExceeded, Execution::NotRun, "larger than 7 bytes"));
        }
        self.said.push(what);
        Ok(())
    }
}

impl RequestSink for Sink {
    fn request(&mut self, _: u64, _: RequestHead, _: bool) -> Result<(), RpcError> {
        self.note("request")
    }

    fn message(&mut self, _: u64, message: Bytes, _: bool) -> Result<usize, RpcError> {
        self.note("message")?;
        let bytes = message.len();
        self.messages.push(message);
        Ok(bytes)
    }

    fn end(&mut self, _: u64) -> Result<(), RpcError> {
        self.note("end")
    }

    fn capacity(&mut self, _: u64) -> usize {
        1 << 20
    }

    fn credit(&mut self, _: u64, _: usize) {}
}

fn gateway() -> Endpoint {
    "edge:443".parse().unwrap()
}

const WAITS: ShortWaits = ShortWaits {
    absent: Some(Duration::from_secs(3)),
    cut: Some(Duration::ZERO),
    silent: Some(Duration::from_secs(10)),
    stalled: Some(Duration::from_secs(4)),
};

/// A client of which all calls go by POST first, with one call.
fn one_call() -> (Shared, Key) {
    one_call_of(ShortCalls::Always)
}

fn one_call_of(mode: ShortCalls) -> (Shared, Key) {
    let mut config = ClientConfig::plaintext(vec![gateway()]);
    config.short_calls = mode;
    let shared = Shared::new(&config).unwrap().0;
    let now = now();
    let (deadline, message) = (now + Duration::from_secs(60), Some(Bytes::from_static(b"pay")));
    let outgoing = Outgoing { head: RequestHead::default(), deadline, message, bodiless: false };
    let key = shared.with(|core| core.open(outgoing, now)).unwrap();
    shared.with(|core| core.link.begins(super::now()));
    (shared, key)
}

impl Core {
    fn connect(&mut self, welcome: &Welcome) {
        let hello = self.begin_line(Transport::Tcp, Hello::default()).unwrap();
        self.link_up(&gateway());
        self.welcomed(&hello, welcome);
    }

    fn link_says(&mut self, key: Key, refuses: bool) -> Vec<&'static str> {
        let mut sink = Sink { refuses, ..Sink::default() };
        self.pump(key, &mut sink, true, Instant::now());
        sink.said
    }

    /// A POST that has the call, if it may.
    fn begin_post(&mut self, refuses: bool) -> (Errand, u64, bool) {
        let Next::Begin(errand) = self.next_short(Busy::default(), &WAITS) else { panic!("a call waits") };
        let begun = self.begin_short(errand, Hello::default()).unwrap().unwrap();
        let is_sent = self.post(&begun, &mut Sink { refuses, ..Sink::default() }, None);
        (errand, begun.number, is_sent)
    }

    fn lose_post(&mut self) {
        let (errand, number, _) = self.begin_post(false);
        self.short_over(errand, Some(number), Some(true));
    }
}

fn named(session_id: u64) -> Welcome {
    Welcome { session_id, push_line: 1, ..Welcome::default() }
}

#[test]
fn a_call_that_comes_back_to_the_link_is_sent_whole() {
    let (shared, key) = one_call();
    let seq = shared.with(|core| {
        core.connect(&named(5));
        core.lose_post();
        assert_eq!(core.link_says(key, false), ["request", "message"]);
        core.link_down("cut".into(), true);
        let partial = vec![Partial { seq: 1, messages_received: 1, ..Partial::default() }];
        core.connect(&Welcome { resumed: true, partial, ..named(5) });
        assert_eq!(core.link_says(key, false), ["end"], "the gateway has the message");
        core.calls[&key].seq
    });
    let (errand, number, _) = shared.with(|core| core.begin_post(false));
    let error = RpcError::new(RpcErrorKind::Draining, Execution::NotRun, "");
    shared.on_event(Event::Reset { seq, error });
    shared.with(|core| {
        assert!(!core.calls[&key].is_over(), "the POST may know better");
        core.short_over(errand, Some(number), Some(true));
        assert_eq!(core.link_says(key, false), ["request", "message"]);
    });
}

#[test]
fn a_call_goes_on_inside_its_message() {
    let (shared, key) = one_call_of(ShortCalls::Off);
    shared.with(|core| {
        core.connect(&named(5));
        let says = |core: &mut Core| {
            let mut sink = Sink::default();
            core.pump(key, &mut sink, true, Instant::now());
            sink.messages
        };
        assert_eq!(says(core), ["pay"]);
        for (bytes_received, rest) in [(2, Some("y")), (3, Some("")), (0, Some("pay")), (4, None)] {
            core.link_down("cut".into(), true);
            let partial = vec![Partial { seq: 1, bytes_received, ..Partial::default() }];
            core.connect(&Welcome { resumed: true, partial, ..named(5) });
            assert_eq!(says(core), Vec::from_iter(rest), "behind {bytes_received} bytes");
        }
        assert!(core.calls[&key].is_over(), "the gateway has more than there is");
    });
}

#[test]
fn a_line_that_ends_begins_no_call_and_the_next_one_does() {
    let (shared, key) = one_call_of(ShortCalls::Off);
    shared.with(|core| {
        core.connect(&named(5));
        core.end_line();
        assert_eq!(core.link_says(key, false), Vec::<&str>::new());
        assert!(!core.has_sent(), "no gateway may be running it");
        core.link_down("the gateway asked to go elsewhere".into(), false);
        core.connect(&named(6));
        assert_eq!(core.link_says(key, false), ["request", "message"]);
    });
}

/// To take one behind it would acknowledge both.
#[test]
fn pushes_behind_one_that_a_post_brought_before_the_numbering_was_known_are_left_to_the_link() {
    let (shared, _) = one_call();
    let push = |id| Event::Push(towline_protocols::link::Push { id, ..Default::default() });
    let number = shared.with(|core| core.begin_post(false).1);
    shared.on_short_event(number, Some(1), push(1));
    shared.with(|core| core.connect(&named(5)));
    shared.on_short_event(number, Some(1), push(2));
    (1..=3).for_each(|id| _ = shared.on_event(push(id)));
    let taken = shared.with(|core| {
        std::iter::from_fn(|| core.inbox.take()).map(|(_, push, _)| push.id).collect::<Vec<_>>()
    });
    assert_eq!(taken, [1, 2, 3]);
}

#[test]
fn an_error_of_the_link_does_not_speak_for_a_post_that_was_cut() {
    for (posted, expected) in [(true, Execution::MayHaveRun), (false, Execution::NotRun)] {
        let (shared, key) = one_call();
        shared.with(|core| {
            core.connect(&named(5));
            match posted {
                true => core.lose_post(),
                false => core.shorts_reach(false),
            }
            core.link_says(key, true);
            let end = core.calls[&key].incoming.end.as_ref().unwrap();
            assert_eq!(end.as_ref().unwrap_err().execution, expected);
        });
    }
}

#[test]
fn what_cannot_be_written_into_a_post_is_left_to_the_link() {
    let (shared, key) = one_call();
    shared.with(|core| {
        core.connect(&named(5));
        let (errand, number, is_sent) = core.begin_post(true);
        assert!(!is_sent);
        core.short_over(errand, Some(number), Some(true));
        assert_eq!(core.next_short(Busy::default(), &WAITS), Next::Nothing);
        core.expire(key);
        let error = core.calls[&key].incoming.end.clone().unwrap().unwrap_err();
        assert_eq!(error.execution, Execution::NotRun);
        assert!(
            error.message.ends_with("no POST carries the call: larger than 7 bytes"),
            "{}",
            error.message
        );
    });
    let (shared, key) = one_call();
    shared.with(|core| {
        core.connect(&named(5));
        let (errand, number, _) = core.begin_post(true);
        core.short_over(errand, Some(number), Some(true));
        assert_eq!(core.link_says(key, false), ["request", "message"]);
    });
}

/// An idempotent stream of one message, behind which others may come unless it `ends`, that the link took to session 5.
fn one_stream_sent(ends: bool) -> (Shared, Key) {
    let (shared, _) = one_call();
    let now = Instant::now();
    let head = RequestHead { idempotent: true, ..RequestHead::default() };
    let stream = Outgoing { head, deadline: now + Duration::from_secs(60), message: None, bodiless: false };
    let key = shared.with(|core| {
        let key = core.open(stream, now).unwrap();
        core.connect(&named(5));
        let call = core.call(key).unwrap();
        call.push_message(Bytes::from_static(b"pay"));
        if ends {
            call.finish();
        }
        assert_eq!(core.link_says(key, false), ["request", "message"]);
        key
    });
    (shared, key)
}

#[test]
fn a_stream_that_the_gateway_wanted_no_more_of_is_sent_again_whole() {
    let (shared, key) = one_stream_sent(true);
    let seq = shared.with(|core| {
        core.link_down("cut".into(), true);
        core.connect(&Welcome { resumed: true, ..named(5) });
        assert_eq!(core.link_says(key, false), [""; 0]);
        core.calls[&key].seq
    });
    let error = RpcError::new(RpcErrorKind::OutcomeExpired, Execution::Ran, "");
    shared.on_event(Event::Reset { seq, error });
    shared.with(|core| {
        assert_eq!(core.link_says(key, false), ["request", "message"], "under another number");
        core.link_down("cut".into(), true);
        core.connect(&named(6));
        assert_eq!(core.link_says(key, false), ["request", "message"]);
    });
}

#[test]
fn a_stream_that_the_gateway_wanted_no_more_of_is_not_sent_again_without_its_messages() {
    let (shared, key) = one_stream_sent(false);
    shared.with(|core| {
        core.link_down("cut".into(), true);
        core.connect(&Welcome { resumed: true, ..named(5) });
        core.link_down("cut".into(), true);
        core.connect(&named(6));
        assert_eq!(core.link_says(key, false), [""; 0]);
        let error = core.calls[&key].incoming.end.clone().unwrap().unwrap_err();
        assert_eq!((error.kind, error.execution), (RpcErrorKind::SessionLost, Execution::MayHaveRun));
    });
}

#[test]
fn a_stream_of_a_session_that_a_post_told_is_lost_begins_with_its_first_message() {
    let (shared, key) = one_stream_sent(true);
    shared.with(|core| {
        let (errand, number, _) = core.begin_post(false);
        core.link_down("cut".into(), true);
        let hello = Hello { session_id: 5, ..Hello::default() };
        core.short_welcomed(&gateway(), &hello, &named(6));
        core.short_over(errand, Some(number), Some(true));
        let unknown = vec![core.calls[&key].seq];
        core.connect(&Welcome { resumed: true, unknown, ..named(6) });
        assert_eq!(core.link_says(key, false), ["request", "message"]);
    });
}

/// A durable call, on disk as one of the session that is known.
fn durable(core: &mut Core) -> Key {
    let now = Instant::now();
    let (deadline, message) = (now + Duration::from_secs(60), Some(Bytes::from_static(b"pay")));
    let outgoing = Outgoing { head: RequestHead::default(), deadline, message, bodiless: false };
    let (key, _, given) = core.open_durable(outgoing, now).unwrap();
    core.stored(key, given);
    key
}

#[test]
fn the_disk_goes_on_saying_in_which_session_a_durable_call_may_run() {
    let (shared, _) = one_call();
    shared.with(|core| {
        core.connect(&named(5));
        core.shorts_reach(false);
        let key = durable(core);
        assert_eq!(core.link_says(key, false), ["request", "message"]);
        core.link_down("cut".into(), true);
        core.begin_line(Transport::Tcp, Hello::default()).unwrap();
        let hello = Hello { session_id: 5, ..Hello::default() };
        core.short_welcomed(&gateway(), &hello, &named(9));
        core.next_short(Busy::default(), &WAITS);
        let step = core.durable_step(key, Instant::now());
        assert!(matches!(step, crate::core::DurableStep::Wait(_)), "{step:?}");
    });
}

#[test]
fn a_client_that_is_closed_ends_its_calls_but_for_durable_ones() {
    let (shared, key) = one_call();
    shared.with(|core| {
        core.connect(&named(5));
        core.shorts_reach(false);
        let kept = durable(core);
        core.link_says(kept, false);
        core.close(RpcErrorKind::Cancelled, "closed by the app");
        assert!(core.calls[&key].is_over() && !core.calls[&kept].is_over());
        let seq = core.calls[&kept].seq;
        assert!(!core.is_gone(seq), "a stream that carries it would be reset");
        assert!(matches!(core.durable_step(kept, Instant::now()), crate::core::DurableStep::Closed));
    });
}

/// What is next for a client whose one call is on a link that is up or died, so much later.
fn next_after(waits: ShortWaits, died: Option<bool>, heard: bool, later: Duration) -> Next {
    let (shared, key) = one_call_of(ShortCalls::Fallback);
    shared.with(|core| {
        core.connect(&named(5));
        assert_eq!(core.link_says(key, false), ["request", "message"]);
        // The clock cannot be moved, what happened can.
        let back = |at: &mut Instant| *at = at.checked_sub(later).unwrap();
        core.calls.values_mut().for_each(|call| back(&mut call.asked_at));
        back(&mut core.link.heard);
        if heard {
            core.link_heard();
        }
        if let Some(died) = died {
            core.link_down("cut".into(), died);
            core.link.begins(now());
        }
        core.next_short(Busy::default(), &waits)
    })
}

#[test]
fn a_call_goes_by_post_at_once_where_the_link_died_under_it_and_where_nothing_is_heard_in_time() {
    let carries = |next: Next| matches!(next, Next::Begin(Errand::Carry(_)));
    let waits = |next: Next| matches!(next, Next::At(_));
    let (none, long) = (Duration::ZERO, Duration::from_secs(11));
    assert!(carries(next_after(WAITS, Some(true), false, none)));
    assert!(waits(next_after(WAITS, Some(false), false, none)), "it was left as somebody wanted");
    let patient = ShortWaits { cut: WAITS.absent, ..WAITS };
    assert!(waits(next_after(patient, Some(true), false, none)));

    assert!(waits(next_after(WAITS, None, false, none)));
    assert!(carries(next_after(WAITS, None, false, long)));
    assert!(waits(next_after(WAITS, None, true, long)), "the gateway is there, and the call takes long");
    assert_eq!(next_after(ShortWaits { silent: None, ..WAITS }, None, false, long), Next::Nothing);
    let off = ShortWaits { absent: None, cut: None, silent: None, stalled: None };
    assert_eq!(next_after(off, Some(true), false, long), Next::Nothing);
}

#[test]
fn a_post_that_failed_beside_a_link_is_not_tried_again_beside_it() {
    let (shared, key) = one_call_of(ShortCalls::Fallback);
    let hasty = ShortWaits { silent: Some(Duration::ZERO), ..WAITS };
    shared.with(|core| {
        core.connect(&named(5));
        assert_eq!(core.link_says(key, false), ["request", "message"]);
        let Next::Begin(errand) = core.next_short(Busy::default(), &hasty) else { panic!("it is due") };
        let begun = core.begin_short(errand, Hello::default()).unwrap().unwrap();
        assert!(core.post(&begun, &mut Sink::default(), None));
        core.short_over(errand, Some(begun.number), Some(true));
        assert_eq!(core.next_short(Busy::default(), &hasty), Next::Nothing);
        assert_eq!(core.link_says(key, false), [""; 0], "the link has it still");
    });
}

#[tokio::test(start_paused = true)]
async fn a_link_that_is_made_again_has_its_time_before_a_post_goes_beside_it() {
    let ms = Duration::from_millis;
    let waits = ShortWaits { absent: Some(ms(900)), cut: Some(ms(250)), silent: None, stalled: None };
    let patient = ShortWaits { cut: waits.absent, ..waits };
    for (waits, pause, expected) in [
        (waits, 400, 650),
        (patient, 400, 1300),
        // `short_after` is the longest.
        (patient, 2500, 3000),
        (ShortWaits { absent: Some(ms(3000)), ..patient }, 400, 1300),
    ] {
        let (shared, key) = one_call_of(ShortCalls::Fallback);
        shared.with(|core| {
            core.connect(&named(5));
            assert_eq!(core.link_says(key, false), ["request", "message"]);
            core.link_down("cut".into(), true);
        });
        let lost = now();
        let due = || shared.with(|core| core.next_short(Busy::default(), &waits));
        assert_eq!(due(), Next::At(lost + ms(3000)), "nothing is known of the next link yet");
        tokio::time::advance(ms(pause)).await;
        shared.with(|core| core.link.begins(now()));
        assert_eq!(due(), Next::At(lost + ms(expected)), "{waits:?} {pause}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_link_cannot_be_made_again_goes_out_at_once() {
    let ms = Duration::from_millis;
    let waits = ShortWaits { absent: Some(ms(900)), cut: Some(ms(250)), silent: None, stalled: None };
    let (shared, key) = one_call_of(ShortCalls::Fallback);
    shared.with(|core| {
        core.connect(&named(5));
        assert_eq!(core.link_says(key, false), ["request", "message"]);
        core.link_down("cut".into(), true);
        core.link.begins(now());
    });
    let next = || shared.with(|core| core.next_short(Busy::default(), &waits));
    assert_eq!(next(), Next::At(now() + ms(250)));
    tokio::time::advance(ms(20)).await;
    shared.with(|core| core.link_down("refused".into(), true));
    assert_eq!(next(), Next::Begin(Errand::Carry(key)));
}

#[tokio::test(start_paused = true)]
async fn calls_wait_for_another_link_once_where_links_die_in_their_first_moments() {
    let (shared, _) = one_call_of(ShortCalls::Fallback);
    let due = || match shared.with(|core| core.next_short(Busy::default(), &WAITS)) {
        Next::At(due) => due.saturating_duration_since(now()),
        _ => Duration::ZERO,
    };
    let lose = async |after: u64| {
        shared.with(|core| core.connect(&named(5)));
        tokio::time::advance(Duration::from_secs(after)).await;
        shared.with(|core| {
            core.link_down("cut".into(), true);
            core.link.begins(now());
        });
    };
    let absent = WAITS.absent.unwrap_or_default();
    tokio::time::advance(absent / 3).await;
    lose(1).await;
    assert_eq!(due(), absent);
    lose(1).await;
    assert_eq!(due(), absent * 2 / 3);
    lose(10).await;
    assert_eq!(due(), absent, "this one has lasted");
}

#[tokio::test(start_paused = true)]
async fn a_post_whose_connection_comes_behind_the_link_is_not_sent() {
    let (shared, key) = one_call_of(ShortCalls::Fallback);
    let hasty = ShortWaits { absent: Some(Duration::ZERO), ..WAITS };
    shared.with(|core| {
        core.connect(&named(5));
        core.link_down("cut".into(), false);
        core.link.begins(now());
    });
    let errand = Errand::Carry(key);
    assert_eq!(shared.with(|core| core.next_short(Busy::default(), &hasty)), Next::Begin(errand));
    tokio::time::advance(Duration::from_millis(1)).await;
    shared.with(|core| {
        core.connect(&Welcome { resumed: true, ..named(5) });
        assert!(core.begin_short(errand, Hello::default()).unwrap().is_none());
        core.short_over(errand, None, Some(true));
        assert_eq!(core.link_says(key, false), ["request", "message"]);
    });
}
