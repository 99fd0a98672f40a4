//! A request's body on its way from the link to the backend, piece by piece, no message gathered whole.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::{BufMut as _, Bytes, BytesMut};
use http::HeaderMap;
use http_body::Frame;
use parking_lot::Mutex;
use tokio::sync::Notify;
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
        if bytes == 0 {
            return;
        }
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
    pipe: Arc<Mutex<Pipe>>,
    grpc: bool,
    seq: u64,
    credits: Arc<Credits>,
}

/// The backend's end.
pub(super) struct LinkBody {
    pipe: Arc<Mutex<Pipe>>,
    seq: u64,
    credits: Arc<Credits>,
    over: bool,
}

/// What is under way from one end to the other. A channel of tokio's would take 3 KB for each request.
#[derive(Default)]
struct Pipe {
    /// Not bounded here: flow control allows the sender no more than the stream's window, since credit
    /// is given back only as pieces are taken.
    pieces: VecDeque<Piece>,
    /// Who waits for a piece.
    waiting: Option<Waker>,
    /// The link's end is gone.
    sent: bool,
    /// The backend's end is gone.
    closed: bool,
}

impl Pipe {
    /// The next piece. Small ones that are there already go out as one: a frame costs more than a copy.
    fn take(&mut self) -> Option<Piece> {
        let (first, mut of_link) = match self.pieces.pop_front()? {
            Piece::Data(first, of_link) => (first, of_link),
            other => return Some(other),
        };
        let mut length = first.len();
        let fits = |piece: &&Piece| match piece {
            Piece::Data(bytes, _) => {
                length += bytes.len();
                length <= MERGED_BYTES_MAX
            }
            Piece::Trailers(_) | Piece::End => false,
        };
        let more = self.pieces.iter().take_while(fits).count();
        if more == 0 {
            return Some(Piece::Data(first, of_link));
        }
        let mut merged = BytesMut::from(&first[..]);
        for piece in self.pieces.drain(..more) {
            if let Piece::Data(bytes, length) = piece {
                merged.extend_from_slice(&bytes);
                of_link += length;
            }
        }
        Some(Piece::Data(merged.freeze(), of_link))
    }
}

/// Pieces are copied together up to an HTTP/2 frame of the default size.
const MERGED_BYTES_MAX: usize = 16 << 10;

enum Piece {
    /// Bytes, and how many of them came over the link.
    Data(Bytes, usize),
    Trailers(Box<HeaderMap>),
    End,
}

impl Piece {
    fn of_link(&self) -> usize {
        match self {
            Self::Data(_, of_link) => *of_link,
            Self::Trailers(_) | Self::End => 0,
        }
    }
}

/// Both ends of the body of request `seq`.
pub(super) fn channel(seq: u64, grpc: bool, credits: Arc<Credits>) -> (BodySender, LinkBody) {
    let pipe = Arc::<Mutex<Pipe>>::default();
    let body = LinkBody { pipe: Arc::clone(&pipe), seq, credits: Arc::clone(&credits), over: false };
    (BodySender { pipe, grpc, seq, credits }, body)
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
        self.send(Piece::Trailers(Box::new(fields)));
    }

    /// A backend that wants no more of the body has dropped its end; the rest is let go.
    fn send(&self, piece: Piece) {
        let mut pipe = self.pipe.lock();
        if pipe.closed {
            drop(pipe);
            return self.credits.add(self.seq, piece.of_link());
        }
        pipe.pieces.push_back(piece);
        let waiting = pipe.waiting.take();
        drop(pipe);
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Whether the backend still takes the body.
    pub(super) fn is_open(&self) -> bool {
        !self.pipe.lock().closed
    }
}

impl Drop for BodySender {
    fn drop(&mut self) {
        let mut pipe = self.pipe.lock();
        pipe.sent = true;
        let waiting = pipe.waiting.take();
        drop(pipe);
        waiting.into_iter().for_each(Waker::wake);
    }
}

impl LinkBody {
    /// The next piece, in order; `None` when the link's end is gone.
    fn poll_piece(&self, cx: &Context<'_>) -> Poll<Option<Piece>> {
        let mut pipe = self.pipe.lock();
        if let Some(piece) = pipe.take() {
            return Poll::Ready(Some(piece));
        }
        if pipe.sent {
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
        let mut pipe = self.pipe.lock();
        pipe.closed = true;
        let rest = std::mem::take(&mut pipe.pieces);
        drop(pipe);
        // What the backend does not take holds nobody up.
        self.credits.add(self.seq, rest.iter().map(Piece::of_link).sum());
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
        let piece = match self.poll_piece(cx) {
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
        self.over || matches!(self.pipe.lock().pieces.front(), Some(Piece::End))
    }
}

fn broken_off() -> RpcError {
    let text = "the client broke off before the request had arrived whole";
    RpcError::new(RpcErrorKind::Cancelled, Execution::MayHaveRun, text)
}

#[cfg(test)]
mod tests {
    use http_body::Body as _;
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
    async fn a_message_that_is_there_whole_is_one_frame_and_the_last() {
        let credits = Arc::new(Credits::default());
        let (sender, mut body) = channel(7, true, Arc::clone(&credits));
        sender.part(Some(2), Bytes::from_static(b"ab"));
        sender.end();
        assert!(!body.is_end_stream());
        let frame = body.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), &b"\0\0\0\0\x02ab"[..]);
        assert!(body.is_end_stream());
        assert!(body.frame().await.is_none());
        assert_eq!(credits.take(), [(7, 2)]);
    }

    #[tokio::test]
    async fn pieces_are_not_copied_together_beyond_the_limit() {
        let (sender, mut body) = channel(1, false, Arc::default());
        for length in [MERGED_BYTES_MAX - 1, 1, 1] {
            sender.part(None, vec![7; length].into());
        }
        let mut lengths = Vec::new();
        for _ in 0..2 {
            lengths.push(body.frame().await.unwrap().unwrap().into_data().unwrap().len());
        }
        assert_eq!(lengths, [MERGED_BYTES_MAX, 1]);
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
    async fn what_a_backend_leaves_is_credited() {
        let credits = Arc::new(Credits::default());
        let (sender, body) = channel(3, true, Arc::clone(&credits));
        sender.part(Some(4), Bytes::from_static(b"ab"));
        drop(body);
        assert_eq!(credits.take(), [(3, 2)]);
        sender.part(None, Bytes::from_static(b"cde"));
        assert_eq!(credits.take(), [(3, 3)]);
    }

    #[tokio::test]
    async fn a_body_that_was_broken_off_fails() {
        let (sender, body) = channel(1, false, Arc::default());
        sender.part(Some(2), Bytes::from_static(b"a"));
        drop(sender);
        assert_eq!(body.collect().await.unwrap_err().kind, RpcErrorKind::Cancelled);
    }

    #[tokio::test]
    async fn a_backend_that_waits_is_woken_by_each_piece_and_by_the_end_of_the_sender() {
        let (sender, mut body) = channel(1, false, Arc::default());
        let taken = tokio::spawn(async move {
            let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
            (first, body.frame().await.unwrap().unwrap_err().kind)
        });
        tokio::task::yield_now().await;
        sender.part(Some(2), Bytes::from_static(b"a"));
        tokio::task::yield_now().await;
        drop(sender);
        assert_eq!(taken.await.unwrap(), (Bytes::from_static(b"a"), RpcErrorKind::Cancelled));
    }

    #[test]
    fn a_body_that_nobody_takes_is_closed_and_keeps_nothing() {
        let (sender, body) = channel(1, false, Arc::default());
        sender.part(Some(1), Bytes::from_static(b"a"));
        drop(body);
        assert!(!sender.is_open());
        sender.part(Some(1), Bytes::from_static(b"b"));
        assert!(sender.pipe.lock().pieces.is_empty());
    }
}
