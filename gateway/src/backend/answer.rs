//! The caller's deadline on an answer's body: it bounds the whole call, not only the head.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Instant,
};

use bytes::Bytes;
use http::Response;
use http_body::{Body as _, Frame, SizeHint};
use tokio::time::{Sleep, sleep_until};

use crate::{
    error::{Execution, RpcError, RpcErrorKind},
    request::Body,
};

/// Ends the answer's body with an error at `deadline`.
pub(super) fn with_deadline(answer: Response<Body>, deadline: Option<Instant>) -> Response<Body> {
    match deadline {
        Some(deadline) if !answer.body().is_end_stream() => {
            answer.map(|body| Body::new(Bounded { body, deadline, timer: None }))
        }
        Some(_) | None => answer,
    }
}

struct Bounded {
    body: Body,
    deadline: Instant,
    /// Made when the body is first waited for: most answers come in one piece.
    timer: Option<Pin<Box<Sleep>>>,
}

impl http_body::Body for Bounded {
    type Data = Bytes;
    type Error = RpcError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RpcError>>> {
        let this = self.get_mut();
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) {
            return Poll::Ready(frame);
        }
        let deadline = this.deadline;
        let timer = this.timer.get_or_insert_with(|| Box::pin(sleep_until(deadline.into())));
        timer.as_mut().poll(cx).map(|()| Some(Err(too_late())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn too_late() -> RpcError {
    let message = "the deadline passed before the answer was complete";
    RpcError::new(RpcErrorKind::DeadlineExceeded, Execution::MayHaveRun, message)
}
