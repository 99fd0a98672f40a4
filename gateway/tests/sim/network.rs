//! A network of byte streams that are slow, that break, and that fall silent.
//!
//! ```text
//!  End --write--> Way (bytes under way, each with its time) --read--> End
//!      <--read--- Way <--write---
//! ```

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::{Buf as _, Bytes};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};

/// Bytes under way in one direction before the sender has to wait.
const UNDER_WAY_MAX: usize = 48 << 10;

/// How fast and how even a connection is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quality {
    pub(crate) delay: Duration,
    pub(crate) jitter: Duration,
    pub(crate) bytes_per_s: f64,
    /// Of datagrams: the share that is lost, and that comes twice.
    pub(crate) lost: f64,
    pub(crate) doubled: f64,
}

/// What an end sees of a connection that breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sees {
    Reset,
    /// Nothing, and nothing of what it sends arrives.
    Silence,
    /// What was under way to it, so much later, and nothing behind that. Nothing of what it sends arrives.
    Late(Duration),
}

/// One end of a connection.
pub(crate) struct End {
    sends: Arc<Mutex<Way>>,
    takes: Arc<Mutex<Way>>,
    quality: Quality,
    chance: fastrand::Rng,
    due: Option<Pin<Box<Sleep>>>,
    tap: Option<Tap>,
}

/// Somebody on the way who writes down what an end sends.
pub(crate) type Tap = Arc<Mutex<Vec<u8>>>;

/// To break a connection.
#[derive(Clone)]
pub(crate) struct Cutter {
    to_gateway: Arc<Mutex<Way>>,
    to_client: Arc<Mutex<Way>>,
}

#[derive(Default)]
struct Way {
    under_way: VecDeque<(Instant, Bytes)>,
    bytes: usize,
    last_due: Option<Instant>,
    /// No byte follows.
    finished: bool,
    writer: Side,
    reader: Side,
}

#[derive(Default)]
struct Side {
    sees: Option<Sees>,
    waker: Option<Waker>,
}

/// A connection: the client's end, the gateway's end.
pub(crate) fn connection(quality: Quality, chance: &mut fastrand::Rng) -> (End, End, Cutter) {
    let (to_gateway, to_client) = (Arc::<Mutex<Way>>::default(), Arc::<Mutex<Way>>::default());
    let mut end = |sends: &Arc<Mutex<Way>>, takes: &Arc<Mutex<Way>>| End {
        sends: Arc::clone(sends),
        takes: Arc::clone(takes),
        quality,
        chance: chance.fork(),
        due: None,
        tap: None,
    };
    let (client, gateway) = (end(&to_gateway, &to_client), end(&to_client, &to_gateway));
    (client, gateway, Cutter { to_gateway, to_client })
}

impl End {
    /// The same, listened to by `tap`.
    pub(crate) fn tapped(mut self, tap: Tap) -> Self {
        self.tap = Some(tap);
        self
    }
}

impl Cutter {
    /// What is under way is lost, unless it is late.
    pub(crate) fn cut(&self, client: Sees, gateway: Sees) {
        for (way, writer, reader) in [(&self.to_gateway, client, gateway), (&self.to_client, gateway, client)]
        {
            let mut way = lock(way);
            if let Sees::Late(late) = reader {
                way.under_way.iter_mut().for_each(|(due, _)| *due += late);
            } else {
                way.under_way.clear();
                way.bytes = 0;
            }
            way.writer.sees.get_or_insert(writer);
            way.reader.sees.get_or_insert(reader);
            way.wake();
        }
    }

    /// Whether it is of no use to anybody any more.
    pub(crate) fn is_over(&self) -> bool {
        let is_over = |way: &Mutex<Way>| {
            let way = lock(way);
            way.finished || way.writer.sees.is_some()
        };
        is_over(&self.to_gateway) || is_over(&self.to_client)
    }
}

impl Way {
    fn wake(&mut self) {
        [&mut self.writer, &mut self.reader].into_iter().for_each(|side| {
            if let Some(waker) = side.waker.take() {
                waker.wake();
            }
        });
    }
}

impl AsyncWrite for End {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let end = self.get_mut();
        let mut way = lock(&end.sends);
        let room = match way.writer.sees {
            Some(Sees::Reset) => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            _ if way.finished => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            _ => UNDER_WAY_MAX - way.bytes,
        };
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        if room == 0 {
            way.writer.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        // Any piece of what is offered may be taken.
        let most = bytes.len().min(room);
        let taken = if end.chance.f32() < 0.7 { most } else { end.chance.usize(1..=most) };
        if let Some(tap) = &end.tap {
            lock(tap).extend_from_slice(&bytes[..taken]);
        }
        way.bytes += taken;
        if way.writer.sees.is_none() {
            let arrives = Instant::now() + end.quality.delay + end.quality.jitter.mul_f64(end.chance.f64());
            let paced = way.last_due.unwrap_or(arrives)
                + Duration::from_secs_f64(taken as f64 / end.quality.bytes_per_s);
            let due = arrives.max(paced);
            way.last_due = Some(due);
            way.under_way.push_back((due, Bytes::copy_from_slice(&bytes[..taken])));
            way.reader.waker.take().into_iter().for_each(Waker::wake);
        }
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut way = lock(&self.sends);
        way.finished = true;
        way.wake();
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for End {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let end = self.get_mut();
        let mut way = lock(&end.takes);
        let way = &mut *way;
        if way.reader.sees == Some(Sees::Reset) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let now = Instant::now();
        match way.under_way.front_mut() {
            Some((due, bytes)) if *due <= now => {
                let taken = bytes.len().min(into.remaining());
                into.put_slice(&bytes[..taken]);
                bytes.advance(taken);
                if bytes.is_empty() {
                    way.under_way.pop_front();
                }
                way.bytes -= taken;
                way.writer.waker.take().into_iter().for_each(Waker::wake);
                return Poll::Ready(Ok(()));
            }
            Some((due, _)) => {
                let due = *due;
                let waiting = end.due.get_or_insert_with(|| Box::pin(sleep_until(due)));
                waiting.as_mut().reset(due);
                _ = waiting.as_mut().poll(cx);
            }
            None if way.finished && way.reader.sees.is_none() => return Poll::Ready(Ok(())),
            None => {}
        }
        way.reader.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for End {
    fn drop(&mut self) {
        for way in [&self.sends, &self.takes] {
            let mut way = lock(way);
            way.finished = true;
            way.wake();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
