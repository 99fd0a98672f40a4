//! The Towline client: one session with a gateway that outlives connections.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use towline_client::{CallRequest, Client, ClientConfig};
//!
//! let roots = std::fs::read("ca.pem")?;
//! let client = Client::start(ClientConfig::new(vec!["edge.example:443".parse()?], roots))?;
//! let answer = client.call(CallRequest::grpc("/shop.Orders/Get", vec![0x08, 0x07])).await?;
//! println!("{:?} after {:?}", answer.clone().into_grpc()?, answer.timeline.elapsed);
//! # Ok(())
//! # }
//! ```
//!
//! The parts: `Client` and the stream halves are handles on `core`, the state of the session and its
//! calls; `supervisor` keeps a connection up, made by `connect` and driven by `line` with the machines of
//! `towline_protocols::link`.
//!
//! Where a network lets neither UDP nor long TCP connections pass, calls go out over short connections, an HTTPS POST
//! each (`short`): [`ClientConfig::short_calls`] says when, [`ClientConfig::short_after`] after how long. The gateway
//! runs each call once, whichever ways it takes; streams and pushes wait for the line.
//!
//! Without the feature `quic`, which is on by default, the link goes by TCP alone, and the library is smaller.
//!
//! A call with [`CallRequest::durable`] outlives the app (`durable`): it is on disk before it is sent, the next run goes
//! on with it, and its outcome waits for [`Client::durable_outcomes`] until [`Client::acknowledge`].

mod backoff;
mod beats;
mod bundled;
mod call;
mod client;
mod config;
mod connect;
mod core;
mod dictionaries;
mod disk;
mod durable;
mod endpoints;
mod error;
mod identity;
mod known;
mod last_session;
mod line;
mod policy;
mod push;
mod push_log;
mod quality;
mod reports;
mod routes;
mod seal;
mod short;
mod signals;
mod state;
mod stream;
mod supervisor;
mod tickets;
mod timeline;
mod wall;
mod work;

pub use bundled::BundledAddresses;
pub use call::{CallRequest, CallResponse};
pub use client::Client;
pub use config::{
    AppInfo, ClientCertificate, ClientConfig, Credentials, DictionaryFetch, Endpoint, Limits, Policy,
    Security, ShortCalls, Tls, Transports,
};
#[cfg(feature = "quic")]
pub use connect::BindUdp;
pub use connect::{BindSocket, ByteIo, Dial, Dialed, Dialing, FirstFlight, Resolve, Resolving, SocketHandle};
pub use durable::{
    DamagedRecord, Durable, DurableError, DurableOutcome, DurableOutcomes, Storage, StoredFile, Storing,
};
pub use endpoints::{EndpointListInfo, EndpointLists};
pub use error::{
    CallError, ConfigError, Execution, FailedCall, GrpcStatus, RpcError, RpcErrorKind, StartError,
};
pub use push::{Push, Pushes};
pub use state::{ConnectionState, Transport};
pub use stream::{StreamHead, StreamReceiver, StreamSender};
pub use tickets::TicketCounts;
pub use timeline::{MessageBytes, Timeline};
/// A public key of those who sign endpoint lists.
pub use towline_crypto::signing::PublicKey as EndpointListKey;
/// Pins, and the traits by which an app brings cryptography or keys of its own.
pub use towline_crypto::{International, KeyReference, Pin, Provider, Providers, ShangMi};
pub use towline_protocols::link::Priority;
/// What the app says of its network and itself; what networks are like, and how limits follow from that.
pub use towline_protocols::policy::{
    AppMode, AppState, CarrierPolicy, DurablePolicy, HandoverPolicy, HandshakePolicy, Level as QualityLevel,
    Network, NetworkKind, QualityPolicy, RacePolicy, ReconnectPolicy, ShortPolicy, Strategies, TimeoutPolicy,
};
