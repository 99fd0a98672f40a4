//! What is written down of a durable call.
//!
//! ```text
//!  generation | key | tag | from | until (ms since 1970) | kind
//!    0 waiting: seq | 1 and session u64, or 0 and 0 | flags | urgency | fields | message
//!    1 answered: transport | attempts | elapsed ms | status | fields | trailers | messages
//!    2 failed: transport | attempts | elapsed ms | kind | execution | retry-after ms + 1, or 0 | text
//!  numbers as RFC 9000 varints; texts, fields and messages behind their lengths or counts
//! ```

use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes};
use http::{HeaderMap, HeaderName, HeaderValue};
use towline_protocols::{
    hpack::HeaderField,
    link::{Execution, Priority, RequestHead, RpcError, RpcErrorKind},
    varint,
};

use super::Outcome;
use crate::{call::CallResponse, error::FailedCall, state::Transport, timeline::Timeline, wall::millis};

/// See the file's head.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    /// Rises with each record that is written.
    pub(crate) generation: u64,
    pub(crate) key: String,
    pub(crate) tag: Bytes,
    pub(crate) from_ms: u64,
    pub(crate) until_ms: u64,
    pub(crate) body: Body,
}

#[derive(Clone, Debug)]
pub(crate) enum Body {
    Waiting(Waiting),
    Over(Box<Outcome>),
}

/// A call whose outcome is to come.
#[derive(Clone, Debug)]
pub(crate) struct Waiting {
    pub(crate) seq: u64,
    /// The session that it may have been given to under that number.
    pub(crate) session: Option<u64>,
    /// It may have run under another number or in another session.
    pub(crate) doubtful: bool,
    pub(crate) bodiless: bool,
    /// It must not travel in the clear.
    pub(crate) needs_encryption: bool,
    pub(crate) head: RequestHead,
    pub(crate) message: Bytes,
}

const WAITING: u8 = 0;
const ANSWERED: u8 = 1;
const FAILED: u8 = 2;
const DOUBTFUL: u8 = 1;
const BODILESS: u8 = 2;
const IDEMPOTENT: u8 = 4;
const NEEDS_ENCRYPTION: u8 = 8;

impl Record {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        varint::put(&mut out, self.generation);
        put_bytes(&mut out, self.key.as_bytes());
        put_bytes(&mut out, &self.tag);
        varint::put(&mut out, self.from_ms);
        varint::put(&mut out, self.until_ms);
        match &self.body {
            Body::Waiting(waiting) => waiting.encode(&mut out),
            Body::Over(outcome) => match &**outcome {
                Ok(answer) => encode_answer(answer, &mut out),
                Err(error) => encode_error(error, &mut out),
            },
        }
        out
    }

    /// `None` of what no [`Record::encode`] wrote.
    pub(super) fn decode(content: Vec<u8>) -> Option<Self> {
        let mut input = Bytes::from(content);
        let generation = varint::get(&mut input)?;
        let key = String::from_utf8(get_bytes(&mut input)?.to_vec()).ok()?;
        let tag = get_bytes(&mut input)?;
        let (from_ms, until_ms) = (varint::get(&mut input)?, varint::get(&mut input)?);
        let body = match get_u8(&mut input)? {
            WAITING => Body::Waiting(Waiting::decode(&mut input)?),
            ANSWERED => Body::Over(Box::new(Ok(decode_answer(&mut input)?))),
            FAILED => Body::Over(Box::new(Err(decode_error(&mut input)?))),
            _ => return None,
        };
        input.is_empty().then_some(Self { generation, key, tag, from_ms, until_ms, body })
    }
}

impl Waiting {
    fn encode(&self, out: &mut Vec<u8>) {
        let flag = |is_set: bool, bit: u8| if is_set { bit } else { 0 };
        out.put_u8(WAITING);
        varint::put(out, self.seq);
        // A session's id is any number of 64 bits.
        out.put_u8(u8::from(self.session.is_some()));
        out.put_u64(self.session.unwrap_or_default());
        let idempotent = flag(self.head.idempotent, IDEMPOTENT);
        let encryption = flag(self.needs_encryption, NEEDS_ENCRYPTION);
        out.put_u8(flag(self.doubtful, DOUBTFUL) | flag(self.bodiless, BODILESS) | idempotent | encryption);
        out.put_u8(self.head.priority.urgency());
        varint::put(out, self.head.fields.len() as u64);
        for field in &self.head.fields {
            out.put_u8(u8::from(field.sensitive));
            put_bytes(out, &field.name);
            put_bytes(out, &field.value);
        }
        put_bytes(out, &self.message);
    }

    fn decode(input: &mut Bytes) -> Option<Self> {
        let seq = varint::get(input)?;
        let has_session = get_u8(input)? == 1;
        let session = input.try_get_u64().ok()?;
        let (flags, urgency) = (get_u8(input)?, get_u8(input)?);
        let fields = (0..varint::get(input)?).map(|_| {
            let sensitive = get_u8(input)? == 1;
            Some(HeaderField { sensitive, name: get_bytes(input)?, value: get_bytes(input)? })
        });
        let fields = fields.collect::<Option<_>>()?;
        let head = RequestHead {
            priority: Priority::new(urgency),
            idempotent: flags & IDEMPOTENT != 0,
            fields,
            ..RequestHead::default()
        };
        Some(Self {
            seq,
            session: has_session.then_some(session),
            doubtful: flags & DOUBTFUL != 0,
            bodiless: flags & BODILESS != 0,
            needs_encryption: flags & NEEDS_ENCRYPTION != 0,
            head,
            message: get_bytes(input)?,
        })
    }
}

fn encode_answer(answer: &CallResponse, out: &mut Vec<u8>) {
    out.put_u8(ANSWERED);
    encode_timeline(&answer.timeline, out);
    varint::put(out, answer.status.into());
    put_map(out, &answer.headers);
    put_map(out, &answer.trailers);
    varint::put(out, answer.messages.len() as u64);
    answer.messages.iter().for_each(|message| put_bytes(out, message));
}

fn decode_answer(input: &mut Bytes) -> Option<CallResponse> {
    let timeline = decode_timeline(input)?;
    let status = varint::get(input)?.try_into().ok()?;
    let (headers, trailers) = (get_map(input)?, get_map(input)?);
    let messages = (0..varint::get(input)?).map(|_| get_bytes(input)).collect::<Option<_>>()?;
    Some(CallResponse { status, headers, messages, trailers, timeline })
}

fn encode_error(failed: &FailedCall, out: &mut Vec<u8>) {
    let RpcError { kind, execution, retry_after, message } = &failed.error;
    out.put_u8(FAILED);
    encode_timeline(&failed.timeline, out);
    out.put_u8(*kind as u8);
    out.put_u8(*execution as u8);
    varint::put(out, retry_after.map_or(0, |pause| millis(pause).saturating_add(1)));
    put_bytes(out, message.as_bytes());
}

fn decode_error(input: &mut Bytes) -> Option<FailedCall> {
    let timeline = Box::new(decode_timeline(input)?);
    let kind = RpcErrorKind::from_wire(get_u8(input)?);
    let execution = match get_u8(input)? {
        0 => Execution::NotRun,
        1 => Execution::MayHaveRun,
        _ => Execution::Ran,
    };
    let retry_after = varint::get(input)?.checked_sub(1).map(Duration::from_millis);
    let message = String::from_utf8(get_bytes(input)?.to_vec()).ok()?;
    Some(FailedCall { error: RpcError { kind, execution, retry_after, message }, timeline })
}

/// What is of interest to another run.
fn encode_timeline(timeline: &Timeline, out: &mut Vec<u8>) {
    out.put_u8(match timeline.transport {
        None => 0,
        Some(Transport::Quic) => 1,
        Some(Transport::Tcp) => 2,
        Some(Transport::Post) => 3,
    });
    varint::put(out, timeline.attempts.into());
    varint::put(out, millis(timeline.elapsed));
}

fn decode_timeline(input: &mut Bytes) -> Option<Timeline> {
    let transport = match get_u8(input)? {
        0 => None,
        1 => Some(Transport::Quic),
        2 => Some(Transport::Tcp),
        _ => Some(Transport::Post),
    };
    let attempts = varint::get(input)?.try_into().ok()?;
    let elapsed = Duration::from_millis(varint::get(input)?);
    Some(Timeline { transport, attempts, elapsed, ..Timeline::default() })
}

fn put_map(out: &mut Vec<u8>, fields: &HeaderMap) {
    varint::put(out, fields.len() as u64);
    for (name, value) in fields {
        out.put_u8(u8::from(value.is_sensitive()));
        put_bytes(out, name.as_str().as_bytes());
        put_bytes(out, value.as_bytes());
    }
}

fn get_map(input: &mut Bytes) -> Option<HeaderMap> {
    let mut fields = HeaderMap::new();
    for _ in 0..varint::get(input)? {
        let sensitive = get_u8(input)? == 1;
        let name = HeaderName::from_bytes(&get_bytes(input)?).ok()?;
        let mut value = HeaderValue::from_maybe_shared(get_bytes(input)?).ok()?;
        value.set_sensitive(sensitive);
        fields.append(name, value);
    }
    Some(fields)
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    varint::put(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn get_bytes(input: &mut Bytes) -> Option<Bytes> {
    let length = varint::get(input)?.try_into().ok()?;
    (length <= input.len()).then(|| input.split_to(length))
}

fn get_u8(input: &mut Bytes) -> Option<u8> {
    input.try_get_u8().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(body: Body) -> Record {
        let (key, tag) = ("order-7".to_owned(), Bytes::from_static(b"\0tag"));
        Record { generation: 9, key, tag, from_ms: 1_700_000_000_000, until_ms: 1_700_000_060_000, body }
    }

    fn waiting(session: Option<u64>) -> Body {
        let fields = vec![HeaderField::new(":path", "/a"), HeaderField::sensitive("authorization", "x")];
        let head =
            RequestHead { priority: Priority::CRITICAL, idempotent: true, fields, ..RequestHead::default() };
        let message = Bytes::from_static(b"message");
        Body::Waiting(Waiting {
            seq: 5,
            session,
            doubtful: true,
            bodiless: false,
            needs_encryption: true,
            head,
            message,
        })
    }

    fn answered() -> Body {
        let mut headers = HeaderMap::new();
        headers.append("set-cookie", HeaderValue::from_static("a"));
        headers.append("set-cookie", HeaderValue::from_static("b"));
        let elapsed = Duration::from_millis(1234);
        let timeline =
            Timeline { transport: Some(Transport::Post), attempts: 3, elapsed, ..Timeline::default() };
        let messages = vec![Bytes::from_static(b"one"), Bytes::new()];
        let trailers = HeaderMap::from_iter([(HeaderName::from_static("grpc-status"), 0.into())]);
        Body::Over(Box::new(Ok(CallResponse { status: 200, headers, messages, trailers, timeline })))
    }

    fn failed() -> Body {
        let error = RpcError::new(RpcErrorKind::SessionLost, Execution::MayHaveRun, "gone");
        let error = RpcError { retry_after: Some(Duration::ZERO), ..error };
        Body::Over(Box::new(Err(FailedCall { error, timeline: Box::default() })))
    }

    #[test]
    fn what_was_written_is_read() {
        for body in [waiting(Some(u64::MAX)), waiting(None), answered(), failed()] {
            let record = record(body);
            let read = Record::decode(record.encode()).unwrap();
            assert_eq!(format!("{read:?}"), format!("{record:?}"));
        }
    }

    #[test]
    fn what_is_cut_is_none() {
        for body in [waiting(Some(7)), answered(), failed()] {
            let whole = record(body).encode();
            (0..whole.len())
                .for_each(|cut| assert!(Record::decode(whole[..cut].to_vec()).is_none(), "{cut}"));
            assert!(Record::decode([&whole[..], &[0]].concat()).is_none());
        }
    }
}
