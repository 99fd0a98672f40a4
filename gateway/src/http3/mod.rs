//! The HTTP/3 front (RFC 9114): h3 on quinn, for short-lived clients and browsers.
//!
//! ```text
//! serve -> h3 -> request (a task each) -> http::Front: authenticate, bound the body -> router
//! ```
//!
//! Beside the transport it is the HTTP front: the same exchange, problems and limits.

mod body;
mod frames;
mod request;
mod streams;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use h3::{error::Code, server};
use quinn::VarInt;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};
use tracing::debug;

use self::{
    request::Ended,
    streams::{Arrivals, Streams},
};
use crate::{gateway::Gateway, http::Front, request::Origin, settings::Limits, transport::quic};

/// Requests of one connection that may fail beyond those that were answered: a client that opens and resets
/// them costs a backend's work each.
const FAILURES_MAX: usize = 1000;
/// How much larger than `header_list_bytes_max` a HEADERS frame may be to be told so by 431; a larger one is
/// not gathered.
const TOLD_TOO_LARGE: usize = 2;
/// How long a client may take to leave once it was told to.
const LAST_WORDS_MAX: Duration = Duration::from_secs(1);

/// Serves one connection until it ends, runs into a time limit, or the gateway drains.
pub async fn serve(gateway: Arc<Gateway>, origin: Arc<Origin>, connection: quinn::Connection) {
    // Boxed: the task of an idle connection must not keep room for its beginning.
    if let Some(server) = Box::pin(Server::begin(gateway, origin, connection)).await {
        Box::pin(server.drive()).await;
    }
}

struct Server {
    gateway: Arc<Gateway>,
    front: Arc<Front>,
    connection: quinn::Connection,
    path: quic::Path,
    h3: server::Connection<Streams, Bytes>,
    arrivals: Arc<Arrivals>,
    requests: JoinSet<Ended>,
    /// How many requests QUIC lets the client have open now.
    allowed: usize,
    limits: Limits,
    /// Since when nothing runs.
    idle_since: Instant,
    requested: bool,
    failures: usize,
    answered: usize,
    draining: bool,
}

/// Why a connection is closed from this side.
enum End {
    /// The client is gone.
    Gone,
    /// GOAWAY was sent, and nothing runs.
    Done,
    /// A bound was met.
    Limit(&'static str, Code),
}

impl Server {
    async fn begin(
        gateway: Arc<Gateway>,
        origin: Arc<Origin>,
        connection: quinn::Connection,
    ) -> Option<Self> {
        let limits = gateway.snapshot().settings.limits.clone();
        let arrivals = Arc::<Arrivals>::default();
        let frame_bytes_max = limits.header_list_bytes_max.saturating_mul(TOLD_TOO_LARGE);
        let streams = Streams::new(connection.clone(), Arc::clone(&arrivals), frame_bytes_max);
        let mut builder = server::builder();
        builder.max_field_section_size(limits.header_list_bytes_max as u64).send_grease(false);
        // Waits for the client to allow three streams; most do so in their first packet.
        let h3 = match timeout(limits.first_message_timeout, builder.build(streams)).await {
            Ok(Ok(h3)) => h3,
            Ok(Err(error)) => {
                debug!("HTTP/3 connection ended: {error}");
                return None;
            }
            Err(_) => {
                gateway.metrics.limit_hit("limits.first_message_timeout");
                close(&connection, Code::H3_STREAM_CREATION_ERROR);
                return None;
            }
        };
        let migrations = gateway.metrics.quic_migrations.with_label_values(&[&*origin.listener]);
        let front = Arc::new(Front::new(Arc::clone(&gateway), origin));
        let allowed = limits.streams_max.min(quic::REQUESTS_AT_FIRST);
        Some(Self {
            gateway,
            front,
            path: quic::Path::new(connection.clone(), migrations),
            connection,
            h3,
            arrivals,
            requests: JoinSet::new(),
            allowed,
            limits,
            idle_since: Instant::now(),
            requested: false,
            failures: 0,
            answered: 0,
            draining: false,
        })
    }

    async fn drive(mut self) {
        let mut drain = self.gateway.drain.watch();
        let end = loop {
            let idle = self.requests.is_empty();
            if idle && self.draining {
                break End::Done;
            }
            let (due, limit) = self.next_limit();
            let turn = tokio::select! {
                // What comes once the drain began is rejected, even if both are here.
                biased;
                _ = drain.draining(), if !self.draining => self.go_away().await,
                accepted = self.h3.accept() => match accepted {
                    Ok(Some(resolver)) => self.begin_request(resolver),
                    Ok(None) => Err(End::Done),
                    Err(error) => {
                        debug!("HTTP/3 connection ended: {error}");
                        Err(End::Gone)
                    }
                },
                Some(ended) = self.requests.join_next() => self.on_ended(ended.unwrap_or(Ended::Failed)),
                () = sleep_until(due), if idle => Err(End::Limit(limit, Code::H3_NO_ERROR)),
            };
            if let Err(end) = turn {
                break end;
            }
        };
        self.leave(end).await;
    }

    /// When a connection on which nothing runs is closed, and by which limit.
    fn next_limit(&self) -> (Instant, &'static str) {
        match self.requested {
            false => (self.idle_since + self.limits.first_message_timeout, "limits.first_message_timeout"),
            true => (self.idle_since + self.limits.idle_timeout, "limits.idle_timeout"),
        }
    }

    fn begin_request(&mut self, resolver: server::RequestResolver<Streams, Bytes>) -> Result<(), End> {
        // h3 accepts one stream at a time, and each has its ticket.
        let Some(ticket) = self.arrivals.take_ticket() else { return Ok(()) };
        self.requested = true;
        self.path.look();
        let (gateway, front) = (Arc::clone(&self.gateway), Arc::clone(&self.front));
        self.requests.spawn(request::serve(gateway, front, resolver, ticket));
        // As on the link: a client that opens requests one after the other never waits for the limit.
        if self.allowed < self.limits.streams_max && self.requests.len() * 2 >= self.allowed {
            self.allowed = self.allowed.saturating_mul(2).min(self.limits.streams_max);
            quic::allow_requests(&self.connection, self.allowed);
        }
        Ok(())
    }

    fn on_ended(&mut self, ended: Ended) -> Result<(), End> {
        self.idle_since = Instant::now();
        match ended {
            Ended::Answered => self.answered += 1,
            Ended::Failed => self.failures += 1,
        }
        if self.failures > self.answered + FAILURES_MAX {
            return Err(End::Limit("http3_failed_requests", Code::H3_EXCESSIVE_LOAD));
        }
        Ok(())
    }

    /// RFC 9114, section 5.2: what was accepted is answered, what comes now was not processed.
    async fn go_away(&mut self) -> Result<(), End> {
        self.draining = true;
        self.arrivals.close();
        self.h3.shutdown(1).await.map_err(|_| End::Gone)
    }

    async fn leave(mut self, end: End) {
        let code = match end {
            End::Gone => return,
            End::Done => Code::H3_NO_ERROR,
            End::Limit(limit, code) => {
                self.gateway.metrics.limit_hit(limit);
                // A request that is under way is rejected, and may be sent again.
                let _ = self.go_away().await;
                code
            }
        };
        // Closing drops what is under way, so the client goes first if it does so soon.
        let _ = timeout(LAST_WORDS_MAX, self.connection.closed()).await;
        close(&self.connection, code);
    }
}

fn close(connection: &quinn::Connection, code: Code) {
    connection.close(VarInt::from_u64(code.value()).unwrap_or(VarInt::MAX), b"");
}
