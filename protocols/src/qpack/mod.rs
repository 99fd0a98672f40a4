//! QPACK header compression, RFC 9204, for streams that arrive in any order.
//!
//! An [`Encoder`] and the peer's [`Decoder`] share a dynamic table. Insertions travel on the encoder stream,
//! acknowledgments on the decoder stream; header sections refer to entries that the decoder is known to have,
//! so that no section waits for another stream, unless the decoder allowed some to be blocked.
//!
//! ```text
//!  Encoder ── instructions: capacity, insert, duplicate ──────────────────────> Decoder
//!          ── header sections, each on its own stream ────────────────────────>
//!          <───────────── acknowledgment, cancellation, insert count increment ──
//! ```
//!
//! Streams are named by numbers that both sides know; whatever carries the two instruction streams hands
//! them on in order, each instruction whole.

mod decoder;
mod encoder;
mod error;
mod instruction;
mod sections;
mod static_fields;
#[cfg(test)]
mod tests;

pub use decoder::{Decoded, Decoder, INSTRUCTIONS_BYTES_MAX};
pub use encoder::{ENTRY_BYTES_MAX, Encoder};
pub use error::QpackError;
pub(crate) use static_fields::RFC9204_STATIC_FIELDS;
