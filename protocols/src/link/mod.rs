//! The link protocol `towline/1`: see PROTOCOL.md for the bytes.
//!
//! - [`Connection`] is the machine of one TCP connection, either side.
//! - On QUIC, [`Control`] is the machine of the control stream and [`StreamCodec`] of each request's
//!   stream; `Connection` is made of the same parts.
//! - [`client::Session`] outlives connections: sequence numbers, what to send again, what was taken.
//! - [`server::Ledger`] is its counterpart: which request ran, which outcome is still kept.

mod answer;
pub mod client;
mod config;
mod connection;
mod control;
mod error;
mod event;
mod failure;
mod field_tables;
pub mod frame;
mod message;
mod place;
pub mod proto;
pub mod report;
mod rest;
pub mod server;
mod session_headers;
mod stream_codec;

pub use config::{Config, Limits, Peer};
pub use connection::{Connection, Dormant};
pub use control::Control;
pub use error::{Execution, Priority, RpcError, RpcErrorKind};
pub use event::{Event, Publish, Push, RequestHead};
pub use failure::{CloseCode, LinkError};
pub use frame::Ack;
pub use place::Place;
pub use proto::{
    Arm, ClientFacts, DictionaryKind, Fetch, Filter, GoAway, Header, Hello, LearntBeat, LevelReported,
    LimitsMessage, Offer, OfferedDictionary, Outcome, Parameter, ParameterValue, Partial, Piece, Policy,
    PushesTaken, QualitySnapshot, Report, Subscribe, Subscribed, Waiting, Welcome,
};
pub use rest::Resting;
pub use session_headers::{SESSION_HEADERS_HASH_BYTES, SessionHeaders};
pub use stream_codec::{StreamCodec, StreamSettings};

/// ALPN name of the protocol, on TCP and QUIC.
pub const ALPN: &[u8] = b"towline/1";

/// Which side of a connection a machine is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Opens connections and requests.
    Client,
    /// Answers.
    Server,
}
