//! The handle that an app holds.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::SystemTime,
};

use towline_client::{BindSocket, ConnectionState};

use crate::{
    binder::{Binds, SocketBinder},
    cancel::Cancellation,
    engine::Engine,
    error::TowlineError,
    listen::{PushListener, QualityListener, StateListener},
    names::{self, Questions},
    options::ClientOptions,
    request::{Request, Response},
    stream::MessageStream,
};

/// A session with a gateway that outlives connections. When the handle is released the session's connection is closed
/// and what runs is given up; `shutdown` says when that is done.
#[derive(uniffi::Object)]
pub struct Client {
    inner: towline_client::Client,
    is_shut_down: AtomicBool,
    /// Where the app looks names up itself.
    questions: Option<Questions>,
}

/// The operator's list of further gateways that a client holds.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct EndpointList {
    /// The serial that its operator gave it.
    pub serial: u64,
    /// When it was signed.
    pub issued: SystemTime,
    /// When it is not used any more.
    pub expires: SystemTime,
    /// Whether it is used, by the device's clock.
    pub is_current: bool,
    /// Gateways that it names and the client may go to, as `host:port`.
    pub endpoints: Vec<String>,
    /// How many more it names, whose certificates would name what the app does not allow.
    pub left_out: u32,
}

/// What became of TLS sessions that are kept for the next run of the app, since this client was made. Whether early
/// data was taken is in the state of the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, uniffi::Record)]
pub struct TicketCounts {
    /// Given to the disk, for the next run.
    pub kept: u64,
    /// Of earlier runs, taken away from there to be used.
    pub restored: u64,
    /// That could not be read or opened: the handshake was a whole one, or used another.
    pub damaged: u64,
    /// That went before they were used, since there were too many.
    pub dropped: u64,
}

#[uniffi::export]
impl Client {
    /// Checks the options and begins to connect in the background. Calls may be made at once: they wait for the line.
    /// `socket_binder` is asked to bind each socket to the network that it is for.
    ///
    /// # Errors
    /// An option cannot work, or the identity file cannot be used.
    #[uniffi::constructor(default(socket_binder = None))]
    pub fn new(
        options: ClientOptions,
        socket_binder: Option<Arc<dyn SocketBinder>>,
    ) -> Result<Arc<Self>, TowlineError> {
        let asking = options.own_resolver.then(names::asking);
        let mut config = options.into_config()?;
        config.binder = socket_binder.map(|binder| Arc::new(Binds(binder)) as Arc<dyn BindSocket>);
        let questions = asking.map(|(asking, questions)| {
            config.resolver = Some(Arc::new(asking));
            questions
        });
        let engine = Engine::get()?;
        let _inside = engine.enter();
        let inner = towline_client::Client::start(config)?;
        Ok(Arc::new(Self { inner, is_shut_down: AtomicBool::new(false), questions }))
    }

    /// The name of this client, to which backends push.
    pub fn client_id(&self) -> String {
        self.inner.client_id().to_owned()
    }

    /// The list of further gateways that is held, if there is one: see `endpoint_list_keys`.
    pub fn endpoint_list(&self) -> Option<EndpointList> {
        let list = self.inner.endpoint_list()?;
        let at =
            |since_1970| SystemTime::UNIX_EPOCH.checked_add(since_1970).unwrap_or(SystemTime::UNIX_EPOCH);
        Some(EndpointList {
            serial: list.serial,
            issued: at(list.issued),
            expires: at(list.expires),
            is_current: list.is_current,
            endpoints: list.endpoints.iter().map(ToString::to_string).collect(),
            left_out: u32::try_from(list.left_out).unwrap_or(u32::MAX),
        })
    }

    /// How many TLS sessions were kept and restored, beside `identity_file`.
    pub fn ticket_counts(&self) -> TicketCounts {
        let counts = self.inner.ticket_counts();
        TicketCounts {
            kept: counts.kept,
            restored: counts.restored,
            damaged: counts.damaged,
            dropped: counts.dropped,
        }
    }

    /// The revision of the operator's policy that the client follows; 0 where it has been sent none.
    pub fn policy_revision(&self) -> u64 {
        self.inner.policy().revision
    }

    /// Sends one request and waits for its whole answer, over as many connections as it takes; the gateway runs it
    /// once. A gRPC status other than OK is no error here: see `unary`.
    ///
    /// # Errors
    /// Says whose fault it was and whether the backend ran the request.
    #[uniffi::method(default(cancellation = None))]
    pub async fn call(
        &self,
        request: Request,
        cancellation: Option<Arc<Cancellation>>,
    ) -> Result<Response, TowlineError> {
        Ok(self.answer(request, cancellation).await?.into())
    }

    /// Calls a unary gRPC method and waits for its one message.
    ///
    /// # Errors
    /// As of `call`; and the backend's status where it is not OK.
    #[uniffi::method(default(cancellation = None))]
    pub async fn unary(
        &self,
        request: Request,
        cancellation: Option<Arc<Cancellation>>,
    ) -> Result<Vec<u8>, TowlineError> {
        Ok(self.answer(request, cancellation).await?.into_grpc()?.into())
    }

    /// Opens a stream: messages both ways, each with back-pressure.
    ///
    /// # Errors
    /// The request cannot be sent. All else is an error of the stream.
    pub fn stream(&self, request: Request) -> Result<Arc<MessageStream>, TowlineError> {
        let client = self.open()?;
        let (sender, receiver) = client.stream(request.into_call()?);
        Ok(MessageStream::new(sender, receiver))
    }

    /// Listens for pushes. Several listeners share the pushes out among them.
    ///
    /// # Errors
    /// The client is closed.
    pub fn pushes(&self) -> Result<Arc<PushListener>, TowlineError> {
        Ok(PushListener::on(self.open()?))
    }

    /// Listens to the state of the line.
    pub fn states(&self) -> Arc<StateListener> {
        StateListener::on(&self.inner)
    }

    /// Listens to how good the network is.
    pub fn qualities(&self) -> Arc<QualityListener> {
        QualityListener::on(&self.inner)
    }

    /// Subscribes to a topic filter, now and on every later connection; waits for the gateway's word.
    ///
    /// # Errors
    /// The gateway's reason, which also ends the wish.
    pub async fn subscribe(&self, filter: String) -> Result<(), TowlineError> {
        let client = self.open()?.clone();
        Engine::get()?.run(async move { Ok(client.subscribe(filter).await?) }).await
    }

    /// Takes a subscription back.
    ///
    /// # Errors
    /// A bound of this client was met.
    pub async fn unsubscribe(&self, filter: String) -> Result<(), TowlineError> {
        let client = self.open()?.clone();
        Engine::get()?.run(async move { Ok(client.unsubscribe(filter).await?) }).await
    }

    /// Publishes a message and waits until the gateway has accepted it; it may arrive twice.
    ///
    /// # Errors
    /// The gateway's reason, or a bound of this client.
    pub async fn publish(&self, topic: String, payload: Vec<u8>) -> Result<(), TowlineError> {
        let client = self.open()?.clone();
        Engine::get()?.run(async move { Ok(client.publish(topic, payload).await?) }).await
    }

    /// Publishes a message that may get lost, without waiting.
    ///
    /// # Errors
    /// A bound of this client was met.
    pub fn publish_and_forget(&self, topic: String, payload: Vec<u8>) -> Result<(), TowlineError> {
        Ok(self.open()?.publish_and_forget(topic, payload)?)
    }

    /// Ends the session's connection and fails what waits; resolves when the connection is closed. Again it does
    /// nothing.
    ///
    /// # Errors
    /// A fault of this library's.
    pub async fn shutdown(&self) -> Result<(), TowlineError> {
        self.begin_shutdown();
        let client = self.inner.clone();
        let closed = async move {
            client.close().await;
            Ok(())
        };
        Engine::get()?.run(closed).await
    }
}

impl Client {
    /// The client, also where it is closed.
    pub(crate) fn inner(&self) -> &towline_client::Client {
        &self.inner
    }

    /// The client, unless it is closed.
    pub(crate) fn open(&self) -> Result<&towline_client::Client, TowlineError> {
        let is_refused = matches!(*self.inner.states().borrow(), ConnectionState::Closed { .. });
        if self.is_shut_down.load(Ordering::Relaxed) || is_refused {
            return Err(TowlineError::Closed);
        }
        Ok(&self.inner)
    }

    /// Names that the app is to look up, where it said so.
    pub(crate) fn questions(&self) -> Option<Questions> {
        self.questions.clone()
    }

    /// From here on the client is closed for the app.
    pub(crate) fn begin_shutdown(&self) {
        self.is_shut_down.store(true, Ordering::Relaxed);
    }

    async fn answer(
        &self,
        request: Request,
        cancellation: Option<Arc<Cancellation>>,
    ) -> Result<towline_client::CallResponse, TowlineError> {
        let client = self.open()?.clone();
        let call = request.into_call()?;
        let answer = async move { Ok(client.call(call).await?) };
        match cancellation {
            None => Engine::get()?.run(answer).await,
            Some(cancellation) => Engine::get()?.run(cancellation.or(answer)).await,
        }
    }
}
