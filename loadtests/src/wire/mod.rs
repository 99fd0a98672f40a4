//! Thin clients: as little memory and work per connection as the protocol allows, so that what is
//! measured is the server.

pub mod http;
pub mod link;
mod mqtt;
pub mod stream;
pub mod tls;

use std::{
    cell::Cell,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use rustls::{ClientConfig, pki_types::ServerName};
use tokio::net::{TcpSocket, TcpStream};

use crate::{
    fault::{Fault, FaultKind},
    plan::{Plan, Protocol, RequestWork, Target, Transport, Work},
    tally::Recorder,
};
use mqtt::Identity;
pub use mqtt::{MqttClient, PublishOrder, Windows};
use stream::{Counted, Stream};

/// Opens connections to one target.
#[derive(Debug)]
pub struct Dialer {
    plan: Rc<Plan>,
    target: Target,
    tls: Option<Arc<ClientConfig>>,
    quic: Option<link::Endpoints>,
    link: Arc<towline_protocols::link::Config>,
    prepared: Option<Rc<link::Prepared>>,
    sources: Vec<IpAddr>,
    turn: Cell<usize>,
    recorder: Rc<Recorder>,
}

/// One open connection.
#[derive(Debug)]
pub enum Client {
    /// A transport that carries nothing; the task ends when the peer closes it.
    Silent(tokio::task::JoinHandle<()>),
    /// HTTP/1.1 or HTTP/2.
    Http(http::HttpClient),
    /// MQTT.
    Mqtt(MqttClient),
    /// towline/1, and the request that is called on it.
    Link(link::LinkClient, Option<Rc<link::Prepared>>),
}

impl Dialer {
    /// Reads the CA file, if the target has one. Every byte to and from the target is counted in
    /// `recorder`, and so is what MQTT connections do of themselves.
    pub fn new(
        plan: Rc<Plan>,
        target: Target,
        sources: Vec<IpAddr>,
        recorder: Rc<Recorder>,
    ) -> Result<Self, String> {
        let tls = match (&target.ca, target.transport) {
            (Some(ca), Transport::Tls | Transport::Quic) => Some(Arc::new(tls::config(ca, target.protocol)?)),
            _ => None,
        };
        let quic = match (&tls, target.transport) {
            (Some(tls), Transport::Quic) => Some(link::Endpoints::new(tls.clone(), target.address)?),
            _ => None,
        };
        let prepared = match &plan.work {
            Work::Request(work) => Some(Rc::new(link::Prepared::new(work, &target))),
            Work::Hold | Work::Mqtt(_) => None,
        };
        let link = link::config();
        Ok(Self { plan, target, tls, quic, link, prepared, sources, turn: Cell::new(0), recorder })
    }

    /// Opens connection number `index` up to the point where it can take its first operation.
    pub async fn open(self: &Rc<Self>, index: usize, bound: Duration) -> Result<Client, Fault> {
        let opening = self.open_unbounded(index);
        tokio::time::timeout(bound, opening).await.unwrap_or_else(|_| {
            Err(Fault::new(FaultKind::ConnectTimeout, format!("not ready within {bound:?}")))
        })
    }

    async fn open_unbounded(self: &Rc<Self>, index: usize) -> Result<Client, Fault> {
        match self.target.protocol {
            Protocol::None if self.quic.is_some() => self.open_quic().await,
            Protocol::None => Ok(Client::Silent(tokio::task::spawn_local(self.stream().await?.drain()))),
            Protocol::Http1 => {
                Ok(Client::Http(http::HttpClient::http1(self.stream().await?, &self.target).await?))
            }
            Protocol::Http2 => {
                Ok(Client::Http(http::HttpClient::http2(self.stream().await?, &self.target).await?))
            }
            Protocol::Mqtt => {
                let stream = self.stream().await?;
                MqttClient::open(stream, self.identity(index), self.recorder.clone()).await.map(Client::Mqtt)
            }
            Protocol::Link => {
                let link = self.open_link(format!("load-{}-{index}", std::process::id())).await?;
                Ok(Client::Link(link, self.prepared.clone()))
            }
        }
    }

    async fn open_link(&self, client_id: String) -> Result<link::LinkClient, Fault> {
        let config = self.link.clone();
        let Some(endpoints) = &self.quic else {
            let stream = self.stream().await?;
            return link::TcpLink::open(stream, client_id, config).await.map(link::LinkClient::Tcp);
        };
        let (address, host, wire) = (self.target.address, &self.target.host, self.recorder.wire.clone());
        let opening = link::QuicLink::open(endpoints, address, host, client_id, config, wire);
        opening.await.map(link::LinkClient::Quic)
    }

    async fn open_quic(&self) -> Result<Client, Fault> {
        let Some(endpoints) = &self.quic else { return Err(Fault::new(FaultKind::Other, "no QUIC")) };
        let connection = endpoints.connect(self.target.address, &self.target.host).await?;
        Ok(Client::Silent(tokio::task::spawn_local(async move {
            connection.closed().await;
        })))
    }

    fn identity(&self, index: usize) -> Identity {
        let Work::Mqtt(work) = &self.plan.work else {
            let client_id = format!("load-{}-{index}", std::process::id());
            return Identity { client_id, ..Identity::default() };
        };
        Identity {
            client_id: format!("{}-{index}", work.run),
            filter: (!work.publishes(index)).then(|| work.filter(index)),
            topic: work.publishes(index).then(|| work.topic(index)),
            qos: work.qos,
            payload_bytes: work.bytes,
            from_sent: work.from_sent,
            lane: work.windowed.then(|| (u32::try_from(index).unwrap_or(u32::MAX), work.copies())),
        }
    }

    /// A TCP connection, with TLS if the target has it.
    pub async fn stream(&self) -> Result<Stream, Fault> {
        let socket = self.connect().await.map_err(|error| Fault::io(&error))?;
        let socket = Counted::new(socket, self.recorder.wire.clone());
        let Some(config) = &self.tls else { return Ok(Stream::Plain(socket)) };
        let name = ServerName::try_from(self.target.host.clone()).map_err(|_| {
            Fault::new(FaultKind::Handshake, "the server name is not a DNS name or IP address")
        })?;
        let handshake = tokio_rustls::TlsConnector::from(config.clone()).connect(name, socket);
        let stream = Box::pin(handshake).await.map_err(|error| Fault::io(&error))?;
        Ok(Stream::Tls(Box::new(stream)))
    }

    async fn connect(&self) -> std::io::Result<TcpStream> {
        let address = self.target.address;
        let socket = match self.next_source() {
            None => TcpStream::connect(address).await?,
            Some(source) => bound_socket(source)?.connect(address).await?,
        };
        socket.set_nodelay(true)?;
        Ok(socket)
    }

    fn next_source(&self) -> Option<IpAddr> {
        let turn = self.turn.get();
        self.turn.set(turn.wrapping_add(1));
        (!self.sources.is_empty()).then(|| self.sources[turn % self.sources.len()])
    }
}

/// A socket whose port is one of its source address's own: the kernel gives each out once, so the plan
/// has enough sources for that.
fn bound_socket(source: IpAddr) -> std::io::Result<TcpSocket> {
    let socket = if source.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.bind(SocketAddr::new(source, 0))?;
    Ok(socket)
}

impl Client {
    /// Sends one request and waits for its whole answer.
    pub async fn call(&self, request: &RequestWork) -> Result<(), Fault> {
        match self {
            Self::Http(client) => client.call(request).await,
            Self::Link(client, Some(prepared)) => client.call(prepared).await,
            Self::Silent(_) | Self::Mqtt(_) | Self::Link(_, None) => {
                Err(Fault::new(FaultKind::Other, "this protocol has no requests"))
            }
        }
    }

    /// Whether the connection stands.
    pub fn is_open(&self) -> bool {
        match self {
            Self::Silent(task) => !task.is_finished(),
            Self::Http(client) => client.is_open(),
            Self::Mqtt(client) => client.is_open(),
            Self::Link(client, _) => client.is_open(),
        }
    }
}
