//! A gateway's HTTP front on loopback between a client and a backend of the test's choice.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use towline_gateway::{
    gateway::Gateway,
    http as front,
    request::{Origin, Protocol},
    settings::{Backend, BackendKind, Listener, ListenerProtocol, Route, Settings},
};

/// The one listener's name.
pub const LISTENER: &str = "test";

/// A gateway that serves HTTP; it ends with the test's runtime.
pub struct Bed {
    pub gateway: Arc<Gateway>,
    pub address: SocketAddr,
}

/// What a client got.
#[derive(Debug)]
pub struct Got {
    pub status: u16,
    pub headers: http::HeaderMap,
    pub body: Bytes,
    pub trailers: http::HeaderMap,
}

impl Got {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("text"))
    }

    pub fn text(&self) -> &str {
        str::from_utf8(&self.body).expect("UTF-8")
    }
}

pub fn backend(name: &str, kind: BackendKind, address: SocketAddr) -> Backend {
    Backend {
        connect_timeout: Duration::from_secs(5),
        connections_max: 8,
        ..Backend::new(name, kind, address.to_string())
    }
}

pub fn route(path: &str, backend: &str) -> Route {
    Route { path: Some(path.to_owned()), ..Route::new(path, backend) }
}

pub fn topic_route(filter: &str, backend: &str, call: Option<&str>) -> Route {
    Route {
        path: None,
        topic: Some(filter.to_owned()),
        call: call.map(str::to_owned),
        ..route(filter, backend)
    }
}

pub fn listener() -> Listener {
    Listener {
        protocols: vec![ListenerProtocol::Http],
        connections_max: 100,
        ..Listener::plain(LISTENER, ([127, 0, 0, 1], 0).into())
    }
}

pub fn settings(backends: Vec<Backend>, routes: Vec<Route>) -> Settings {
    Settings { listeners: vec![listener()], backends, routes, ..Settings::default() }
}

pub fn origin() -> Origin {
    Origin::new(LISTENER.into(), ([192, 0, 2, 7], 5000).into(), Protocol::Http, false)
}

impl Bed {
    /// Serves every connection through the HTTP front.
    pub async fn start(settings: Settings) -> Self {
        let gateway = Gateway::build(settings).expect("settings in order");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let serving = gateway.clone();
        tokio::spawn(async move {
            while let Ok((socket, peer)) = listener.accept().await {
                let origin = Arc::new(Origin { peer, ..origin() });
                tokio::spawn(front::serve(serving.clone(), origin, socket));
            }
        });
        Self { gateway, address }
    }

    /// One HTTP/1.1 connection.
    pub async fn http1(&self) -> http1::SendRequest<Full<Bytes>> {
        let socket = TcpStream::connect(self.address).await.expect("listens");
        let (sender, driver) = http1::handshake(TokioIo::new(socket)).await.expect("HTTP/1.1");
        tokio::spawn(driver);
        sender
    }

    /// One HTTP/2 connection, with bodies of any kind.
    pub async fn http2<B>(&self) -> http2::SendRequest<B>
    where
        B: http_body::Body + Send + Unpin + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let socket = TcpStream::connect(self.address).await.expect("listens");
        let connected = http2::handshake(TokioExecutor::new(), TokioIo::new(socket)).await;
        let (sender, driver) = connected.expect("HTTP/2");
        tokio::spawn(driver);
        sender
    }

    /// One GET on a connection of its own.
    pub async fn get(&self, path: &str) -> Got {
        self.request(Request::get(path).body(Full::default()).expect("a request")).await
    }

    /// One POST on a connection of its own.
    pub async fn post(&self, path: &str, body: impl Into<Bytes>) -> Got {
        self.request(Request::post(path).body(Full::new(body.into())).expect("a request")).await
    }

    /// One request on an HTTP/1.1 connection of its own.
    pub async fn request(&self, mut request: Request<Full<Bytes>>) -> Got {
        if !request.headers().contains_key("host") {
            let host = "shop.example".parse().expect("a value");
            request.headers_mut().insert("host", host);
        }
        let mut sender = self.http1().await;
        got(sender.send_request(request).await.expect("an answer")).await
    }
}

/// A body of either kind, for connections that carry both.
pub type AnyBody = UnsyncBoxBody<Bytes, Infallible>;

/// A body that is fed piece by piece and ends when its sender is dropped.
pub fn fed() -> (mpsc::Sender<Bytes>, AnyBody) {
    let (sender, receiver) = mpsc::channel(1);
    let frames = stream::unfold(receiver, |mut receiver| async {
        let data = receiver.recv().await?;
        Some((Ok(Frame::data(data)), receiver))
    });
    (sender, AnyBody::new(StreamBody::new(frames)))
}

/// A body that is there at once.
pub fn whole(bytes: impl Into<Bytes>) -> AnyBody {
    AnyBody::new(Full::new(bytes.into()))
}

/// The whole answer.
pub async fn got(response: Response<hyper::body::Incoming>) -> Got {
    let (head, body) = response.into_parts();
    let collected = body.collect().await.expect("a whole body");
    let trailers = collected.trailers().cloned().unwrap_or_default();
    Got { status: head.status.as_u16(), headers: head.headers, body: collected.to_bytes(), trailers }
}
