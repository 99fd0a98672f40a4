//! A request's body on its way from the link to the backend, piece by piece, no message gathered whole.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{BufMut as _, Bytes, BytesMut};
use http::HeaderMap;
use http_body::Frame;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};
use towline_protocols::link::{Execution, RpcError, RpcErrorKind};

/// Bytes of messages that backends have taken, to be given back to their senders as credit.
#[derive(Default)]
pub(super) struct Credits {
    /// One entry for each request, so at most as many as run.
    due: Mutex<Vec<(u64, usize)>>,
    notify: Notify,
}

impl Credits {
    pub(super) fn add(&self, seq: u64, bytes: usize) {
        let mut due = self.due.lock();
        match due.iter_mut().find(|(of, _)| *of == seq) {
            Some((_, sum)) => *sum += bytes,
            None => due.push((seq, bytes)),
        }
        drop(due);
        self.notify.notify_one();
    }

    /// What is due, which is none afterwards.
    pub(super) fn take(&self) -> Vec<(u64, usize)> {
        std::mem::take(&mut *self.due.lock())
    }

    /// Waits until something is due. Safe to cancel.
    pub(super) async fn changed(&self) {
        loop {
            let notified = self.notify.notified();
            if !self.due.lock().is_empty() {
                return;
            }
            notified.await;
        }
    }
}

/// The link's end of a body. Dropped before the end, it fails the body, which cancels the call.
pub(super) struct BodySender {
    pieces: mpsc::UnboundedSender<Piece>,
    grpc: bool,
}

/// The backend's end.
pub(super) struct LinkBody {
    /// Not bounded here: flow control allows the sender no more than the stream's window, since credit
    /// is given back only as pieces are taken.
    pieces: mpsc::UnboundedReceiver<Piece>,
    seq: u64,
    credits: Arc<Credits>,
    over: bool,
}

enum Piece {
    /// Bytes, and how many of them came over the link.
    Data(Bytes, usize),
    Trailers(HeaderMap),
    End,
}

/// Both ends of the body of request `seq`.
pub(super) fn channel(seq: u64, grpc: bool, credits: Arc<Credits>) -> (BodySender, LinkBody) {
    let (sender, pieces) = mpsc::unbounded_channel();
    (BodySender { pieces: sender, grpc }, LinkBody { pieces, seq, credits, over: false })
}

impl BodySender {
    /// Passes a part of a message on; on its first part, `message_bytes` is the whole message's length.
    pub(super) fn part(&self, message_bytes: Option<u64>, bytes: Bytes) {
        if let (true, Some(length)) = (self.grpc, message_bytes) {
            self.send(Piece::Data(grpc_prefix(length), 0));
        }
        if !bytes.is_empty() {
            let length = bytes.len();
            self.send(Piece::Data(bytes, length));
        }
    }

    pub(super) fn end(self) {
        self.send(Piece::End);
    }

    pub(super) fn trailers(self, fields: HeaderMap) {
        self.send(Piece::Trailers(fields));
    }

    /// A backend that wants no more of the body has dropped its end; the rest is let go.
    fn send(&self, piece: Piece) {
        if let Err(mpsc::error::SendError(Piece::Data(..))) = self.pieces.send(piece) {
            tracing::trace!("the backend takes no more of the body");
        }
    }

    /// Whether the backend still takes the body.
    pub(super) fn is_open(&self) -> bool {
        !self.pieces.is_closed()
    }
}

/// gRPC over HTTP/2, "Length-Prefixed-Message": not compressed, four bytes of length.
fn grpc_prefix(length: u64) -> Bytes {
    let mut prefix = BytesMut::with_capacity(5);
    prefix.put_u8(0);
    // message_bytes_max keeps messages below 2^30 bytes.
    prefix.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    prefix.freeze()
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
        let piece = match self.pieces.poll_recv(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(piece) => piece,
        };
        Poll::Ready(match piece {
            Some(Piece::Data(bytes, of_link)) => {
                self.credits.add(self.seq, of_link);
                Some(Ok(Frame::data(bytes)))
            }
            Some(Piece::Trailers(fields)) => {
                self.over = true;
                Some(Ok(Frame::trailers(fields)))
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
        self.over
    }
}

fn broken_off() -> RpcError {
    let text = "the client broke off before the request had arrived whole";
    RpcError::new(RpcErrorKind::Cancelled, Execution::MayHaveRun, text)
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    #[tokio::test]
    async fn messages_get_their_prefix_and_bytes_their_credit() {
        let credits = Arc::new(Credits::default());
        let (sender, body) = channel(7, true, Arc::clone(&credits));
        sender.part(Some(4), Bytes::from_static(b"ab"));
        sender.part(None, Bytes::from_static(b"cd"));
        sender.part(Some(0), Bytes::new());
        sender.end();
        assert!(credits.take().is_empty(), "nothing is taken yet");
        let whole = body.collect().await.unwrap().to_bytes();
        assert_eq!(whole, &b"\0\0\0\0\x04abcd\0\0\0\0\0"[..]);
        assert_eq!(credits.take(), [(7, 4)]);
    }

    #[tokio::test]
    async fn a_plain_body_is_the_concatenation() {
        let (sender, body) = channel(1, false, Arc::default());
        sender.part(Some(2), Bytes::from_static(b"ab"));
        sender.part(Some(1), Bytes::from_static(b"c"));
        sender.trailers(HeaderMap::from_iter([(http::header::ETAG, "x".parse().unwrap())]));
        let collected = body.collect().await.unwrap();
        assert!(collected.trailers().unwrap().contains_key("etag"));
        assert_eq!(collected.to_bytes(), "abc");
    }

    #[tokio::test]
    async fn a_body_that_was_broken_off_fails() {
        let (sender, body) = channel(1, false, Arc::default());
        sender.part(Some(2), Bytes::from_static(b"a"));
        drop(sender);
        assert_eq!(body.collect().await.unwrap_err().kind, RpcErrorKind::Cancelled);
    }
}
