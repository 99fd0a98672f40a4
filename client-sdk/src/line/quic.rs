//! A line on QUIC, which may begin before the gateway has answered (0-RTT).
//!
//! ```text
//! into_0rtt ── HELLO, unary requests ──> accepted ─────────────────────────> goes on
//!     │              │                      rejected: what was said is lost ─> said again, as on a new connection
//!     │              └── another way is through before ──> the line goes on there
//!     └── the gateway has answered before anything was said ──> as on a connection without early data
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
    let end = match (connection.open_bi().await, early) {
        (Ok(control), Some(accepted)) if control.1.is_0rtt() => {
            let flown = Flown { accepted, racing, number };
            Box::pin(drive_early(&connection, control, path, setup, hello, flown)).await
        }
        (Ok(control), early) => {
            let mut racing = racing;
            // The handshake was over before anything was said: whatever became of early data, there was none.
            if early.is_some() {
                racing.answered(number);
            }
            drop(racing);
            Box::pin(carry(&connection, control, path, setup, hello, true)).await
        }
        (Err(error), _) => lost(&error),
    };
    connection.close(0u32.into(), b"");
    end
}

/// Both halves of a control stream.
type ControlStream = (quinn::SendStream, quinn::RecvStream);

fn lost(error: &quinn::ConnectionError) -> LineEnd {
    LineEnd { reason: format!("QUIC: {error}"), was_online: false, next: Next::Again }
}

/// Early data that the gateway has not answered, and the race that goes on beside.
struct Flown {
    accepted: quinn::ZeroRttAccepted,
    racing: Racing,
    number: usize,
}

async fn drive_early(
    connection: &quinn::Connection,
    control: ControlStream,
    path: Path,
    setup: Setup,
    hello: Hello,
    flown: Flown,
) -> LineEnd {
    let Flown { mut accepted, mut racing, number } = flown;
    let again = path.clone();
    // The handshake may take as long as the race.
    let welcome_timeout = racing.left(now()) + setup.welcome_timeout;
    let early = Setup { welcome_timeout, answered: false, ..setup.clone() };
    let mut line = Box::pin(carry(connection, control, path, early, hello, false));
    let accepted = tokio::select! {
        biased;
        accepted = &mut accepted => accepted,
        other = racing.next_here() => return match other {
            Ok(made) => {
                let reason = "QUIC: early data was not answered before another way was through".to_owned();
                LineEnd { reason, was_online: false, next: Next::Overtaken(Box::new((made, racing))) }
            }
            Err(error) => LineEnd { reason: error.0, was_online: false, next: Next::Again },
        },
        end = &mut line => {
            // Rejected early data ends the line, also between the looks at both.
            let is_rejected = tokio::select! {
                biased;
                accepted = accepted => !accepted,
                () = std::future::ready(()) => false,
            };
            if !is_rejected || connection.close_reason().is_some() {
                return end;
            }
            false
        }
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
    let hello = match setup.shared.with(|core| core.begin_line(Transport::Quic, base)) {
        Ok(hello) => hello,
        Err(error) => {
            let reason = format!("the identity file cannot be written: {error}");
            return LineEnd { reason, was_online: false, next: Next::Again };
        }
    };
    match connection.open_bi().await {
        // The first stream is for control, and a request has taken it since early data was rejected.
        Ok((send, _)) if send.id().index() > 0 => {
            let reason = "QUIC: a request left just when early data was rejected".to_owned();
            LineEnd { reason, was_online: false, next: Next::AtOnce }
        }
        Ok(control) => carry(connection, control, again, setup, hello, true).await,
        Err(error) => lost(&error),
    }
}

/// Drives a line on the connection. Before the gateway has `answered`, streams of the app wait: of what they have
/// sent only `limits.upload_buffer_bytes` is kept, and what was said early may have to be said again as a whole.
async fn carry(
    connection: &quinn::Connection,
    (send, recv): ControlStream,
    path: Path,
    setup: Setup,
    hello: Hello,
    answered: bool,
) -> LineEnd {
    let now = now();
    let control = link::Control::client(Arc::clone(&setup.link), hello.clone(), now);
    // The control stream goes before every request.
    let _ = send.set_priority(streams::CONTROL_PRIORITY);
    let streams = Streams::new(Arc::clone(&setup.shared), connection.clone(), path, answered);
    let machine = Machine::Quic(Box::new(control), Box::new(streams));
    let stream = tokio::io::join(recv, send);
    // Streams of early data that was refused end, so that a WELCOME on one says that it was not.
    Line::new(setup, stream, machine, Transport::Quic, hello, now).going_on(&[], !answered).drive().await
}
