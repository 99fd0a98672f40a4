//! From the events of one request to its outcome.

use towline_protocols::{hpack::HeaderField, link::Event};

use super::refused;
use crate::fault::{Fault, FaultKind};

/// An answer that is arriving.
#[derive(Debug)]
pub(super) struct Answer {
    grpc: bool,
    /// gRPC's status stood in the head: nothing but the end follows, and that may come on its own.
    status_in_head: bool,
    failure: Option<Fault>,
}

impl Answer {
    pub(super) fn new(grpc: bool) -> Self {
        Self { grpc, status_in_head: false, failure: None }
    }

    /// Takes the next event; the outcome, once it is known.
    pub(super) fn take(&mut self, event: &Event) -> Option<Result<(), Fault>> {
        match event {
            Event::Response { fields, end, .. } => {
                self.check(fields, ":status", |status| status.first() == Some(&b'2'));
                if self.grpc && find(fields, "grpc-status").is_some() {
                    self.check_grpc(fields);
                    self.status_in_head = true;
                }
                end.then(|| self.finish(fields))
            }
            Event::Trailers { fields, .. } => Some(self.finish(fields)),
            Event::MessagePart { end: true, .. } | Event::End { .. } => Some(self.finish(&[])),
            Event::Reset { error, .. } => Some(Err(refused(error))),
            _ => None,
        }
    }

    /// `last` are the fields that hold gRPC's status: trailers, or the head of an answer without body.
    fn finish(&mut self, last: &[HeaderField]) -> Result<(), Fault> {
        if self.grpc && !self.status_in_head {
            self.check_grpc(last);
        }
        self.failure.take().map_or(Ok(()), Err)
    }

    fn check_grpc(&mut self, fields: &[HeaderField]) {
        self.check(fields, "grpc-status", |status| status == b"0");
    }

    fn check(&mut self, fields: &[HeaderField], name: &str, good: impl Fn(&[u8]) -> bool) {
        let value = find(fields, name).map(|field| &field.value);
        let fault = match value {
            Some(value) if good(value) => return,
            Some(value) => Fault::new(FaultKind::Status, format!("{name} {}", value.escape_ascii())),
            None => Fault::new(FaultKind::Protocol, format!("the answer has no {name}")),
        };
        self.failure.get_or_insert(fault);
    }
}

fn find<'a>(fields: &'a [HeaderField], name: &str) -> Option<&'a HeaderField> {
    fields.iter().find(|field| *field.name == *name.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(pairs: &[(&'static str, &'static str)]) -> Vec<HeaderField> {
        pairs.iter().map(|(name, value)| HeaderField::from_static(name, value)).collect()
    }

    fn outcome(grpc: bool, events: &[Event]) -> Option<Result<(), FaultKind>> {
        let mut answer = Answer::new(grpc);
        let mut outcomes = events.iter().filter_map(|event| answer.take(event));
        outcomes.next().map(|outcome| outcome.map_err(|fault| fault.kind))
    }

    fn response(status: &'static str, end: bool) -> Event {
        Event::Response { seq: 1, fields: fields(&[(":status", status)]), end }
    }

    #[test]
    fn a_grpc_answer_is_good_when_its_trailers_say_so() {
        let trailers = |status| Event::Trailers { seq: 1, fields: fields(&[("grpc-status", status)]) };
        assert_eq!(outcome(true, &[response("200", false)]), None, "not over yet");
        assert_eq!(outcome(true, &[response("200", false), trailers("0")]), Some(Ok(())));
        assert_eq!(outcome(true, &[response("200", false), trailers("14")]), Some(Err(FaultKind::Status)));
        assert_eq!(
            outcome(true, &[response("200", false), Event::End { seq: 1 }]),
            Some(Err(FaultKind::Protocol)),
            "no grpc-status"
        );
    }

    #[test]
    fn a_status_in_the_head_counts_whether_or_not_the_end_comes_with_it() {
        let head = |end| {
            let fields = fields(&[(":status", "200"), ("grpc-status", "12")]);
            Event::Response { seq: 1, fields, end }
        };
        assert_eq!(outcome(true, &[head(true)]), Some(Err(FaultKind::Status)));
        assert_eq!(outcome(true, &[head(false), Event::End { seq: 1 }]), Some(Err(FaultKind::Status)));
    }

    #[test]
    fn a_plain_answer_is_good_when_its_status_is() {
        assert_eq!(outcome(false, &[response("204", true)]), Some(Ok(())));
        assert_eq!(outcome(false, &[response("503", true)]), Some(Err(FaultKind::Status)));
    }
}
