//! What becomes of calls when a line begins, is greeted, lets one go, or is refused.

use towline_protocols::link::{Hello, Place, Welcome, client::Fate};

use super::{Core, Key, now};
use crate::{config::Endpoint, state::Transport};

/// A call that the gateway has, and that goes on on another connection.
pub(crate) struct Kept {
    pub(crate) key: Key,
    /// What of its answer arrived before.
    #[cfg_attr(not(feature = "quic"), expect(dead_code, reason = "on TCP, HELLO says it"))]
    pub(crate) received: Place,
    /// The rest of the request follows.
    pub(crate) continues: bool,
}

impl Core {
    /// Begins a new connection: nothing is on it yet.
    pub(crate) fn begin_line(&mut self, transport: Transport, base: Hello) -> std::io::Result<Hello> {
        self.identity.next_epoch()?;
        self.transport = transport;
        self.line += 1;
        self.stream_heard = None;
        self.is_refusable = base.refers();
        (self.is_refused, self.is_line_over) = (false, false);
        self.leaving.clear();
        self.resets.clear();
        self.forgets.clear();
        self.dictionary_unknown = false;
        self.dictionaries.begin_line();
        self.reconnect = false;
        self.probe = false;
        self.inbox.begin_line();
        self.publishes.iter_mut().for_each(|publish| publish.sent = false);
        self.subscribes.iter_mut().for_each(|subscribe| subscribe.sent = false);
        let mut hello = self.session.hello(base);
        self.reports.greet(&mut hello, &self.network);
        for call in self.calls.values_mut() {
            call.line_lost(hello.waiting.iter().any(|waiting| waiting.seq == call.seq));
        }
        let keys: Vec<Key> = self.calls.keys().copied().collect();
        self.put_back(keys);
        Ok(hello)
    }

    /// The line is about to end: what it has not begun yet is for the next one. A QUIC stream's task that was made for a
    /// request would otherwise still send it to a gateway that is being left, whose session the next one does not have.
    pub(crate) fn end_line(&mut self) {
        self.is_line_over = true;
    }

    /// The live connection has handed over all that it was given of the calls that `has_sent` says.
    pub(crate) fn left(&mut self, mut has_sent: impl FnMut(u64) -> bool) {
        if self.leaving.is_empty() {
            return;
        }
        let now = now();
        for seq in std::mem::take(&mut self.leaving) {
            let is_sent = has_sent(seq);
            match self.call_of(seq) {
                Some(call) if is_sent => call.marks.sent(now),
                Some(_) => self.leaving.push(seq),
                None => {}
            }
        }
    }

    /// Follows what the session says of each call after WELCOME. Returns the calls to attach to.
    pub(crate) fn welcomed(&mut self, hello: &Hello, welcome: &Welcome) -> Vec<Kept> {
        (self.offline, self.way_failed) = (None, None);
        self.is_refusable = false;
        self.last_session.learn(welcome.session_id);
        let mut kept = Vec::new();
        for (seq, fate) in self.session.on_welcome(hello, welcome) {
            let Some(&key) = self.by_seq.get(&seq) else { continue };
            let Some(call) = self.calls.get_mut(&key) else { continue };
            match fate {
                Fate::Send => call.send_again(welcome.resumed && !welcome.visiting),
                Fate::Keep { received, sent } => {
                    if let Err(error) = call.kept(sent) {
                        call.fail(error);
                        self.resets.push(seq);
                    }
                    kept.push(Kept { key, received, continues: sent.is_some() });
                    if !call.is_kept_whole() {
                        self.session.partly_kept(seq);
                    }
                }
                Fate::Ask => self.reconnect = true,
                Fate::Anew => self.begin_anew(key, seq),
                Fate::Fail(error) => call.fail(error),
            }
            self.touch(key);
        }
        self.let_go();
        self.note_sessions();
        kept
    }

    /// `gateway` does not hold what `hello` names, and acted upon nothing of its connection.
    pub(crate) fn refused(&mut self, hello: &Hello, gateway: &Endpoint) {
        self.line += 1;
        self.known.on_refused(gateway);
        self.link.wake = true;
        self.not_taken_in(hello);
    }

    /// The connection of `hello` got CLOSE in place of WELCOME: what was sent on it only was never sent.
    pub(crate) fn not_taken_in(&mut self, hello: &Hello) {
        for seq in self.session.on_refused(hello) {
            if let Some(call) = self.call_of(seq) {
                call.never_sent();
            }
        }
    }

    /// The session takes answers of calls from other runs than the live connection's, which is told so, or than those that
    /// POSTs led to, which end.
    pub(super) fn let_go(&mut self) {
        for seq in self.session.take_shorts_let_go() {
            if let Some(call) = self.call_of(seq) {
                call.post_let_go();
            }
        }
        for seq in self.session.take_let_go() {
            self.resets.push(seq);
            self.wake_line = true;
            if let Some(call) = self.call_of(seq) {
                call.let_go();
            }
        }
    }

    /// The rest of an answer is lost of which the app has seen nothing.
    pub(super) fn begin_anew(&mut self, key: Key, seq: u64) {
        let Some(again) = self.session.repeat(seq) else { return };
        self.by_seq.remove(&seq);
        self.by_seq.insert(again, key);
        if let Some(call) = self.calls.get_mut(&key) {
            call.reopened(again, false);
        }
    }
}
