//! From a socket to a plaintext byte stream or QUIC connection.

pub mod quic;
mod rewind;
mod stream;
pub mod tls;

pub use rewind::Rewind;
pub use stream::{Meter, Stream};
