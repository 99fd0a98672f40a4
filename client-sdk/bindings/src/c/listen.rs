//! Listeners: a callback each.

use std::{
    ffi::{c_char, c_void},
    mem::MaybeUninit,
    sync::Arc,
};

use super::{
    Out, TowlineError, TowlineStatus,
    callbacks::Callbacks,
    client::TowlineClient,
    emptied, given, guard, guarded, put,
    raw::{TowlineBytes, UserData, c_text},
};
use crate::{
    Cancellation, LineState, LogLevel, LogRecord, Push, Quality,
    engine::Engine,
    error::TowlineError as Error,
    source::{Feed, Listens},
};

/// Something that is listened for, until the handle is freed.
pub struct TowlineListener(Arc<Cancellation>);

impl Drop for TowlineListener {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// QUIC.
pub const TOWLINE_TRANSPORT_QUIC: u32 = 0;
/// TCP, with TLS unless the options say plaintext.
pub const TOWLINE_TRANSPORT_TCP: u32 = 1;
/// An HTTPS POST.
pub const TOWLINE_TRANSPORT_POST: u32 = 2;

/// An attempt is under way.
pub const TOWLINE_STATE_CONNECTING: u32 = 0;
/// The gateway answered.
pub const TOWLINE_STATE_ONLINE: u32 = 1;
/// Between attempts.
pub const TOWLINE_STATE_OFFLINE: u32 = 2;
/// Shut down, or refused by the gateway for good.
pub const TOWLINE_STATE_CLOSED: u32 = 3;

/// The state of the line. Calls are taken in every state but TOWLINE_STATE_CLOSED.
#[repr(C)]
pub struct TowlineState {
    /// One of TOWLINE_STATE_*.
    pub state: u32,
    /// Online: one of TOWLINE_TRANSPORT_*.
    pub transport: u32,
    /// Online: whether the session was still there, so that its requests and pushes go on.
    pub resumed: bool,
    /// Online: whether the gateway took the first flight as early data (0-RTT).
    pub early_data: bool,
    /// Offline or closed: why. Else empty.
    pub reason: *const c_char,
}

/// A message that nobody asked for.
#[repr(C)]
pub struct TowlinePush {
    /// Counts up within the session.
    pub id: u64,
    /// Topic name.
    pub topic: *const c_char,
    /// Media type, may be empty.
    pub content_type: *const c_char,
    /// Payload.
    pub payload: TowlineBytes,
    /// Urgency, 0 (first) to 7 (last).
    pub priority: u8,
}

/// Nothing is known of the network yet.
pub const TOWLINE_QUALITY_UNKNOWN: u32 = 0;
/// Most attempts fail, or a round trip takes seconds.
pub const TOWLINE_QUALITY_POOR: u32 = 1;
/// Like 2G.
pub const TOWLINE_QUALITY_WEAK: u32 = 2;
/// Like 3G.
pub const TOWLINE_QUALITY_FAIR: u32 = 3;
/// Like 4G or better.
pub const TOWLINE_QUALITY_GOOD: u32 = 4;

/// Something failed that should not.
pub const TOWLINE_LOG_ERROR: u32 = 1;
/// Something is odd.
pub const TOWLINE_LOG_WARN: u32 = 2;
/// Something happened.
pub const TOWLINE_LOG_INFO: u32 = 3;
/// What the client decides, and why.
pub const TOWLINE_LOG_DEBUG: u32 = 4;
/// Everything. The client itself says nothing finer than debug, and the library that the build scripts make leaves out
/// what HTTP/2 and QUIC say inside.
pub const TOWLINE_LOG_TRACE: u32 = 5;

/// One line of the log. It holds no secret.
#[repr(C)]
pub struct TowlineLogRecord {
    /// One of TOWLINE_LOG_*.
    pub level: u32,
    /// Which part of the client speaks.
    pub target: *const c_char,
    /// What it says.
    pub text: *const c_char,
    /// Records before this one that were dropped, because the callback was slow.
    pub dropped: u64,
}

/// Told each state of the line. The last call has NULL: then user_data is not used any more.
pub type TowlineOnState = Option<extern "C" fn(user_data: *mut c_void, state: Option<&TowlineState>)>;
/// Told each push, which is acknowledged to the gateway when the callback returns. The last call has NULL.
pub type TowlineOnPush = Option<extern "C" fn(user_data: *mut c_void, push: Option<&TowlinePush>)>;
/// Told one of TOWLINE_QUALITY_* whenever the network is judged anew. The last call has NULL.
pub type TowlineOnQuality = Option<extern "C" fn(user_data: *mut c_void, quality: Option<&u32>)>;
/// Told each record of the log. The last call has NULL.
pub type TowlineOnLog = Option<extern "C" fn(user_data: *mut c_void, record: Option<&TowlineLogRecord>)>;

/// Listens to the state of the line, the present one first.
#[unsafe(no_mangle)]
pub extern "C" fn towline_on_state(
    client: Option<&TowlineClient>,
    on_state: TowlineOnState,
    user_data: *mut c_void,
    listener: Option<&mut MaybeUninit<*mut TowlineListener>>,
    error: Option<&mut MaybeUninit<*mut TowlineError>>,
) -> TowlineStatus {
    listen(listener, error, || {
        let listened = given(client, "client")?.client().states();
        let on_state = given(on_state, "on_state")?;
        let user_data = UserData::new(user_data);
        let tell = move |state: Option<LineState>| match state {
            Some(state) => with_state(state, |state| on_state(user_data.get(), Some(state))),
            None => on_state(user_data.get(), None),
        };
        Ok((listened, tell))
    })
}

/// Listens for pushes. Several listeners share the pushes out among them.
#[unsafe(no_mangle)]
pub extern "C" fn towline_on_push(
    client: Option<&TowlineClient>,
    on_push: TowlineOnPush,
    user_data: *mut c_void,
    listener: Option<&mut MaybeUninit<*mut TowlineListener>>,
    error: Option<&mut MaybeUninit<*mut TowlineError>>,
) -> TowlineStatus {
    listen(listener, error, || {
        let listened = given(client, "client")?.client().pushes()?;
        let on_push = given(on_push, "on_push")?;
        let user_data = UserData::new(user_data);
        let tell = move |push: Option<Push>| match push {
            Some(push) => with_push(&push, |push| on_push(user_data.get(), Some(push))),
            None => on_push(user_data.get(), None),
        };
        Ok((listened, tell))
    })
}

/// Listens to how good the network is, what is known at present first.
#[unsafe(no_mangle)]
pub extern "C" fn towline_on_quality(
    client: Option<&TowlineClient>,
    on_quality: TowlineOnQuality,
    user_data: *mut c_void,
    listener: Option<&mut MaybeUninit<*mut TowlineListener>>,
    error: Option<&mut MaybeUninit<*mut TowlineError>>,
) -> TowlineStatus {
    listen(listener, error, || {
        let listened = given(client, "client")?.client().qualities();
        let on_quality = given(on_quality, "on_quality")?;
        let user_data = UserData::new(user_data);
        let tell = move |level: Option<Quality>| {
            on_quality(user_data.get(), level.map(|level| level as u32).as_ref());
        };
        Ok((listened, tell))
    })
}

/// Listens to the log of all clients of this process, from level (one of TOWLINE_LOG_*) upwards. The finest level that
/// was ever asked for holds for all listeners.
#[unsafe(no_mangle)]
pub extern "C" fn towline_on_log(
    level: u32,
    on_log: TowlineOnLog,
    user_data: *mut c_void,
    listener: Option<&mut MaybeUninit<*mut TowlineListener>>,
    error: Option<&mut MaybeUninit<*mut TowlineError>>,
) -> TowlineStatus {
    listen(listener, error, || {
        let listened = crate::logs(log_level(level)?)?;
        let on_log = given(on_log, "on_log")?;
        let user_data = UserData::new(user_data);
        let tell = move |record: Option<LogRecord>| match record {
            Some(record) => with_record(&record, |record| on_log(user_data.get(), Some(record))),
            None => on_log(user_data.get(), None),
        };
        Ok((listened, tell))
    })
}

/// Ends a listener, whose callback is told NULL; NULL is nothing.
#[unsafe(no_mangle)]
pub extern "C" fn towline_listener_free(listener: Option<Box<TowlineListener>>) {
    guarded((), || drop(listener));
}

/// An entry that makes a listener: `on` says what is listened to, and how the app is told an item, and `None` at the end
/// of the feed or of the listener. They are told one after the other.
pub(super) fn listen<L, T>(
    listener: Out<'_, TowlineListener>,
    error: Out<'_, TowlineError>,
    on: impl FnOnce() -> Result<(Arc<L>, T), Error>,
) -> TowlineStatus
where
    L: Listens,
    T: Fn(Option<<L::Feed as Feed>::Item>) + Clone + Send + 'static,
{
    let listener = emptied(listener);
    guard(error, || {
        let (listened, tell) = on()?;
        let out = given(listener, "listener")?;
        let (engine, callbacks) = (Engine::get()?, Callbacks::get()?);
        let cancellation = Cancellation::new();
        put(Some(out), Some(TowlineListener(Arc::clone(&cancellation))));
        engine.spawn(async move {
            while let Ok(Some(item)) = Arc::clone(&cancellation).or(listened.source().next()).await {
                let tell = tell.clone();
                callbacks.make(move || tell(Some(item))).await;
                listened.handled();
            }
            callbacks.make(move || tell(None)).await;
        });
        Ok(())
    })
}

fn with_state(state: LineState, tell: impl FnOnce(&TowlineState)) {
    let none = TowlineState {
        state: TOWLINE_STATE_CONNECTING,
        transport: 0,
        resumed: false,
        early_data: false,
        reason: c"".as_ptr(),
    };
    match state {
        LineState::Connecting => tell(&none),
        LineState::Online { transport, resumed, early_data } => {
            let (state, transport) = (TOWLINE_STATE_ONLINE, transport as u32);
            tell(&TowlineState { state, transport, resumed, early_data, ..none });
        }
        LineState::Offline { reason } => {
            let reason = c_text(&reason);
            tell(&TowlineState { state: TOWLINE_STATE_OFFLINE, reason: reason.as_ptr(), ..none });
        }
        LineState::Closed { reason } => {
            let reason = c_text(&reason);
            tell(&TowlineState { state: TOWLINE_STATE_CLOSED, reason: reason.as_ptr(), ..none });
        }
    }
}

fn with_push(push: &Push, tell: impl FnOnce(&TowlinePush)) {
    let (topic, content_type) = (c_text(&push.topic), c_text(&push.content_type));
    tell(&TowlinePush {
        id: push.id,
        topic: topic.as_ptr(),
        content_type: content_type.as_ptr(),
        payload: TowlineBytes::of(&push.payload),
        priority: push.priority,
    });
}

fn with_record(record: &LogRecord, tell: impl FnOnce(&TowlineLogRecord)) {
    let (target, text) = (c_text(&record.target), c_text(&record.text));
    tell(&TowlineLogRecord {
        level: record.level as u32,
        target: target.as_ptr(),
        text: text.as_ptr(),
        dropped: record.dropped,
    });
}

fn log_level(level: u32) -> Result<LogLevel, Error> {
    Ok(match level {
        TOWLINE_LOG_ERROR => LogLevel::Error,
        TOWLINE_LOG_WARN => LogLevel::Warn,
        TOWLINE_LOG_INFO => LogLevel::Info,
        TOWLINE_LOG_DEBUG => LogLevel::Debug,
        TOWLINE_LOG_TRACE => LogLevel::Trace,
        other => return Err(Error::argument("level", format!("{other} is no TOWLINE_LOG_*"))),
    })
}
