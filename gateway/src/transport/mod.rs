//! From a socket to a plaintext byte stream or QUIC connection.

mod corked;
mod handshake;
mod patience;
pub mod quic;
mod rewind;
mod spare;
mod stream;
pub mod tlcp;
pub mod tls;
mod websocket;

pub(crate) use corked::{Cork, Corked, corked};
pub use handshake::{Completion, Ended, Handshake};
pub use patience::Impatient;
pub(crate) use patience::WriteTimeout;
pub use rewind::Rewind;
pub(crate) use spare::{SPARE_BYTES, give_buffer, take_buffer};
pub use stream::{Meter, ParkedStream, Stream};
pub use websocket::{Rules as WebSocketRules, WebSocket};
