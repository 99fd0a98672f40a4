//! A backend that tests can see into: it counts what it runs, and holds answers until told.

use std::{
    collections::HashMap,
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Empty, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Body as _, Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
};

const STREAM_WINDOW: u32 = 64 << 10;

type Answer = UnsyncBoxBody<Bytes, Infallible>;

/// gRPC over h2c. Every path counts its executions. By the last part of the path:
///
/// - `Echo` answers the first message with itself, and the request's header `x-echo`;
/// - `Hold` does so once [`Backend::release`] was called;
/// - `Chat` answers each message as it comes;
/// - `Late` begins to read once [`Backend::release`] was called, and answers how many bytes came;
/// - `Flood` answers `x-count` messages of `x-bytes` bytes, [`partly_noise`] of `x-noise` (all);
/// - `Fail` answers status 5;
/// - `Stall` answers `half` at once, without a length, and `half` again once [`Backend::release`] was called.
///
/// The first `x-refusals` requests of a path are refused, as `x-refusal` says: by status 503 with that `retry-after`, or by
/// UNAVAILABLE with that `grpc-retry-pushback-ms`.
#[derive(Clone)]
pub struct Backend {
    address: SocketAddr,
    state: Arc<State>,
}

struct State {
    counts: watch::Sender<HashMap<String, Counts>>,
    released: watch::Sender<bool>,
    flooded: watch::Sender<usize>,
    last_headers: Mutex<HeaderMap>,
}

/// What happened to the requests of one path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub started: usize,
    pub finished: usize,
    pub cancelled: usize,
}

impl Backend {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            counts: watch::Sender::new(HashMap::new()),
            released: watch::Sender::new(false),
            flooded: watch::Sender::new(0),
            last_headers: Mutex::new(HeaderMap::new()),
        });
        let backend = Self { address, state };
        let serving = backend.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                let backend = serving.clone();
                let service = hyper::service::service_fn(move |request| {
                    let backend = backend.clone();
                    async move { Ok::<_, Infallible>(backend.answer(request)) }
                });
                let mut http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                // A request whose body is not read leaves the connection's window to its neighbours.
                http.initial_stream_window_size(STREAM_WINDOW)
                    .initial_connection_window_size(16 * STREAM_WINDOW);
                tokio::spawn(http.serve_connection(TokioIo::new(stream), service));
            }
        });
        backend
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Lets everything held go, until [`Backend::hold`].
    pub fn release(&self) {
        self.state.released.send_replace(true);
    }

    /// Holds again from now on.
    pub fn hold(&self) {
        self.state.released.send_replace(false);
    }

    pub fn counts(&self, method: &str) -> Counts {
        self.state.counts.borrow().get(method).copied().unwrap_or_default()
    }

    /// Waits until the counts of `method` are as wanted.
    pub async fn wait(&self, method: &str, wanted: impl Fn(Counts) -> bool) -> Counts {
        let mut counts = self.state.counts.subscribe();
        let seen = counts.wait_for(|counts| wanted(counts.get(method).copied().unwrap_or_default())).await;
        seen.unwrap().get(method).copied().unwrap_or_default()
    }

    /// Messages that `Flood` has handed to HTTP/2 so far.
    pub fn flooded(&self) -> usize {
        *self.state.flooded.borrow()
    }

    /// Header fields of the newest request.
    pub fn last_headers(&self) -> HeaderMap {
        self.state.last_headers.lock().unwrap().clone()
    }

    fn answer(&self, request: Request<Incoming>) -> Response<Answer> {
        let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
        *self.state.last_headers.lock().unwrap() = request.headers().clone();
        let number =
            |name: &str| request.headers().get(name).and_then(|v| v.to_str().ok()?.parse::<usize>().ok());
        let (count, size) = (number("x-count").unwrap_or(0), number("x-bytes").unwrap_or(0));
        let message = partly_noise(size, number("x-noise").unwrap_or(size));
        let echoed = request.headers().get("x-echo").cloned();
        let mut work = Work::begin(Arc::clone(&self.state), method.clone());
        if self.counts(&method).started <= number("x-refusals").unwrap_or(0) {
            work.finish();
            return refusal(request.headers()["x-refusal"].to_str().unwrap());
        }
        let is_page = method == "Stall";
        // One place: HTTP/2's flow control decides how far a flood gets ahead of its reader.
        let (out, mut frames) = mpsc::channel(1);
        let body = request.into_body();
        tokio::spawn(async move {
            tokio::select! {
                () = out.closed() => {}
                () = run(work, &method, body, &out, count, message) => {}
            }
        });
        let stream = futures_util::stream::poll_fn(move |cx| frames.poll_recv(cx));
        let mut response = Response::new(StreamBody::new(stream).boxed_unsync());
        let content_type = if is_page { "text/plain" } else { "application/grpc" };
        response.headers_mut().insert("content-type", content_type.parse().unwrap());
        if let Some(value) = echoed {
            response.headers_mut().insert("x-echo", value);
        }
        response
    }
}

/// `http 1` or `grpc 10`.
fn refusal(how: &str) -> Response<Answer> {
    let (by, wait) = how.split_once(' ').unwrap();
    let response = Response::builder();
    match by {
        "http" => {
            let page = Full::new(Bytes::from_static(b"busy")).boxed_unsync();
            let response = response.status(503).header("content-type", "text/plain");
            response.header("retry-after", wait).body(page).unwrap()
        }
        _ => {
            let response = response.header("content-type", "application/grpc").header("grpc-status", "14");
            response.header("grpc-retry-pushback-ms", wait).body(Empty::new().boxed_unsync()).unwrap()
        }
    }
}

type Frames = mpsc::Sender<Result<Frame<Bytes>, Infallible>>;

async fn run(mut work: Work, method: &str, mut body: Incoming, out: &Frames, count: usize, message: Vec<u8>) {
    match method {
        "Flood" => {
            let message = prefixed(&message);
            for _ in 0..count {
                let _ = out.send(Ok(Frame::data(message.clone()))).await;
                work.state.flooded.send_modify(|count| *count += 1);
            }
        }
        "Stall" => {
            let half = || Ok(Frame::data(Bytes::from_static(b"half")));
            let _ = out.send(half()).await;
            work.released().await;
            work.finish();
            let _ = out.send(half()).await;
            return;
        }
        "Chat" => {
            let Some(()) = chat(&mut body, out).await else { return };
        }
        "Late" => {
            work.released().await;
            let Some(whole) = whole(&mut body).await else { return };
            let _ = out.send(Ok(Frame::data(prefixed(whole.len().to_string().as_bytes())))).await;
        }
        _ => {
            let Some(whole) = whole(&mut body).await else { return };
            if method == "Hold" {
                work.released().await;
            }
            if method != "Fail" {
                let _ = out.send(Ok(Frame::data(whole))).await;
            }
        }
    }
    let status = if method == "Fail" { "5" } else { "0" };
    work.finish();
    let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), status.parse().unwrap())]);
    let _ = out.send(Ok(Frame::trailers(trailers))).await;
}

/// The whole body, or `None` when the caller broke off.
async fn whole(body: &mut Incoming) -> Option<Bytes> {
    let mut whole = Vec::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.ok()?.into_data() {
            whole.extend_from_slice(&data);
        }
    }
    body.is_end_stream().then(|| whole.into())
}

/// Sends back what comes, as it comes; `None` when the caller broke off.
async fn chat(body: &mut Incoming, out: &Frames) -> Option<()> {
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.ok()?.into_data() {
            let _ = out.send(Ok(Frame::data(data))).await;
        }
    }
    Some(())
}

/// Bytes that no compressor makes smaller, the same each time.
pub fn noise(size: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(7);
    std::iter::repeat_with(|| random.u8(..)).take(size).collect()
}

/// A message that begins with noise; the rest compresses to nothing.
pub fn partly_noise(size: usize, noise_bytes: usize) -> Vec<u8> {
    let mut message = noise(noise_bytes);
    message.resize(size, 0);
    message
}

/// One gRPC message with its five-byte prefix.
pub fn prefixed(message: &[u8]) -> Bytes {
    let mut out = vec![0];
    out.extend_from_slice(&(message.len() as u32).to_be_bytes());
    out.extend_from_slice(message);
    out.into()
}

/// Counts one execution; dropped before it finished, it was cancelled.
struct Work {
    state: Arc<State>,
    method: String,
    finished: bool,
}

impl Work {
    fn begin(state: Arc<State>, method: String) -> Self {
        let work = Self { state, method, finished: false };
        work.count(|counts| counts.started += 1);
        work
    }

    async fn released(&self) {
        let _ = self.state.released.subscribe().wait_for(|released| *released).await;
    }

    fn finish(&mut self) {
        self.finished = true;
        self.count(|counts| counts.finished += 1);
    }

    fn count(&self, change: impl FnOnce(&mut Counts)) {
        self.state.counts.send_modify(|counts| change(counts.entry(self.method.clone()).or_default()));
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if !self.finished {
            self.count(|counts| counts.cancelled += 1);
        }
    }
}
