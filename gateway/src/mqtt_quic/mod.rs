//! MQTT over QUIC (ALPN `mqtt`), as EMQX and NanoMQ have it.
//!
//! ```text
//!  client's first bidirectional stream: control ──┐
//!  further ones, behind CONNACK: data ────────────┼─ Streams: one stream of packets ── mqtt::serve
//! ```
//!
//! There is one session and one space of packet identifiers, whichever streams its packets take: a stream that brings an
//! identifier which another one is using is broken off (0x91; the control stream with its connection). What a client begins on
//! a stream (a publish, a subscription) is answered there, and messages of a subscription come on the stream that
//! subscribed. So a lost packet of one flow holds up no other. A data stream that breaks costs what is under way on it;
//! its subscriptions stay the session's, and go on over the control stream.

mod outgoing;
mod routing;
mod screening;
mod stream;
mod streams;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use quinn::{Connection, VarInt};
use tokio::time::timeout;
use towline_protocols::mqtt::ReasonCode;
use tracing::debug;

use self::streams::Streams;
use crate::{gateway::Gateway, mqtt, request::Origin};

/// How long a client may take to leave once the control stream has ended: closing the connection drops what is under
/// way.
const LAST_WORDS_MAX: Duration = Duration::from_secs(1);

/// Serves one connection until it ends.
pub async fn serve(gateway: Arc<Gateway>, origin: Arc<Origin>, connection: Connection) {
    // A client has no other streams: their data would lie unread.
    connection.set_max_concurrent_uni_streams(VarInt::from_u32(0));
    let limit = gateway.snapshot().settings.limits.first_message_timeout;
    match timeout(limit, connection.accept_bi()).await {
        Ok(Ok(control)) => {
            // Boxed: the task of an idle connection must not keep room for its beginning.
            let streams = Box::new(Streams::new(&gateway, connection.clone(), control));
            mqtt::serve(gateway, origin, streams, Bytes::new()).await;
            let _ = timeout(LAST_WORDS_MAX, connection.closed()).await;
        }
        Ok(Err(error)) => debug!(peer = %origin.peer, %error, "MQTT client gone"),
        Err(_) => gateway.metrics.limit_hit("limits.first_message_timeout"),
    }
    connection.close(code(ReasonCode::Success), b"");
}

/// What streams and connections are closed with: MQTT's own codes.
fn code(reason: ReasonCode) -> VarInt {
    VarInt::from_u32(u32::from(reason as u8))
}
