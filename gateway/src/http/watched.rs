//! A stream that remembers when bytes last moved, so that silent and stuck peers are noticed.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use crate::settings::Limits;

/// No write is held up.
const NOT_STUCK: u64 = u64::MAX;

/// When bytes last moved on a connection; milliseconds since it began.
pub(super) struct Activity {
    began: Instant,
    moved: AtomicU64,
    /// Since when the peer takes nothing of what is written.
    stuck: AtomicU64,
    /// Whether a whole request head has arrived.
    requested: AtomicBool,
    /// Streams that carry another protocol, which has its own notion of silence.
    tunnels: AtomicUsize,
}

/// Such a stream, until it is dropped.
pub(super) struct Tunnel(Arc<Activity>);

impl Tunnel {
    pub(super) fn begin(activity: &Arc<Activity>) -> Self {
        activity.tunnels.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(activity))
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.0.moved();
        self.0.tunnels.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Activity {
    pub(super) fn new(began: Instant) -> Self {
        Self {
            began,
            moved: AtomicU64::new(0),
            stuck: AtomicU64::new(NOT_STUCK),
            requested: AtomicBool::new(false),
            tunnels: AtomicUsize::new(0),
        }
    }

    /// The first request's head is here.
    pub(super) fn requested(&self) {
        self.requested.store(true, Ordering::Relaxed);
    }

    /// The name of the limit that the connection ran into.
    pub(super) fn overdue(&self, limits: &Limits, now: Instant) -> Option<&'static str> {
        let now = self.millis(now);
        let past = |since: u64, limit: std::time::Duration| {
            u128::from(now.saturating_sub(since)) >= limit.as_millis()
        };
        if !self.requested.load(Ordering::Relaxed) && past(0, limits.first_message_timeout) {
            return Some("limits.first_message_timeout");
        }
        let stuck = self.stuck.load(Ordering::Relaxed);
        if stuck != NOT_STUCK && past(stuck, limits.write_timeout) {
            return Some("limits.write_timeout");
        }
        let idle = !self.has_tunnels() && past(self.moved.load(Ordering::Relaxed), limits.idle_timeout);
        idle.then_some("limits.idle_timeout")
    }

    /// When to look again: the earliest time at which a limit can be met.
    pub(super) fn next_check(&self, limits: &Limits) -> Instant {
        let now = Instant::now();
        let moved = match self.has_tunnels() {
            true => now,
            false => self.began + millis(self.moved.load(Ordering::Relaxed)),
        };
        let moved = moved + limits.idle_timeout;
        // A write may get stuck right after this look.
        let stuck = match self.stuck.load(Ordering::Relaxed) {
            NOT_STUCK => now + limits.write_timeout,
            since => self.began + millis(since) + limits.write_timeout,
        };
        let mut check = moved.min(stuck);
        if !self.requested.load(Ordering::Relaxed) {
            check = check.min(self.began + limits.first_message_timeout);
        }
        // Whole milliseconds are compared: never look again within the same one.
        check.max(now + millis(1))
    }

    fn has_tunnels(&self) -> bool {
        self.tunnels.load(Ordering::Relaxed) > 0
    }

    fn moved(&self) {
        self.moved.store(self.millis(Instant::now()), Ordering::Relaxed);
    }

    fn written(&self) {
        self.stuck.store(NOT_STUCK, Ordering::Relaxed);
        self.moved();
    }

    fn held_up(&self) {
        let now = self.millis(Instant::now());
        // Fails when it has been stuck before: the earlier time counts.
        let _was = self.stuck.compare_exchange(NOT_STUCK, now, Ordering::Relaxed, Ordering::Relaxed);
    }

    fn millis(&self, now: Instant) -> u64 {
        u64::try_from((now - self.began).as_millis()).unwrap_or(u64::MAX - 1)
    }
}

fn millis(millis: u64) -> std::time::Duration {
    std::time::Duration::from_millis(millis)
}

/// Reports what passes through it.
pub(super) struct Watched<S> {
    inner: S,
    activity: Arc<Activity>,
}

impl<S> Watched<S> {
    pub(super) fn new(inner: S, activity: Arc<Activity>) -> Self {
        Self { inner, activity }
    }

    /// The stream below.
    pub(super) fn into_inner(self) -> S {
        self.inner
    }

    fn note(&self, written: &Poll<io::Result<usize>>) {
        match written {
            Poll::Ready(_) => self.activity.written(),
            Poll::Pending => self.activity.held_up(),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let read = Pin::new(&mut this.inner).poll_read(cx, buffer);
        if read.is_ready() {
            this.activity.moved();
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.inner).poll_write(cx, bytes);
        this.note(&written);
        written
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.inner).poll_write_vectored(cx, slices);
        this.note(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.inner).poll_flush(cx);
        if flushed.is_pending() {
            this.activity.held_up();
        }
        flushed
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}
