//! One HTTP/2 connection to a backend, and the streams leased on it.

use std::{
    pin::Pin,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use h2::client::SendRequest;
use tokio::time::timeout;

use super::Pool;
use crate::{
    backend::{
        TurnsLater,
        dial::{connect, unavailable},
        wire::Wire,
    },
    error::RpcError,
    transport::{Cork, Corked, corked},
};

/// RFC 9113, section 3.2.
const ALPN: &[u8] = b"h2";
/// What a backend may send ahead on one stream. Times the streams of slow clients this is the memory
/// that backends can make the gateway hold.
const STREAM_WINDOW: u32 = 256 * 1024;
/// The same for one connection.
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// An answer's header list; the path to the client may allow less.
const HEADER_LIST_BYTES_MAX: u32 = 64 * 1024;
/// Bytes of a request's body buffered for one stream.
const SEND_BUFFER_BYTES_MAX: usize = 256 * 1024;

/// A live connection.
pub(super) struct Connection {
    sender: SendRequest<Bytes>,
    /// Running streams.
    load: AtomicUsize,
    /// Counts leases ever given, so that an idle period can be told.
    leases: AtomicUsize,
    /// Set once by the first failure or GOAWAY that is seen.
    closed: AtomicBool,
}

/// Dials, shakes hands and starts the task that owns the socket.
pub(super) async fn open(pool: &Arc<Pool>) -> Result<Arc<Connection>, RpcError> {
    let settings = &pool.settings;
    let socket = connect(settings, ALPN).await?;
    if socket.is_tls() && socket.alpn() != Some(ALPN) {
        return Err(unavailable(settings, &"speaks no HTTP/2 by TLS (ALPN \"h2\")"));
    }
    let mut builder = h2::client::Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(HEADER_LIST_BYTES_MAX)
        .max_send_buffer_size(SEND_BUFFER_BYTES_MAX)
        .enable_push(false);
    let (socket, cork) = corked(socket);
    let (sender, driver) = match timeout(settings.connect_timeout, builder.handshake(socket)).await {
        Ok(Ok(connected)) => connected,
        Ok(Err(error)) => return Err(unavailable(settings, &error)),
        Err(_elapsed) => return Err(unavailable(settings, &"HTTP/2 handshake timed out")),
    };
    let connection = Arc::new(Connection {
        sender,
        load: AtomicUsize::new(0),
        leases: AtomicUsize::new(0),
        closed: AtomicBool::new(false),
    });
    let task = drive(driver, cork, Arc::downgrade(&connection), Arc::downgrade(pool), pool.idle_timeout());
    tokio::spawn(task);
    Ok(connection)
}

/// Owns the socket until the connection ends, or is unused for `idle_timeout`.
async fn drive(
    mut driver: h2::client::Connection<Corked<Wire>, Bytes>,
    cork: Cork<Wire>,
    connection: Weak<Connection>,
    pool: Weak<Pool>,
    idle_timeout: Duration,
) {
    let mut leases = 0;
    loop {
        let mut driven = cork.drive(Pin::new(&mut driver));
        let ended = timeout(idle_timeout, TurnsLater::new(1, Pin::new(&mut driven))).await.is_ok();
        let Some(connection) = connection.upgrade() else {
            // Only streams that still run hold the connection: it ends with the last.
            if !ended {
                drop(cork.drive(Pin::new(&mut driver)).await);
            }
            return;
        };
        let before = std::mem::replace(&mut leases, connection.leases.load(Ordering::Relaxed));
        let idle = before == leases && connection.load() == 0;
        if ended || idle {
            connection.closed.store(true, Ordering::Relaxed);
            if let Some(pool) = pool.upgrade() {
                pool.remove(&connection);
            }
        }
        if ended {
            return;
        }
    }
}

impl Connection {
    pub(super) fn is_usable(&self) -> bool {
        !self.closed.load(Ordering::Relaxed)
    }

    pub(super) fn load(&self) -> usize {
        self.load.load(Ordering::Relaxed)
    }

    /// What the backend's SETTINGS_MAX_CONCURRENT_STREAMS allows now.
    pub(super) fn streams_max(&self) -> usize {
        self.sender.current_max_send_streams()
    }
}

/// One stream's place on a connection.
pub(super) struct Lease {
    connection: Arc<Connection>,
    pool: Arc<Pool>,
}

impl Lease {
    /// Taken under the pool's lock, so that the stream bound holds.
    pub(super) fn new(connection: Arc<Connection>, pool: Arc<Pool>) -> Self {
        connection.load.fetch_add(1, Ordering::Relaxed);
        connection.leases.fetch_add(1, Ordering::Relaxed);
        Self { connection, pool }
    }

    pub(super) fn sender(&self) -> SendRequest<Bytes> {
        self.connection.sender.clone()
    }

    /// The connection takes no more requests: the pool forgets it, running streams go on.
    pub(super) fn retire(&self) {
        self.connection.closed.store(true, Ordering::Relaxed);
        self.pool.remove(&self.connection);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.connection.load.fetch_sub(1, Ordering::Relaxed);
        self.pool.released();
    }
}
