//! The session of an earlier run of the program, which an early flight of this one names (PROTOCOL.md, section 17).
//!
//! ```text
//!  recalling(R) --a flight leaves: recall--> HELLO names R ... --WELCOME--> the session that it says
//!       |                                    only what may run anywhere is sent
//!       +--no flight leaves--> HELLO names none ... --WELCOME--> the same
//! ```
//!
//! Nobody knows yet whether a server still has that session. Were anything else sent to it, a server that has lost it, and
//! did not take the flight, could not say that this has not run.

use super::{Phase, Session};

/// What an earlier run of the program knew.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Recalled {
    /// 0 where nothing is known.
    session_id: u64,
    /// Whether HELLO names it, until a server has said which session there is.
    is_named: bool,
    /// The link's newest HELLO has named it, and no WELCOME was heard.
    is_in_doubt: bool,
}

impl Recalled {
    /// Whether requests of the link go to a session that nobody has confirmed in this run.
    pub(super) fn is_in_doubt(self) -> bool {
        self.is_in_doubt
    }
}

impl Session {
    /// The same session after the program was started again, of which nothing is waited for. `session_id` is what a
    /// server gave it in an earlier run, 0 where that is not known; numbers begin above all that were used there.
    pub fn recalling(mut self, session_id: u64) -> Self {
        self.recalled.session_id = session_id;
        self
    }

    /// Whether HELLO may go as early data: it can name a session. One of an earlier run it names only where a request
    /// can fly behind it.
    pub fn may_fly(&self) -> bool {
        let flies = |call: &super::Call| call.phase == Phase::Unsent && call.may_run_anywhere();
        self.is_known() || (self.recalled.session_id != 0 && self.calls.values().any(flies))
    }

    /// HELLO, which comes next, goes as early data: where no session is known it names that of the earlier run, and so
    /// do those behind it.
    pub fn recall(&mut self) {
        self.recalled.is_named = self.recalled.session_id != 0;
    }

    /// The session that the link's next HELLO names.
    pub(super) fn name(&mut self) -> u64 {
        self.recalled.is_in_doubt = !self.is_known() && self.recalled.is_named;
        if self.recalled.is_in_doubt { self.recalled.session_id } else { self.session_id }
    }
}

#[cfg(test)]
mod tests {
    use crate::link::{
        Hello, Welcome,
        client::{CallOptions, Fate, Session},
    };

    const HARMLESS: CallOptions =
        CallOptions { idempotent: true, replayable: true, continues: false, sees_whole: true };
    const PAYMENT: CallOptions = CallOptions { idempotent: false, ..HARMLESS };

    /// A session of a program that was started again, with two requests.
    fn started_again() -> (Session, u64, u64) {
        let mut session = Session::new("phone-7", [7; 16], 64).starting_at(4097).recalling(7);
        let (harmless, payment) = (session.open(HARMLESS), session.open(PAYMENT));
        (session, harmless, payment)
    }

    #[test]
    fn a_flight_names_the_session_and_carries_what_may_run_anywhere() {
        let (mut session, harmless, payment) = started_again();
        assert!(session.may_fly() && !session.is_known());
        session.recall();
        let hello = session.hello(Hello::default());
        assert_eq!((hello.session_id, hello.epoch, hello.outcome_floor), (7, 65, 4096));
        assert_eq!((session.may_send(harmless), session.may_send(payment)), (true, false));
        session.on_request_sent(harmless);
        let welcome = Welcome { session_id: 7, resumed: true, visiting: true, ..Welcome::default() };
        assert_eq!(session.on_welcome(&hello, &welcome), [(payment, Fate::Send)]);
        assert!(session.may_send(payment));
    }

    #[test]
    fn without_a_flight_no_session_is_named() {
        let (mut session, ..) = started_again();
        assert_eq!(session.hello(Hello::default()).session_id, 0);
        let mut quiet = Session::new("phone-7", [7; 16], 64).recalling(7);
        assert!(!quiet.may_fly(), "nothing would fly");
        quiet.open(PAYMENT);
        assert!(!quiet.may_fly());
        assert!(!Session::new("phone-7", [7; 16], 64).may_fly());
    }

    #[test]
    fn a_flight_that_was_rejected_is_said_again_to_whatever_session_there_is() {
        for resumed in [true, false] {
            let (mut session, harmless, payment) = started_again();
            session.recall();
            session.hello(Hello::default());
            session.on_request_sent(harmless);
            let hello = session.hello(Hello::default());
            let waiting: Vec<u64> = hello.waiting.iter().map(|waiting| waiting.seq).collect();
            assert_eq!((hello.session_id, hello.epoch, waiting), (7, 66, vec![harmless]));
            assert!(!session.may_send(payment));
            let unknown = if resumed { vec![harmless] } else { Vec::new() };
            let session_id = if resumed { 7 } else { 8 };
            let welcome = Welcome { session_id, resumed, unknown, ..Welcome::default() };
            let fates = [(harmless, Fate::Send), (payment, Fate::Send)];
            assert_eq!(session.on_welcome(&hello, &welcome), fates, "resumed: {resumed}");
        }
    }

    #[test]
    fn a_post_that_names_another_session_says_nothing_of_the_links() {
        let (mut session, harmless, payment) = started_again();
        session.recall();
        session.hello(Hello::default());
        let (_, post) = session.short_hello(Hello::default());
        assert_eq!(post.session_id, 0);
        session.on_short_welcome(&post, &Welcome { session_id: 8, ..Welcome::default() }, false);
        assert_eq!((session.may_send(harmless), session.may_send(payment)), (true, false));
        assert!(!session.may_go_short(payment), "the link's HELLO may end that session");
        assert_eq!(session.hello(Hello::default()).session_id, 8);
        assert!(session.may_send(payment));
    }

    #[test]
    fn a_session_that_was_heard_of_takes_the_recalled_ones_place() {
        let (mut session, ..) = started_again();
        session.recall();
        let hello = session.hello(Hello::default());
        session.on_welcome(&hello, &Welcome { session_id: 8, ..Welcome::default() });
        assert_eq!(session.hello(Hello::default()).session_id, 8);
    }
}
