//! A line on QUIC, which may begin before the gateway has answered (0-RTT).
//!
//! ```text
//! into_0rtt ── HELLO, unary requests ──> accepted ─────────────────────────> goes on
//!                    │                      rejected: what was said is lost ─> said again, as on a new connection
//!                    └── another way is through before ──> the line goes on there
//! ```

use std::sync::Arc;

use towline_protocols::link::{self, Hello};

use super::{Line, LineEnd, Machine, Next, Setup, streams, streams::Streams};
use crate::{
    connect::{Path, QuicWire, Racing},
    core::now,
    state::Transport,
};

pub(super) async fn drive(
    wire: QuicWire,
    setup: Setup,
    hello: Hello,
    racing: Racing,
    number: usize,
) -> LineEnd {
    let QuicWire { connection, path, early, .. } = wire;
    let end = match early {
        None => {
            drop(racing);
            carry(&connection, path, setup, hello, true).await
        }
        Some(accepted) => {
            let flown = Flown { accepted, racing, number };
            Box::pin(drive_early(&connection, path, setup, hello, flown)).await
        }
    };
    connection.close(0u32.into(), b"");
    end
}

/// Early data that the gateway has not answered, and the race that goes on beside.
struct Flown {
    accepted: quinn::ZeroRttAccepted,
    racing: Racing,
    number: usize,
}

async fn drive_early(
    connection: &quinn::Connection,
    path: Path,
    setup: Setup,
    hello: Hello,
    flown: Flown,
) -> LineEnd {
    let Flown { accepted, mut racing, number } = flown;
    let again = path.clone();
    // The handshake may take as long as the race.
    let welcome_timeout = racing.left(now()) + setup.welcome_timeout;
    let early = Setup { welcome_timeout, answered: false, ..setup.clone() };
    let mut line = Box::pin(carry(connection, path, early, hello, false));
    let accepted = tokio::select! {
        // Streams of rejected early data end before it is told that it was.
        biased;
        accepted = accepted => accepted,
        other = racing.next_here() => return match other {
            Ok(made) => {
                let reason = "QUIC: early data was not answered before another way was through".to_owned();
                LineEnd { reason, was_online: false, next: Next::Overtaken(Box::new((made, racing))) }
            }
            Err(error) => LineEnd { reason: error.0, was_online: false, next: Next::Again },
        },
        end = &mut line => return end,
    };
    if connection.close_reason().is_some() {
        return line.await;
    }
    racing.answered(number);
    drop(racing);
    if accepted {
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
    // Streams of early data that was refused end, so that a WELCOME on one says that it was not.
    Line::new(setup, stream, machine, Transport::Quic, hello, now).going_on(&[], !answered).drive().await
}
