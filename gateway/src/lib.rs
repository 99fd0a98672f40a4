//! The mobile-edge access gateway. ARCHITECTURE.md draws the rooms; `listener::serve_connection` lists
//! the stages of a connection's life.

pub mod access;
#[cfg(feature = "count-allocations")]
pub mod allocations;
pub mod auth;
pub mod backend;
pub mod cli;
pub mod control;
pub mod delayed;
pub mod demo;
pub mod dictionaries;
pub mod drain;
pub mod early;
pub mod error;
mod files;
pub mod gateway;
pub mod http;
pub mod http3;
pub mod hub;
pub mod key_ring;
pub mod link;
pub mod listener;
pub mod metrics;
pub mod mqtt;
pub mod mqtt_quic;
pub mod network;
pub mod outbox;
pub mod parking;
pub mod presence;
pub mod proto;
pub mod push;
pub mod rate;
pub mod receipts;
pub mod request;
pub mod rewrite;
pub mod router;
pub mod run;
pub mod session;
pub mod session_token;
pub mod settings;
pub mod shadow;
pub mod snapshot;
pub mod store;
pub mod throttle;
pub mod transport;
pub mod upstream;
