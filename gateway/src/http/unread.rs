//! What is left of a request's body when it was answered without it.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use tokio::{runtime::Handle, time::timeout};

/// So much of an unread body is still taken, bytes.
const DISCARDED_BYTES_MAX: usize = 64 * 1024;
/// For so long.
const DISCARDED_FOR_MAX: Duration = Duration::from_secs(1);

/// A body on HTTP/2 whose rest is taken and thrown away when nobody reads it. Dropped as it is, hyper resets the
/// stream together with the answer, and clients that are still sending (curl) then lose the answer.
pub(super) struct Unread<B: Body<Data = Bytes> + Send + Unpin + 'static> {
    /// Gone once it has ended.
    body: Option<B>,
}

impl<B: Body<Data = Bytes> + Send + Unpin + 'static> Unread<B> {
    pub(super) fn new(body: B) -> Self {
        Self { body: Some(body) }
    }
}

impl<B: Body<Data = Bytes> + Send + Unpin + 'static> Body for Unread<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.get_mut();
        let Some(body) = &mut this.body else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(body).poll_frame(cx));
        if matches!(frame, None | Some(Err(_))) {
            this.body = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map(Body::size_hint).unwrap_or_default()
    }
}

impl<B: Body<Data = Bytes> + Send + Unpin + 'static> Drop for Unread<B> {
    fn drop(&mut self) {
        let Some(body) = self.body.take().filter(|body| !body.is_end_stream()) else { return };
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(timeout(DISCARDED_FOR_MAX, discard(body)));
        }
    }
}

async fn discard(mut body: impl Body<Data = Bytes> + Unpin) {
    let mut left = DISCARDED_BYTES_MAX;
    while let Some(Ok(frame)) = body.frame().await {
        let Some(rest) = left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) else { return };
        left = rest;
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use tokio::sync::mpsc;

    use super::*;

    /// A body that comes by a channel.
    struct Coming(mpsc::Receiver<Bytes>);

    impl Body for Coming {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            self.0.poll_recv(cx).map(|data| data.map(|data| Ok(Frame::data(data))))
        }
    }

    fn unread() -> (mpsc::Sender<Bytes>, Unread<Coming>) {
        let (sender, receiver) = mpsc::channel(1);
        (sender, Unread::new(Coming(receiver)))
    }

    #[tokio::test(start_paused = true)]
    async fn the_rest_of_a_body_is_taken_within_bounds() {
        let (sender, body) = unread();
        drop(body);
        let chunk = || Bytes::from(vec![0; DISCARDED_BYTES_MAX / 4]);
        for _ in 0..4 {
            sender.send(chunk()).await.unwrap();
        }
        // What is beyond the bound ends it, well within the time.
        while sender.send(chunk()).await.is_ok() {}
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_is_not_waited_for() {
        let (sender, body) = unread();
        drop(body);
        assert!(sender.send(Bytes::from_static(b"in time")).await.is_ok());
        tokio::time::sleep(DISCARDED_FOR_MAX * 2).await;
        assert!(sender.send(Bytes::from_static(b"late")).await.is_err());
    }

    #[tokio::test]
    async fn what_was_read_to_its_end_is_over() {
        let (sender, mut body) = unread();
        drop(sender);
        assert!(body.frame().await.is_none());
        assert!(body.body.is_none());
    }
}
