//! The HTTP front: HTTP/1.1 and HTTP/2 connections of short-lived clients, curl and gRPC.
//!
//! ```text
//! serve -> watched stream -> hyper -> exchange: authenticate, bound the body -> router -> answer
//!                                 \-> websocket: what is asked to become one, and is MQTT's then
//! ```

mod auth;
mod body;
pub(crate) mod dcz;
mod early;
mod exchange;
mod problem;
mod short;
mod unread;
mod watched;
pub(crate) mod websocket;

use std::{convert::Infallible, error::Error, io, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use hyper::upgrade::OnUpgrade;
use hyper::{Request, Version, body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, sleep_until},
};
use tracing::debug;

pub(crate) use self::exchange::{Front, priority};
use self::{
    unread::Unread,
    watched::{Activity, Watched},
    websocket::Door,
};
use crate::{
    backend::{CLIENT_TURNS, TurnsLater},
    gateway::Gateway,
    request::Origin,
    settings::Limits,
    transport::{Cork, Corked, corked},
};

/// hyper's smallest read buffer for HTTP/1.1; a smaller `header_list_bytes_max` means this.
const HEAD_BYTES_MIN: usize = 8 * 1024;
/// What a client may send ahead on one HTTP/2 stream.
const STREAM_WINDOW: u32 = 256 * 1024;
/// The same for one connection.
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Bytes of an answer buffered for one HTTP/2 stream.
const SEND_BUFFER_BYTES_MAX: usize = 256 * 1024;

/// Serves one plaintext HTTP/1.1 or HTTP/2 connection until it ends, runs into a time limit, or the
/// gateway drains; or until it has become a WebSocket. `stream` is what TLS yields, or a plain socket, from its first
/// byte on.
pub async fn serve<S>(gateway: Arc<Gateway>, origin: Arc<Origin>, stream: S) -> Option<Upgraded<S>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let limits = gateway.snapshot().settings.limits.clone();
    let activity = Arc::new(Activity::new(Instant::now()));
    let door = Door::new(&gateway, &origin, &activity).map(Arc::new);
    let front = Arc::new(Front::new(gateway.clone(), origin));
    let (asked, entered) = (activity.clone(), door.clone());
    let service = service_fn(move |mut request: Request<Incoming>| {
        asked.requested();
        let (front, door) = (front.clone(), entered.clone());
        async move {
            if let Some(answer) = door.and_then(|door| door.answer(&mut request)) {
                return Ok(answer);
            }
            Ok::<_, Infallible>(match request.version() {
                Version::HTTP_2 => front.answer(request.map(Unread::new)).await,
                _ => front.answer(request).await,
            })
        }
    });
    let builder = builder(&limits, door.is_some());
    let (stream, cork) = corked(Watched::new(stream, activity.clone()));
    let mut connection = Box::pin(builder.serve_connection_with_upgrades(TokioIo::new(stream), service));
    let (mut drain, mut end) = (gateway.drain.watch(), gateway.drain.watch());
    let mut draining = false;
    loop {
        let check = activity.next_check(&limits);
        let mut driven = cork.drive(connection.as_mut());
        let served = TurnsLater::new(CLIENT_TURNS, Pin::new(&mut driven));
        tokio::select! {
            ended = served => {
                if let Err(error) = ended {
                    report(&gateway, &*error);
                    return None;
                }
                break;
            }
            () = sleep_until(check) => {
                if let Some(limit) = activity.overdue(&limits, Instant::now()) {
                    gateway.metrics.limit_hit(limit);
                    return None;
                }
            }
            _deadline = drain.draining(), if !draining => {
                draining = true;
                connection.as_mut().graceful_shutdown();
            }
            () = end.over(), if draining => return None,
        }
    }
    drop(connection);
    let upgrade = door?.take_upgrade()?;
    Upgraded::pull(cork, upgrade).await.inspect_err(|error| debug!(%error, "HTTP connection ended")).ok()
}

/// A connection that HTTP has left behind.
pub struct Upgraded<S> {
    /// As [`serve`] got it.
    pub stream: S,
    /// What was read behind the request.
    pub first_bytes: Bytes,
}

impl<S> Upgraded<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    /// Takes the stream out of everything that was around it.
    async fn pull(cork: Cork<Watched<S>>, upgrade: OnUpgrade) -> io::Result<Self> {
        let upgraded = upgrade.await.map_err(io::Error::other)?;
        let parts = auto::upgrade::downcast::<TokioIo<Corked<Watched<S>>>>(upgraded)
            .map_err(|_| io::Error::other("another stream than HTTP was served on"))?;
        let watched = cork.pull(parts.io.into_inner()).await?;
        Ok(Self { stream: watched.into_inner(), first_bytes: parts.read_buf })
    }
}

fn report(gateway: &Gateway, error: &(dyn Error + Send + Sync + 'static)) {
    if error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse_too_large) {
        gateway.metrics.limit_hit("limits.header_list_bytes_max");
    }
    debug!(%error, "HTTP connection ended");
}

fn builder(limits: &Limits, has_websocket: bool) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        // Bounds the time of every head, also of a second request on a kept connection.
        .header_read_timeout(limits.idle_timeout.max(Duration::from_millis(1)))
        .max_buf_size(limits.header_list_bytes_max.max(HEAD_BYTES_MIN));
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(u32::try_from(limits.header_list_bytes_max).unwrap_or(u32::MAX))
        .max_concurrent_streams(u32::try_from(limits.streams_max).unwrap_or(u32::MAX))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER_BYTES_MAX);
    if has_websocket {
        // RFC 8441, section 3: without the setting no client tries.
        builder.http2().enable_connect_protocol();
    }
    builder
}
