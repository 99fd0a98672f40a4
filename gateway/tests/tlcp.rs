//! A Tongsuo client at the gateway's TLCP (GB/T 38636): `cargo test --features tlcp --test tlcp`.

#![cfg(feature = "tlcp")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

use std::{fs, net::SocketAddr, path::Path, pin::Pin, process::Command};

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_tongsuo::SslStream;
use tongsuo::ssl::{Ssl, SslContext, SslContextBuilder, SslMethod, SslOptions, SslSession, SslVerifyMode};
use towline_gateway::{
    control::config,
    demo::{self, Demo},
    gateway::Gateway,
    run::{self, Serving},
};

const SUITES: [&str; 2] = ["ECC-SM2-SM4-GCM-SM3", "ECC-SM2-SM4-CBC-SM3"];
const GET: &[u8] = b"GET /hello HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
const HELLO: &str = "hello from the demo backend";

#[tokio::test]
async fn http_over_both_suites() {
    let bed = Bed::start().await;
    for suite in SUITES {
        let mut stream = bed.connect(&client(&bed, suite), None).await.unwrap();
        let session = stream.ssl();
        assert_eq!(session.current_cipher().unwrap().name(), suite);
        assert_eq!(session.version_str(), "NTLSv1.1");
        stream.write_all(GET).await.unwrap();
        assert!(read_all(&mut stream).await.contains(HELLO));
    }
}

#[tokio::test]
async fn bulk_goes_both_ways() {
    let bed = Bed::start().await;
    for suite in SUITES {
        let mut stream = bed.connect(&client(&bed, suite), None).await.unwrap();
        let body = "x".repeat(1_000_000);
        let head = format!(
            "POST /echo HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(body.as_bytes()).await.unwrap();
        let answer = read_all(&mut stream).await;
        assert!(answer.ends_with(&body), "{suite}: {} bytes", answer.len());
    }
}

#[tokio::test]
async fn mqtt_found_by_alpn_and_by_its_first_bytes() {
    let bed = Bed::start().await;
    for alpn in [&b""[..], b"\x04mqtt"] {
        let mut stream = bed.connect_with(&client(&bed, SUITES[0]), None, alpn).await.unwrap();
        stream.write_all(b"\x10\x11\0\x04MQTT\x05\x02\0\x3c\0\0\x04cell").await.unwrap();
        stream.write_all(b"\x82\x07\0\x01\0\0\x01t\x01").await.unwrap();
        stream.write_all(b"\x32\x0d\0\x01t\0\x02\0payload").await.unwrap();
        let mut heard = Vec::new();
        while !heard.windows(7).any(|at| at == b"payload") {
            assert_ne!(stream.read_buf(&mut heard).await.unwrap(), 0, "{heard:?}");
        }
        let selected = stream.ssl().selected_alpn_protocol();
        assert_eq!(selected, alpn.get(1..));
    }
}

#[tokio::test]
async fn sessions_are_resumed() {
    let bed = Bed::start().await;
    let client = client(&bed, SUITES[0]);
    let mut first = bed.connect(&client, None).await.unwrap();
    first.write_all(GET).await.unwrap();
    read_all(&mut first).await;
    let session = first.ssl().session().unwrap().to_owned();
    let mut second = bed.connect(&client, Some(&session)).await.unwrap();
    assert!(!first.ssl().session_reused() && second.ssl().session_reused());
    second.write_all(GET).await.unwrap();
    assert!(read_all(&mut second).await.contains(HELLO));
}

#[tokio::test]
async fn tls_has_the_same_port_and_its_own_certificate() {
    let bed = Bed::start().await;
    let mut context = SslContextBuilder::new(SslMethod::tls_client()).unwrap();
    context.set_ca_file(bed.folder.path().join("dev-ca.pem")).unwrap();
    context.set_verify(SslVerifyMode::PEER);
    let mut stream = bed.connect(&context.build(), None).await.unwrap();
    assert_eq!(stream.ssl().version_str(), "TLSv1.3");
    stream.write_all(GET).await.unwrap();
    assert!(read_all(&mut stream).await.contains(HELLO));
}

#[tokio::test]
async fn a_client_without_a_suite_in_common_is_refused() {
    let bed = Bed::start().await;
    // ECDHE needs a client certificate, which the gateway does not ask for.
    let error = bed.connect(&client(&bed, "ECDHE-SM2-SM4-GCM-SM3"), None).await.err().unwrap();
    assert!(error.contains("handshake failure"), "{error}");
}

#[tokio::test]
async fn a_listener_of_tlcp_alone_refuses_tls() {
    let bed = Bed::with("crypto = [\"tlcp\"]").await;
    let context = SslContextBuilder::new(SslMethod::tls_client()).unwrap().build();
    assert!(bed.connect(&context, None).await.is_err());
    let mut stream = bed.connect(&client(&bed, SUITES[0]), None).await.unwrap();
    stream.write_all(GET).await.unwrap();
    assert!(read_all(&mut stream).await.contains(HELLO));
}

#[test]
fn a_key_of_another_certificate_is_a_mistake_of_the_configuration() {
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path());
    fs::copy(folder.path().join("encrypt.key"), folder.path().join("sign.key")).unwrap();
    let text = configuration("127.0.0.1:1".parse().unwrap(), "crypto = [\"tlcp\"]");
    let mistakes = config::parse(&folder.path().join("towline.toml"), &text).unwrap_err().to_string();
    assert!(mistakes.contains("is not the key of the first certificate"), "{mistakes}");
}

struct Bed {
    serving: Serving,
    folder: TempDir,
    _demo: Demo,
}

impl Bed {
    async fn start() -> Self {
        let beside = "certificate = { chain = \"dev-cert.pem\", key = \"dev-key.pem\" }\n\
                      crypto = [\"international\", \"tlcp\"]";
        Self::with(beside).await
    }

    async fn with(beside: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        towline_gateway::cli::development_certificates(folder.path()).unwrap();
        certificates(folder.path());
        let demo = demo::start(([127, 0, 0, 1], 0).into()).await.unwrap();
        let text = configuration(demo.address, beside);
        let settings = config::parse(&folder.path().join("towline.toml"), &text)
            .unwrap_or_else(|mistakes| panic!("{mistakes}"));
        let serving = run::serve(Gateway::build(settings).unwrap()).await.unwrap();
        Self { serving, folder, _demo: demo }
    }

    async fn connect(
        &self,
        client: &SslContext,
        session: Option<&SslSession>,
    ) -> Result<SslStream<TcpStream>, String> {
        self.connect_with(client, session, b"").await
    }

    async fn connect_with(
        &self,
        client: &SslContext,
        session: Option<&SslSession>,
        alpn: &[u8],
    ) -> Result<SslStream<TcpStream>, String> {
        let tcp = TcpStream::connect(self.serving.address("edge").unwrap()).await.unwrap();
        let mut ssl = Ssl::new(client).unwrap();
        if !alpn.is_empty() {
            ssl.set_alpn_protos(alpn).unwrap();
        }
        if let Some(session) = session {
            #[allow(
                unsafe_code,
                reason = "the session is of the same context, which is all that Tongsuo asks"
            )]
            // SAFETY: `session` was made with a context equal to that of `ssl`.
            unsafe { ssl.set_session(session) }.unwrap();
        }
        let mut stream = SslStream::new(ssl, tcp).unwrap();
        Pin::new(&mut stream).connect().await.map_err(|error| error.to_string())?;
        Ok(stream)
    }
}

fn configuration(demo: SocketAddr, beside: &str) -> String {
    format!(
        r#"
[[listeners]]
name = "edge"
bind = "127.0.0.1:0"
authentication = "none"
tlcp_certificate = {{ sign_chain = "sign.pem", sign_key = "sign.key", encrypt_chain = "encrypt.pem", encrypt_key = "encrypt.key" }}
{beside}

[[backends]]
name = "demo"
kind = "http1"
address = "{demo}"

[[routes]]
name = "demo"
path = "/*"
backend = "demo"

[admin]
bind = "127.0.0.1:0"
"#
    )
}

fn client(bed: &Bed, suites: &str) -> SslContext {
    let mut context = SslContextBuilder::new(SslMethod::ntls_client()).unwrap();
    context.enable_ntls();
    context.set_cipher_list(suites).unwrap();
    context.set_options(SslOptions::DONT_INSERT_EMPTY_FRAGMENTS);
    context.set_ca_file(bed.folder.path().join("ca.pem")).unwrap();
    context.set_verify(SslVerifyMode::PEER);
    context.build()
}

async fn read_all(stream: &mut SslStream<TcpStream>) -> String {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.unwrap();
    String::from_utf8(bytes).unwrap()
}

/// A CA and what it signed: one leaf to sign with, one to encrypt with.
fn certificates(folder: &Path) {
    let leaf = "leaf --kind sm2 --ca ca.pem --ca-key ca.key --name localhost";
    for line in [
        "ca --kind sm2 --out ca",
        &format!("{leaf} --out sign"),
        &format!("{leaf} --tlcp-encrypt --out encrypt"),
    ] {
        let mut towline = Command::new(env!("CARGO_BIN_EXE_towline"));
        let made = towline.current_dir(folder).arg("cert").args(line.split(' ')).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }
}
