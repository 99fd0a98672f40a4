//! A TCP proxy whose connections can be cut, stalled and refused: a weak network in one value.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, tcp::OwnedReadHalf, tcp::OwnedWriteHalf},
    sync::watch,
};

/// What the network does to bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weather {
    /// Bytes pass.
    Clear,
    /// Bytes from the server stay in the network; those from the client pass.
    Deaf,
    /// Bytes from the client stay in the network; those from the server pass.
    Mute,
    /// No byte passes in any direction, and nobody is told.
    Tunnel,
}

/// The proxy. Connections live on their own tasks; dropping it ends them.
pub struct Chaos {
    address: SocketAddr,
    weather: watch::Sender<Weather>,
    /// Counts the cuts; a connection older than the newest cut is gone.
    cuts: watch::Sender<u64>,
    accepted: Arc<AtomicUsize>,
    /// Bytes that servers have said, passed on or not.
    server_bytes: watch::Sender<usize>,
}

impl Chaos {
    /// A proxy in front of `upstream`.
    pub async fn start(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (weather, cuts) = (watch::Sender::new(Weather::Clear), watch::Sender::new(0));
        let accepted = Arc::new(AtomicUsize::new(0));
        let server_bytes = watch::Sender::new(0);
        let heard = server_bytes.clone();
        let (seen, gone, count) = (weather.subscribe(), cuts.subscribe(), Arc::clone(&accepted));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(relay(client, upstream, seen.clone(), gone.clone(), heard.clone()));
            }
        });
        Self { address, weather, cuts, accepted, server_bytes }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections taken so far.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// Bytes that servers have said so far.
    pub fn server_bytes(&self) -> usize {
        *self.server_bytes.borrow()
    }

    /// Waits until they have said more than `before`.
    pub async fn more_server_bytes(&self, before: usize) {
        self.server_bytes.subscribe().wait_for(|said| *said > before).await.unwrap();
    }

    pub fn set(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }

    /// Resets every connection of this moment.
    pub fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }
}

async fn relay(
    client: TcpStream,
    upstream: SocketAddr,
    weather: watch::Receiver<Weather>,
    mut cuts: watch::Receiver<u64>,
    server_bytes: watch::Sender<usize>,
) {
    cuts.mark_unchanged();
    let Ok(server) = TcpStream::connect(upstream).await else { return };
    // A dropped socket then sends RST, as a lost NAT binding or a killed peer does.
    let _ = (client.set_zero_linger(), server.set_zero_linger());
    let (client_in, client_out) = client.into_split();
    let (server_in, server_out) = server.into_split();
    let up = pump(client_in, server_out, weather.clone(), says_up, |_| ());
    let down = pump(server_in, client_out, weather, says_down, |count| {
        server_bytes.send_modify(|said| *said += count);
    });
    tokio::select! {
        // What the network held back goes with the connection, also where the weather clears in the same moment.
        biased;
        _ = cuts.changed() => {}
        () = async { tokio::join!(up, down); } => {}
    }
}

fn says_up(weather: Weather) -> bool {
    matches!(weather, Weather::Clear | Weather::Deaf)
}

fn says_down(weather: Weather) -> bool {
    matches!(weather, Weather::Clear | Weather::Mute)
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut weather: watch::Receiver<Weather>,
    passes: fn(Weather) -> bool,
    read: impl Fn(usize),
) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        read(count);
        if weather.wait_for(|weather| passes(*weather)).await.is_err() {
            return;
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}
