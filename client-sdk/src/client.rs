//! The app's handle: calls, streams, pushes, states. Nothing here waits for the network itself.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::HeaderMap;
use tokio::{
    sync::{oneshot, watch},
    time::sleep_until,
};
use towline_protocols::{
    hpack::{HeaderField, NeverIndexed},
    link::{Execution, RequestHead, RpcError, RpcErrorKind},
    policy::{Level, Strategies},
};

use crate::{
    call::{CallRequest, CallResponse},
    config::{ClientConfig, Policy, Security, ShortCalls},
    core::{Core, Key, Outgoing, Shared, SharedWakers, now},
    durable::{self, Asked, Caller, DamagedRecord, DurableError, DurableOutcomes},
    endpoints::EndpointListInfo,
    error::{FailedCall, StartError},
    push::Pushes,
    short::Shorts,
    state::ConnectionState,
    stream::{StreamReceiver, StreamSender},
    supervisor,
    tickets::TicketCounts,
    timeline::Timeline,
    work,
};

/// A session with a gateway. Cheap to clone; when the last clone is dropped the session's connection is
/// closed, and what runs is given up, but for durable calls.
#[derive(Clone)]
pub struct Client {
    handle: Arc<Handle>,
}

struct Handle {
    shared: Arc<Shared>,
    client_id: Arc<str>,
    is_encrypted: bool,
    runtime: tokio::runtime::Handle,
}

impl Client {
    /// Checks the configuration and begins to connect in the background; it must be called inside a tokio
    /// runtime. Calls may be made at once: they wait for the line, each until its deadline.
    ///
    /// # Errors
    /// The configuration cannot work, or the identity file cannot be used.
    pub fn start(config: ClientConfig) -> Result<Self, StartError> {
        config.validate()?;
        let runtime = tokio::runtime::Handle::try_current().map_err(|_| StartError::NoRuntime)?;
        let (shared, waiting) = Shared::new(&config)?;
        let shared = Arc::new(shared);
        let client_id = shared.with(|core| Arc::from(core.identity.client_id.as_str()));
        let supervisor = supervisor::Supervisor::new(Arc::clone(&shared), config.clone())?;
        let is_encrypted = !matches!(config.security, Security::Plaintext);
        if config.short_mode() != ShortCalls::Off {
            let shorts = Shorts::new(Arc::clone(&shared), config, supervisor.link(), supervisor.http());
            runtime.spawn(work::boxed(shorts.run()));
        }
        durable::take_up(&shared, &runtime, waiting, is_encrypted);
        runtime.spawn(work::boxed(supervisor.run()));
        Ok(Self { handle: Arc::new(Handle { shared, client_id, is_encrypted, runtime }) })
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.handle.shared
    }

    /// What became of TLS sessions that are kept for the next run of the app, since this one was started.
    pub fn ticket_counts(&self) -> TicketCounts {
        self.shared().tickets.counts()
    }

    /// The operator's endpoint list that is held, if there is one ([`crate::EndpointLists`]).
    pub fn endpoint_list(&self) -> Option<EndpointListInfo> {
        self.shared().listed.info()
    }

    /// The name of this client.
    pub fn client_id(&self) -> &str {
        &self.handle.client_id
    }

    /// Sends one request and waits for its whole answer. Lost connections are bridged: the gateway runs
    /// the request once, and its answer is delivered over whichever connection is up. Dropping the future
    /// cancels the request at the backend too. A durable call goes on without the future, and its outcome is kept for
    /// the app also when it was waited for here, until it is acknowledged.
    ///
    /// # Errors
    /// Says whose fault it was, whether the backend ran the request, and how the call went. A gRPC status other
    /// than OK is no error here: see [`CallResponse::into_grpc`].
    pub async fn call(&self, request: CallRequest) -> Result<CallResponse, FailedCall> {
        let bodiless = request.message.is_empty() && !is_grpc(&request.headers);
        let message = request.message.clone();
        let failed = |error| FailedCall { error, timeline: Box::default() };
        if request.durable.is_some() {
            let caller = self.begin_durable(request, true).await.map_err(failed)?;
            return match caller {
                Some(caller) => caller.outcome().await,
                None => Err(failed(closed())),
            };
        }
        match self.open(request, Some(message), bodiless) {
            Ok(call) => call.outcome().await,
            Err(error) => Err(failed(error)),
        }
    }

    /// Takes a durable call in and does not wait for its outcome, which [`Client::durable_outcomes`] hands out. When this
    /// resolves to `Ok`, the call is on disk. Dropping the future does not take the call back.
    ///
    /// # Errors
    /// The call is not durable, must not travel in the clear, a bound of [`crate::DurablePolicy`] or of
    /// [`crate::Limits`] was met, its key is in use, the client is closed, or the disk refused. It has not run and will
    /// not, where [`RpcError::execution`] says so. It may, where that says [`Execution::MayHaveRun`]: an earlier call of
    /// the key left a damaged record (kind `OutcomeExpired`), what was written in part could not be taken off the disk
    /// and the next run of the app may find it, or the runtime ended before the disk had answered.
    pub async fn submit(&self, request: CallRequest) -> Result<(), RpcError> {
        self.begin_durable(request, false).await.map(drop)
    }

    /// Listens for outcomes of durable calls, of earlier runs of the app too.
    pub fn durable_outcomes(&self) -> DurableOutcomes {
        DurableOutcomes::new(Arc::clone(&self.handle.shared))
    }

    /// The app is done with the outcome of the durable call of that key: it is not handed out again once this resolves
    /// to `Ok`, and the key is free. A damaged record of that key is taken away.
    ///
    /// # Errors
    /// There is no such outcome, or the disk refused; then the outcome stays.
    pub async fn acknowledge(&self, key: impl Into<String>) -> Result<(), DurableError> {
        durable::acknowledge(&self.handle.shared, &self.handle.runtime, key.into()).await
    }

    /// Records of durable calls that cannot be read: calls that may have run, and whose outcome is lost.
    pub fn damaged_records(&self) -> Vec<DamagedRecord> {
        self.handle.shared.book.as_ref().map(|book| book.damaged()).unwrap_or_default()
    }

    /// Takes a damaged record away.
    ///
    /// # Errors
    /// There is none of that name, or the disk refused.
    pub async fn discard_damaged(&self, name: &str) -> Result<(), DurableError> {
        let book = self.handle.shared.book.as_ref().ok_or(DurableError::NoIdentityFile)?;
        book.discard(name).await
    }

    /// Opens a stream: messages both ways, each with back-pressure. Errors, also those of a client that
    /// has no place for the stream, come from the receiver. The request's `message` is the first to be sent
    /// unless it is empty.
    pub fn stream(&self, request: CallRequest) -> (StreamSender, StreamReceiver) {
        let first = request.message.clone();
        let opened = self.open(request, None, false).inspect(|call| {
            if !first.is_empty() {
                call.shared.with(|core| {
                    if let Some(state) = core.call(call.key) {
                        state.push_message(first);
                    }
                    core.touch(call.key);
                });
            }
        });
        StreamReceiver::pair(opened.map(Arc::new))
    }

    /// Listens for pushes.
    pub fn pushes(&self) -> Pushes {
        Pushes::new(Arc::clone(&self.handle.shared))
    }

    /// Watches the state of the line.
    pub fn states(&self) -> watch::Receiver<ConnectionState> {
        self.handle.shared.states.subscribe()
    }

    /// Watches how good the network in use is; `None` while nothing is known of it.
    pub fn quality_levels(&self) -> watch::Receiver<Option<Level>> {
        self.handle.shared.quality.level.subscribe()
    }

    /// What the strategies are told at present.
    pub fn strategies(&self) -> Strategies {
        self.handle.shared.strategies.borrow().clone()
    }

    /// The policy in use.
    pub fn policy(&self) -> Policy {
        self.handle.shared.policy.borrow().clone()
    }

    /// Watches the policy.
    pub fn policies(&self) -> watch::Receiver<Policy> {
        self.handle.shared.policy.subscribe()
    }

    /// Subscribes to a topic filter, now and on every later connection; resolves when the gateway has
    /// answered.
    ///
    /// # Errors
    /// The gateway's reason, which also ends the wish, or a bound of this client.
    pub async fn subscribe(&self, filter: impl Into<String>) -> Result<(), RpcError> {
        self.change_topic(filter.into(), true).await
    }

    /// Takes a subscription back.
    ///
    /// # Errors
    /// A bound of this client was met, or it was closed.
    pub async fn unsubscribe(&self, filter: impl Into<String>) -> Result<(), RpcError> {
        self.change_topic(filter.into(), false).await
    }

    /// Publishes a message and waits until the gateway has accepted it; it is sent again over later
    /// connections until then, so it may arrive twice.
    ///
    /// # Errors
    /// The gateway's reason, or a bound of this client.
    pub async fn publish(&self, topic: impl Into<String>, payload: impl Into<Bytes>) -> Result<(), RpcError> {
        let (reply, word) = oneshot::channel();
        let (topic, payload) = (topic.into(), payload.into());
        self.handle.shared.with(|core| core.publish(topic, payload, Some(reply)))?;
        word.await.unwrap_or_else(|_| Err(closed()))
    }

    /// Publishes a message that may get lost, without waiting.
    ///
    /// # Errors
    /// A bound of this client was met.
    pub fn publish_and_forget(
        &self,
        topic: impl Into<String>,
        payload: impl Into<Bytes>,
    ) -> Result<(), RpcError> {
        let (topic, payload) = (topic.into(), payload.into());
        self.handle.shared.with(|core| core.publish(topic, payload, None))
    }

    /// Ends the session's connection and fails what waits, but for durable calls: they run on, and the next run of the
    /// app asks for their outcomes. Resolves when the connection is closed.
    pub async fn close(&self) {
        self.handle.close();
        let mut states = self.states();
        // The sender lives in `shared`, so waiting cannot fail.
        let _ = states.wait_for(|state| matches!(state, ConnectionState::Closed { .. })).await;
    }

    async fn begin_durable(&self, request: CallRequest, waits: bool) -> Result<Option<Caller>, RpcError> {
        self.check_encryption(&request)?;
        let shared = &self.handle.shared;
        let head = shared.with(|core| core.head_of(&request))?;
        let bodiless = request.message.is_empty() && !is_grpc(&request.headers);
        let CallRequest { durable, deadline, message, needs_encryption, .. } = request;
        let Some(durable) = durable else { return Err(misused("a call is submitted that is not durable")) };
        let asked = Asked { durable, deadline, head, message, bodiless, needs_encryption };
        durable::begin(shared, &self.handle.runtime, asked, waits).await
    }

    async fn change_topic(&self, filter: String, add: bool) -> Result<(), RpcError> {
        let (reply, word) = oneshot::channel();
        self.handle.shared.with(|core| core.change_topic(filter, add, reply))?;
        word.await.unwrap_or_else(|_| Err(closed()))
    }

    fn check_encryption(&self, request: &CallRequest) -> Result<(), RpcError> {
        let is_allowed = self.handle.is_encrypted || !request.needs_encryption;
        if is_allowed { Ok(()) } else { Err(durable::in_the_clear(Execution::NotRun)) }
    }

    fn open(
        &self,
        request: CallRequest,
        message: Option<Bytes>,
        bodiless: bool,
    ) -> Result<OpenCall, RpcError> {
        self.check_encryption(&request)?;
        let shared = Arc::clone(&self.handle.shared);
        let now = now();
        if request.durable.is_some() {
            return Err(misused("a stream is durable: only unary calls are"));
        }
        shared.with(|core| {
            let wait = request.deadline.unwrap_or(core.limits.deadline_default).min(DEADLINE_MAX);
            let head = core.head_of(&request)?;
            let key = core.open(Outgoing { head, deadline: now + wait, message, bodiless }, now)?;
            let wakers = core.call(key).map(|call| Arc::clone(&call.wakers)).unwrap_or_default();
            Ok(OpenCall { shared: Arc::clone(&shared), key, wakers, deadline: now + wait })
        })
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("client_id", &self.handle.client_id)
            .field("state", &*self.handle.shared.states.borrow())
            .finish_non_exhaustive()
    }
}

impl Handle {
    fn close(&self) {
        self.shared.with(|core| core.close(RpcErrorKind::Cancelled, "closed by the app"));
        self.shared.supervisor.notify_one();
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.close();
    }
}

/// Keeps `Instant` from overflowing; nobody waits longer than a day.
const DEADLINE_MAX: Duration = Duration::from_secs(86_400);

/// A call that the app holds. Dropping it takes the outcome, or gives the call up.
pub(crate) struct OpenCall {
    pub(crate) shared: Arc<Shared>,
    pub(crate) key: Key,
    pub(crate) wakers: SharedWakers,
    pub(crate) deadline: Instant,
}

impl OpenCall {
    /// The whole answer.
    async fn outcome(self) -> Result<CallResponse, FailedCall> {
        loop {
            let readable = self.wakers.readable.notified();
            if self.shared.with(|core| core.call(self.key).is_none_or(|call| call.is_over())) {
                return self.take();
            }
            tokio::select! {
                () = readable => {}
                () = sleep_until(self.deadline.into()) => self.expire(),
            }
        }
    }

    /// Ends the call because its deadline has passed.
    pub(crate) fn expire(&self) {
        self.shared.with(|core| core.expire(self.key));
    }

    /// How it goes.
    pub(crate) fn timeline(&self) -> Timeline {
        self.shared.with(|core| core.call(self.key).map(|call| call.timeline(now())).unwrap_or_default())
    }

    fn take(&self) -> Result<CallResponse, FailedCall> {
        let Some(call) = self.shared.with(|core| core.release(self.key)) else {
            return Err(FailedCall { error: closed(), timeline: Box::default() });
        };
        let timeline = call.timeline(now());
        let incoming = call.incoming;
        let end = incoming.end.unwrap_or_else(|| Err(closed()));
        end.map_err(|error| FailedCall { error, timeline: Box::new(timeline) })?;
        Ok(CallResponse {
            status: incoming.status,
            headers: incoming.headers.unwrap_or_default(),
            messages: incoming.messages.into(),
            trailers: incoming.trailers,
            timeline,
        })
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        self.shared.with(|core| core.release(self.key));
    }
}

fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(http::header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

fn request_head(request: &CallRequest, never_indexed: &NeverIndexed) -> RequestHead {
    let mut fields = Vec::with_capacity(request.headers.len() + 3);
    fields.push(HeaderField::new(":method", request.method.as_str().to_owned()));
    fields.push(HeaderField::new(":path", request.path.clone()));
    fields.extend(request.authority.clone().map(|authority| HeaderField::new(":authority", authority)));
    fields.extend(request.headers.iter().map(|(name, value)| HeaderField {
        name: name.as_str().to_owned().into(),
        value: Bytes::copy_from_slice(value.as_bytes()),
        sensitive: value.is_sensitive() || never_indexed.holds(name.as_str().as_bytes()),
    }));
    let CallRequest { priority, idempotent, .. } = *request;
    RequestHead { priority, idempotent, fields, ..RequestHead::default() }
}

impl Core {
    fn head_of(&self, request: &CallRequest) -> Result<RequestHead, RpcError> {
        let head = request_head(request, &self.never_indexed);
        let listed: usize = head.fields.iter().map(HeaderField::size).sum();
        if listed > self.limits.header_list_bytes_max {
            let text = format!("the header list has {listed} bytes, limits.header_list_bytes_max is less");
            return Err(RpcError::new(RpcErrorKind::LimitExceeded, Execution::NotRun, text));
        }
        Ok(head)
    }
}

/// The app asks for what there is not.
fn misused(text: &str) -> RpcError {
    RpcError::new(RpcErrorKind::Malformed, Execution::NotRun, text)
}

/// What a call gets that is asked for after the client has closed.
pub(crate) fn closed() -> RpcError {
    RpcError::new(RpcErrorKind::SessionLost, Execution::MayHaveRun, "the client is closed")
}
