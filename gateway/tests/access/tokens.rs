//! JSON web tokens in place of passwords.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64_URL};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use towline_gateway::{
    control::reload,
    gateway::Gateway,
    settings::{AclRule, Authentication, Jwks, Jwt, Permission, Settings},
    withdrawal,
};
use towline_protocols::mqtt::*;

use crate::mqtt_support::*;

const METHOD: &str = "OAUTH2-JWT";

struct Signer {
    key: Ed25519KeyPair,
    id: &'static str,
}

impl Signer {
    fn new(id: &'static str) -> Self {
        Self { key: Ed25519KeyPair::generate().unwrap(), id }
    }

    fn jwks(&self) -> String {
        let x = BASE64_URL.encode(self.key.public_key());
        json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": self.id, "x": x}]}).to_string()
    }

    /// A token of `user` that is good for so many seconds from now.
    fn token(&self, user: &str, seconds: u64, more: &Value) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let mut claims = json!({"sub": user, "exp": now + seconds});
        for (name, value) in more.as_object().unwrap() {
            claims[name] = value.clone();
        }
        let header = json!({"alg": "EdDSA", "kid": self.id}).to_string();
        let signed = format!("{}.{}", BASE64_URL.encode(header), BASE64_URL.encode(claims.to_string()));
        let signature = BASE64_URL.encode(self.key.sign(signed.as_bytes()));
        format!("{signed}.{signature}")
    }
}

fn gateway_with(jwt: Jwt) -> Arc<Gateway> {
    let mut settings = Settings::default();
    settings.listeners.push(listener(Authentication::Password));
    settings.auth.jwt = Some(Jwt { leeway: Duration::ZERO, ..jwt });
    let topics = vec!["rooms/${claim.room}/+".to_owned()];
    settings.acl.rules = vec![AclRule { topics, ..AclRule::new("rooms", Permission::Allow) }];
    gateway(settings)
}

/// A gateway that knows the signer's keys by a file.
fn with_file(signer: &Signer) -> (Arc<Gateway>, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("jwks.json");
    std::fs::write(&file, signer.jwks()).unwrap();
    (gateway_with(Jwt { jwks_file: Some(file), ..Jwt::default() }), folder)
}

fn connect_with(version: Version, token: &str) -> Connect {
    let mut connect = connect(version, "m1");
    connect.user_name = Some(text("ada"));
    connect.password = Some(Secret(Binary::new(token.to_owned()).unwrap()));
    connect
}

fn by_method(token: &str) -> Connect {
    let mut connect = connect(Version::V5, "m1");
    connect.properties.authentication_method = Some(text(METHOD));
    connect.properties.authentication_data = Some(Secret(Binary::new(token.to_owned()).unwrap()));
    connect
}

fn again(token: &str) -> Packet {
    let properties = AuthProperties {
        authentication_method: Some(text(METHOD)),
        authentication_data: Some(Secret(Binary::new(token.to_owned()).unwrap())),
        ..Default::default()
    };
    Packet::Auth(Auth { reason: ReasonCode::ReAuthenticate, properties })
}

#[tokio::test(start_paused = true)]
async fn a_token_is_a_password_and_its_claims_open_topics() {
    let signer = Signer::new("one");
    let (gateway, _folder) = with_file(&signer);
    let token = signer.token("ada", 3600, &json!({"room": "r7"}));
    for version in [Version::V311, Version::V5] {
        let (mut client, _) = Client::connect(&gateway, connect_with(version, &token)).await;
        assert_eq!(client.subscribe("rooms/r7/x", QoS::AtLeastOnce).await, ReasonCode::GrantedQos1);
        assert!(client.subscribe("rooms/r8/x", QoS::AtLeastOnce).await.is_error());
        client.leave().await;
    }
    let other = Signer::new("one").token("ada", 3600, &json!({}));
    let foreign = signer.token("bob", 3600, &json!({}));
    for refused in [other.as_str(), &foreign, "pw", ""] {
        let connack = Client::open(&gateway).greet(connect_with(Version::V5, refused)).await;
        assert_eq!(connack.reason, ReasonCode::BadUserNameOrPassword);
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_ends_with_its_token_unless_another_is_brought() {
    let signer = Signer::new("one");
    let (gateway, _folder) = with_file(&signer);
    let token = |user: &str, seconds| signer.token(user, seconds, &json!({}));
    let (mut client, _) = Client::connect(&gateway, connect_with(Version::V5, &token("ada", 600))).await;
    pass(Duration::from_secs(590)).await;
    client.expect_nothing().await;
    pass(Duration::from_secs(11)).await;
    client.expect_end(ReasonCode::MaximumConnectTime).await;

    let (mut client, connack) = Client::connect(&gateway, by_method(&token("ada", 600))).await;
    assert_eq!(connack.properties.authentication_method, Some(text(METHOD)));
    client.send(again(&token("ada", 1200))).await;
    assert!(matches!(client.receive().await, Some(Packet::Auth(auth)) if auth.reason == ReasonCode::Success));
    pass(Duration::from_secs(1100)).await;
    client.expect_nothing().await;
    // A token may also end sooner than the one before it.
    client.send(again(&token("ada", 60))).await;
    assert!(matches!(client.receive().await, Some(Packet::Auth(auth)) if auth.reason == ReasonCode::Success));
    pass(Duration::from_secs(61)).await;
    client.expect_end(ReasonCode::MaximumConnectTime).await;

    for bad in [token("bob", 600), Signer::new("one").token("ada", 600, &json!({})), String::new()] {
        let (mut client, _) = Client::connect(&gateway, by_method(&token("ada", 600))).await;
        client.send(again(&bad)).await;
        client.expect_end(ReasonCode::NotAuthorized).await;
    }
}

/// Serves what is in `body`, and counts how often.
async fn serve(body: Arc<Mutex<String>>, count: Arc<AtomicUsize>) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = [0; 1024];
            let _ = stream.read(&mut head).await;
            count.fetch_add(1, Ordering::Relaxed);
            let body = body.lock().clone();
            let length = body.len();
            let answer =
                format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    address
}

#[tokio::test]
async fn keys_at_a_url_are_fetched_when_a_token_names_a_new_one_but_not_each_time() {
    let (old, new) = (Signer::new("old"), Signer::new("new"));
    let (body, count) = (Arc::new(Mutex::new(old.jwks())), Arc::new(AtomicUsize::new(0)));
    let address = serve(body.clone(), count.clone()).await;
    let url = format!("http://{address}/jwks").parse().unwrap();
    let gateway = gateway_with(Jwt { jwks: Some(Jwks::new(url)), ..Jwt::default() });
    let greet = async |signer: &Signer| {
        let connect = connect_with(Version::V5, &signer.token("ada", 600, &json!({})));
        Client::open(&gateway).greet(connect).await.reason
    };
    assert_eq!(greet(&old).await, ReasonCode::Success, "the first one waits for the keys");
    *body.lock() = new.jwks();
    assert_eq!(greet(&new).await, ReasonCode::BadUserNameOrPassword, "it is too early to ask again");
    assert_eq!(count.load(Ordering::Relaxed), 1);
    assert_eq!(metric(&gateway, "towline_jwks_fetches_total{outcome=\"ok\"}"), 1.0);
}

#[tokio::test]
async fn a_rotated_key_is_found_and_without_keys_nobody_is_admitted() {
    let (old, new) = (Signer::new("old"), Signer::new("new"));
    let (body, count) = (Arc::new(Mutex::new(old.jwks())), Arc::new(AtomicUsize::new(0)));
    let address = serve(body.clone(), count.clone()).await;
    let url = format!("http://{address}/jwks").parse().unwrap();
    let jwks = Jwks { refetch_after: Duration::ZERO, ..Jwks::new(url) };
    let gateway = gateway_with(Jwt { jwks: Some(jwks), ..Jwt::default() });
    let greet = async |signer: &Signer| {
        let connect = connect_with(Version::V5, &signer.token("ada", 600, &json!({})));
        Client::open(&gateway).greet(connect).await.reason
    };
    *body.lock() = "{}".to_owned();
    assert_eq!(greet(&old).await, ReasonCode::BadUserNameOrPassword, "no keys");
    *body.lock() = old.jwks();
    // A failed fetch is repeated by itself.
    while greet(&old).await != ReasonCode::Success {}
    *body.lock() = new.jwks();
    while greet(&new).await != ReasonCode::Success {}
    assert_eq!(greet(&old).await, ReasonCode::BadUserNameOrPassword, "its key is withdrawn");
}

#[tokio::test]
async fn connections_end_with_the_key_of_their_token() {
    let (old, new) = (Signer::new("old"), Signer::new("new"));
    let come = async |gateway: &Arc<Gateway>, signer: &Signer| {
        let token = signer.token("ada", 600, &json!({}));
        Client::connect(gateway, connect_with(Version::V5, &token)).await.0
    };
    let (gateway, folder) = with_file(&old);
    let mut client = come(&gateway, &old).await;
    let settings = gateway.snapshot().settings.clone();
    reload::apply(&gateway, settings.clone()).unwrap();
    client.expect_nothing().await;
    std::fs::write(folder.path().join("jwks.json"), new.jwks()).unwrap();
    reload::apply(&gateway, settings.clone()).unwrap();
    client.expect_end(ReasonCode::AdministrativeAction).await;
    let mut client = come(&gateway, &new).await;
    let mut stricter = settings;
    stricter.auth.jwt.as_mut().unwrap().audience = vec!["edge".to_owned()];
    reload::apply(&gateway, stricter).unwrap();
    client.expect_end(ReasonCode::AdministrativeAction).await;

    let (body, count) = (Arc::new(Mutex::new(old.jwks())), Arc::new(AtomicUsize::new(0)));
    let address = serve(body.clone(), count.clone()).await;
    let url = format!("http://{address}/jwks").parse().unwrap();
    let jwks = Jwks { refetch_after: Duration::ZERO, ..Jwks::new(url) };
    let gateway = gateway_with(Jwt { jwks: Some(jwks), ..Jwt::default() });
    tokio::spawn(withdrawal::watch_keys(Arc::downgrade(&gateway)));
    let mut client = come(&gateway, &old).await;
    client.expect_nothing().await;
    *body.lock() = new.jwks();
    let mut other = connect_with(Version::V5, &new.token("ada", 600, &json!({})));
    other.client_id = text("m2");
    while Client::open(&gateway).greet(other.clone()).await.reason != ReasonCode::Success {}
    client.expect_end(ReasonCode::AdministrativeAction).await;
}

/// As [`serve`], by TLS.
async fn serve_by_tls(
    body: String,
    files: &towline_gateway::cli::DevelopmentCertificates,
    address: &str,
) -> u16 {
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
    let chain: Vec<_> = CertificateDer::pem_file_iter(&files.chain).unwrap().map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(&files.key).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.unwrap().with_no_client_auth().with_single_cert(chain, key).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind((address, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // A client that does not trust it goes away here.
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut input = Vec::new();
            while !input.ends_with(b"\r\n\r\n") && stream.read_buf(&mut input).await.is_ok_and(|n| n > 0) {}
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            _ = stream.write_all(answer.as_bytes()).await;
            _ = stream.shutdown().await;
        }
    });
    port
}

#[tokio::test]
async fn keys_are_fetched_by_tls_from_whom_the_authorities_vouch_for() {
    let signer = Signer::new("one");
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let files =
        folders.each_ref().map(|it| towline_gateway::cli::development_certificates(it.path()).unwrap());
    for (ca, address, host, expected) in [
        (&files[0].ca, "127.0.0.1", "localhost", ReasonCode::Success),
        (&files[1].ca, "127.0.0.1", "localhost", ReasonCode::BadUserNameOrPassword),
        // The certificate is not for that name.
        (&files[0].ca, "127.0.0.2", "127.0.0.2", ReasonCode::BadUserNameOrPassword),
    ] {
        let port = serve_by_tls(signer.jwks(), &files[0], address).await;
        let url = format!("https://{host}:{port}/jwks").parse().unwrap();
        let gateway = gateway_with(Jwt {
            jwks: Some(Jwks { ca: Some(ca.clone()), ..Jwks::new(url) }),
            ..Jwt::default()
        });
        let connect = connect_with(Version::V5, &signer.token("ada", 600, &json!({})));
        assert_eq!(Client::open(&gateway).greet(connect).await.reason, expected, "{host} {}", ca.display());
    }
}
