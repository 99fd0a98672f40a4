//! What the gateway says, sorted to the calls, pushes and waiting handles that it concerns.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use towline_protocols::{
    hpack::HeaderField,
    link::{Event, Execution, GoAway, Policy, RpcError, RpcErrorKind, Welcome},
    policy,
};

use super::{Core, Shared, now};
use crate::{push::Push, state::Transport};

/// What the line itself has to act on.
#[derive(Debug)]
pub(crate) enum Control {
    Welcome(Box<Welcome>),
    GoAway(Box<GoAway>),
    Policy(Policy),
    Close { code: towline_protocols::link::CloseCode, text: String },
}

impl Shared {
    /// Takes one event of the link in.
    pub(crate) fn on_event(&self, event: Event) -> Option<Control> {
        self.take(event, None, None)
    }

    /// Takes one event of a stream of line number `line` in, unless there is another line by now: that one has the
    /// stream's request.
    #[cfg(feature = "quic")]
    pub(crate) fn on_stream_event(&self, line: u64, event: Event) {
        self.take(event, None, Some(line));
    }

    /// Takes one event of a short connection in. `push_line`: what its WELCOME says of its pushes.
    pub(crate) fn on_short_event(
        &self,
        number: u64,
        push_line: Option<u64>,
        event: Event,
    ) -> Option<Control> {
        self.take(event, Some((number, push_line)), None)
    }

    fn take(&self, event: Event, short: Option<(u64, Option<u64>)>, line: Option<u64>) -> Option<Control> {
        let (short, push_line) = short.unzip();
        if let Event::Rtt(rtt) = event {
            self.quality.on(policy::Event::RoundTrip(rtt));
        }
        let mut pushed = false;
        let control = self.with(|core| {
            if line.is_some_and(|line| line != core.line) {
                return None;
            }
            // It may have led to another gateway than the link does by now, whose pushes are numbered otherwise.
            if let (Event::Push(_), Some(line)) = (&event, push_line)
                && line != Some(core.session.pushes_taken().0)
            {
                core.inbox.skip(short);
                return None;
            }
            if let Event::Push(push) = &event
                && !core.inbox.has_place(core.limits.pushes_max, short)
            {
                tracing::debug!(id = push.id, "limits.pushes_max: the app does not take its pushes");
                return None;
            }
            core.is_refused |= short.is_none() && is_draining(&event);
            if let Event::Reset { seq, error } = &event
                && core.asks_again(*seq, error, short.is_some())
            {
                return None;
            }
            let part_of = match &event {
                Event::MessagePart { seq, .. } => Some(*seq),
                _ => None,
            };
            let delivery = match short {
                None => core.session.on_event(event),
                Some(number) => core.session.on_short_event(number, event),
            };
            core.let_go();
            let Some(event) = delivery.event else {
                let part_of = part_of.filter(|_| short.is_none());
                part_of.iter().for_each(|_| core.link.brought(now()));
                part_of.into_iter().for_each(|seq| core.credit_skipped(seq, delivery.credit));
                return None;
            };
            pushed = matches!(event, Event::Push(_));
            core.dispatch(event, short.is_none().then_some(delivery.credit))
        });
        if pushed {
            self.pushes.notify_one();
        }
        self.look();
        control
    }
}

impl Core {
    /// An answer needs a dictionary that is not held here: a new connection says what is, and the gateway sends
    /// the answer again without it. Or a connection had to give way to one that is none of this client's any more, as
    /// where somebody on the way sends a POST again. Not for ever, should the gateway not obey.
    fn asks_again(&mut self, seq: u64, error: &RpcError, by_short: bool) -> bool {
        let gave_way = error.kind == RpcErrorKind::TakenElsewhere;
        if !is_unreadable(error) && !gave_way {
            return false;
        }
        let is_with_other =
            if by_short { self.session.is_on_link(seq) } else { self.session.is_on_short(seq) };
        if gave_way && is_with_other {
            return false;
        }
        let Some(call) = self.call_of(seq) else { return false };
        let (asked, asked_max) = match gave_way {
            true => (&mut call.gave_way, GAVE_WAY_MAX),
            false => (&mut call.unreadable, UNREADABLE_MAX),
        };
        if *asked >= asked_max {
            return false;
        }
        *asked += 1;
        // Each short connection says what is held.
        if !by_short {
            self.reconnect = true;
            self.touch_control();
        }
        true
    }

    /// A part that the app has from an earlier connection.
    fn credit_skipped(&mut self, seq: u64, bytes: usize) {
        let Some(&key) = self.by_seq.get(&seq) else { return };
        if let Some(call) = self.calls.get_mut(&key) {
            call.incoming.credit_due += bytes;
            self.touch(key);
        }
    }

    /// `skipped`: message bytes that came before, and are credited with the rest; `None` where nothing is.
    fn dispatch(&mut self, event: Event, skipped: Option<usize>) -> Option<Control> {
        let by_short = skipped.is_none();
        match event {
            Event::Response { seq, fields, end } => {
                self.sees_answer(seq, &fields);
                self.on_call(seq, by_short, |call| {
                    call.incoming.on_head(&fields)?;
                    if end {
                        call.incoming.end = Some(Ok(()));
                    }
                    Ok(())
                });
            }
            Event::MessagePart { seq, bytes, wire_bytes, end_of_message, end, .. } => {
                if let Some(call) = self.call_of(seq) {
                    call.marks.response.add(bytes.len(), wire_bytes);
                }
                self.sees_part(seq, wire_bytes, end_of_message);
                if !by_short {
                    self.sees_move(seq, end_of_message, end);
                }
                self.on_part(seq, bytes, end_of_message, end, skipped);
            }
            Event::End { seq } => self.on_call(seq, by_short, |call| {
                call.incoming.end = Some(Ok(()));
                Ok(())
            }),
            Event::Trailers { seq, fields } => self.on_call(seq, by_short, |call| {
                call.incoming.trailers = header_map(&fields)?;
                call.incoming.end = Some(Ok(()));
                Ok(())
            }),
            Event::Reset { seq, error } => {
                self.dictionary_unknown |=
                    error.kind == RpcErrorKind::UnknownDictionary && !is_unreadable(&error);
                self.on_reset(seq, error);
            }
            Event::Writable { seq } => {
                if let Some(&key) = self.by_seq.get(&seq) {
                    self.touch(key);
                }
            }
            Event::Push(push) => self.inbox.put(self.session.pushes_taken().0, Push::from_wire(push)),
            Event::Subscribed(subscribed) => self.on_subscribed(&subscribed),
            Event::Published { id, error } => self.on_published(id, error),
            Event::Welcome(welcome) => return Some(Control::Welcome(welcome)),
            Event::GoAway(goaway) => return Some(Control::GoAway(goaway)),
            Event::Policy(policy) => return Some(Control::Policy(policy)),
            Event::Close { code, text } => return Some(Control::Close { code, text }),
            Event::Rtt(rtt) => tracing::debug!(?rtt, "the gateway answered a beat"),
            // The machine of a client refuses what only a client may send.
            Event::Hello(_)
            | Event::Request { .. }
            | Event::Attach { .. }
            | Event::GivenUp { .. }
            | Event::Ack(_)
            | Event::PushAck { .. }
            | Event::Subscribe(_)
            | Event::Publish(_)
            | Event::PolicyAck { .. }
            | Event::Report(_)
            | Event::Moved
            | Event::Fetch(_) => {}
            Event::Offer(offer) => {
                self.known.on_offer(&offer);
                self.dictionaries.on_offer(&offer);
            }
            Event::Piece(piece) => self.dictionaries.on_piece(&piece),
        }
        None
    }

    fn on_call(
        &mut self,
        seq: u64,
        by_short: bool,
        step: impl FnOnce(&mut super::Call) -> Result<(), RpcError>,
    ) {
        let transport = if by_short { Transport::Post } else { self.transport };
        let Some(call) = self.call_of(seq) else { return };
        let was_seen = call.is_seen();
        call.marks.answered(now());
        call.marks.transport = Some(transport);
        let refused = step(call).map_err(|error| call.fail(error)).is_err();
        if !call.is_over() {
            call.wakers.readable.notify_one();
        } else if was_seen || !self.comes_later(seq) {
            self.call_of(seq).into_iter().for_each(|call| call.ended(by_short));
        }
        if refused {
            // The gateway need not send what is not taken.
            self.resets.push(seq);
        }
    }

    fn on_part(&mut self, seq: u64, bytes: Bytes, end_of_message: bool, end: bool, skipped: Option<usize>) {
        let message_bytes_max = self.limits.message_bytes_max;
        let mut credit = false;
        self.on_call(seq, skipped.is_none(), |call| {
            let unary = call.is_unary();
            let incoming = &mut call.incoming;
            let length = bytes.len();
            incoming.bytes += length;
            let held = if unary { incoming.bytes } else { incoming.partial.len() + length };
            if held > message_bytes_max {
                return Err(too_large(message_bytes_max));
            }
            incoming.credit_due += skipped.unwrap_or_default();
            // What stands behind a message that the app has not taken holds its credit back; the rest
            // has to be credited, or a message larger than the window would never be whole.
            if skipped.is_none() {
                // HTTP's flow control follows from what is read.
            } else if unary || incoming.messages.is_empty() {
                incoming.credit_due += length;
            } else {
                incoming.uncredited += length;
            }
            incoming.add_part(bytes, end_of_message);
            if end {
                incoming.end = Some(Ok(()));
            }
            credit = incoming.credit_due > 0 && !end;
            Ok(())
        });
        if credit && let Some(&key) = self.by_seq.get(&seq) {
            self.touch(key);
        }
    }

    /// An error that says that the gateway is leaving, or that it does not know a number, is no outcome: the next
    /// connection carries the call, or the same one under the next number.
    fn on_reset(&mut self, seq: u64, error: RpcError) {
        use RpcErrorKind::{Draining, OutcomeExpired, SessionLost, UnknownDictionary};
        if matches!(error.kind, Draining | UnknownDictionary | OutcomeExpired | SessionLost)
            && let Some(&key) = self.by_seq.get(&seq)
            && let Some(again) = self.session.retry(seq, &error)
        {
            self.by_seq.remove(&seq);
            self.by_seq.insert(again, key);
            if let Some(call) = self.calls.get_mut(&key) {
                call.reopened(again, error.execution == Execution::NotRun);
            }
            self.touch(key);
            return;
        }
        if self.tries_again(seq, &error) {
            return;
        }
        if let Some(call) = self.call_of(seq) {
            call.fail(error);
        }
    }
}

/// Whether the gateway refuses a request because it goes.
fn is_draining(event: &Event) -> bool {
    matches!(event, Event::Reset { error, .. } if error.kind == RpcErrorKind::Draining)
}

/// How often one call is asked for over another connection because its answer cannot be read.
const UNREADABLE_MAX: u8 = 2;
/// How often one call is asked for again because the connection that was to bring its answer had to give way.
const GAVE_WAY_MAX: u8 = 8;

/// Whether it is this side that does not hold a dictionary: of requests, the gateway says that they did not
/// run, or may have.
pub(crate) fn is_unreadable(error: &RpcError) -> bool {
    error.kind == RpcErrorKind::UnknownDictionary && error.execution == Execution::Ran
}

impl super::call::Incoming {
    fn on_head(&mut self, fields: &[HeaderField]) -> Result<(), RpcError> {
        let status = fields.iter().find(|field| &*field.name == b":status");
        let status = status.and_then(|field| std::str::from_utf8(&field.value).ok()?.parse().ok());
        self.status = status.ok_or_else(|| malformed(":status is missing or no number"))?;
        self.headers = Some(header_map(fields)?);
        Ok(())
    }

    fn add_part(&mut self, bytes: Bytes, end_of_message: bool) {
        match (self.partial.is_empty(), end_of_message) {
            (true, true) => self.messages.push_back(bytes),
            (_, false) => self.partial.extend_from_slice(&bytes),
            (false, true) => {
                self.partial.extend_from_slice(&bytes);
                self.messages.push_back(std::mem::take(&mut self.partial).freeze());
            }
        }
    }
}

/// Header fields without the pseudo-header ones.
fn header_map(fields: &[HeaderField]) -> Result<HeaderMap, RpcError> {
    let mut map = HeaderMap::with_capacity(fields.len());
    for field in fields.iter().filter(|field| !field.name.starts_with(b":")) {
        // RFC 9113, section 8.2.1.
        if field.name.iter().any(u8::is_ascii_uppercase) {
            return Err(malformed("a field name has capitals"));
        }
        let name = HeaderName::from_bytes(&field.name).map_err(|_| malformed("a field name is no token"))?;
        let mut value = HeaderValue::from_maybe_shared(field.value.clone())
            .map_err(|_| malformed("a field value holds a control character"))?;
        value.set_sensitive(field.is_secret());
        map.append(name, value);
    }
    Ok(map)
}

fn malformed(rule: &str) -> RpcError {
    let text = format!("the gateway's answer is malformed: {rule}");
    RpcError::new(RpcErrorKind::Malformed, Execution::Ran, text)
}

fn too_large(message_bytes_max: usize) -> RpcError {
    let text = format!("the answer is larger than limits.message_bytes_max ({message_bytes_max} bytes)");
    RpcError::new(RpcErrorKind::LimitExceeded, Execution::Ran, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_that_break_a_rule_make_an_answer_malformed() {
        let check = |name: &'static str, value: &'static str, expected: Result<(), &str>| {
            let status = HeaderField::from_static(":status", "200");
            let read = header_map(&[status, HeaderField::from_static(name, value)]);
            let said = read.as_ref().map(|_| ()).map_err(|error| error.message.rsplit(": ").next().unwrap());
            assert_eq!(said, expected, "{name}");
        };
        check("x-app", "A", Ok(()));
        check("x-App", "A", Err("a field name has capitals"));
        check("x app", "A", Err("a field name is no token"));
        check("x-app", "A\nB", Err("a field value holds a control character"));
    }
}
