//! A slow link whose speed a test sets by hand: what the gateway sends passes as the test lets it, and what
//! does not pass fills short buffers. The other direction is free.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream, UdpSocket},
    sync::{Notify, Semaphore},
};
use towline_client::Transports;

/// Bytes that pass at one time: about one packet.
const STEP_BYTES: usize = 1400;
/// What the link holds of what has not passed.
const BUFFER_BYTES: usize = 16 << 10;
/// More steps than any test takes.
const UNMETERED: usize = 1 << 24;

pub struct Metered {
    address: SocketAddr,
    meter: Arc<Meter>,
}

struct Meter {
    steps: Semaphore,
    passed: AtomicUsize,
    stepped: Notify,
}

impl Metered {
    /// A link to `upstream`, without a limit at first.
    pub async fn start(upstream: SocketAddr, transports: Transports) -> Self {
        let meter =
            Meter { steps: Semaphore::new(UNMETERED), passed: AtomicUsize::new(0), stepped: Notify::new() };
        let meter = Arc::new(meter);
        let address = match transports {
            Transports::Tcp => tcp(upstream, Arc::clone(&meter)).await,
            _ => udp(upstream, Arc::clone(&meter)).await,
        };
        Self { address, meter }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on bytes pass by [`Metered::step`] only.
    pub fn hold(&self) {
        self.meter.steps.forget_permits(UNMETERED);
    }

    /// Lets everything pass again.
    pub fn release(&self) {
        self.meter.steps.add_permits(UNMETERED);
    }

    /// Lets the next packet pass, when it is there. Safe to cancel: then it passes later.
    pub async fn step(&self) {
        if self.meter.steps.available_permits() == 0 {
            self.meter.steps.add_permits(1);
        }
        self.meter.stepped.notified().await;
    }

    /// Bytes that have passed.
    pub fn passed(&self) -> usize {
        self.meter.passed.load(Ordering::SeqCst)
    }
}

impl Meter {
    async fn wait(&self) -> Step<'_> {
        self.steps.acquire().await.unwrap().forget();
        Step(self)
    }
}

/// A step that a connection takes. It is over also where the connection ends in it.
struct Step<'m>(&'m Meter);

impl Step<'_> {
    fn count(self, bytes: usize) {
        self.0.passed.fetch_add(bytes, Ordering::SeqCst);
    }
}

impl Drop for Step<'_> {
    fn drop(&mut self) {
        self.0.stepped.notify_one();
    }
}

async fn tcp(upstream: SocketAddr, meter: Arc<Meter>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(relay(client, upstream, Arc::clone(&meter)));
        }
    });
    address
}

async fn relay(client: TcpStream, upstream: SocketAddr, meter: Arc<Meter>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(BUFFER_BYTES as u32).unwrap();
    let server = socket.connect(upstream).await.unwrap();
    let (mut client_in, mut client_out) = client.into_split();
    let (mut server_in, mut server_out) = server.into_split();
    let up = tokio::io::copy(&mut client_in, &mut server_out);
    let down = async {
        let mut buffer = vec![0; STEP_BYTES];
        loop {
            // A connection that has nothing takes no step from another one.
            let Ok(count @ 1..) = server_in.read(&mut buffer).await else { return };
            let step = meter.wait().await;
            if client_out.write_all(&buffer[..count]).await.is_err() {
                return;
            }
            step.count(count);
        }
    };
    tokio::select! {
        _ = up => {}
        () = down => {}
    }
}

async fn udp(upstream: SocketAddr, meter: Arc<Meter>) -> SocketAddr {
    let inside = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
    let outside = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
    SockRef::from(&*outside).set_recv_buffer_size(BUFFER_BYTES).unwrap();
    let address = inside.local_addr().unwrap();
    let client = Arc::new(std::sync::Mutex::new(None));
    let (up_in, up_out, seen) = (Arc::clone(&inside), Arc::clone(&outside), Arc::clone(&client));
    tokio::spawn(async move {
        let mut datagram = vec![0; 65_536];
        while let Ok((length, from)) = up_in.recv_from(&mut datagram).await {
            *seen.lock().unwrap() = Some(from);
            let _ = up_out.send_to(&datagram[..length], upstream).await;
        }
    });
    tokio::spawn(async move {
        let mut datagram = vec![0; 65_536];
        loop {
            let Ok((length, _)) = outside.recv_from(&mut datagram).await else { return };
            let step = meter.wait().await;
            let to = *client.lock().unwrap();
            if let Some(to) = to {
                let _ = inside.send_to(&datagram[..length], to).await;
            }
            step.count(length);
        }
    });
    address
}
