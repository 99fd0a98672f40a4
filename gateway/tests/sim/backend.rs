//! The service behind the gateway: it answers by the number of the call, and counts.

use std::{
    sync::{Arc, atomic::AtomicBool, atomic::Ordering},
    time::Duration,
};

use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::stream;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use tokio::time::sleep;
use towline_client::{Execution, RpcError, RpcErrorKind};
use towline_gateway::{
    backend::{Answer, Answering},
    request::Body,
};

use crate::{determinism, model::Call, world::World};

/// What one life of the gateway reaches.
pub(crate) struct Backend {
    pub(crate) world: Arc<World>,
    /// Nothing comes from a gateway that is dead.
    pub(crate) alive: Arc<AtomicBool>,
}

/// The messages of call `id`'s answer. Their sizes are such that some fill windows.
pub(crate) fn answer_of(id: u64, streams: bool) -> Vec<Bytes> {
    let mut chance = fastrand::Rng::with_seed(id);
    let count = if streams { chance.usize(0..12) } else { 1 };
    let message = |n: usize| {
        let size = if chance.f32() < 0.9 { chance.usize(0..300) } else { chance.usize(300..60_000) };
        let mut bytes = BytesMut::with_capacity(size + 16);
        bytes.put_u64(id);
        bytes.put_u64(n as u64);
        // Half of it can be compressed.
        bytes.extend((0..size).map(|_| if id.is_multiple_of(2) { chance.u8(..) } else { n as u8 }));
        bytes.freeze()
    };
    (0..count).map(message).collect()
}

/// The request's message: it begins with the number.
pub(crate) fn question(id: u64, size: usize) -> Bytes {
    let mut bytes = BytesMut::with_capacity(size + 8);
    bytes.put_u64(id);
    bytes.put_bytes(id as u8, size);
    bytes.freeze()
}

impl Answer for Backend {
    fn answer(&self, request: Request<Body>) -> Answering {
        let visit = Visit { world: Arc::clone(&self.world), alive: Arc::clone(&self.alive) };
        Box::pin(visit.serve(request))
    }
}

/// One call of a gateway's.
#[derive(Clone)]
struct Visit {
    world: Arc<World>,
    alive: Arc<AtomicBool>,
}

impl Visit {
    async fn serve(self, request: Request<Body>) -> Result<Response<Body>, RpcError> {
        let mut path = request.uri().path().rsplit('/');
        let id = path.next().and_then(|id| id.parse().ok()).unwrap_or(0u64);
        let streams = path.next() == Some("stream");
        let faults = self.world.plan.backend_faults;
        self.pass("before it forwards").await;
        if self.world.draw() < faults {
            self.write_down(id, |call| call.backend_failed = true);
            return Err(RpcError::new(RpcErrorKind::BackendUnavailable, Execution::NotRun, "simulated"));
        }
        self.write_down(id, |call| call.seen += 1);
        let pause = self.world.draw_time(Duration::from_millis(200));
        sleep(pause).await;
        // What has not arrived whole is not done.
        let body = request.into_body().collect().await?.to_bytes();
        self.world.note(format!("backend runs {id} ({} bytes)", body.len()));
        self.write_down(id, |call| call.runs += 1);
        self.pass("while the backend works").await;
        if self.world.draw() < faults {
            self.write_down(id, |call| call.backend_failed = true);
            return Err(RpcError::new(RpcErrorKind::BackendFailed, Execution::MayHaveRun, "simulated"));
        }
        let thinks =
            if self.world.draw() < 0.8 { Duration::from_millis(300) } else { Duration::from_secs(10) };
        let thinks = self.world.draw_time(thinks);
        sleep(thinks).await;
        Ok(self.response(id, answer_of(id, streams)))
    }

    /// gRPC, its messages now and then late.
    fn response(self, id: u64, messages: Vec<Bytes>) -> Response<Body> {
        let mut left = messages.into_iter();
        let body = stream::unfold((self, Some(())), move |(visit, going)| {
            let next = left.next();
            async move {
                going?;
                visit.pass("while it is answered").await;
                if visit.world.draw() < 0.2 {
                    let late = visit.world.draw_time(Duration::from_secs(2));
                    sleep(late).await;
                }
                Some(match next {
                    Some(message) => (Ok(Frame::data(prefixed(&message))), (visit, Some(()))),
                    None => {
                        visit.write_down(id, |call| call.answered = Some(determinism::elapsed()));
                        let trailers = [("grpc-status".parse().ok()?, HeaderValue::from_static("0"))];
                        (Ok(Frame::trailers(HeaderMap::from_iter(trailers))), (visit, None))
                    }
                })
            }
        });
        let mut response = Response::new(StreamBody::new(body).boxed_unsync());
        let grpc = HeaderValue::from_static("application/grpc");
        response.headers_mut().insert(http::header::CONTENT_TYPE, grpc);
        response
    }

    /// A moment at which the gateway may die. Nothing comes from one that is dead, and nothing goes to it.
    async fn pass(&self, place: &str) {
        let is_alive = || self.alive.load(Ordering::SeqCst);
        if is_alive() && self.world.happens(self.world.plan.backend_deaths) {
            self.world.crash(place);
        }
        if !is_alive() {
            std::future::pending().await
        }
    }

    fn write_down(&self, id: u64, what: impl FnOnce(&mut Call)) {
        if let Some(call) = self.world.state().model.calls.get_mut(&id) {
            what(call);
        }
    }
}

fn prefixed(message: &Bytes) -> Bytes {
    let mut bytes = BytesMut::with_capacity(message.len() + 5);
    bytes.put_u8(0);
    bytes.put_u32(message.len() as u32);
    bytes.extend_from_slice(message);
    bytes.freeze()
}
