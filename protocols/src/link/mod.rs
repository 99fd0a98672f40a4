//! The link protocol `towline/1`: see PROTOCOL.md for the bytes.

mod error;

pub use error::{Execution, Priority, RpcError, RpcErrorKind};
