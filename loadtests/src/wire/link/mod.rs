//! A small client of the link protocol, without the SDK's reconnects and queues.

mod answer;
mod quic;
mod tcp;

use std::{
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use towline_protocols::{
    hpack::HeaderField,
    link::{CloseCode, Config, Hello, RequestHead, RpcError},
};

pub use quic::{Endpoints, QuicLink};
pub use tcp::TcpLink;

use crate::{
    fault::{Fault, FaultKind},
    plan::{RequestWork, Target, Transport},
};

/// The same request for every call of a run, ready to be given to a machine.
#[derive(Clone, Debug)]
pub struct Prepared {
    head: RequestHead,
    message: Bytes,
    grpc: bool,
}

impl Prepared {
    /// The request that `work` describes.
    pub fn new(work: &RequestWork, target: &Target) -> Self {
        let scheme = if target.transport == Transport::Plain { "http" } else { "https" };
        let method = if work.grpc || !work.body.is_empty() { "POST" } else { "GET" };
        let authority = format!("{}:{}", target.host, target.address.port());
        let mut fields = vec![
            HeaderField::from_static(":method", method),
            HeaderField::from_static(":scheme", scheme),
            HeaderField::new(":authority", authority),
            HeaderField::new(":path", work.path.clone()),
        ];
        if work.grpc {
            fields.push(HeaderField::from_static("content-type", "application/grpc"));
            fields.push(HeaderField::from_static("te", "trailers"));
        }
        let head = RequestHead { fields, ..RequestHead::default() };
        Self { head, message: Bytes::from(work.body.clone()), grpc: work.grpc }
    }

    /// A plain request without a body has no message; a gRPC message may be empty.
    fn has_message(&self) -> bool {
        self.grpc || !self.message.is_empty()
    }
}

/// What every connection of a worker shares.
///
/// Messages are not compressed: the time that takes in the client would count as the server's.
pub fn config() -> Arc<Config> {
    // The default is for phones in pockets; on a loaded machine a late answer is no broken line.
    let ping_timeout = Duration::from_secs(60);
    let agent = concat!("towline-load/", env!("CARGO_PKG_VERSION")).to_owned();
    Arc::new(Config { compressor: None, ping_timeout, agent, ..Config::default() })
}

pub(crate) fn hello(client_id: String) -> Hello {
    let mut secret = vec![0; 16];
    fastrand::Rng::new().fill(&mut secret);
    Hello { client_id, session_secret: secret.into(), epoch: 1, ..Hello::default() }
}

fn refused(error: &RpcError) -> Fault {
    Fault::new(FaultKind::Status, error)
}

fn closed(code: CloseCode, text: &str) -> Fault {
    Fault::new(FaultKind::Protocol, format!("the gateway closed the link: {code:?} {text}"))
}

/// A link over TCP or QUIC.
#[derive(Debug)]
pub enum LinkClient {
    /// TLS or plaintext.
    Tcp(TcpLink),
    /// QUIC.
    Quic(QuicLink),
}

impl LinkClient {
    /// Sends one request and waits for its whole answer.
    pub async fn call(&self, prepared: &Rc<Prepared>) -> Result<(), Fault> {
        match self {
            Self::Tcp(link) => link.call(prepared.clone()).await,
            Self::Quic(link) => link.call(prepared).await,
        }
    }

    /// Whether the connection stands.
    pub fn is_open(&self) -> bool {
        match self {
            Self::Tcp(link) => link.is_open(),
            Self::Quic(link) => link.is_open(),
        }
    }
}

async fn sleep_until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}
