//! A session's short connections: each a POST that visits the session beside whatever connection holds it
//! (PROTOCOL.md, section 21). The link may carry the same requests, or there is none.
//!
//! ```text
//!  short_hello --> on_short_sent ... --> on_short_welcome --> on_short_event ... --> on_short_over
//!                  none where no server      the session is      as from the link        what it left: to the
//!                  has named the session     another one?                                link, or the next one
//! ```

use super::{Call, Carrier, Delivery, Fate, Phase, Session};
use crate::link::{Event, Hello, Waiting, Welcome};

impl Session {
    /// A POST begins: its number, and its HELLO. Where no server has named the session yet, it asks for that, and for
    /// what was sent before; no request may go with it, since a repeat could not be told from the first.
    pub fn short_hello(&mut self, base: Hello) -> (u64, Hello) {
        self.epoch += 1;
        self.shorts += 1;
        let mut waiting = Vec::new();
        for (&seq, call) in &mut self.calls {
            if self.session_id == 0 && call.phase == Phase::Waiting && call.link.is_none() {
                call.is_asked_of();
                // No POST goes on with what the link has begun.
                let messages_received = call.received.messages;
                waiting.push(Waiting { seq, messages_received, ..Waiting::default() });
            }
        }
        let (outcome_floor, pushes_taken) = (self.floor(), self.pushes.hello());
        (self.shorts, Hello { waiting, outcome_floor, pushes_taken, short: true, ..self.introduced(base) })
    }

    /// Whether a short connection may be given the request. Not while the link's HELLO may begin the session anew, since
    /// it was written before a short connection heard which session there is: what ran there would be forgotten.
    pub fn may_go_short(&self, seq: u64) -> bool {
        let may_end = self.link_opens && self.link_session_id != self.session_id;
        self.is_known()
            && !may_end
            && self.calls.get(&seq).is_some_and(|call| {
                call.options.replayable && call.short.is_none() && call.may_be_given(self.session_id)
            })
    }

    /// The request is being given to that short connection: from now on the server may have it.
    pub fn on_short_sent(&mut self, short: u64, seq: u64) {
        let session_id = self.session_id;
        if let Some(call) = self.calls.get_mut(&seq) {
            call.given_to_short(short, session_id);
        }
    }

    /// The WELCOME of a short connection. `link_is_up`: the link's connection has said which session there is, so
    /// that a short one, which may have led elsewhere, does not. What becomes of the requests that nobody carries.
    pub fn on_short_welcome(
        &mut self,
        hello: &Hello,
        welcome: &Welcome,
        link_is_up: bool,
    ) -> Vec<(u64, Fate)> {
        if welcome.session_id == self.session_id {
            // A server that was started again says from where on its numbers are free.
            self.seq_next = self.seq_next.max(welcome.seq_min.saturating_add(1));
        }
        let is_news = welcome.session_id != self.session_id && hello.session_id == self.session_id;
        if link_is_up || !is_news {
            return Vec::new();
        }
        self.session_id = welcome.session_id;
        self.pushes.on_welcome(welcome);
        self.seq_next = self.seq_next.max(welcome.seq_min.saturating_add(1));
        if welcome.resumed {
            for waiting in &hello.waiting {
                // The server has it, or recorded that it has not run.
                let call = self.calls.get_mut(&waiting.seq);
                if let Some(call) = call.filter(|call| call.is_nowhere(welcome.session_id)) {
                    call.tie = Some(welcome.session_id);
                }
            }
        }
        self.forsaken()
    }

    /// Takes an event from a short connection as [`Session::on_event`] does from the link. One that led to another session
    /// brings the answer of another run of what is idempotent.
    pub fn on_short_event(&mut self, short: u64, event: Event) -> Delivery {
        if let Event::Welcome(welcome) = &event {
            for (&seq, call) in &mut self.calls {
                call.short_leads_to(short, welcome.session_id);
                self.shorts_let_go.extend(call.take_short_let_go().then_some(seq));
            }
        }
        self.take(Carrier::Short(short), event)
    }

    /// The short connection is over. Requests whose end it did not bring, for the link or the next short one.
    pub fn on_short_over(&mut self, short: u64) -> Vec<u64> {
        let mut left = Vec::new();
        for (&seq, call) in &mut self.calls {
            if call.short.take_if(|held| held.number == short).is_some() && call.phase == Phase::Waiting {
                left.push(seq);
            }
        }
        left
    }

    /// What becomes of requests that nobody carries and that were given to a session which is lost.
    pub fn forsaken(&mut self) -> Vec<(u64, Fate)> {
        let session_id = self.session_id;
        let forsaken = self.calls.iter_mut().filter(|(_, call)| call.is_forsaken(session_id));
        let fates: Vec<_> = forsaken.map(|(&seq, call)| (seq, call.again(false))).collect();
        self.forget_failed(&fates);
        fates
    }

    /// Whether a short connection was given the request, and its end has not come: the server may run it although no
    /// connection tells of it any more.
    pub fn may_run_by_short(&self, seq: u64) -> bool {
        self.calls.get(&seq).is_some_and(Call::may_run_by_short)
    }

    /// Whether the link's live connection is to bring the answer of the request.
    pub fn is_on_link(&self, seq: u64) -> bool {
        self.calls.get(&seq).is_some_and(|call| call.link.is_some())
    }

    /// Whether a short connection is to bring the answer of the request.
    pub fn is_on_short(&self, seq: u64) -> bool {
        self.calls.get(&seq).is_some_and(|call| call.short.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::{
        Execution, Place, RpcError, RpcErrorKind,
        client::{CallOptions, Session},
    };

    /// A POST behind whose HELLO the session was lost ran it in one of its own, which the next HELLO ended; another POST
    /// took it to the session that there is now.
    #[test]
    fn the_outcome_that_the_link_asks_for_says_nothing_of_the_sessions_that_posts_found() {
        let mut session = Session::new("phone-7", [7; 16], 0);
        let hello = session.hello(Hello::default());
        session.on_welcome(&hello, &Welcome { session_id: 7, ..Welcome::default() });
        session.on_link_lost();
        let seq = session.open(CallOptions { idempotent: true, replayable: true, ..CallOptions::default() });
        for _ in 0..2 {
            let (post, _) = session.short_hello(Hello::default());
            session.on_short_sent(post, seq);
            session.on_short_over(post);
        }
        let hello = session.hello(Hello::default());
        let welcome = Welcome { session_id: 8, resumed: true, ..Welcome::default() };
        let fates = session.on_welcome(&hello, &welcome);
        assert_eq!(fates, [(seq, Fate::Keep { received: Place::default(), sent: None })]);
        let error = RpcError::new(RpcErrorKind::BackendUnavailable, Execution::NotRun, "");
        let delivery = session.on_event(Event::Reset { seq, error });
        let Some(Event::Reset { error, .. }) = delivery.event else { panic!("it is over") };
        assert_eq!(error.execution, Execution::MayHaveRun);
    }

    /// The server was started again behind the head of an answer, and runs what is idempotent once more.
    #[test]
    fn the_answers_of_two_sessions_are_not_taken_for_one() {
        let mut session = Session::new("phone-7", [7; 16], 0);
        let hello = session.hello(Hello::default());
        session.on_welcome(&hello, &Welcome { session_id: 7, ..Welcome::default() });
        session.on_link_lost();
        let seq = session.open(CallOptions { idempotent: true, replayable: true, ..CallOptions::default() });
        let answer = |session: &mut Session, session_id: u64| {
            let (post, hello) = session.short_hello(Hello::default());
            session.on_short_sent(post, seq);
            let welcome = Welcome { session_id, resumed: session_id == 7, ..Welcome::default() };
            session.on_short_event(post, Event::Welcome(Box::new(welcome.clone())));
            let mut fates = session.on_short_welcome(&hello, &welcome, false);
            let head = Event::Response { seq, fields: Vec::new(), end: session_id != 7 };
            let came = session.on_short_event(post, head).event.is_some();
            session.on_short_over(post);
            fates.extend(session.forsaken());
            (came, fates)
        };
        assert_eq!(answer(&mut session, 7), (true, Vec::new()));
        let (came, fates) = answer(&mut session, 8);
        assert!(!came, "its end is not that of the first");
        let [(failed, Fate::Fail(error))] = &fates[..] else { panic!("{fates:?}") };
        assert_eq!((*failed, error.kind), (seq, RpcErrorKind::SessionLost));
        assert_eq!(error.execution, Execution::MayHaveRun);
    }

    /// A server that was started again refuses the numbers that it may have run before; those above its mark are free.
    #[test]
    fn a_request_that_a_restarted_server_refuses_in_a_post_is_opened_above_its_mark() {
        let mut session = Session::new("phone-7", [7; 16], 0);
        let hello = session.hello(Hello::default());
        session.on_welcome(&hello, &Welcome { session_id: 7, ..Welcome::default() });
        session.on_link_lost();
        let seq = session.open(CallOptions { replayable: true, ..CallOptions::default() });
        let (post, hello) = session.short_hello(Hello::default());
        session.on_short_sent(post, seq);
        let again = Welcome { session_id: 7, resumed: true, seq_min: 64, ..Welcome::default() };
        assert_eq!(session.on_short_welcome(&hello, &again, false), []);
        let error = RpcError::new(RpcErrorKind::OutcomeExpired, Execution::NotNow, "");
        let delivery = session.on_short_event(post, Event::Reset { seq, error });
        let Some(Event::Reset { error, .. }) = delivery.event else { panic!("it is over") };
        assert_eq!(error.execution, Execution::NotRun, "nobody else was given it");
        assert_eq!(session.retry(seq, &error), Some(65));
    }
}
