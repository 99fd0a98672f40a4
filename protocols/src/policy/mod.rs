//! Decisions about the network, as machines of `(now, event) -> action`: what a network is like, and how long to wait
//! on it. They keep no clock; a day of tunnels is played in milliseconds.
//!
//! ```text
//!  what happened --Event--> Quality --samples, aged--> TimeoutPolicy::limit --> the driver's timers
//!                              |
//!                              +--> Level, when it changes: for the app
//! ```

mod network;
mod quality;
#[cfg(test)]
mod tests;
mod timeouts;
mod window;

pub use self::{
    network::{AppMode, AppState, Network, NetworkKey, NetworkKind, Transport},
    quality::{Event, Level, Quality, QualityPolicy, Step},
    timeouts::TimeoutPolicy,
};
