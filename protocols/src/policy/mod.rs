//! Decisions about the network, as machines of `(now, event) -> action`: what a network is like, and how long to wait
//! on it. They keep no clock; a day of tunnels is played in milliseconds.
//!
//! ```text
//!  what happened --Event--> Quality --samples, aged--> TimeoutPolicy::limit --> the driver's timers
//!                              |
//!                              +--> Level, when it changes: for the app
//! ```
//!
//! [`Race`] decides which ways to gateways are tried, and when; [`Ways`] and [`Names`] remember what is known of them.
//! [`Handover`] decides when a second connection is made beside one that still works, [`Carrier`] whether it is made by
//! TCP while nobody looks at the app, [`Handshakes`] which key exchange a connection begins with.
//!
//! What an operator or an app may say to a strategy is its parameters ([`Parameters`]); [`Strategies`] has them all.

mod carrier;
mod compression;
mod durable;
mod handover;
mod handshake;
mod heartbeat;
mod line;
mod liveness;
mod network;
mod parameters;
mod quality;
mod race;
mod reconnect;
mod report;
mod retry;
mod short;
mod strategies;
mod timeouts;
pub mod units;

pub use self::{
    carrier::{Carrier, CarrierPolicy},
    compression::CompressionPolicy,
    durable::DurablePolicy,
    handover::{Handover, HandoverAction, HandoverPolicy, Leave, SentAway},
    handshake::{HandshakePolicy, Handshakes, KeyExchange},
    heartbeat::{FORGET_AFTER_S, Filed, Ground, Heartbeat, HeartbeatPolicy, Learnt, NETWORKS_MAX, Records},
    line::LinePolicy,
    liveness::{Clocks, Liveness, LivenessPolicy, Pulse, Signs},
    network::{AppMode, AppState, Network, NetworkKey, NetworkKind, Transport},
    parameters::{Field, Parameter, ParameterError, Parameters, Value},
    quality::{
        Arrival, Event, Impression, Impressions, Level, Meter, Prior, Quality, QualityPolicy, Remembered,
        Step,
    },
    race::{
        Found, NameRecord, Names, Pace, Race, RaceAction, RacePolicy, Ranked, Verdict, Way, WayRecord, Ways,
    },
    reconnect::{Delay, Loss, Lost, Reconnect, ReconnectPolicy},
    report::{ReportCause, ReportClock, ReportPolicy},
    retry::{Failure, Hedge, HedgePolicy, Retry, RetryPolicy},
    short::{ShortPolicy, ShortWaits},
    strategies::Strategies,
    timeouts::{TimeoutPolicy, Wanted},
};
