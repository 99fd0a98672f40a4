//! What goes over Towline's wires and how to decide, without I/O.
//!
//! Nothing in this crate owns a socket, a clock, a task or a global random source: bytes, events and
//! `now` go in (`handle_*`), output is asked for (`poll_*`). So two machines can be driven against each
//! other in simulated time, and every decoder can be fuzzed alone.

pub mod compress;
pub mod detect;
pub mod endpoints;
pub mod hpack;
pub mod http1;
pub mod link;
pub mod mqtt;
pub mod policy;
pub mod proxy;
pub mod qpack;
pub mod tls;
pub mod varint;
pub mod websocket;
