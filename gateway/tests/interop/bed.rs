//! A gateway in this process with the demo backend behind it, configured as an operator would.

use std::{net::SocketAddr, path::Path};

use tempfile::TempDir;
use towline_gateway::{
    cli::development_certificates,
    control::config,
    demo::{self, Demo},
    gateway::Gateway,
    run::{self, Serving},
};

use crate::sm2;

pub struct Bed {
    pub serving: Serving,
    pub folder: TempDir,
    _demo: Demo,
}

impl Bed {
    /// A listener called `edge` with TLS and QUIC under the development certificates.
    pub async fn start() -> Self {
        Self::with("certificate = { chain = \"dev-cert.pem\", key = \"dev-key.pem\" }\nquic = true").await
    }

    /// `edge` has these keys; `plain` is beside it. The folder holds the development certificates and those
    /// of [`sm2::certificates`].
    pub async fn with(edge: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        development_certificates(folder.path()).unwrap();
        sm2::certificates(folder.path());
        let demo = demo::start(([127, 0, 0, 1], 0).into()).await.unwrap();
        let text = configuration(edge, demo.address);
        let settings = config::parse(&folder.path().join("towline.toml"), &text)
            .unwrap_or_else(|mistakes| panic!("{mistakes}"));
        let serving = run::serve(Gateway::build(settings).unwrap()).await.unwrap();
        Self { serving, folder, _demo: demo }
    }

    pub fn address(&self, listener: &str) -> SocketAddr {
        self.serving.address(listener).unwrap()
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

fn configuration(edge: &str, demo: SocketAddr) -> String {
    format!(
        r#"
[[listeners]]
name = "edge"
bind = "127.0.0.1:0"
authentication = "none"
{edge}

[[listeners]]
name = "plain"
bind = "127.0.0.1:0"
authentication = "none"
tls = "off"

[[backends]]
name = "demo"
kind = "http1"
address = "{demo}"

[[backends]]
name = "grpc"
kind = "grpc"
address = "{demo}"

[[routes]]
name = "grpc"
path = "/towline.demo.v1.*"
backend = "grpc"

[[routes]]
name = "demo"
path = "/*"
backend = "demo"

[admin]
bind = "127.0.0.1:0"
"#
    )
}

/// A request whose answer is [`HELLO`], and whose connection ends with it.
pub const GET: &str = "GET /hello HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
/// The same on a connection that stays.
pub const GET_AND_STAY: &str = "GET /hello HTTP/1.1\r\nhost: localhost\r\n\r\n";
pub const HELLO: &str = "hello from the demo backend";

/// A POST of so many bytes, which come back; with `end` as the last of them.
pub fn echo(bytes: usize, end: &str) -> Vec<u8> {
    let body = format!("{}{end}", "x".repeat(bytes - end.len()));
    format!(
        "POST /echo HTTP/1.1\r\nhost: localhost\r\ncontent-length: {bytes}\r\nconnection: close\r\n\r\n{body}"
    )
    .into_bytes()
}
