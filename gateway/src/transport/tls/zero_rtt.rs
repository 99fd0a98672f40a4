//! A connection that reads early data while its handshake goes on.
//!
//! A task of its own goes on with the handshake, so that its end is noticed also while nobody reads: whoever
//! holds a request back until then is waiting for just that. The stream reads what the task found, and writes
//! under the same lock.

use std::{
    io::{self, IoSlice},
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};

use parking_lot::Mutex;
use tokio::{
    io::{Interest, ReadBuf},
    net::TcpStream,
    sync::oneshot,
    time::{Instant, timeout_at},
};
use towline_protocols::tls::RecordSizes;

use super::{
    established::broken,
    handshake::{Finished, Machine, Progress},
    record::Gather,
    stream::State,
};
use crate::transport::{Completion, Handshake};

/// Sealed octets that the socket did not take; with more, writes wait.
const OUTPUT_BYTES_MAX: usize = 16 * 1024;

pub(super) struct ZeroRtt {
    shared: Arc<Shared>,
    ended: oneshot::Receiver<io::Result<Ended>>,
    handshake: Handshake,
    sizes: RecordSizes,
}

struct Shared {
    tcp: TcpStream,
    inner: Mutex<Inner>,
}

struct Inner {
    /// `None` once the handshake is over.
    machine: Option<Machine>,
    /// Early data that nobody read yet.
    early: Vec<u8>,
    reader: Option<Waker>,
}

/// What the handshake left.
struct Ended {
    finished: Finished,
    /// Sealed, and not sent.
    owed: Vec<u8>,
}

impl ZeroRtt {
    /// Goes on with `machine`, whose answer was sent, until `deadline`.
    pub(super) fn start(tcp: TcpStream, mut machine: Machine, deadline: Instant, sizes: RecordSizes) -> Self {
        let early = mem::take(machine.early());
        let inner = Inner { machine: Some(machine), early, reader: None };
        let shared = Arc::new(Shared { tcp, inner: Mutex::new(inner) });
        let (completion, handshake) = Handshake::pending();
        let (end, ended) = oneshot::channel();
        tokio::spawn(go_on(Arc::clone(&shared), deadline, completion, end));
        Self { shared, ended, handshake, sizes }
    }

    pub(super) fn handshake(&self) -> Handshake {
        self.handshake.clone()
    }

    /// Whether early data was there to be read. If not, `cx` learns of more.
    pub(super) fn read_early(&self, cx: &Context<'_>, buf: &mut ReadBuf<'_>) -> bool {
        let mut inner = self.shared.inner.lock();
        let count = inner.early.len().min(buf.remaining());
        if count == 0 {
            inner.reader = Some(cx.waker().clone());
            return buf.remaining() == 0;
        }
        buf.put_slice(&inner.early[..count]);
        inner.early.drain(..count);
        true
    }

    /// `None` if the handshake is over.
    pub(super) fn poll_write(
        &self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Option<Poll<io::Result<usize>>> {
        let mut inner = self.shared.inner.lock();
        let machine = inner.machine.as_mut()?;
        if self.shared.poll_send(machine, cx).is_pending() {
            return Some(Poll::Pending);
        }
        let mut content = Gather::new(slices);
        let all = content.remaining();
        while machine.output.len() < OUTPUT_BYTES_MAX && content.remaining() > 0 {
            let length = content.remaining().min(self.sizes.first.into());
            if machine.seal_early(&mut content, length).is_none() {
                return Some(Poll::Ready(Err(broken())));
            }
        }
        // What the socket does not take goes before anything else.
        let _ = self.shared.poll_send(machine, cx);
        Some(Poll::Ready(Ok(all - content.remaining())))
    }

    /// `None` if the handshake is over.
    pub(super) fn poll_flush(&self, cx: &mut Context<'_>) -> Option<Poll<io::Result<()>>> {
        let mut inner = self.shared.inner.lock();
        let machine = inner.machine.as_mut()?;
        Some(self.shared.poll_send(machine, cx).map(Ok))
    }

    /// Waits for the end of the handshake; [`ZeroRtt::into_open`] follows.
    pub(super) fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(Finished, Vec<u8>)>> {
        let ended = ready!(Pin::new(&mut self.ended).poll(cx));
        // Without a result, the task was dropped with its runtime.
        let Ended { finished, owed } = ended.unwrap_or_else(|_| Err(broken()))?;
        Poll::Ready(Ok((finished, owed)))
    }

    /// The connection as any other, with early data that nobody read yet in front.
    ///
    /// # Errors
    /// The task holds the connection still, which it gave up before it told the end.
    pub(super) fn into_open(self, finished: Finished, owed: &[u8]) -> io::Result<(TcpStream, State)> {
        let Shared { tcp, inner } = Arc::into_inner(self.shared).ok_or_else(broken)?;
        let early = inner.into_inner().early;
        Ok((tcp, State::after(finished, owed, early, self.sizes)))
    }
}

/// The task. It ends with the handshake, at the deadline, or when the stream is dropped.
async fn go_on(
    shared: Arc<Shared>,
    deadline: Instant,
    completion: Completion,
    mut end: oneshot::Sender<io::Result<Ended>>,
) {
    let result = tokio::select! {
        result = timeout_at(deadline, shared.handshake()) => {
            result.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "no Finished in time")))
        }
        () = end.closed() => return,
    };
    match &result {
        Ok(_) => completion.complete(),
        Err(_) => drop(completion),
    }
    let reader = shared.inner.lock().reader.take();
    // The stream takes the connection out of its hands.
    drop(shared);
    let _ = end.send(result);
    reader.into_iter().for_each(Waker::wake);
}

impl Shared {
    /// Reads until the client's Finished came.
    async fn handshake(&self) -> io::Result<Ended> {
        loop {
            let interest = self.interest();
            let ready = self.tcp.ready(interest).await?;
            if ready.is_writable() {
                self.try_send();
            }
            if ready.is_readable()
                && let Some(ended) = self.receive()?
            {
                return Ok(ended);
            }
        }
    }

    fn interest(&self) -> Interest {
        let owes = self.inner.lock().machine.as_ref().is_some_and(|machine| !machine.output.is_empty());
        if owes { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE }
    }

    /// Takes what the client sent; the end, if it is one.
    fn receive(&self) -> io::Result<Option<Ended>> {
        let mut inner = self.inner.lock();
        let Inner { machine: Some(machine), early, reader } = &mut *inner else { return Err(broken()) };
        let progress = receive(&self.tcp, machine);
        // Tickets, or an alert.
        let _ = try_send(&self.tcp, machine);
        early.append(machine.early());
        if !early.is_empty() {
            reader.take().into_iter().for_each(Waker::wake);
        }
        if progress? != Progress::Done {
            return Ok(None);
        }
        let Some(mut machine) = inner.machine.take() else { return Err(broken()) };
        let owed = mem::take(&mut machine.output);
        let finished = machine.finish().map_err(io::Error::other)?;
        Ok(Some(Ended { finished, owed }))
    }

    fn try_send(&self) {
        if let Some(machine) = &mut self.inner.lock().machine {
            // An error is met again by the next read.
            let _ = try_send(&self.tcp, machine);
        }
    }

    fn poll_send(&self, machine: &mut Machine, cx: &mut Context<'_>) -> Poll<()> {
        while !machine.output.is_empty() {
            if ready!(self.tcp.poll_write_ready(cx)).is_err() || try_send(&self.tcp, machine).is_err() {
                // The task's read meets the same error, and tells it.
                machine.output.clear();
            }
        }
        Poll::Ready(())
    }
}

/// Goes on with what the socket has to read.
fn receive(tcp: &TcpStream, machine: &mut Machine) -> io::Result<Progress> {
    let input = machine.input().map_err(io::Error::other)?;
    match tcp.try_read(input.free()) {
        Ok(0) => return Err(super::established::cut_off()),
        Ok(count) => input.fill(count),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            machine.release();
            return Ok(Progress::Blocked);
        }
        Err(error) => return Err(error),
    }
    let progress = machine.advance().map_err(io::Error::other);
    machine.release();
    progress
}

/// Sends what the socket takes.
fn try_send(tcp: &TcpStream, machine: &mut Machine) -> io::Result<()> {
    while !machine.output.is_empty() {
        match tcp.try_write(&machine.output) {
            Ok(count) => drop(machine.output.drain(..count)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
