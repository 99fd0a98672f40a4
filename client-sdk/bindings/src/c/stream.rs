//! Streams: events by one callback, messages to send in a bounded queue that keeps their order.

use std::{ffi::c_void, mem::MaybeUninit, ptr, sync::Arc};

use tokio::sync::mpsc;
use towline_client::{Execution, RpcError, RpcErrorKind};

use super::{
    TowlineError, TowlineStatus,
    call::{TowlineRequest, read},
    callbacks::Callbacks,
    client::{TowlineClient, TowlineOnDone},
    emptied, given, guard, guarded, put,
    raw::{self, TowlineBytes, UserData},
};
use crate::{MessageStream, engine::Engine, error::TowlineError as Error};

/// Messages that an app may hand over before on_done was told of the first: the core buffers by bytes behind it.
const SENDS_MAX: usize = 64;

/// Messages both ways, until the handle is freed.
pub struct TowlineStream {
    stream: Arc<MessageStream>,
    sends: mpsc::Sender<Outgoing>,
}

/// What the app wants to send.
struct Outgoing {
    /// `None` ends this direction.
    message: Option<Vec<u8>>,
    on_done: TowlineOnDone,
    user_data: UserData,
}

/// The head of the answer: status is set.
pub const TOWLINE_STREAM_HEAD: u32 = 1;
/// A message: message is set.
pub const TOWLINE_STREAM_MESSAGE: u32 = 2;
/// The end, and the last event: error is set, or else grpc_code.
pub const TOWLINE_STREAM_END: u32 = 3;

/// Something that a stream brought.
#[repr(C)]
pub struct TowlineStreamEvent {
    /// One of TOWLINE_STREAM_*.
    pub event: u32,
    /// HTTP status.
    pub status: u16,
    /// The message, for the time of the callback.
    pub message: TowlineBytes,
    /// The gRPC status; -1 if it is no gRPC answer.
    pub grpc_code: i32,
    /// Why the stream broke off, for the time of the callback; or NULL.
    pub error: *const TowlineError,
}

/// Told what a stream brings. While it runs, the sender is held back. The last call has TOWLINE_STREAM_END.
pub type TowlineOnEvent = Option<extern "C" fn(user_data: *mut c_void, event: Option<&TowlineStreamEvent>)>;

/// Opens a stream: messages both ways. Freed, the handle cancels it.
#[unsafe(no_mangle)]
pub extern "C" fn towline_stream_open(
    client: Option<&TowlineClient>,
    request: Option<&TowlineRequest>,
    on_event: TowlineOnEvent,
    user_data: *mut c_void,
    stream: Option<&mut MaybeUninit<*mut TowlineStream>>,
    error: Option<&mut MaybeUninit<*mut TowlineError>>,
) -> TowlineStatus {
    let stream = emptied(stream);
    guard(error, || {
        let client = given(client, "client")?.client();
        let on_event = given(on_event, "on_event")?;
        let out: &mut MaybeUninit<_> = given(stream, "stream")?;
        let (engine, callbacks) = (Engine::get()?, Callbacks::get()?);
        let stream = client.stream(read(given(request, "request")?)?)?;
        let (sends, queue) = mpsc::channel(SENDS_MAX);
        engine.spawn(send(Arc::clone(&stream), queue, callbacks));
        engine.spawn(receive(Arc::clone(&stream), callbacks, on_event, UserData::new(user_data)));
        put(Some(out), Some(TowlineStream { stream, sends }));
        Ok(())
    })
}

/// Sends a message behind those that were sent before. on_done, which may be NULL, is told when there is room for the
/// next one, or why it was not sent.
#[unsafe(no_mangle)]
pub extern "C" fn towline_stream_send(
    stream: Option<&TowlineStream>,
    message: TowlineBytes,
    on_done: TowlineOnDone,
    user_data: *mut c_void,
    error: Option<&mut MaybeUninit<*mut TowlineError>>,
) -> TowlineStatus {
    guard(error, || {
        let message = Some(raw::bytes(message, "message")?);
        given(stream, "stream")?.send(message, on_done, user_data)
    })
}

/// Ends this direction behind the messages that were sent. on_done may be NULL.
#[unsafe(no_mangle)]
pub extern "C" fn towline_stream_finish(
    stream: Option<&TowlineStream>,
    on_done: TowlineOnDone,
    user_data: *mut c_void,
    error: Option<&mut MaybeUninit<*mut TowlineError>>,
) -> TowlineStatus {
    guard(error, || given(stream, "stream")?.send(None, on_done, user_data))
}

/// Gives a stream up: unless it has ended, its callback is told TOWLINE_KIND_CANCELLED. The backend is told too.
#[unsafe(no_mangle)]
pub extern "C" fn towline_stream_cancel(
    stream: Option<&TowlineStream>,
    error: Option<&mut MaybeUninit<*mut TowlineError>>,
) -> TowlineStatus {
    guard(error, || given(stream, "stream")?.stream.cancel())
}

/// Frees the handle, which cancels the stream unless it has ended; NULL is nothing.
#[unsafe(no_mangle)]
pub extern "C" fn towline_stream_free(stream: Option<Box<TowlineStream>>) {
    guarded((), || drop(stream));
}

impl TowlineStream {
    fn send(
        &self,
        message: Option<Vec<u8>>,
        on_done: TowlineOnDone,
        user_data: *mut c_void,
    ) -> Result<(), Error> {
        let outgoing = Outgoing { message, on_done, user_data: UserData::new(user_data) };
        self.sends.try_send(outgoing).map_err(|_| {
            let reason = format!("{SENDS_MAX} messages wait already: wait for on_done");
            RpcError::new(RpcErrorKind::LimitExceeded, Execution::NotRun, reason).into()
        })
    }
}

impl Drop for TowlineStream {
    fn drop(&mut self) {
        // It fails where there is no engine, and then there is no stream.
        let _ = self.stream.cancel();
    }
}

async fn send(stream: Arc<MessageStream>, mut queue: mpsc::Receiver<Outgoing>, callbacks: &Callbacks) {
    while let Some(Outgoing { message, on_done, user_data }) = queue.recv().await {
        let sent = match message {
            Some(message) => stream.send(message).await,
            None => stream.finish().await,
        };
        if let Some(on_done) = on_done {
            let tell = move || on_done(user_data.get(), sent.err().map(TowlineError::new).as_ref());
            callbacks.make(tell).await;
        }
    }
}

type OnEvent = extern "C" fn(*mut c_void, Option<&TowlineStreamEvent>);

async fn receive(stream: Arc<MessageStream>, callbacks: &Callbacks, on_event: OnEvent, user_data: UserData) {
    let tell = async |event: Event| {
        callbacks.make(move || event.tell(|event| on_event(user_data.get(), Some(event)))).await;
    };
    let end = async {
        tell(Event::Head(stream.head().await?.status)).await;
        while let Some(message) = stream.message().await? {
            tell(Event::Message(message)).await;
        }
        stream.end().await
    };
    let end = match end.await {
        Ok(end) => Event::End(end.grpc_status.and_then(|status| i32::try_from(status.code).ok())),
        Err(error) => Event::Broken(error),
    };
    callbacks.make(move || end.tell(|event| on_event(user_data.get(), Some(event)))).await;
}

enum Event {
    Head(u16),
    Message(Vec<u8>),
    End(Option<i32>),
    Broken(Error),
}

impl Event {
    fn tell(self, tell: impl FnOnce(&TowlineStreamEvent)) {
        let none = TowlineStreamEvent {
            event: TOWLINE_STREAM_END,
            status: 0,
            message: TowlineBytes::NONE,
            grpc_code: -1,
            error: ptr::null(),
        };
        match self {
            Self::Head(status) => tell(&TowlineStreamEvent { event: TOWLINE_STREAM_HEAD, status, ..none }),
            Self::Message(message) => {
                let message = TowlineBytes::of(&message);
                tell(&TowlineStreamEvent { event: TOWLINE_STREAM_MESSAGE, message, ..none });
            }
            Self::End(code) => tell(&TowlineStreamEvent { grpc_code: code.unwrap_or(-1), ..none }),
            Self::Broken(error) => tell(&TowlineStreamEvent { error: &TowlineError::new(error), ..none }),
        }
    }
}
