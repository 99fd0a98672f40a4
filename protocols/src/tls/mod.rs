//! What a gateway reads and decides about TLS before and beside a TLS library: the ClientHello, record
//! headers, and how large the next record is. No cryptography.

pub mod alert;
pub mod client_hello;
pub mod record;
pub mod record_size;

pub use alert::Alert;
pub use client_hello::{ClientHello, HELLO_BYTES_MAX, HelloError};
pub use record::{RecordError, hello_from_records};
pub use record_size::{RecordSizer, RecordSizes};
