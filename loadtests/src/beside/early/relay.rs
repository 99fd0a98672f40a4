//! A relay that makes a connection's bytes late, as distance does.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::mpsc,
    task::{AbortHandle, JoinHandle},
    time::Instant,
};

/// Chunks on their way, each direction: more than a few connections of small requests ever have.
const UNDERWAY_MAX: usize = 1024;
const CHUNK: usize = 16 * 1024;

/// A TCP relay in front of a server. Connections to it are accepted at once: that round trip it cannot delay.
pub(super) struct Relay {
    pub(super) address: SocketAddr,
    state: Arc<Mutex<State>>,
    accepting: JoinHandle<()>,
}

#[derive(Default)]
struct State {
    tasks: Vec<AbortHandle>,
    accepted: Option<Instant>,
    is_down: bool,
}

impl Relay {
    /// Every byte takes `one_way` in each direction.
    pub(super) async fn start(server: SocketAddr, one_way: Duration) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let (address, state) = (listener.local_addr()?, Arc::<Mutex<State>>::default());
        let accepting = tokio::spawn(accept(listener, server, one_way, Arc::clone(&state)));
        Ok(Self { address, state, accepting })
    }

    /// Breaks every connection off, and new ones at once, until [`Relay::restore`].
    pub(super) fn cut(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.tasks.drain(..).for_each(|task| task.abort());
        state.accepted = None;
        state.is_down = true;
    }

    /// Takes connections again.
    pub(super) fn restore(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).is_down = false;
    }

    /// When the newest connection since the last cut came.
    pub(super) fn accepted(&self) -> Option<Instant> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).accepted
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

async fn accept(listener: TcpListener, server: SocketAddr, one_way: Duration, state: Arc<Mutex<State>>) {
    while let Ok((near, _)) = listener.accept().await {
        let now = Instant::now();
        if state.lock().unwrap_or_else(PoisonError::into_inner).is_down {
            continue;
        }
        let Ok(far) = TcpStream::connect(server).await else { continue };
        let _ = (near.set_nodelay(true), far.set_nodelay(true));
        let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        state.accepted = Some(now);
        for (from, to) in [(near_in, far_out), (far_in, near_out)] {
            let (sender, receiver) = mpsc::channel(UNDERWAY_MAX);
            state.tasks.push(tokio::spawn(take(from, sender, one_way)).abort_handle());
            state.tasks.push(tokio::spawn(give(to, receiver)).abort_handle());
        }
    }
}

type Underway = (Instant, Vec<u8>);

async fn take(mut from: OwnedReadHalf, underway: mpsc::Sender<Underway>, one_way: Duration) {
    let mut chunk = vec![0; CHUNK];
    while let Ok(length @ 1..) = from.read(&mut chunk).await {
        if underway.send((Instant::now() + one_way, chunk[..length].to_vec())).await.is_err() {
            return;
        }
    }
}

async fn give(mut to: OwnedWriteHalf, mut underway: mpsc::Receiver<Underway>) {
    while let Some((due, bytes)) = underway.recv().await {
        tokio::time::sleep_until(due).await;
        if to.write_all(&bytes).await.is_err() {
            return;
        }
    }
}
