//! `[session]` and `[short]`: what is kept for clients of the link, and what a POST may bring.

use std::time::Duration;

use towline_protocols::hpack::NeverIndexed;

/// Link sessions.
#[derive(Clone, Debug)]
pub struct Session {
    /// How long a session without a connection is kept.
    pub expiry: Duration,
    /// Flow-control window of one stream, bytes.
    pub stream_window: u32,
    /// Flow-control window of one connection, bytes.
    pub connection_window: u32,
    /// Dynamic table of HPACK (TCP) and QPACK (QUIC), bytes, each direction.
    pub header_table_bytes: usize,
    /// QUIC: requests whose header block may wait for insertions into the table.
    pub qpack_blocked_streams: usize,
    /// Header fields that no compression table may hold, beside credentials.
    pub never_indexed: NeverIndexed,
    /// Outcomes kept per session, count.
    pub outcomes_max: usize,
    /// Outcomes kept per session, bytes.
    pub outcome_bytes_max: usize,
    /// How long an outcome is kept.
    pub outcome_age_max: Duration,
    /// How long the rest of a request is waited for whose connection was lost before it had arrived; zero: not at
    /// all.
    pub upload_wait: Duration,
    /// Outcomes of durable routes on disk, of all sessions together, bytes.
    pub durable_bytes_max: usize,
    /// The same of the sessions of one user: beyond it the oldest of the user's own outcomes expire.
    pub user_durable_bytes_max: usize,
    /// The same, count.
    pub user_durable_outcomes_max: usize,
    /// Answers, pushes and header fields that all sessions hold together, bytes. At it new requests are refused as not
    /// run and new pushes are given up, until clients have taken what waits for them.
    pub held_bytes_max: usize,
    /// The same of the sessions of one user; sessions without a user share the bound of all.
    pub user_held_bytes_max: usize,
    /// Pushes kept per session, count.
    pub pushes_max: usize,
    /// Pushes kept per session, bytes.
    pub push_bytes_max: usize,
    /// How long a push is kept.
    pub push_age_max: Duration,
    /// Topic filters of one session.
    pub subscriptions_max: usize,
    /// Header fields kept per session, so that a client need not send them again, bytes.
    pub headers_bytes_max: usize,
    /// Longest promise of silence that a client may make.
    pub heartbeat_max: Duration,
    /// How long a session token opens; zero issues and takes none.
    pub token_life: Duration,
}

/// Short connections of the link: HTTPS POST (PROTOCOL.md, section 21).
#[derive(Clone, Debug)]
pub struct Short {
    /// Whether listeners that admit the link and HTTP take them.
    pub enabled: bool,
    /// The body of a POST, bytes.
    pub body_bytes_max: usize,
    /// Requests that one POST sends, asks for or gives up.
    pub requests_max: usize,
    /// How long one answer waits for outcomes.
    pub answer_time_max: Duration,
    /// POSTs of one session at one time.
    pub posts_max: usize,
    /// Pushes in one answer, count.
    pub pushes_max: usize,
    /// Pushes in one answer, bytes.
    pub push_bytes_max: usize,
}

impl Default for Session {
    fn default() -> Self {
        Self {
            expiry: Duration::from_secs(3600),
            stream_window: 64 * 1024,
            connection_window: 256 * 1024,
            header_table_bytes: 4096,
            qpack_blocked_streams: 0,
            never_indexed: NeverIndexed::default(),
            outcomes_max: 256,
            outcome_bytes_max: 1024 * 1024,
            outcome_age_max: Duration::from_secs(300),
            upload_wait: Duration::from_secs(30),
            durable_bytes_max: 256 * 1024 * 1024,
            user_durable_bytes_max: 32 * 1024 * 1024,
            user_durable_outcomes_max: 65_536,
            held_bytes_max: 1024 * 1024 * 1024,
            user_held_bytes_max: 128 * 1024 * 1024,
            pushes_max: 256,
            push_bytes_max: 1024 * 1024,
            push_age_max: Duration::from_secs(86_400),
            subscriptions_max: 64,
            headers_bytes_max: 4 * 1024,
            heartbeat_max: Duration::from_secs(600),
            token_life: Duration::from_secs(12 * 3600),
        }
    }
}

impl Default for Short {
    fn default() -> Self {
        Self {
            enabled: true,
            body_bytes_max: 1024 * 1024,
            requests_max: 32,
            answer_time_max: Duration::from_secs(30),
            posts_max: 8,
            pushes_max: 32,
            push_bytes_max: 64 * 1024,
        }
    }
}
