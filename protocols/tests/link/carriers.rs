//! A session whose requests go by two ways: the link, and short connections beside it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failure here is the test's")]

use bytes::Bytes;
use towline_protocols::link::{
    Event, Execution, Hello, Place, RpcError, RpcErrorKind, Welcome,
    client::{CallOptions, Fate, Session},
};

use crate::pair::status_200;

const UNARY: CallOptions =
    CallOptions { idempotent: false, replayable: true, continues: false, sees_whole: false };
const IDEMPOTENT: CallOptions = CallOptions { idempotent: true, ..UNARY };

pub(crate) fn named(session_id: u64) -> Welcome {
    Welcome { session_id, resumed: true, ..Welcome::default() }
}

pub(crate) fn lost(session_id: u64) -> Welcome {
    Welcome { session_id, ..Welcome::default() }
}

/// A session whose server is known by the id 7.
pub(crate) fn known() -> Session {
    let mut session = Session::new("phone-7", [7; 16], 0);
    let hello = session.hello(Hello::default());
    session.on_welcome(&hello, &lost(7));
    session
}

pub(crate) fn short(session: &mut Session, seqs: &[u64]) -> (u64, Hello) {
    let (number, hello) = session.short_hello(Hello::default());
    for &seq in seqs {
        assert!(session.may_go_short(seq), "{seq}");
        session.on_short_sent(number, seq);
    }
    (number, hello)
}

pub(crate) fn response(seq: u64) -> Event {
    Event::Response { seq, fields: status_200(), end: false }
}

pub(crate) fn part(seq: u64, bytes: &'static str, end_of_message: bool) -> Event {
    let bytes = Bytes::from_static(bytes.as_bytes());
    Event::MessagePart {
        seq,
        message_bytes: None,
        wire_bytes: bytes.len(),
        bytes,
        end_of_message,
        end: false,
    }
}

pub(crate) fn refused(seq: u64, kind: RpcErrorKind, execution: Execution) -> Event {
    Event::Reset { seq, error: RpcError::new(kind, execution, "") }
}

/// What is handed on: text of messages, `|` behind a whole one, `h` for a head, `.` for the end; and credit.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) text: String,
    pub(crate) credit: usize,
}

impl Seen {
    pub(crate) fn take(&mut self, delivery: towline_protocols::link::client::Delivery) {
        self.credit += delivery.credit;
        match delivery.event {
            None => {}
            Some(Event::Response { .. }) => self.text.push('h'),
            Some(Event::MessagePart { bytes, end_of_message, .. }) => {
                self.text.push_str(std::str::from_utf8(&bytes).unwrap());
                self.text.push_str(if end_of_message { "|" } else { "" });
            }
            Some(Event::End { .. } | Event::Trailers { .. }) => self.text.push('.'),
            Some(Event::Reset { error, .. }) => {
                self.text += &format!("!{:?}/{:?}", error.kind, error.execution)
            }
            Some(other) => panic!("{other:?}"),
        }
    }
}

#[test]
fn an_answer_that_comes_by_both_ways_is_handed_on_once() {
    let mut session = known();
    let seq = session.open(UNARY);
    session.on_request_sent(seq);
    let (post, _) = short(&mut session, &[seq]);
    let mut seen = Seen::default();
    seen.take(session.on_event(response(seq)));
    seen.take(session.on_event(part(seq, "one", true)));
    seen.take(session.on_event(part(seq, "tw", false)));
    seen.take(session.on_short_event(post, response(seq)));
    seen.take(session.on_short_event(post, part(seq, "on", false)));
    seen.take(session.on_short_event(post, part(seq, "e", true)));
    seen.take(session.on_short_event(post, part(seq, "two", true)));
    seen.take(session.on_event(part(seq, "o", true)));
    seen.take(session.on_short_event(post, part(seq, "three", true)));
    seen.take(session.on_short_event(post, Event::End { seq }));
    assert_eq!((&*seen.text, seen.credit), ("hone|two|three|.", 6));
    seen.take(session.on_event(part(seq, "three", true)));
    seen.take(session.on_event(Event::End { seq }));
    assert_eq!((&*seen.text, seen.credit), ("hone|two|three|.", 11), "what is complete takes nothing more");
    session.taken(seq);
    assert_eq!(session.take_ack().map(|ack| ack.floor), Some(seq));
}

#[test]
fn a_repeat_that_holds_the_end_brings_only_that() {
    let mut session = known();
    let seq = session.open(UNARY);
    session.on_request_sent(seq);
    let mut seen = Seen::default();
    seen.take(session.on_event(response(seq)));
    seen.take(session.on_event(part(seq, "one", true)));
    let (post, _) = short(&mut session, &[seq]);
    seen.take(session.on_short_event(post, response(seq)));
    let bytes = Bytes::from_static(b"one");
    let (message_bytes, wire_bytes) = (Some(3), bytes.len());
    let last = Event::MessagePart { seq, message_bytes, bytes, wire_bytes, end_of_message: true, end: true };
    seen.take(session.on_short_event(post, last));
    assert_eq!((&*seen.text, seen.credit), ("hone|.", 3));
}

#[test]
fn the_link_goes_on_behind_what_a_short_connection_brought_meanwhile() {
    let mut session = known();
    let seq = session.open(UNARY);
    session.on_request_sent(seq);
    let hello = session.hello(Hello::default());
    assert_eq!(hello.waiting[0].messages_received, 0);
    let (post, _) = short(&mut session, &[seq]);
    let mut seen = Seen::default();
    seen.take(session.on_short_event(post, response(seq)));
    seen.take(session.on_short_event(post, part(seq, "one", true)));
    assert_eq!(session.on_short_over(post), [seq], "it was cut");
    let fates = session.on_welcome(&hello, &named(7));
    assert_eq!(fates, [(seq, Fate::Keep { received: Place::default(), sent: None })], "as HELLO had said");
    seen.take(session.on_event(response(seq)));
    seen.take(session.on_event(part(seq, "one", true)));
    seen.take(session.on_event(part(seq, "two", true)));
    assert_eq!((&*seen.text, seen.credit), ("hone|two|", 3));
    seen.take(session.on_short_event(post, part(seq, "late", true)));
    assert_eq!(seen.text, "hone|two|");
}

#[test]
fn a_refusal_by_one_way_leaves_the_request_to_the_other() {
    use Execution::{MayHaveRun, NotRun};
    use RpcErrorKind::{BackendUnavailable, LimitExceeded};
    let mut session = known();
    let mut ended = |kind, execution, first_by_link: bool| {
        let seq = session.open(UNARY);
        session.on_request_sent(seq);
        let (post, _) = short(&mut session, &[seq]);
        let mut seen = Seen::default();
        for by_link in [first_by_link, !first_by_link] {
            let event = refused(seq, kind, execution);
            seen.take(if by_link { session.on_event(event) } else { session.on_short_event(post, event) });
            seen.text.push(';');
        }
        seen.text
    };
    for first_by_link in [true, false] {
        assert_eq!(ended(LimitExceeded, NotRun, first_by_link), ";!LimitExceeded/NotRun;");
        assert_eq!(ended(BackendUnavailable, NotRun, first_by_link), "!BackendUnavailable/NotRun;;");
        assert_eq!(
            ended(RpcErrorKind::BackendFailed, MayHaveRun, first_by_link),
            "!BackendFailed/MayHaveRun;;"
        );
    }
}

/// A server that was started again, or has another session, refuses the number wherever it comes. It has not run for any
/// of the two.
#[test]
fn what_is_refused_both_ways_in_place_of_being_run_has_not_run() {
    for kind in [RpcErrorKind::OutcomeExpired, RpcErrorKind::SessionLost] {
        let refusal = || refused(1, kind, Execution::NotNow);
        for link_is_first in [true, false] {
            let mut session = known();
            let seq = session.open(UNARY);
            session.on_request_sent(seq);
            let (post, _) = short(&mut session, &[seq]);
            let mut seen = Seen::default();
            let mut take = |session: &mut Session, by_link: bool| match by_link {
                true => seen.take(session.on_event(refusal())),
                false => seen.take(session.on_short_event(post, refusal())),
            };
            take(&mut session, link_is_first);
            take(&mut session, !link_is_first);
            assert_eq!(seen.text, format!("!{kind:?}/NotRun"));
            assert!(session.retry(seq, &RpcError::new(kind, Execution::NotRun, "")).is_some());
        }
        // One of them that is lost may have had it run.
        let mut session = known();
        let seq = session.open(UNARY);
        session.on_request_sent(seq);
        let (post, _) = short(&mut session, &[seq]);
        session.on_link_lost();
        let mut seen = Seen::default();
        seen.take(session.on_short_event(post, refusal()));
        assert_eq!(seen.text, format!("!{kind:?}/MayHaveRun"));
    }
}

/// A connection that asks for an answer gives no request: only those that gave it may have had it run.
#[test]
fn what_is_refused_to_the_only_one_that_gave_it_has_not_run_whoever_asked_for_it() {
    for kind in [RpcErrorKind::OutcomeExpired, RpcErrorKind::SessionLost] {
        let mut session = known();
        session.on_link_lost();
        let seq = session.open(UNARY);
        let (post, _) = short(&mut session, &[seq]);
        let asks = session.hello(Hello::default());
        assert!(asks.waiting.iter().any(|waiting| waiting.seq == seq));
        let mut seen = Seen::default();
        seen.take(session.on_short_event(post, refused(seq, kind, Execution::NotNow)));
        assert_eq!(seen.text, format!("!{kind:?}/NotRun"));

        // Another POST, which was lost, did give it.
        let mut session = known();
        session.on_link_lost();
        let seq = session.open(UNARY);
        let (lost, _) = short(&mut session, &[seq]);
        session.on_short_over(lost);
        let (post, _) = short(&mut session, &[seq]);
        session.hello(Hello::default());
        let mut seen = Seen::default();
        seen.take(session.on_short_event(post, refused(seq, kind, Execution::NotNow)));
        assert_eq!(seen.text, format!("!{kind:?}/MayHaveRun"));
    }
}

/// Its refusal is not stored either, and a POST may be sent again behind its next start.
#[test]
fn what_a_server_that_stores_nothing_refuses_in_a_post_may_run_yet() {
    let internal = |seq| refused(seq, RpcErrorKind::Internal, Execution::NotRun);
    for (by_link, text) in [(true, "!Internal/NotRun"), (false, "!Internal/MayHaveRun")] {
        let mut session = known();
        let seq = session.open(UNARY);
        let mut seen = Seen::default();
        if by_link {
            session.on_request_sent(seq);
            seen.take(session.on_event(internal(seq)));
        } else {
            session.on_link_lost();
            let (post, _) = short(&mut session, &[seq]);
            seen.take(session.on_short_event(post, internal(seq)));
        }
        assert_eq!(seen.text, text);
    }
}

#[test]
fn a_refusal_says_nothing_of_those_that_had_the_request_before() {
    let limit = |seq| refused(seq, RpcErrorKind::LimitExceeded, Execution::NotRun);
    let mut session = known();
    let [by_post, by_both, by_link, cut] = [(); 4].map(|()| session.open(UNARY));
    // A POST had it and is over: it may run.
    let (post, _) = short(&mut session, &[by_post]);
    session.on_short_over(post);
    session.on_request_sent(by_post);
    let mut seen = Seen::default();
    seen.take(session.on_event(limit(by_post)));
    assert_eq!(seen.text, "!LimitExceeded/MayHaveRun");
    // A link had it, and the next one has not heard what became of it.
    [by_both, cut].into_iter().for_each(|seq| session.on_request_sent(seq));
    let hello = session.hello(Hello::default());
    let (post, _) = short(&mut session, &[by_both]);
    let mut seen = Seen::default();
    seen.take(session.on_short_event(post, limit(by_both)));
    assert_eq!(seen.text, "!LimitExceeded/MayHaveRun");
    // Nobody else had it.
    session.on_request_sent(by_link);
    let mut seen = Seen::default();
    seen.take(session.on_event(limit(by_link)));
    assert_eq!(seen.text, "!LimitExceeded/NotRun");
    // The session says what became of one that is asked for.
    session.on_welcome(&hello, &named(7));
    let mut seen = Seen::default();
    seen.take(session.on_event(refused(cut, RpcErrorKind::Cancelled, Execution::NotRun)));
    assert_eq!(seen.text, "!Cancelled/NotRun");
}

#[test]
fn what_the_server_never_had_is_refused_as_if_it_were_new() {
    let mut session = known();
    let seq = session.open(UNARY);
    session.on_request_sent(seq);
    let hello = session.hello(Hello::default());
    assert_eq!(session.on_welcome(&hello, &Welcome { unknown: vec![seq], ..named(7) }), [(seq, Fate::Send)]);
    session.on_request_sent(seq);
    let mut seen = Seen::default();
    seen.take(session.on_event(refused(seq, RpcErrorKind::Draining, Execution::NotRun)));
    assert_eq!(seen.text, "!Draining/NotRun");
}

#[test]
fn an_answer_that_a_post_began_behind_the_hello_is_asked_for_again() {
    for options in [UNARY, IDEMPOTENT] {
        let mut session = known();
        let seq = session.open(options);
        let (post, _) = short(&mut session, &[seq]);
        let hello = session.hello(Hello::default());
        session.on_short_event(post, response(seq));
        assert_eq!(session.on_short_over(post), [seq]);
        // The server had not seen the POST when it read HELLO.
        let stale = Welcome { unknown: vec![seq], ..named(7) };
        assert_eq!(session.on_welcome(&hello, &stale), [(seq, Fate::Ask)]);
        let hello = session.hello(Hello::default());
        assert_eq!(hello.waiting.iter().map(|waiting| waiting.seq).collect::<Vec<_>>(), [seq]);
        // Of what was answered before HELLO the server's word holds.
        let lost = Welcome { unknown: vec![seq], ..named(7) };
        let fates = session.on_welcome(&hello, &lost);
        assert!(matches!(&fates[..], [(_, Fate::Fail(_))]), "{fates:?}");
    }
}

#[test]
fn a_way_that_had_to_give_way_does_not_end_what_the_other_brings() {
    let mut session = known();
    let seq = session.open(UNARY);
    session.on_request_sent(seq);
    let (post, _) = short(&mut session, &[seq]);
    let mut seen = Seen::default();
    seen.take(session.on_short_event(post, response(seq)));
    seen.take(session.on_short_event(post, part(seq, "one", true)));
    seen.take(session.on_event(refused(seq, RpcErrorKind::TakenElsewhere, Execution::MayHaveRun)));
    assert_eq!(seen.text, "hone|");
    assert!(!session.is_on_link(seq));

    // Nor where the other has brought nothing yet, and this one came to ask.
    let mut session = known();
    session.on_link_lost();
    let seq = session.open(UNARY);
    let (lost, _) = short(&mut session, &[seq]);
    session.on_short_over(lost);
    let hello = session.hello(Hello::default());
    assert!(matches!(session.on_welcome(&hello, &named(7))[..], [(_, Fate::Keep { .. })]));
    let (post, _) = short(&mut session, &[seq]);
    let mut seen = Seen::default();
    let expired = || refused(seq, RpcErrorKind::TakenElsewhere, Execution::MayHaveRun);
    seen.take(session.on_event(expired()));
    assert!(!session.is_on_link(seq));
    assert_eq!(seen.text, "", "the POST is still to come");
    // That comes to nothing: the next connection asks once more, and there is nobody else.
    assert_eq!(session.on_short_over(post), [seq]);
    session.on_link_lost();
    let hello = session.hello(Hello::default());
    assert!(matches!(session.on_welcome(&hello, &named(7))[..], [(_, Fate::Keep { .. })]));
    seen.take(session.on_event(expired()));
    assert_eq!(seen.text, "!OutcomeExpired/MayHaveRun");
}

/// The link's session is 7; one POST still carries a request there when another one has led to session 9, elsewhere.
fn between_two_servers() -> (Session, u64, u64) {
    let mut session = known();
    let seq = session.open(UNARY);
    session.on_request_sent(seq);
    session.on_link_lost();
    let (post, _) = short(&mut session, &[seq]);
    let (other, hello) = short(&mut session, &[]);
    assert_eq!(session.on_short_welcome(&hello, &lost(9), false), []);
    session.on_short_over(other);
    (session, seq, post)
}

/// A server whose session began behind a HELLO that named 9 takes the next one that does for word of who has not heard
/// of it (section 9), and silence for an acknowledgement.
#[test]
fn a_hello_lists_what_other_sessions_have_since_the_server_may_resume_one_of_them() {
    for post_is_over in [true, false] {
        let (mut session, seq, post) = between_two_servers();
        let hello = session.hello(Hello::default());
        assert_eq!((hello.session_id, hello.waiting.len()), (9, 1));
        if post_is_over {
            session.on_short_over(post);
        }
        let fates = session.on_welcome(&hello, &named(7));
        assert_eq!(fates, [(seq, Fate::Keep { received: Place::default(), sent: None })]);
        let mut seen = Seen::default();
        seen.take(session.on_event(response(seq)));
        assert_eq!(seen.text, "h");
    }
}

#[test]
fn that_one_session_does_not_know_a_request_does_not_say_that_another_has_not_run_it() {
    let (mut session, seq, post) = between_two_servers();
    let hello = session.hello(Hello::default());
    session.on_short_over(post);
    let fates = session.on_welcome(&hello, &Welcome { unknown: vec![seq], ..named(9) });
    let [(_, Fate::Fail(error))] = &fates[..] else { panic!("{fates:?}") };
    assert_eq!((error.kind, error.execution), (RpcErrorKind::SessionLost, Execution::MayHaveRun));
}

/// A POST that somebody on the way sends again runs what it carries, though this client has sent its number once.
#[test]
fn what_may_have_run_is_never_taken_for_not_run() {
    for kind in [RpcErrorKind::OutcomeExpired, RpcErrorKind::TakenElsewhere] {
        let mut session = known();
        session.on_link_lost();
        let seq = session.open(UNARY);
        let (post, _) = short(&mut session, &[seq]);
        let mut seen = Seen::default();
        seen.take(session.on_short_event(post, refused(seq, kind, Execution::MayHaveRun)));
        assert_eq!(seen.text, "!OutcomeExpired/MayHaveRun");
    }
}

#[test]
fn no_request_goes_short_before_the_session_is_named_and_the_naming_post_asks_for_what_was_sent() {
    let mut session = Session::new("phone-7", [7; 16], 0);
    let (sent, unsent) = (session.open(UNARY), session.open(UNARY));
    session.hello(Hello::default());
    session.on_request_sent(sent);
    assert!(!session.may_go_short(sent) && !session.may_go_short(unsent));
    let flying = session.short_hello(Hello::default()).1;
    assert!(flying.waiting.is_empty(), "the link's connection may still tell");
    let hello = session.hello(Hello::default());
    assert_eq!(hello.waiting.len(), 1);
    let ask = |session: &mut Session| session.short_hello(Hello::default()).1;

    session.on_link_lost();
    let hello = ask(&mut session);
    assert_eq!((hello.short, hello.waiting[0].seq), (true, sent));
    assert_eq!(session.on_short_welcome(&hello, &named(7), false), [], "it is there, and can be asked for");
    assert!(session.may_go_short(sent) && session.may_go_short(unsent));
}

#[test]
fn what_becomes_of_a_request_when_the_naming_post_does_not_know_it() {
    let fate = |options, welcome: &Welcome| {
        let mut session = Session::new("phone-7", [7; 16], 0);
        let seq = session.open(options);
        session.hello(Hello::default());
        session.on_request_sent(seq);
        session.on_link_lost();
        let (_, hello) = session.short_hello(Hello::default());
        let fates = session.on_short_welcome(&hello, welcome, false);
        match fates.into_iter().next().map(|(_, fate)| fate) {
            Some(Fate::Fail(error)) => Err(error.execution),
            Some(Fate::Send) => Ok(session.may_go_short(seq)),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(fate(UNARY, &lost(7)), Err(Execution::MayHaveRun));
    assert_eq!(fate(IDEMPOTENT, &lost(7)), Ok(true));
}

#[test]
fn a_session_that_is_lost_loses_what_nobody_carries_and_leaves_the_rest() {
    let mut session = known();
    let [by_link, by_short, by_post] = [(); 3].map(|()| session.open(UNARY));
    session.on_request_sent(by_link);
    let (post, _) = short(&mut session, &[by_short]);
    let hello = session.hello(Hello::default());
    let fates = session.on_welcome(&hello, &lost(8));
    assert_eq!(fates.len(), 2, "{fates:?}");
    assert!(
        matches!(&fates[0], (seq, Fate::Fail(error)) if *seq == by_link && error.execution == Execution::MayHaveRun)
    );
    assert_eq!(fates[1], (by_post, Fate::Send));
    assert!(!session.may_send(by_short) && !session.may_go_short(by_short), "it may have run elsewhere");
    let mut seen = Seen::default();
    seen.take(session.on_short_event(post, response(by_short)));
    assert_eq!(session.on_short_over(post), [by_short]);
    let fates = session.forsaken();
    assert!(
        matches!(&fates[..], [(seq, Fate::Fail(error))] if *seq == by_short && error.execution == Execution::MayHaveRun)
    );
    assert_eq!(seen.text, "h");
}

#[test]
fn while_the_link_is_up_a_short_connection_that_led_elsewhere_changes_nothing() {
    let mut session = known();
    let seq = session.open(UNARY);
    session.on_request_sent(seq);
    let (post, hello) = short(&mut session, &[seq]);
    assert_eq!(session.on_short_welcome(&hello, &lost(9), true), []);
    let mut seen = Seen::default();
    seen.take(session.on_short_event(post, refused(seq, RpcErrorKind::SessionLost, Execution::NotRun)));
    seen.take(session.on_event(response(seq)));
    assert_eq!(seen.text, "h");
    assert_eq!(session.short_hello(Hello::default()).1.session_id, 7);
}

#[test]
fn without_a_link_a_short_connection_says_which_session_there_is() {
    let mut session = known();
    let [carried, earlier, idempotent] = [UNARY, UNARY, IDEMPOTENT].map(|options| session.open(options));
    [earlier, idempotent].into_iter().for_each(|seq| session.on_request_sent(seq));
    session.on_link_lost();
    let (post, hello) = short(&mut session, &[carried]);
    let fates = session.on_short_welcome(&hello, &lost(9), false);
    assert!(
        matches!(&fates[0], (seq, Fate::Fail(error)) if *seq == earlier && error.execution == Execution::MayHaveRun)
    );
    assert_eq!(fates[1..], [(idempotent, Fate::Send)]);
    // What the POST itself carried was refused in place of being run.
    let mut seen = Seen::default();
    seen.take(session.on_short_event(post, refused(carried, RpcErrorKind::SessionLost, Execution::NotNow)));
    assert_eq!(seen.text, "!SessionLost/NotRun");
}

#[test]
fn what_the_links_hello_asks_for_waits_for_its_welcome_or_its_end() {
    let asked = || {
        let mut session = known();
        let seq = session.open(IDEMPOTENT);
        session.on_request_sent(seq);
        let link = session.hello(Hello::default());
        let (_, hello) = short(&mut session, &[]);
        assert_eq!(
            session.on_short_welcome(&hello, &lost(9), false),
            [],
            "the link's connection may have it open"
        );
        (session, link, seq)
    };
    let (mut session, link, seq) = asked();
    let keep = Fate::Keep { received: Place::default(), sent: None };
    assert_eq!(session.on_welcome(&link, &named(7)), [(seq, keep)]);
    let (mut session, _, seq) = asked();
    session.on_link_lost();
    assert_eq!(session.forsaken(), [(seq, Fate::Send)]);
}

#[test]
fn a_request_behind_the_links_hello_is_of_the_session_that_it_names() {
    let mut session = known();
    let link = session.hello(Hello::default());
    let (_, hello) = short(&mut session, &[]);
    session.on_short_welcome(&hello, &lost(9), false);
    let seq = session.open(UNARY);
    assert!(session.may_send(seq));
    session.on_request_sent(seq);
    session.on_link_lost();
    assert!(!session.may_go_short(seq), "it may run in session 7");
    session.on_welcome(&link, &named(7));
    assert!(session.may_go_short(seq));
}

/// Behind a HELLO that names a session which is gone the server makes another, and runs what is idempotent there. Where
/// that WELCOME is lost and a POST tells of the session, the next HELLO must not pass over the request: silence
/// acknowledges its outcome.
#[test]
fn what_is_idempotent_is_asked_for_before_it_is_sent_to_a_session_that_may_have_run_it() {
    let mut session = known();
    let seq = session.open(IDEMPOTENT);
    session.hello(Hello::default());
    session.on_request_sent(seq);
    let (_, post_hello) = short(&mut session, &[]);
    session.on_link_lost();
    assert_eq!(session.on_short_welcome(&post_hello, &lost(8), false), [(seq, Fate::Send)]);
    let hello = session.hello(Hello::default());
    assert_eq!(hello.session_id, 8);
    assert_eq!(hello.waiting.iter().map(|waiting| waiting.seq).collect::<Vec<_>>(), [seq]);
    let kept = Fate::Keep { received: Place::default(), sent: None };
    assert_eq!(session.on_welcome(&hello, &named(8)), [(seq, kept)]);
    let hello = session.hello(Hello::default());
    let unknown = Welcome { unknown: vec![seq], ..named(8) };
    assert_eq!(session.on_welcome(&hello, &unknown), [(seq, Fate::Send)]);
}

#[test]
fn nothing_goes_short_into_a_session_that_the_links_hello_may_end() {
    let mut session = Session::new("phone-7", [7; 16], 0);
    let seq = session.open(UNARY);
    let link = session.hello(Hello::default());
    let (_, hello) = session.short_hello(Hello::default());
    session.on_short_welcome(&hello, &lost(7), false);
    assert!(!session.may_go_short(seq), "HELLO does not name session 7");
    let mut other = session.open(UNARY);
    session.on_welcome(&link, &lost(8));
    assert!(session.may_go_short(seq) && session.may_go_short(other));
    session.hello(Hello::default());
    other = session.open(UNARY);
    assert!(session.may_go_short(other), "HELLO names session 8");
}

#[test]
fn of_what_is_idempotent_the_outcome_of_a_post_says_nothing_of_those_before() {
    for (options, expected) in
        [(IDEMPOTENT, "!BackendUnavailable/MayHaveRun"), (UNARY, "!BackendUnavailable/NotRun")]
    {
        let mut session = known();
        let seq = session.open(options);
        session.on_request_sent(seq);
        session.on_link_lost();
        let (post, _) = short(&mut session, &[seq]);
        let mut seen = Seen::default();
        let error = refused(seq, RpcErrorKind::BackendUnavailable, Execution::NotRun);
        seen.take(session.on_short_event(post, error));
        assert_eq!(seen.text, expected);
    }
}

#[test]
fn of_what_is_idempotent_the_outcome_of_the_link_says_nothing_of_a_post_before() {
    for (options, expected) in
        [(IDEMPOTENT, "!BackendUnavailable/MayHaveRun"), (UNARY, "!BackendUnavailable/NotRun")]
    {
        let mut session = known();
        let seq = session.open(options);
        let (post, _) = short(&mut session, &[seq]);
        session.on_short_over(post);
        session.on_request_sent(seq);
        let mut seen = Seen::default();
        seen.take(session.on_event(refused(seq, RpcErrorKind::BackendUnavailable, Execution::NotRun)));
        assert_eq!(seen.text, expected);
    }
}

#[test]
fn what_is_idempotent_may_have_run_in_another_session_than_the_one_that_does_not_know_it() {
    for (idempotent, expected) in [(true, Execution::MayHaveRun), (false, Execution::NotRun)] {
        let mut session = known();
        let seq = session.open(CallOptions { idempotent, ..CallOptions::default() });
        session.hello(Hello::default());
        session.on_request_sent(seq);
        let hello = session.hello(Hello::default());
        let fates = session.on_welcome(&hello, &Welcome { unknown: vec![seq], ..named(7) });
        assert!(
            matches!(&fates[..], [(_, Fate::Fail(error))] if error.execution == expected),
            "{idempotent}: {fates:?}"
        );
    }
}

#[test]
fn what_a_post_took_to_the_session_of_before_is_not_of_the_one_that_the_link_found() {
    let mut session = known();
    let seq = session.open(UNARY);
    let link = session.hello(Hello::default());
    session.on_request_sent(seq);
    let (post, _) = short(&mut session, &[seq]);
    assert_eq!(session.on_welcome(&link, &lost(8)), [], "the POST may bring its answer");
    assert_eq!(session.on_short_over(post), [seq]);
    session.on_link_lost();
    assert!(!session.may_send(seq) && !session.may_go_short(seq), "it may still arrive in session 7");
    let fates = session.forsaken();
    assert!(
        matches!(&fates[..], [(_, Fate::Fail(error))] if error.execution == Execution::MayHaveRun),
        "{fates:?}"
    );
}

/// A request that a POST, or the older connection of an early HELLO, may still bring to session 7, which said that it
/// does not know it.
fn under_way(by_post: bool) -> (Session, u64) {
    let mut session = known();
    let seq = session.open(UNARY);
    if by_post {
        let (post, _) = short(&mut session, &[seq]);
        session.on_short_over(post);
    } else {
        session.on_request_sent(seq);
    }
    let hello = session.hello(Hello::default());
    let welcome = Welcome { unknown: vec![seq], visiting: !by_post, ..named(7) };
    assert_eq!(session.on_welcome(&hello, &welcome), [(seq, Fate::Send)]);
    assert!(session.may_send(seq) && session.may_go_short(seq), "session 7 runs it once");
    (session, seq)
}

#[test]
fn what_is_not_known_yet_but_under_way_to_a_session_goes_to_no_other() {
    for by_post in [true, false] {
        let (mut session, seq) = under_way(by_post);
        let hello = session.hello(Hello::default());
        assert_eq!(hello.waiting.len(), 1, "it may have arrived meanwhile");
        let fates = session.on_welcome(&hello, &lost(8));
        assert!(
            matches!(&fates[..], [(_, Fate::Fail(error))] if error.execution == Execution::MayHaveRun),
            "by POST {by_post}: {fates:?}"
        );
        let (mut session, seq_of_post) = under_way(by_post);
        session.on_link_lost();
        let (_, hello) = short(&mut session, &[]);
        let fates = session.on_short_welcome(&hello, &lost(8), false);
        assert!(
            matches!(&fates[..], [(_, Fate::Fail(error))] if error.execution == Execution::MayHaveRun),
            "by POST {by_post}: {fates:?}"
        );
        assert!(!session.may_go_short(seq_of_post) && seq == seq_of_post);
    }
}

#[test]
fn what_is_given_up_while_a_post_may_bring_it_is_said_to_be_given_up() {
    let (mut session, seq) = under_way(true);
    assert!(session.may_run_by_short(seq));
    assert_eq!(session.cancel(seq), Execution::MayHaveRun);
}

#[test]
fn what_is_not_known_when_the_handshake_is_complete_has_not_run_and_goes_anywhere() {
    let mut session = known();
    let seq = session.open(UNARY);
    session.on_request_sent(seq);
    let hello = session.hello(Hello::default());
    assert_eq!(session.on_welcome(&hello, &Welcome { unknown: vec![seq], ..named(7) }), [(seq, Fate::Send)]);
    let hello = session.hello(Hello::default());
    assert_eq!(session.on_welcome(&hello, &lost(8)), [(seq, Fate::Send)]);
    assert!(session.may_send(seq));
}

#[test]
fn a_session_that_was_resumed_for_a_lost_welcome_says_nothing_of_what_a_post_took_to_the_one_before() {
    for options in [UNARY, IDEMPOTENT] {
        let mut session = known();
        let seq = session.open(options);
        let (post, _) = short(&mut session, &[seq]);
        session.on_short_over(post);
        let hello = session.hello(Hello::default());
        let fates = session.on_welcome(&hello, &Welcome { unknown: vec![seq], ..named(8) });
        match &fates[..] {
            [(_, Fate::Send)] => assert!(options.idempotent && session.may_send(seq)),
            [(_, Fate::Fail(error))] => {
                assert_eq!((options.idempotent, error.execution), (false, Execution::MayHaveRun));
            }
            _ => panic!("{fates:?}"),
        }
    }
}
