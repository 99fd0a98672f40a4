//! A connection that waits without a task.

use std::{
    future::Future,
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
    task::Waker,
};

use bytes::BytesMut;
use tokio::time::Instant;

use super::{
    attachment::Attachment,
    driver::{Driver, Rest},
};
use crate::{
    gateway::Gateway,
    parking::Patience,
    request::Origin,
    transport::{Meter, ParkedStream, Stream},
};

/// What is kept of a quiet connection; its machine is in its client's session all the time.
pub struct Parked {
    attachment: Attachment,
    origin: Arc<Origin>,
    stream: ParkedStream,
}

/// Drives a connection until it ends, or has been quiet for a while.
pub(super) async fn run(mut driver: Driver<Stream>) -> Option<Parked> {
    loop {
        match driver.run().await {
            Rest::Ended => return None,
            Rest::Quiet if driver.stream().is_idle() => break,
            Rest::Quiet => driver.stay(),
        }
    }
    let (attachment, origin, stream) = driver.into_parts();
    // Without its socket the connection is lost, which dropping the attachment says.
    let stream = stream.park().ok()?;
    Some(Parked { attachment, origin, stream })
}

impl Parked {
    /// The gateway that it is connected to.
    pub fn gateway(&self) -> &Arc<Gateway> {
        &self.attachment.gateway
    }

    /// The socket.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// The end of the client's keep-alive.
    pub fn deadline(&self) -> Option<Instant> {
        self.attachment.client.lock().deadline(self.attachment.epoch).map(Instant::from)
    }

    /// Makes `waker` the one that the session wakes; false when it has something for the client already.
    pub fn settle(&self, waker: &Waker) -> bool {
        self.attachment.client.lock().settle(self.attachment.epoch, waker)
    }

    /// Serves the connection again.
    pub fn resume(self, patience: Patience) -> impl Future<Output = Option<Self>> + Send {
        let Self { attachment, origin, stream } = self;
        async move {
            let settings = attachment.client.lock().settings.clone();
            let park_after = attachment.gateway.snapshot().settings.limits.park_after;
            let park_after = patience.wait(park_after);
            let mut stream = stream.unpark().ok()?;
            stream.set_meter(Meter::new(&attachment.gateway.metrics, origin.protocol));
            run(Driver::new(attachment, origin, settings, stream, BytesMut::new(), park_after)).await
        }
    }
}
