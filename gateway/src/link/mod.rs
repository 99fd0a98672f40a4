//! The link protocol's front: connections of `towline/1` over TCP and QUIC, served with the machines of
//! `towline_protocols::link` and the sessions of [`crate::session`].
//!
//! ```text
//!  bytes --> driver ------> machine --Event--> driver --+-- HELLO: door::login, session opened
//!              |  ^                                     +-- REQUEST: door::open --> answer::run (a task)
//!              |  |                                     +-- messages: session::BodySender --> backend
//!              |  +-- SessionEvent: parts of answers, pushes, revocation
//!              +--- poll_transmit --> bytes
//! ```
//!
//! `driver` is the one task of a connection; on QUIC each request has a task beside it (`quic_stream`).
//! A request's own task (`answer`) outlives the connection: what it records waits in the session.

mod answer;
mod asked;
mod attendance;
mod config;
mod credentials;
mod door;
mod driver;
mod head;
mod io;
mod offers;
mod parked;
mod quic_stream;
mod quic_turns;
mod reports;
mod requests;
mod short;

use std::{
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite};
use towline_protocols::link::{Connection, Control};

pub(crate) use self::config::config;
pub use self::parked::Parked;
pub(crate) use self::short::serve as serve_post;
use self::{driver::Driver, quic_stream::QuicStreams, requests::TcpRequests};
use crate::{
    gateway::Gateway,
    parking::Patience,
    request::Origin,
    transport::{Stream, quic::Path},
};

/// Serves one TCP connection, of which `first_bytes` were read already, until it ends or may park.
///
/// Not an `async fn`: that would keep room for its arguments beside the driver that takes them.
pub fn serve_tcp(
    gateway: Arc<Gateway>,
    origin: Arc<Origin>,
    stream: Stream,
    first_bytes: Bytes,
) -> impl Future<Output = Option<Box<Parked>>> + Send {
    let (link, patience) = {
        let snapshot = gateway.snapshot();
        (Arc::clone(&snapshot.link), Patience::default().wait(snapshot.settings.limits.park_after))
    };
    let machine = Connection::server(link, now());
    let binding = driver::Binding::Tcp(Box::new(TcpRequests::new(machine)));
    let input = BytesMut::from(&first_bytes[..]);
    parked::run(Driver::new(gateway, origin, stream, binding, input, patience))
}

/// Serves a connection over any byte stream until it ends. It never parks.
pub async fn serve_stream<S>(gateway: Arc<Gateway>, origin: Arc<Origin>, stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let machine = Connection::server(Arc::clone(&gateway.snapshot().link), now());
    let binding = driver::Binding::Tcp(Box::new(TcpRequests::new(machine)));
    let mut driver = Driver::new(gateway, origin, stream, binding, BytesMut::new(), None);
    Box::pin(driver.drive()).await;
}

/// Serves one QUIC connection until it ends.
pub async fn serve_quic(gateway: Arc<Gateway>, origin: Arc<Origin>, connection: quinn::Connection) {
    // Boxed: the task of an idle connection must not keep room for its beginning.
    let Some(served) = Box::pin(begin_quic(gateway, origin, connection.clone())).await else { return };
    served.await;
    // Closing drops what is under way, so the client goes first if it does so soon.
    let _ = tokio::time::timeout(LAST_WORDS_MAX, connection.closed()).await;
    connection.close(quinn::VarInt::from_u32(0), b"");
}

/// Waits for the control stream; the result serves the connection.
async fn begin_quic(
    gateway: Arc<Gateway>,
    origin: Arc<Origin>,
    connection: quinn::Connection,
) -> Option<Pin<Box<dyn Future<Output = ()> + Send>>> {
    let (link, limits) = {
        let snapshot = gateway.snapshot();
        (Arc::clone(&snapshot.link), snapshot.settings.limits.clone())
    };
    let (send, recv) = match tokio::time::timeout(limits.first_message_timeout, connection.accept_bi()).await
    {
        Ok(Ok(control)) => control,
        Ok(Err(_)) => return None,
        Err(_) => {
            gateway.metrics.limit_hit("limits.first_message_timeout");
            connection.close(quinn::VarInt::from_u32(0), b"no control stream");
            return None;
        }
    };
    // The control stream goes before every request.
    let _ = send.set_priority(quic_stream::CONTROL_PRIORITY);
    let machine = Control::server(link, now());
    let migrations = gateway.metrics.quic_migrations.with_label_values(&[&*origin.listener]);
    let path = Path::new(connection.clone(), migrations);
    let streams = QuicStreams::new(connection, path, machine, limits.streams_max);
    let binding = driver::Binding::Quic(Box::new(streams));
    let stream = tokio::io::join(recv, send);
    let mut driver = Driver::new(gateway, origin, stream, binding, BytesMut::new(), None);
    Some(Box::pin(async move {
        driver.drive().await;
    }))
}

/// The driver's clock. Tokio's, so that tests can move it.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// When a connection has to end, of a time on the wall.
fn ends_at(until: SystemTime) -> Instant {
    let left = until.duration_since(SystemTime::now()).unwrap_or_default();
    let now = now();
    // What is beyond the clock is for ever, as far as connections go.
    now.checked_add(left).unwrap_or_else(|| now + FOR_EVER)
}

/// A hundred years.
const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 86_400);

/// How long a client may take to hear the last words.
const LAST_WORDS_MAX: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use crate::{request::Protocol, settings::Settings, transport::Rewind};

    use super::*;

    #[tokio::test]
    async fn the_task_of_an_idle_connection_is_small() {
        let gateway = Gateway::build(Settings::default()).unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tcp = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let stream = Stream::plain(Rewind::new(tcp, Bytes::new()), Duration::from_secs(1));
        let origin =
            Arc::new(Origin::new("edge".into(), ([127, 0, 0, 1], 1).into(), Protocol::LinkTcp, false));
        let bytes = size_of_val(&serve_tcp(gateway, origin, stream, Bytes::new()));
        let machine = size_of::<TcpRequests>();
        let attendance = size_of::<attendance::Attendance>();
        assert!(bytes + machine + attendance < 2048, "{bytes} + {machine} + {attendance} bytes");
    }

    /// Sizes of the allocator's, the second with the counts of its `Arc`.
    #[test]
    fn what_a_parked_connection_keeps_is_small() {
        assert!(size_of::<Parked>() <= 192, "{} bytes", size_of::<Parked>());
        assert!(size_of::<Origin>() <= 160 - 16, "{} bytes", size_of::<Origin>());
    }
}
