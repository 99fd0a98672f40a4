//! A mosquitto of the test's own, gateways with a bridge, and MQTT clients over TCP.

use std::{
    fmt::Write as _,
    fs,
    net::{SocketAddr, TcpListener},
    path::Path,
    process::Stdio,
    time::Duration,
};

use tempfile::TempDir;
use tokio::{
    net::TcpStream,
    process::{Child, Command},
    time::sleep,
};
use towline_gateway::{
    gateway::Gateway,
    run::{Serving, serve},
    settings::{Authentication, Backend, BackendKind, Listener, ListenerProtocol, Route, Settings, Upstream},
};
use towline_protocols::mqtt::*;

use crate::mqtt_support::{Client, connect, connect_for, metric};

/// Between two looks at something that another process does.
const LOOK: Duration = Duration::from_millis(5);

/// A broker that is killed with its owner.
pub struct Mosquitto {
    _child: Child,
    pub address: SocketAddr,
}

impl Mosquitto {
    /// `None` where it is not installed, which the test says.
    pub async fn start(address: SocketAddr, folder: &Path, more: &str) -> Option<Self> {
        let file = folder.join("mosquitto.conf");
        let mut text = format!("listener {} {}\n", address.port(), address.ip());
        let more = if more.is_empty() { "allow_anonymous true\n" } else { more };
        write!(text, "{more}").unwrap();
        fs::write(&file, text).unwrap();
        let started = Command::new("mosquitto")
            .arg("-c")
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn();
        let Ok(child) = started else {
            eprintln!("skipped: mosquitto is not installed");
            return None;
        };
        while TcpStream::connect(address).await.is_err() {
            sleep(LOOK).await;
        }
        Some(Self { _child: child, address })
    }
}

/// An address where nobody listens for now.
pub fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Settings of a gateway on `bind` with the broker at `broker` as its backend `up`, and `site/#` routed to it.
pub fn settings(bind: SocketAddr, folder: &Path, broker: SocketAddr, upstream: Upstream) -> Settings {
    let upstream = Upstream {
        backoff_min: Duration::from_millis(10),
        backoff_max: Duration::from_millis(50),
        ..upstream
    };
    Settings {
        data_dir: folder.into(),
        listeners: vec![Listener {
            protocols: vec![ListenerProtocol::Mqtt],
            authentication: Authentication::None,
            ..Listener::plain("devices", bind)
        }],
        backends: vec![Backend {
            topic_prefix: "edge/".to_owned(),
            upstream,
            ..Backend::new("up", BackendKind::Mqtt, broker.to_string())
        }],
        routes: vec![Route { topic: Some("site/#".to_owned()), ..Route::new("site", "up") }],
        ..Settings::side_by_side()
    }
}

/// `site/x` here is `edge/x` there, and what is published at `edge/cmd/…` comes.
pub fn both_ways() -> Upstream {
    Upstream {
        local_prefix: "site/".to_owned(),
        subscribe: vec!["cmd/#".to_owned()],
        status_topic: Some("status".to_owned()),
        ..Upstream::default()
    }
}

pub async fn start(settings: Settings) -> Serving {
    serve(Gateway::open(settings).unwrap()).await.unwrap()
}

/// Ends a gateway and everything that holds its store.
pub async fn stop(serving: Serving) {
    serving.gateway.drain.cut();
    serving.drain().await;
    let gateway = serving.gateway.clone();
    drop(serving);
    let mut gateway = gateway;
    loop {
        match std::sync::Arc::try_unwrap(gateway) {
            Ok(_alone) => return,
            Err(held) => gateway = held,
        }
        sleep(LOOK).await;
    }
}

pub fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// A client at whoever listens there.
pub async fn client(address: SocketAddr, id: &str) -> Client {
    let (client, connack) = try_client(address, connect(Version::V5, id)).await;
    assert_eq!(connack.reason, ReasonCode::Success);
    client
}

/// One whose session lasts a minute.
pub async fn lasting_client(address: SocketAddr, id: &str) -> Client {
    try_client(address, connect_for(60, id)).await.0
}

async fn try_client(address: SocketAddr, connect: Connect) -> (Client, Connack) {
    let mut tcp = TcpStream::connect(address).await.unwrap();
    let (near, mut far) = tokio::io::duplex(64 * 1024);
    tokio::spawn(async move { tokio::io::copy_bidirectional(&mut far, &mut tcp).await });
    let mut client = Client::on(near);
    let connack = client.greet(connect).await;
    (client, connack)
}

/// Waits until the gateway's bridge is connected.
pub async fn connected(gateway: &Gateway) {
    while metric(gateway, "towline_upstream_connected{backend=\"up\"}") < 1.0 {
        sleep(LOOK).await;
    }
}

/// Topic and payload of the next PUBLISH.
pub async fn next(client: &mut Client) -> (String, String) {
    let publish = client.expect_publish().await;
    (publish.topic.as_str().to_owned(), String::from_utf8(publish.payload.to_vec()).unwrap())
}

pub fn pair(topic: &str, payload: &str) -> (String, String) {
    (topic.to_owned(), payload.to_owned())
}
