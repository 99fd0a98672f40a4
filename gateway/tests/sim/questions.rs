//! What calls ask and how they are answered, all of it by the number of the call: each end can tell whether what
//! arrived is what was sent.

use std::fmt::Write as _;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};

/// A field of each request that a header dictionary may know.
const ASKED: HeaderName = HeaderName::from_static("x-sim-asked");
/// The same of each answer.
const ANSWERED: HeaderName = HeaderName::from_static("x-sim-answered");
/// Which run of the call the answer is of.
const RUN: HeaderName = HeaderName::from_static("x-sim-run");
const STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// A session header that some requests have of their own.
const VERSION: HeaderName = HeaderName::from_static("x-app-version");
const TOKEN: HeaderName = HeaderName::from_static("x-sim-token");
/// Values of the fields that dictionaries know.
const KINDS: u64 = 4;

/// Every fourth call is a stream.
pub(crate) fn is_stream(id: u64) -> bool {
    id.is_multiple_of(4)
}

/// The request's first message: it begins with the number.
pub(crate) fn question(id: u64, size: usize) -> Bytes {
    let mut bytes = BytesMut::with_capacity(size + 8);
    bytes.put_u64(id);
    bytes.put_bytes(id as u8, size);
    bytes.freeze()
}

/// What a stream sends behind the question.
pub(crate) fn uploads(id: u64) -> Vec<Bytes> {
    let mut chance = fastrand::Rng::with_seed(!id);
    let message = |n: u8| {
        let size = if chance.f32() < 0.8 { 1000 } else { chance.usize(1000..40_000) };
        let cycle: [u8; 256] = std::array::from_fn(|at| n.wrapping_add(at as u8));
        // By large pieces: byte for byte, bodies would take a tenth of a run that is not optimised.
        let mut bytes = cycle.repeat(size.div_ceil(cycle.len()));
        bytes.truncate(size);
        bytes.into()
    };
    (1..4).map(message).collect()
}

/// The messages of the answer that a run of the call gives. Their sizes are such that some fill windows.
pub(crate) fn answer_of(id: u64, run: u64) -> Vec<Bytes> {
    let mut chance = fastrand::Rng::with_seed(id);
    let count = if is_stream(id) { chance.usize(0..12) } else { 1 };
    let message = |n: usize| {
        let size = if chance.f32() < 0.9 { chance.usize(0..300) } else { chance.usize(300..60_000) };
        let mut bytes = BytesMut::with_capacity(size + 24);
        bytes.put_u64(id);
        bytes.put_u64(n as u64);
        bytes.put_u64(run);
        bytes.put_bytes((n as u64 ^ run) as u8, size);
        // Half of the answers can be compressed.
        if id.is_multiple_of(2) {
            chance.fill(&mut bytes[24..]);
        }
        // The last word tells runs apart as well.
        let end = bytes.len() - 8;
        bytes[end..].copy_from_slice(&run.to_be_bytes());
        bytes.freeze()
    };
    (0..count).map(message).collect()
}

/// A gRPC message with its prefix.
pub(crate) fn prefixed(message: &Bytes) -> Bytes {
    let mut bytes = BytesMut::with_capacity(message.len() + 5);
    bytes.put_u8(0);
    bytes.put_u32(message.len() as u32);
    bytes.extend_from_slice(message);
    bytes.freeze()
}

/// The body that the backend is to read of a call.
pub(crate) fn body_of(id: u64, size: usize) -> Bytes {
    let uploads = if is_stream(id) { uploads(id) } else { Vec::new() };
    let messages = std::iter::once(question(id, size)).chain(uploads);
    let prefixed: Vec<Bytes> = messages.map(|message| prefixed(&message)).collect();
    prefixed.concat().into()
}

/// The fields that every request of an app of this version shares.
pub(crate) fn session_headers(client: usize, version: u64) -> Vec<(String, String)> {
    let token = format!("{client}-{version}-").repeat(12);
    vec![(VERSION.to_string(), version.to_string()), (TOKEN.to_string(), token)]
}

/// The fields that a call has of its own.
pub(crate) fn own_headers(id: u64) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(ASKED, HeaderValue::from(id % KINDS));
    if id.is_multiple_of(5) {
        headers.insert(VERSION, HeaderValue::from_static("its own"));
    }
    headers
}

/// What is wrong with the fields of call `id` as the backend sees them; `shared` are the session's.
pub(crate) fn wrong_in_request(id: u64, shared: &[(String, String)], seen: &HeaderMap) -> Option<String> {
    let own = own_headers(id);
    let expected = |name: &HeaderName| {
        let of_session = shared.iter().find(|(shared, _)| shared == name.as_str());
        own.get(name).cloned().or_else(|| HeaderValue::from_str(&of_session?.1).ok())
    };
    let mut names = [ASKED, VERSION, TOKEN].into_iter();
    names.find_map(|name| {
        let (seen, expected) = (values(seen, &name), expected(&name));
        (seen != expected.iter().collect::<Vec<_>>())
            .then(|| format!("the backend saw {name}: {seen:?} in place of {expected:?}"))
    })
}

/// The head of the answer that a run of the call gives.
pub(crate) fn head_of(id: u64, run: u64) -> HeaderMap {
    let mut headers = answer_headers(id);
    headers.insert(RUN, HeaderValue::from(run));
    headers
}

/// Which run an answer with that head is of.
pub(crate) fn run_of(headers: &HeaderMap) -> Option<u64> {
    headers.get(RUN)?.to_str().ok()?.parse().ok()
}

fn answer_headers(id: u64) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(ANSWERED, HeaderValue::from(id % KINDS));
    headers
}

/// The whole of an answer that asks for the call to come later.
pub(crate) fn refusal_headers(id: u64) -> HeaderMap {
    let mut headers = answer_headers(id);
    headers.insert(STATUS, HeaderValue::from_static("14"));
    headers.insert("grpc-retry-pushback-ms", HeaderValue::from(id % 7 * 50));
    headers
}

pub(crate) fn is_refusal(headers: &HeaderMap) -> bool {
    headers.contains_key(STATUS)
}

/// What is wrong with the fields of an answer as the app sees them.
pub(crate) fn wrong_in_answer(id: u64, seen: &HeaderMap) -> Option<String> {
    answer_headers(id).iter().find_map(|(name, expected)| {
        let seen = values(seen, name);
        (seen != [expected]).then(|| format!("{name}: {seen:?} in place of {expected:?}"))
    })
}

fn values<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Vec<&'a HeaderValue> {
    headers.get_all(name).iter().collect()
}

/// A header dictionary. Each version has the same fields at other places.
pub(crate) fn header_dictionary(version: u64) -> Bytes {
    let mut text = String::from("towline headers 1\n");
    for n in 0..KINDS {
        let kind = (n + version) % KINDS;
        // Writing to a string cannot fail.
        _ = writeln!(text, "{ASKED}: {kind}\n{ANSWERED}: {kind}");
    }
    _ = writeln!(text, "{VERSION}: {version}");
    text.into()
}
