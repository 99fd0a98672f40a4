//! What answers show of the network.

use std::time::Duration;

use towline_protocols::{
    hpack::HeaderField,
    policy::{self, Step},
};

use super::{Call, Core, Shared, now};

/// What was seen under the lock of the calls, until the quality model takes it.
#[derive(Default)]
pub(super) struct Sights {
    answers: Vec<policy::Event>,
    /// Bytes of answers, and whether one ended.
    received: usize,
    is_end: bool,
}

/// A larger request takes longer to send than a network to answer.
const REQUEST_BYTES_MAX: u64 = 4 << 10;

impl Shared {
    /// Tells the quality model what was seen.
    pub(super) fn look(&self) {
        let Sights { answers, received, is_end } = self.with(|core| std::mem::take(&mut core.sights));
        if received > 0 {
            self.quality.received(received, is_end);
        }
        answers.into_iter().for_each(|event| self.quality.on(event));
    }
}

impl Sights {
    /// An answer has not moved for as long as one is waited for.
    pub(super) fn stalled(&mut self) {
        self.answers.push(policy::Event::Expired(Step::Gap));
    }
}

impl Core {
    /// The link brought some of a message. A stream's server sends when it has something.
    pub(super) fn sees_move(&mut self, seq: u64, end_of_message: bool, end: bool) {
        let now = now();
        self.link.brought(now);
        let Some(call) = self.call_of(seq).filter(|call| call.is_unary()) else { return };
        // From now on short connections look after it.
        let begins = call.answer_moved().is_none();
        let gap = call.moved(now, end_of_message);
        self.sights.answers.extend(gap.map(|gap| policy::Event::Came(Step::Gap, gap)));
        self.link.wake |= begins && !end;
    }

    /// The head of an answer came.
    pub(super) fn sees_answer(&mut self, seq: u64, fields: &[HeaderField]) {
        let Some(call) = self.call_of(seq) else { return };
        if let Some(given) = call.marks.waits_since().filter(|_| is_telling(call)) {
            let after = now().saturating_duration_since(given);
            self.liveness.came_within(after);
            self.sights.answers.push(policy::Event::Answered { after, server: server_time(fields) });
        }
    }

    /// Bytes of a message came. A stream's server sends when it has something, a unary answer as fast as it can.
    pub(super) fn sees_part(&mut self, seq: u64, wire_bytes: usize, is_end: bool) {
        let Some(call) = self.call_of(seq).filter(|call| call.is_unary()) else { return };
        let waited = call.marks.message_begins(now()).filter(|_| is_telling(call));
        self.sights.answers.extend(waited.map(policy::Event::Delivered));
        self.sights.received += wire_bytes;
        self.sights.is_end |= is_end;
    }
}

/// Whether the time to a call's answer says something of others. RFC 6298, section 3: of what was sent more than once
/// nobody knows which is answered.
fn is_telling(call: &Call) -> bool {
    call.is_unary() && call.attempts == 1 && call.marks.request.wire <= REQUEST_BYTES_MAX
}

/// The server's part, where it says so: the longest duration of `server-timing`, in milliseconds, since one of them is
/// the whole and the others are parts.
fn server_time(fields: &[HeaderField]) -> Option<Duration> {
    let timings = fields.iter().filter(|field| &*field.name == b"server-timing");
    let values = timings.filter_map(|field| std::str::from_utf8(&field.value).ok());
    let parameters = values.flat_map(|value| value.split([',', ';']));
    let durations = parameters.filter_map(|parameter| {
        let (name, value) = parameter.trim().split_once('=')?;
        let millis: f64 = value.trim_matches('"').parse().ok()?;
        name.eq_ignore_ascii_case("dur").then_some(millis)
    });
    let longest = durations.filter(|millis| (0.0..MILLIS_MAX).contains(millis)).reduce(f64::max)?;
    Some(Duration::from_secs_f64(longest / 1000.0))
}

/// No answer takes longer.
const MILLIS_MAX: f64 = 3_600_000.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_time_is_the_longest_that_it_names() {
        let check = |values: &[&'static str], expected: Option<u64>| {
            let field = |value: &&'static str| HeaderField::new("server-timing", *value);
            let fields: Vec<HeaderField> = values.iter().map(field).collect();
            assert_eq!(server_time(&fields), expected.map(Duration::from_millis), "{values:?}");
        };
        check(&[], None);
        check(&["miss"], None);
        check(&["total;dur=53"], Some(53));
        check(&["db;dur=12.0, app;desc=\"x\";dur=\"47\"", "cache;dur=2"], Some(47));
        check(&["total;dur=-1", "a;dur=NaN", "b;dur=1e99"], None);
    }
}
