//! A backend that says who clients are: over HTTP, by gRPC, or within the process, so that the clock can be moved.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::{net::SocketAddr, path::Path, pin::Pin, sync::Arc, time::Duration};

use axum::{
    body::Bytes,
    extract::State,
    http::{StatusCode, Uri},
    response::IntoResponse,
};
use http_body_util::{BodyExt as _, Full};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use parking_lot::Mutex;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::watch};
use tokio_rustls::TlsAcceptor;
use tonic::{Request, Response, Status};
use towline_gateway::{
    backend::{Answer, Answering, Service},
    proto::auth::{
        AccessReply, AccessRequest, Client, ConnectReply, ConnectRequest, Reason, Values, Verdict,
        auth_server::{Auth, AuthServer},
    },
    request::Body,
    settings::{Backend, BackendKind},
};

/// What it says to a question.
type Says = Box<dyn Fn(&Value) -> Value + Send>;

#[derive(Clone)]
pub struct Oracle(Arc<Inner>);

struct Inner {
    says: Mutex<Says>,
    /// Questions with their last part of the path as `question`, in their order.
    asked: watch::Sender<Vec<Value>>,
    is_open: watch::Sender<bool>,
    takes: Mutex<Duration>,
}

impl Oracle {
    pub fn new(says: impl Fn(&Value) -> Value + Send + 'static) -> Self {
        let (asked, is_open) = (watch::Sender::new(Vec::new()), watch::Sender::new(true));
        let takes = Mutex::new(Duration::ZERO);
        Self(Arc::new(Inner { says: Mutex::new(Box::new(says)), asked, is_open, takes }))
    }

    pub fn now_says(&self, says: impl Fn(&Value) -> Value + Send + 'static) {
        *self.0.says.lock() = Box::new(says);
    }

    /// Answers come so long after their questions, by a clock that the test moves.
    pub fn takes(&self, time: Duration) {
        *self.0.takes.lock() = time;
    }

    /// Holds answers back, or gives them.
    pub fn open(&self, is_open: bool) {
        self.0.is_open.send_replace(is_open);
    }

    pub fn asked(&self) -> Vec<Value> {
        self.0.asked.borrow().clone()
    }

    pub async fn is_asked(&self, times: usize) {
        self.0.asked.subscribe().wait_for(|asked| asked.len() >= times).await.unwrap();
    }

    async fn answer(&self, mut question: Value, name: &str) -> Value {
        question["question"] = name.into();
        self.0.asked.send_modify(|asked| asked.push(question.clone()));
        self.0.is_open.subscribe().wait_for(|open| *open).await.unwrap();
        let takes = *self.0.takes.lock();
        if !takes.is_zero() {
            tokio::time::sleep(takes).await;
        }
        (self.0.says.lock())(&question)
    }

    /// As a backend of a kind, on a socket.
    pub async fn serve(&self, kind: BackendKind) -> Backend {
        self.serve_with(kind, None).await
    }

    /// The same by TLS, with a certificate and the names of protocols for ALPN.
    pub async fn serve_by_tls(&self, kind: BackendKind, chain: &Path, key: &Path, alpn: &[&[u8]]) -> Backend {
        let chain = CertificateDer::pem_file_iter(chain).unwrap().map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_file(key).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider);
        let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let mut config = config.with_single_cert(chain, key).unwrap();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        self.serve_with(kind, Some(TlsAcceptor::from(Arc::new(config)))).await
    }

    async fn serve_with(&self, kind: BackendKind, tls: Option<TlsAcceptor>) -> Backend {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let backend = backend(kind, listener.local_addr().unwrap());
        let grpc = tonic::service::Routes::new(AuthServer::new(self.clone()));
        let plain = axum::Router::new().fallback(by_http).with_state(self.clone());
        let services = match kind {
            BackendKind::Grpc => grpc.into_axum_router(),
            _ => plain,
        };
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let service = TowerToHyperService::new(services.clone());
                let tls = tls.clone();
                tokio::spawn(async move {
                    let builder = auto::Builder::new(TokioExecutor::new());
                    let Some(tls) = tls else {
                        _ = builder.serve_connection(TokioIo::new(socket), service).await;
                        return;
                    };
                    // A client that does not trust it goes away here.
                    let Ok(socket) = tls.accept(socket).await else { return };
                    _ = builder.serve_connection(TokioIo::new(socket), service).await;
                });
            }
        });
        backend
    }

    /// As a backend within the process.
    pub fn within(&self) -> Backend {
        let service = Some(Service(Arc::new(self.clone())));
        Backend { service, ..backend(BackendKind::Http1, ([127, 0, 0, 1], 1).into()) }
    }
}

pub fn backend(kind: BackendKind, address: SocketAddr) -> Backend {
    Backend::new("accounts", kind, address.to_string())
}

/// An answer of `null` is none, and text is one that is no JSON.
fn shown(answer: &Value) -> (StatusCode, String) {
    match answer {
        Value::Null => (StatusCode::INTERNAL_SERVER_ERROR, String::new()),
        Value::String(text) => (StatusCode::OK, text.clone()),
        answer => (StatusCode::OK, answer.to_string()),
    }
}

async fn by_http(State(oracle): State<Oracle>, uri: Uri, body: Bytes) -> impl IntoResponse {
    let name = uri.path().strip_prefix("/hook/").unwrap();
    shown(&oracle.answer(serde_json::from_slice(&body).unwrap(), name).await)
}

impl Answer for Oracle {
    fn answer(&self, request: http::Request<Body>) -> Answering {
        let oracle = self.clone();
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await?.to_bytes();
            let name = head.uri.path().strip_prefix("/hook/").unwrap();
            let (status, text) = shown(&oracle.answer(serde_json::from_slice(&body).unwrap(), name).await);
            let body = Body::new(Full::new(text.into()).map_err(|never| match never {}));
            Ok(http::Response::builder().status(status).body(body).unwrap())
        }) as Pin<Box<_>>
    }
}

fn client(client: Option<Client>) -> Value {
    let client = client.unwrap();
    let mut shown = json!({
        "listener": client.listener, "protocol": client.protocol, "peer_address": client.peer_address,
        "encrypted": client.encrypted, "client_id": client.client_id,
    });
    client.user.into_iter().for_each(|user| shown["user"] = user.into());
    shown
}

fn verdict(answer: &Value) -> Result<i32, Status> {
    match answer["verdict"].as_str() {
        Some("allow") => Ok(Verdict::Allow.into()),
        Some("deny") => Ok(Verdict::Deny.into()),
        Some("not_mine") => Ok(Verdict::NotMine.into()),
        _ if answer.is_null() => Err(Status::unavailable("not now")),
        _ => Ok(Verdict::Unspecified.into()),
    }
}

fn keep(answer: &Value) -> Option<u32> {
    answer["keep_s"].as_u64().map(|seconds| seconds.try_into().unwrap())
}

#[tonic::async_trait]
impl Auth for Oracle {
    async fn connect(&self, request: Request<ConnectRequest>) -> Result<Response<ConnectReply>, Status> {
        let request = request.into_inner();
        let mut question = client(request.client);
        question["password"] = String::from_utf8(request.password.to_vec()).unwrap().into();
        let answer = Self::answer(self, question, "connect").await;
        let reason = match answer["reason"].as_str() {
            Some("banned") => Reason::Banned,
            Some("busy") => Reason::Busy,
            Some("client_id") => Reason::ClientId,
            Some("not_authorized") => Reason::NotAuthorized,
            _ => Reason::Unspecified,
        };
        let claims = answer["claims"].as_object().cloned().unwrap_or_default().into_iter();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Ok(Response::new(ConnectReply {
            verdict: verdict(&answer)?,
            user: answer["user"].as_str().map(str::to_owned),
            claims: claims.map(|(name, value)| (name, Values { values: vec![text(&value)] })).collect(),
            expires_at_s: answer["expires_at_s"].as_u64().unwrap_or_default(),
            keep_s: keep(&answer),
            reason: reason.into(),
            text: text(&answer["text"]),
        }))
    }

    async fn access(&self, request: Request<AccessRequest>) -> Result<Response<AccessReply>, Status> {
        let request = request.into_inner();
        let action = if request.action == 1 { "publish" } else { "subscribe" };
        let mut question = client(request.client);
        (question["action"], question["topic"]) = (action.into(), request.topic.into());
        let answer = Self::answer(self, question, "access").await;
        Ok(Response::new(AccessReply { verdict: verdict(&answer)?, keep_s: keep(&answer) }))
    }
}
