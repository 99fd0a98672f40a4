//! The one error of the data path: [`RpcError`] of the link protocol, which every front (link, HTTP,
//! MQTT) turns into its own status.

pub use towline_protocols::link::{Execution, RpcError, RpcErrorKind};
