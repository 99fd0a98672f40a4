//! How a call went: by what, how often, how long each part of it took, and what it weighed.

use std::time::{Duration, Instant};

use crate::state::Transport;

/// How a call went, of one that failed as well.
///
/// ```text
///  call      given to a connection          first byte of the answer       end
///   |--------------|---------|---------------------|------------------------|
///        queue        send
///                  |---------- first_byte ---------|
///   |------------------------------- elapsed -------------------------------|
///     |dns|connect|tls|   where a connection was made while the call waited for it
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timeline {
    /// The transport that brought the end of the answer; of a call that failed, the last that carried it. `None`: it
    /// was given to none.
    pub transport: Option<Transport>,
    /// How often the request was given to a connection, or asked for on one: 1 where nothing broke and nobody asked for
    /// it to come later, 0 where it was given to none.
    pub attempts: u32,
    /// From the call until it was given to its first connection, or to its end if it never was.
    pub queue: Duration,
    /// Looking up the address, where the call waited for that connection to be made.
    pub dns: Option<Duration>,
    /// From the address to a connection of TCP; QUIC's handshake, whose keys are part of it.
    pub connect: Option<Duration>,
    /// The TLS handshake. Between the two, a race may have kept the connection waiting for QUIC.
    pub tls: Option<Duration>,
    /// From being given to its first connection until the connection had handed the last byte of the request to the
    /// operating system, or to HTTP.
    pub send: Option<Duration>,
    /// From being given to its first connection to the first byte of the answer, whichever connection brought it.
    pub first_byte: Option<Duration>,
    /// From the call to its end.
    pub elapsed: Duration,
    /// The request's messages, as often as they were sent.
    pub request: MessageBytes,
    /// The answer's messages.
    pub response: MessageBytes,
}

/// What messages weigh, without headers and frames.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MessageBytes {
    /// As the app gave or got them.
    pub plain: u64,
    /// As they travelled: compressed, where that made them smaller.
    pub wire: u64,
}

impl MessageBytes {
    pub(crate) fn add(&mut self, plain: usize, wire: usize) {
        self.plain += plain as u64;
        self.wire += wire as u64;
    }
}

/// How long the parts of making a connection took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ConnectTimes {
    pub(crate) dns: Option<Duration>,
    pub(crate) connect: Option<Duration>,
    pub(crate) tls: Option<Duration>,
}

/// What is noted of a call while it runs.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    /// It was given to its first connection.
    given: Option<Instant>,
    sent: Option<Instant>,
    first_byte: Option<Instant>,
    /// The first byte of a message of the answer: many servers send its head before they know more.
    first_message: Option<Instant>,
    made: ConnectTimes,
    /// What carries it, or did last.
    pub(crate) transport: Option<Transport>,
    pub(crate) request: MessageBytes,
    pub(crate) response: MessageBytes,
}

impl Marks {
    /// A connection takes the call. `made`: of one that was made since `at`, how.
    pub(crate) fn given(&mut self, now: Instant, started: Instant, transport: Transport, made: Option<Made>) {
        self.transport = Some(transport);
        if self.given.is_none() {
            self.given = Some(now);
            // One that was there already cost this call nothing.
            self.made =
                made.filter(|made| made.at > started).map_or_else(Default::default, |made| made.times);
        }
    }

    /// The last byte of the request has left.
    pub(crate) fn sent(&mut self, now: Instant) {
        self.sent.get_or_insert(now);
    }

    /// Something of the answer is there. True for the first of it.
    pub(crate) fn answered(&mut self, now: Instant) -> bool {
        let is_first = self.first_byte.is_none();
        self.first_byte.get_or_insert(now);
        is_first
    }

    /// What has come is not the answer that the app gets.
    pub(crate) fn unanswered(&mut self) {
        (self.first_byte, self.response) = (None, MessageBytes::default());
    }

    /// Since when the first byte of the answer is waited for; `None` where it is there.
    pub(crate) fn waits_since(&self) -> Option<Instant> {
        self.given.filter(|_| self.first_byte.is_none())
    }

    /// The same of the first byte of a message.
    pub(crate) fn waits_for_message_since(&self) -> Option<Instant> {
        self.given.filter(|_| self.first_message.is_none())
    }

    /// Some of a message is there. How long the first was waited for, if this is that.
    pub(crate) fn message_begins(&mut self, now: Instant) -> Option<Duration> {
        let given = self.waits_for_message_since()?;
        self.first_message = Some(now);
        Some(now.saturating_duration_since(given))
    }

    /// For the app, at the end.
    pub(crate) fn timeline(&self, started: Instant, now: Instant, attempts: u32) -> Timeline {
        let since = |from: Instant, to: Instant| to.saturating_duration_since(from);
        let from_given = |at: Option<Instant>| Some(since(self.given?, at?));
        Timeline {
            transport: self.transport,
            attempts,
            queue: since(started, self.given.unwrap_or(now)),
            dns: self.made.dns,
            connect: self.made.connect,
            tls: self.made.tls,
            send: from_given(self.sent),
            first_byte: from_given(self.first_byte),
            elapsed: since(started, now),
            request: self.request,
            response: self.response,
        }
    }
}

/// A connection that was made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Made {
    pub(crate) at: Instant,
    pub(crate) times: ConnectTimes,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn made(at: Instant) -> Option<Made> {
        let times = ConnectTimes { dns: Some(ms(5)), connect: Some(ms(20)), tls: Some(ms(30)) };
        Some(Made { at, times })
    }

    #[test]
    fn spans_are_those_of_the_first_connection_and_of_the_answer_whoever_brought_it() {
        let started = Instant::now();
        let mut marks = Marks::default();
        marks.given(started + ms(70), started, Transport::Quic, made(started + ms(60)));
        marks.sent(started + ms(72));
        marks.given(started + ms(900), started, Transport::Tcp, None);
        marks.sent(started + ms(901));
        assert!(marks.answered(started + ms(1070)) && !marks.answered(started + ms(1080)));
        let timeline = marks.timeline(started, started + ms(1100), 2);
        assert_eq!((timeline.transport, timeline.attempts), (Some(Transport::Tcp), 2));
        assert_eq!(
            (timeline.queue, timeline.send, timeline.first_byte),
            (ms(70), Some(ms(2)), Some(ms(1000)))
        );
        assert_eq!((timeline.dns, timeline.connect, timeline.tls), (Some(ms(5)), Some(ms(20)), Some(ms(30))));
        assert_eq!(timeline.elapsed, ms(1100));
    }

    #[test]
    fn a_connection_that_was_there_cost_nothing_and_a_call_that_was_given_to_none_only_waited() {
        let started = Instant::now();
        let mut marks = Marks::default();
        assert_eq!(marks.timeline(started, started + ms(9), 0).queue, ms(9));
        marks.given(started + ms(1), started, Transport::Tcp, made(started));
        let timeline = marks.timeline(started, started + ms(9), 1);
        assert_eq!((timeline.queue, timeline.connect, timeline.first_byte), (ms(1), None, None));
    }
}
