//! Calls: a request, an answer, a handle to take it back.

use std::{
    ffi::{CString, c_char, c_void},
    mem::{MaybeUninit, size_of},
    sync::Arc,
    time::Duration,
};

use super::{
    TowlineError, TowlineStatus,
    callbacks::Callbacks,
    client::TowlineClient,
    emptied, given, guard, guarded, put,
    raw::{self, TowlineBytes, TowlineHeader, UserData, c_text},
};
use crate::{
    Cancellation, Header, Request, Response, Timeline, engine::Engine, error::TowlineError as Error,
};

/// The request's priority is the usual one.
pub const TOWLINE_PRIORITY_NORMAL: u32 = 0;
/// What a person is waiting on with money at stake.
pub const TOWLINE_PRIORITY_CRITICAL: u32 = 1;
/// Prefetches, telemetry.
pub const TOWLINE_PRIORITY_BACKGROUND: u32 = 2;

/// Running the request twice does no harm, whatever its method.
pub const TOWLINE_REQUEST_IDEMPOTENT: u32 = 1;
/// Running the request twice does harm, whatever its method.
pub const TOWLINE_REQUEST_NOT_IDEMPOTENT: u32 = 2;
/// Refuse to send it in the clear.
pub const TOWLINE_REQUEST_NEEDS_ENCRYPTION: u32 = 4;

/// One request. Zero is a good value for every member but struct_size and path.
#[repr(C)]
pub struct TowlineRequest {
    /// sizeof(TowlineRequest).
    pub struct_size: usize,
    /// Path with query; for gRPC /package.Service/Method.
    pub path: *const c_char,
    /// For gRPC the encoded message without prefix, for HTTP the body. A stream sends it first unless it is empty.
    pub message: TowlineBytes,
    /// HTTP method, as "GET"; NULL: a gRPC method.
    pub method: *const c_char,
    /// Host that the router sees, where it matters; or NULL.
    pub authority: *const c_char,
    /// Header fields beside the session's.
    pub headers: *const TowlineHeader,
    /// How many.
    pub headers_len: usize,
    /// How long the caller waits, milliseconds; 0: the client's option deadline_ms.
    pub deadline_ms: u64,
    /// One of TOWLINE_PRIORITY_*.
    pub priority: u32,
    /// Any of TOWLINE_REQUEST_*, added up.
    pub flags: u32,
}

/// The answer to a call, which a callback looks at while it runs.
pub struct TowlineResponse {
    response: Response,
    headers: Vec<(CString, CString)>,
    trailers: Vec<(CString, CString)>,
    grpc_text: CString,
}

/// A call under way.
pub struct TowlineCall(Arc<Cancellation>);

/// How a call went. Durations are microseconds; -1 is what did not happen.
#[repr(C)]
pub struct TowlineTimeline {
    /// The transport that brought the end of the answer, one of TOWLINE_TRANSPORT_*; of a call that failed, the last
    /// that carried it.
    pub transport: u32,
    /// Connections that carried the request or waited for its answer; 1 where nothing broke, 0 where it was given to
    /// none, and then transport says nothing.
    pub attempts: u32,
    /// From the call until it was given to its first connection, or to its end if it never was.
    pub queue_us: i64,
    /// Looking up the address, where the call waited for that connection to be made.
    pub dns_us: i64,
    /// From the address to a connection of TCP; QUIC's handshake.
    pub connect_us: i64,
    /// From there to a completed TLS handshake.
    pub tls_us: i64,
    /// From being given to its first connection until the last byte of the request was handed to the system.
    pub send_us: i64,
    /// From being given to its first connection to the first byte of the answer.
    pub first_byte_us: i64,
    /// From the call to its end.
    pub elapsed_us: i64,
    /// Bytes of the request's messages, as the app gave them.
    pub request_plain: u64,
    /// As they travelled.
    pub request_wire: u64,
    /// Bytes of the answer's messages, as the app gets them.
    pub response_plain: u64,
    /// As they travelled.
    pub response_wire: u64,
}

/// Told once how a call ended: by the response, or else by the error. Both belong to the library, which frees them when
/// the callback returns.
pub type TowlineOnResponse = Option<
    extern "C" fn(user_data: *mut c_void, response: Option<&TowlineResponse>, error: Option<&TowlineError>),
>;

/// Sends one request; on_response is called once with its whole answer, unless this function fails. A gRPC status other
/// than OK is no error here: see towline_response_grpc_status.
///
/// call may be NULL; else the handle is freed with towline_call_free, at any time.
#[unsafe(no_mangle)]
pub extern "C" fn towline_call(
    client: Option<&TowlineClient>,
    request: Option<&TowlineRequest>,
    on_response: TowlineOnResponse,
    user_data: *mut c_void,
    call: Option<&mut MaybeUninit<*mut TowlineCall>>,
    error: Option<&mut MaybeUninit<*mut TowlineError>>,
) -> TowlineStatus {
    let call = emptied(call);
    guard(error, || {
        let client = given(client, "client")?.client();
        let request = read(given(request, "request")?)?;
        let on_response = given(on_response, "on_response")?;
        let user_data = UserData::new(user_data);
        let callbacks = Callbacks::get()?;
        client.open()?;
        let cancellation = Cancellation::new();
        put(call, Some(TowlineCall(Arc::clone(&cancellation))));
        Engine::get()?.spawn(async move {
            let answer = client.call(request, Some(cancellation)).await;
            let tell = move || match answer {
                Ok(response) => on_response(user_data.get(), Some(&TowlineResponse::new(response)), None),
                Err(error) => on_response(user_data.get(), None, Some(&TowlineError::new(error))),
            };
            callbacks.make(tell).await;
        });
        Ok(())
    })
}

/// Gives a call up: unless it was answered already, its callback is told TOWLINE_KIND_CANCELLED. The backend is told too.
#[unsafe(no_mangle)]
pub extern "C" fn towline_call_cancel(call: Option<&TowlineCall>) {
    guarded((), || call.map(|call| call.0.cancel()).unwrap_or_default());
}

/// Frees a handle, which does not cancel the call; NULL is nothing.
#[unsafe(no_mangle)]
pub extern "C" fn towline_call_free(call: Option<Box<TowlineCall>>) {
    guarded((), || drop(call));
}

/// HTTP status.
#[unsafe(no_mangle)]
pub extern "C" fn towline_response_status(response: Option<&TowlineResponse>) -> u16 {
    guarded(0, || response.map_or(0, |it| it.response.status))
}

/// How many messages there are: one for a unary gRPC method; for HTTP the body comes in parts.
#[unsafe(no_mangle)]
pub extern "C" fn towline_response_messages_len(response: Option<&TowlineResponse>) -> usize {
    guarded(0, || response.map_or(0, |it| it.response.messages.len()))
}

/// A message, counted from 0; no bytes if there is none of that number.
#[unsafe(no_mangle)]
pub extern "C" fn towline_response_message(
    response: Option<&TowlineResponse>,
    number: usize,
) -> TowlineBytes {
    guarded(TowlineBytes::NONE, || {
        let message = response.and_then(|it| it.response.messages.get(number));
        message.map_or(TowlineBytes::NONE, |message| TowlineBytes::of(message))
    })
}

/// The first header field of that name (lower case), or NULL.
#[unsafe(no_mangle)]
pub extern "C" fn towline_response_header(
    response: Option<&TowlineResponse>,
    name: *const c_char,
) -> *const c_char {
    guarded(std::ptr::null(), || find(response.map(|it| it.headers.as_slice()), name))
}

/// The first trailer of that name (lower case), or NULL.
#[unsafe(no_mangle)]
pub extern "C" fn towline_response_trailer(
    response: Option<&TowlineResponse>,
    name: *const c_char,
) -> *const c_char {
    guarded(std::ptr::null(), || find(response.map(|it| it.trailers.as_slice()), name))
}

/// The gRPC status: 0 is OK, -1 means that this is no gRPC answer. text, which may be NULL, gets the status' text.
#[unsafe(no_mangle)]
pub extern "C" fn towline_response_grpc_status(
    response: Option<&TowlineResponse>,
    text: Option<&mut MaybeUninit<*const c_char>>,
) -> i32 {
    guarded(-1, || {
        if let Some(text) = text {
            text.write(response.map_or(c"", |it| it.grpc_text.as_c_str()).as_ptr());
        }
        let status = response.and_then(|it| it.response.grpc_status.as_ref());
        status.and_then(|status| i32::try_from(status.code).ok()).unwrap_or(-1)
    })
}

/// How the call went. timeline gets nothing, and false is answered, where there is no response.
#[unsafe(no_mangle)]
pub extern "C" fn towline_response_timeline(
    response: Option<&TowlineResponse>,
    timeline: Option<&mut MaybeUninit<TowlineTimeline>>,
) -> bool {
    guarded(false, || tell(response.map(|it| &it.response.timeline), timeline))
}

/// How a call went that failed. timeline gets nothing, and false is answered, where the error is not that of a call.
#[unsafe(no_mangle)]
pub extern "C" fn towline_error_timeline(
    error: Option<&TowlineError>,
    timeline: Option<&mut MaybeUninit<TowlineTimeline>>,
) -> bool {
    guarded(false, || tell(error.and_then(TowlineError::timeline), timeline))
}

fn tell(from: Option<&Timeline>, to: Option<&mut MaybeUninit<TowlineTimeline>>) -> bool {
    let (Some(from), Some(to)) = (from, to) else { return false };
    to.write(TowlineTimeline::of(from));
    true
}

impl TowlineTimeline {
    fn of(timeline: &Timeline) -> Self {
        let us = |time: Duration| i64::try_from(time.as_micros()).unwrap_or(i64::MAX);
        let if_any = |time: Option<Duration>| time.map_or(-1, us);
        Self {
            transport: timeline.transport.map_or(0, |transport| transport as u32),
            attempts: timeline.attempts,
            queue_us: us(timeline.queue),
            dns_us: if_any(timeline.dns),
            connect_us: if_any(timeline.connect),
            tls_us: if_any(timeline.tls),
            send_us: if_any(timeline.send),
            first_byte_us: if_any(timeline.first_byte),
            elapsed_us: us(timeline.elapsed),
            request_plain: timeline.request.plain,
            request_wire: timeline.request.wire,
            response_plain: timeline.response.plain,
            response_wire: timeline.response.wire,
        }
    }
}

impl TowlineResponse {
    pub(super) fn new(response: Response) -> Self {
        let pairs = |fields: &[Header]| {
            fields.iter().map(|field| (c_text(&field.name), c_text(&field.value))).collect::<Vec<_>>()
        };
        let text = response.grpc_status.as_ref().map_or("", |status| &status.text);
        let (headers, trailers) = (pairs(&response.headers), pairs(&response.trailers));
        Self { headers, trailers, grpc_text: c_text(text), response }
    }
}

fn find(fields: Option<&[(CString, CString)]>, name: *const c_char) -> *const c_char {
    let Ok(name) = raw::text(name, "name") else { return std::ptr::null() };
    let found = fields.unwrap_or_default().iter().find(|(field, _)| field.as_bytes() == name.as_bytes());
    found.map_or(std::ptr::null(), |(_, value)| value.as_ptr())
}

pub(super) fn read(request: &TowlineRequest) -> Result<Request, Error> {
    if request.struct_size != size_of::<TowlineRequest>() {
        let reason = format!("is {}, not sizeof(TowlineRequest)", request.struct_size);
        return Err(Error::argument("request.struct_size", reason));
    }
    let idempotent = match request.flags & (TOWLINE_REQUEST_IDEMPOTENT | TOWLINE_REQUEST_NOT_IDEMPOTENT) {
        0 => None,
        TOWLINE_REQUEST_IDEMPOTENT => Some(true),
        TOWLINE_REQUEST_NOT_IDEMPOTENT => Some(false),
        _ => return Err(Error::argument("request.flags", "says idempotent and not idempotent")),
    };
    if request.flags > 7 {
        return Err(Error::argument(
            "request.flags",
            format!("{} has a flag that is unknown", request.flags),
        ));
    }
    let priority = match request.priority {
        TOWLINE_PRIORITY_NORMAL => towline_client::Priority::NORMAL,
        TOWLINE_PRIORITY_CRITICAL => towline_client::Priority::CRITICAL,
        TOWLINE_PRIORITY_BACKGROUND => towline_client::Priority::BACKGROUND,
        other => return Err(Error::argument("request.priority", format!("{other} is no priority"))),
    };
    Ok(Request {
        path: raw::text(request.path, "request.path")?,
        message: Some(raw::bytes(request.message, "request.message")?),
        method: raw::text_if_any(request.method, "request.method")?,
        authority: raw::text_if_any(request.authority, "request.authority")?,
        headers: raw::headers(request.headers, request.headers_len)?,
        deadline: (request.deadline_ms > 0).then(|| Duration::from_millis(request.deadline_ms)),
        priority: priority.urgency(),
        idempotent,
        needs_encryption: request.flags & TOWLINE_REQUEST_NEEDS_ENCRYPTION != 0,
    })
}
