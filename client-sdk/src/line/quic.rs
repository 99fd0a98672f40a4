//! A line on QUIC, which may begin before the gateway has answered (0-RTT).
//!
//! ```text
//! into_0rtt ── HELLO, unary requests ──> accepted ─────────────────────────> goes on
//!                    │                      rejected: what was said is lost ─> said again, as on a new connection
//!                    └── no answer in time ──> TCP
//! ```

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;
use towline_protocols::link::{self, Hello};

use super::{Line, LineEnd, Machine, Next, Setup, streams, streams::Streams};
use crate::{
    connect::{Path, QuicWire},
    core::now,
    state::Transport,
};

/// Beyond twice the time after which TCP would have been tried beside QUIC, so long is an answer awaited: a
/// round trip of the slowest networks.
const ANSWER_GRACE: Duration = Duration::from_secs(2);

pub(super) async fn drive(wire: QuicWire, setup: Setup, hello: Hello) -> LineEnd {
    let QuicWire { connection, path, early, .. } = wire;
    let end = match early {
        None => carry(&connection, path, setup, hello, true).await,
        Some(accepted) => Box::pin(drive_early(&connection, path, setup, hello, accepted)).await,
    };
    connection.close(0u32.into(), b"");
    end
}

async fn drive_early(
    connection: &quinn::Connection,
    path: Path,
    setup: Setup,
    hello: Hello,
    accepted: quinn::ZeroRttAccepted,
) -> LineEnd {
    let patience = 2 * setup.shared.policy.borrow().fallback_delay + ANSWER_GRACE;
    let again = path.clone();
    let mut line = Box::pin(carry(connection, path, setup.clone(), hello, false));
    let accepted = tokio::select! {
        // Streams of rejected early data end before it is told that it was.
        biased;
        accepted = accepted => accepted,
        () = sleep(patience) => {
            let reason = "QUIC: early data was not answered".to_owned();
            return LineEnd { reason, was_online: false, next: Next::Unanswered };
        }
        end = &mut line => return end,
    };
    if accepted || connection.close_reason().is_some() {
        return line.await;
    }
    drop(line);
    let base = setup.base.clone();
    match setup.shared.with(|core| core.begin_line(Transport::Quic, base)) {
        Ok(hello) => carry(connection, again, setup, hello, true).await,
        Err(error) => {
            let reason = format!("the identity file cannot be written: {error}");
            LineEnd { reason, was_online: false, next: Next::Again }
        }
    }
}

/// Drives a line on the connection. Before the gateway has `answered`, streams of the app wait: of what they have
/// sent only `limits.upload_buffer_bytes` is kept, and what was said early may have to be said again as a whole.
async fn carry(
    connection: &quinn::Connection,
    path: Path,
    setup: Setup,
    hello: Hello,
    answered: bool,
) -> LineEnd {
    let now = now();
    let (send, recv) = match connection.open_bi().await {
        Ok(control) => control,
        Err(error) => {
            return LineEnd { reason: format!("QUIC: {error}"), was_online: false, next: Next::Again };
        }
    };
    let control = link::Control::client(Arc::clone(&setup.link), hello.clone(), now);
    // The control stream goes before every request.
    let _ = send.set_priority(streams::CONTROL_PRIORITY);
    let streams = Streams::new(Arc::clone(&setup.shared), connection.clone(), path, answered);
    let machine = Machine::Quic(Box::new(control), Box::new(streams));
    let stream = tokio::io::join(recv, send);
    Line::new(setup, stream, machine, Transport::Quic, hello, now).drive().await
}
