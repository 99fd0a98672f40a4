//! Requests that run in two sessions, each with an answer of its own: a server was started again, or a short connection
//! was led to another one. An answer is taken from one run alone.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failure here is the test's")]

use towline_protocols::link::{
    Event, Execution, Hello, Place, RpcErrorKind, Welcome,
    client::{CallOptions, Delivery, Fate, Session},
};

use crate::carriers::{Seen, known, lost, named, part, refused, response, short};

const STREAM: CallOptions =
    CallOptions { idempotent: true, replayable: true, continues: false, sees_whole: false };
const UNARY: CallOptions = CallOptions { sees_whole: true, ..STREAM };

/// A request that the link took to session 7, and a POST that was led to `other`.
fn by_both(options: CallOptions, other: u64) -> (Session, u64, u64) {
    let mut session = known();
    let seq = session.open(options);
    session.on_request_sent(seq);
    let (post, hello) = short(&mut session, &[seq]);
    welcome(&mut session, post, &hello, other, true);
    (session, seq, post)
}

fn welcome(session: &mut Session, post: u64, hello: &Hello, id: u64, link_is_up: bool) -> Vec<(u64, Fate)> {
    let welcome = if id == hello.session_id { named(id) } else { lost(id) };
    session.on_short_event(post, Event::Welcome(Box::new(welcome.clone())));
    session.on_short_welcome(hello, &welcome, link_is_up)
}

fn text<const N: usize>(deliveries: [Delivery; N]) -> String {
    let mut seen = Seen::default();
    deliveries.into_iter().for_each(|delivery| seen.take(delivery));
    seen.text
}

fn fails(fates: &[(u64, Fate)], seq: u64) {
    let [(failed, Fate::Fail(error))] = fates else { panic!("{fates:?}") };
    assert_eq!((*failed, error.kind), (seq, RpcErrorKind::SessionLost));
    assert_eq!(error.execution, Execution::MayHaveRun);
}

#[test]
fn what_the_link_has_begun_to_bring_a_post_that_led_elsewhere_does_not_end() {
    let (mut session, seq, post) = by_both(STREAM, 8);
    let seen = text([
        session.on_event(response(seq)),
        session.on_event(part(seq, "one", true)),
        session.on_short_event(post, response(seq)),
        session.on_short_event(post, part(seq, "ein", true)),
        session.on_short_event(post, part(seq, "zwei", true)),
        session.on_short_event(post, Event::End { seq }),
        session.on_event(part(seq, "two", true)),
        session.on_event(Event::End { seq }),
    ]);
    assert_eq!(seen, "hone|two|.");
    assert_eq!(session.take_let_go(), [0; 0], "the link goes on");
    assert_eq!(session.take_shorts_let_go(), [seq], "and whoever reads the POST need not");
}

#[test]
fn what_a_post_has_begun_to_bring_elsewhere_the_link_does_not_end() {
    let (mut session, seq, post) = by_both(STREAM, 8);
    let seen = text([
        session.on_short_event(post, response(seq)),
        session.on_short_event(post, part(seq, "ein", true)),
        session.on_event(response(seq)),
        session.on_event(part(seq, "one", true)),
        session.on_event(part(seq, "two", true)),
        session.on_event(Event::End { seq }),
        session.on_short_event(post, part(seq, "zwei", true)),
        session.on_short_event(post, Event::End { seq }),
    ]);
    assert_eq!(seen, "hein|zwei|.");
    assert_eq!(session.take_let_go(), [seq]);
    assert_eq!(session.take_shorts_let_go(), [0; 0]);
}

/// Of a head alone, too, and of an error: it is another run's outcome.
#[test]
fn an_error_of_another_run_does_not_end_an_answer_that_has_begun() {
    let failed = |seq| refused(seq, RpcErrorKind::BackendFailed, Execution::MayHaveRun);
    let (mut session, seq, post) = by_both(STREAM, 8);
    let seen = text([
        session.on_short_event(post, response(seq)),
        session.on_event(failed(seq)),
        session.on_short_event(post, Event::End { seq }),
    ]);
    assert_eq!(seen, "h.");
    let (mut session, seq, post) = by_both(STREAM, 8);
    let seen = text([
        session.on_event(response(seq)),
        session.on_short_event(post, failed(seq)),
        session.on_event(Event::End { seq }),
    ]);
    assert_eq!(seen, "h.");
}

/// What the link brings of its own run does not wait for a POST that cannot bring the rest of another.
#[test]
fn a_call_whose_answer_a_post_began_elsewhere_is_over_when_that_breaks_off() {
    let (mut session, seq, post) = by_both(STREAM, 8);
    session.on_short_event(post, response(seq));
    assert_eq!(session.on_short_over(post), [seq]);
    assert!(!session.is_on_link(seq) && !session.may_send(seq) && !session.may_go_short(seq));
    fails(&session.forsaken(), seq);
    assert_eq!(session.take_let_go(), [seq]);
}

/// The next POST goes where the first one had been meant to go.
#[test]
fn a_post_that_comes_to_the_first_session_does_not_end_what_one_began_elsewhere() {
    let mut session = known();
    let seq = session.open(STREAM);
    let (post, hello) = short(&mut session, &[seq]);
    welcome(&mut session, post, &hello, 8, true);
    assert_eq!(text([session.on_short_event(post, response(seq))]), "h");
    session.on_short_over(post);
    assert!(!session.may_go_short(seq), "the link names session 7");
    fails(&session.forsaken(), seq);
}

#[test]
fn the_links_next_connection_takes_the_rest_where_the_answer_has_begun_and_nowhere_else() {
    for there in [8, 7] {
        let mut session = known();
        let seq = session.open(STREAM);
        session.on_request_sent(seq);
        let (post, hello) = short(&mut session, &[seq]);
        welcome(&mut session, post, &hello, there, true);
        session.on_short_event(post, response(seq));
        session.on_short_event(post, part(seq, "ein", true));
        session.on_link_lost();
        let hello = session.hello(Hello::default());
        let waiting: Vec<u64> = hello.waiting.iter().map(|waiting| waiting.seq).collect();
        assert_eq!((hello.session_id, waiting), (7, vec![seq]), "begun in {there}");
        session.on_short_over(post);
        let fates = session.on_welcome(&hello, &named(7));
        match there {
            7 => assert_eq!(fates, [(seq, Fate::Keep { received: Place::behind(1), sent: None })]),
            _ => fails(&fates, seq),
        }
    }
}

/// The link's HELLO asks for it before a POST begins to bring the answer of another run.
#[test]
fn what_the_links_hello_asks_for_is_let_go_where_a_post_has_begun_to_bring_another_answer() {
    for is_cut in [false, true] {
        let mut session = known();
        let seq = session.open(STREAM);
        session.on_request_sent(seq);
        let link = session.hello(Hello::default());
        let (post, hello) = short(&mut session, &[seq]);
        welcome(&mut session, post, &hello, 8, false);
        session.on_short_event(post, response(seq));
        if is_cut {
            session.on_short_over(post);
            assert_eq!(session.forsaken(), [], "session 8 may be the one that the link finds");
        }
        let fates = session.on_welcome(&link, &named(7));
        assert_eq!(session.take_let_go(), [seq], "the link has it open");
        match is_cut {
            true => fails(&fates, seq),
            false => assert_eq!(fates, []),
        }
        let seen = text([
            session.on_event(response(seq)),
            session.on_event(part(seq, "one", true)),
            session.on_short_event(post, Event::End { seq }),
        ]);
        assert_eq!(seen, if is_cut { "" } else { "." });
    }
}

/// The same where the link's HELLO led to another session than it names, and the request was sent behind it.
#[test]
fn what_was_sent_behind_a_hello_that_led_elsewhere_runs_there() {
    for (there, expected) in [(8, "htwo|."), (7, "h.")] {
        let mut session = known();
        let link = session.hello(Hello::default());
        let seq = session.open(STREAM);
        session.on_request_sent(seq);
        let (post, hello) = short(&mut session, &[seq]);
        welcome(&mut session, post, &hello, there, false);
        let mut seen = text([session.on_short_event(post, response(seq))]);
        session.on_welcome(&link, &lost(8));
        seen += &text([session.on_event(response(seq)), session.on_event(part(seq, "two", true))]);
        seen += &text([session.on_short_event(post, Event::End { seq })]);
        assert_eq!(seen, expected, "begun in {there}");
    }
}

/// A server resumes a session whose id the client has not heard, and knows the number of a POST.
#[test]
fn an_answer_does_not_go_on_in_a_session_that_is_resumed_under_another_id() {
    let mut session = known();
    let seq = session.open(STREAM);
    session.on_request_sent(seq);
    session.on_event(response(seq));
    session.on_event(part(seq, "one", true));
    session.on_link_lost();
    let hello = session.hello(Hello::default());
    assert_eq!(hello.waiting.len(), 1);
    fails(&session.on_welcome(&hello, &named(8)), seq);
    assert_eq!(session.take_let_go(), [seq]);
}

#[test]
fn an_answer_that_the_app_has_not_seen_begins_anew_where_its_run_is_lost() {
    let begun = |options| {
        let mut session = known();
        let seq = session.open(options);
        session.on_request_sent(seq);
        session.on_event(response(seq));
        session.on_event(part(seq, "one", true));
        session.on_link_lost();
        (session, seq)
    };
    let (mut session, seq) = begun(UNARY);
    let hello = session.hello(Hello::default());
    assert_eq!(session.on_welcome(&hello, &lost(8)), [(seq, Fate::Anew)]);
    let again = session.repeat(seq).unwrap();
    assert!(again > seq && session.may_send(again));
    session.on_request_sent(again);
    let seen = text([session.on_event(response(seq)), session.on_event(response(again))]);
    assert_eq!(seen, "h", "under its new number");

    for options in
        [STREAM, CallOptions { idempotent: false, ..UNARY }, CallOptions { replayable: false, ..UNARY }]
    {
        let (mut session, seq) = begun(options);
        let hello = session.hello(Hello::default());
        fails(&session.on_welcome(&hello, &lost(8)), seq);
    }
}

#[test]
fn an_answer_that_a_post_began_elsewhere_begins_anew_on_the_link_that_had_another() {
    let (mut session, seq, post) = by_both(UNARY, 8);
    session.on_short_event(post, response(seq));
    session.on_short_over(post);
    assert_eq!(session.forsaken(), [(seq, Fate::Anew)]);
    let again = session.repeat(seq).unwrap();
    assert!(session.may_send(again), "the link has carried number {seq} already, and takes the next one");
    assert_eq!(session.take_let_go(), [seq]);
}

/// A HELLO that is silent of a number acknowledges its outcome.
#[test]
fn a_hello_names_what_a_post_has_taken_to_its_session() {
    let mut session = known();
    let seq = session.open(UNARY);
    let (post, hello) = short(&mut session, &[seq]);
    welcome(&mut session, post, &hello, 8, false);
    let link = session.hello(Hello::default());
    assert_eq!((link.session_id, link.waiting.len()), (8, 1));
    session.on_short_event(post, response(seq));
    session.on_short_over(post);
    assert_eq!(session.forsaken(), []);
    let kept = Fate::Keep { received: Place::default(), sent: None };
    assert_eq!(session.on_welcome(&link, &named(8)), [(seq, kept)]);
    assert_eq!(text([session.on_event(response(seq)), session.on_event(part(seq, "ein", true))]), "ein|");
}

/// A server that has the session says that it knows nothing of a request, of whose answer it has sent a part without its
/// head: what it would send of a second run is another answer, and would end nothing.
#[test]
fn what_has_begun_without_its_head_is_not_sent_again_under_its_number() {
    let mut session = known();
    let once = CallOptions { idempotent: false, ..UNARY };
    let (payment, harmless) = (session.open(once), session.open(UNARY));
    for seq in [payment, harmless] {
        session.on_request_sent(seq);
        session.on_event(part(seq, "one", true));
    }
    let hello = session.hello(Hello::default());
    let unknown = vec![payment, harmless];
    let fates = session.on_welcome(&hello, &Welcome { unknown, ..named(7) });
    let [(failed, Fate::Fail(error)), (again, Fate::Anew)] = &fates[..] else { panic!("{fates:?}") };
    assert_eq!((*failed, error.execution, *again), (payment, Execution::MayHaveRun, harmless));
}
