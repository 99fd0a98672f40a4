//! Streaming calls.

use std::sync::Arc;

use tokio::sync::Mutex as Turns;
use towline_client::{StreamReceiver, StreamSender};

use crate::{
    cancel::{CANCELLED, Cancellation},
    engine::Engine,
    error::TowlineError,
    request::{GrpcStatus, Header, Timeline, headers_of},
    source::{Feed, Source},
};

/// Messages both ways. Sending waits while what was sent before has not left; messages that are not taken hold their
/// sender back. Of several that send, or ask for messages, each comes in its turn. Released, the stream is cancelled.
#[derive(uniffi::Object)]
pub struct MessageStream {
    /// `None` once it is finished or cancelled.
    sender: Arc<Turns<Option<StreamSender>>>,
    messages: Source<Messages>,
    cancellation: Arc<Cancellation>,
}

/// The head of an answer.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct StreamHead {
    /// HTTP status.
    pub status: u16,
    /// Header fields.
    pub headers: Vec<Header>,
}

/// What follows the last message.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct StreamEnd {
    /// Trailers.
    pub trailers: Vec<Header>,
    /// The gRPC status, if it is a gRPC answer.
    pub grpc_status: Option<GrpcStatus>,
    /// How it went until now.
    pub timeline: Timeline,
}

#[uniffi::export]
impl MessageStream {
    /// Sends a message, and waits first while what was sent before has not left.
    ///
    /// # Errors
    /// The stream is over, and the message was not sent; who asks for messages learns why.
    pub async fn send(&self, message: Vec<u8>) -> Result<(), TowlineError> {
        let sender = Arc::clone(&self.sender);
        let sent = async move {
            let mut sender = sender.lock().await;
            Ok(sender.as_mut().ok_or_else(finished)?.send(message).await?)
        };
        Engine::get()?.run(Arc::clone(&self.cancellation).or(sent)).await
    }

    /// Ends this direction: no message follows.
    ///
    /// # Errors
    /// The stream is over already.
    pub async fn finish(&self) -> Result<(), TowlineError> {
        let sender = Arc::clone(&self.sender);
        let finish = async move {
            let mut sender = sender.lock().await.take().ok_or_else(finished)?;
            Ok(sender.finish().await?)
        };
        Engine::get()?.run(Arc::clone(&self.cancellation).or(finish)).await
    }

    /// Waits for the head of the answer.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn head(&self) -> Result<StreamHead, TowlineError> {
        let messages = self.messages.feed();
        let head = async move {
            let head = messages.lock().await.receiver()?.head().await?;
            Ok(StreamHead { status: head.status, headers: headers_of(&head.headers) })
        };
        Engine::get()?.run(Arc::clone(&self.cancellation).or(head)).await
    }

    /// Waits for the next message; `None` behind the last one.
    ///
    /// # Errors
    /// Why the stream broke off. Asked again, it says so again.
    pub async fn message(&self) -> Result<Option<Vec<u8>>, TowlineError> {
        self.messages.next().await?.transpose()
    }

    /// What followed the last message; empty before.
    ///
    /// # Errors
    /// The stream was cancelled.
    pub async fn end(&self) -> Result<StreamEnd, TowlineError> {
        let messages = self.messages.feed();
        let end = async move {
            let mut messages = messages.lock().await;
            let receiver = messages.receiver()?;
            let grpc_status = receiver.grpc_status().map(Into::into);
            let (trailers, timeline) = (headers_of(&receiver.trailers()), receiver.timeline().into());
            Ok(StreamEnd { trailers, grpc_status, timeline })
        };
        Engine::get()?.run(Arc::clone(&self.cancellation).or(end)).await
    }

    /// Gives the stream up; the backend is told.
    ///
    /// # Errors
    /// A fault of this library's.
    pub fn cancel(&self) -> Result<(), TowlineError> {
        self.cancellation.cancel();
        let (sender, messages) = (Arc::clone(&self.sender), self.messages.feed());
        Engine::get()?.spawn(async move {
            // Whoever held them leaves them now; the core cancels what has neither half.
            sender.lock().await.take();
            messages.lock().await.receiver.take();
        });
        Ok(())
    }
}

impl MessageStream {
    pub(crate) fn new(sender: StreamSender, receiver: StreamReceiver) -> Arc<Self> {
        let cancellation = Cancellation::new();
        let messages = Messages { receiver: Some(receiver), cancellation: Arc::clone(&cancellation) };
        let sender = Arc::new(Turns::new(Some(sender)));
        Arc::new(Self { sender, messages: Source::new(messages), cancellation })
    }
}

struct Messages {
    /// `None` once the stream is cancelled.
    receiver: Option<StreamReceiver>,
    cancellation: Arc<Cancellation>,
}

impl Messages {
    fn receiver(&mut self) -> Result<&mut StreamReceiver, TowlineError> {
        self.receiver.as_mut().ok_or_else(|| TowlineError::cancelled(CANCELLED))
    }
}

impl Feed for Messages {
    type Item = Result<Vec<u8>, TowlineError>;

    async fn next(&mut self) -> Option<Self::Item> {
        let cancellation = Arc::clone(&self.cancellation);
        let message = async { Ok(self.receiver()?.message().await?) };
        cancellation.or(message).await.map(|message| message.map(Vec::from)).transpose()
    }
}

fn finished() -> TowlineError {
    TowlineError::argument("stream", "finished: it takes no more messages")
}
