//! The mobile-edge access gateway. ARCHITECTURE.md draws the rooms; `listener::serve_connection` lists
//! the stages of a connection's life.

pub mod error;
pub mod hub;
pub mod request;
pub mod settings;
