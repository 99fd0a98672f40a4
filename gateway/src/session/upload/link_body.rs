//! The backend's end of a body.

use std::{
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::Frame;
use towline_protocols::link::{Execution, RpcError, RpcErrorKind};

use super::{Upload, pipe::Piece};

/// The backend's end.
pub(crate) struct LinkBody {
    upload: Arc<Upload>,
    over: bool,
}

impl LinkBody {
    pub(super) fn new(upload: Arc<Upload>) -> Self {
        Self { upload, over: false }
    }

    /// The next piece, in order; `None` when no more will come.
    fn poll_piece(&self, cx: &Context<'_>) -> Poll<Option<Piece>> {
        let mut pipe = self.upload.0.lock();
        if let Some(piece) = pipe.take() {
            return Poll::Ready(Some(pipe.hand_over(piece)));
        }
        if pipe.broken {
            return Poll::Ready(None);
        }
        if !pipe.waiting.as_ref().is_some_and(|waiting| waiting.will_wake(cx.waker())) {
            pipe.waiting = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

impl Drop for LinkBody {
    fn drop(&mut self) {
        let mut pipe = self.upload.0.lock();
        pipe.closed = true;
        // What the backend does not take holds nobody up.
        let rest = mem::take(&mut pipe.pieces);
        pipe.credit(rest.iter().map(Piece::of_link).sum());
    }
}

impl http_body::Body for LinkBody {
    type Data = Bytes;
    type Error = RpcError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RpcError>>> {
        if self.over {
            return Poll::Ready(None);
        }
        let piece = match self.poll_piece(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(piece) => piece,
        };
        Poll::Ready(match piece {
            Some(Piece::Data(bytes, _)) => Some(Ok(Frame::data(bytes))),
            Some(Piece::Trailers(fields)) => {
                self.over = true;
                Some(Ok(Frame::trailers(*fields)))
            }
            Some(Piece::End) => {
                self.over = true;
                None
            }
            None => {
                self.over = true;
                Some(Err(broken_off()))
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.over || matches!(self.upload.0.lock().pieces.front(), Some(Piece::End))
    }
}

fn broken_off() -> RpcError {
    let text = "the client broke off before the request had arrived whole";
    RpcError::new(RpcErrorKind::Cancelled, Execution::MayHaveRun, text)
}
