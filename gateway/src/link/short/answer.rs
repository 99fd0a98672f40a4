//! The body of a POST's answer.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::Frame;
use tokio::sync::mpsc;
use towline_protocols::link::RpcError;

/// What the POST's task sends, as HTTP asks for it. Dropping it tells the task that the client is gone.
pub(super) struct Answer(mpsc::Receiver<Bytes>);

impl Answer {
    pub(super) fn new(receiver: mpsc::Receiver<Bytes>) -> Self {
        Self(receiver)
    }
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = RpcError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RpcError>>> {
        self.0.poll_recv(cx).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}
