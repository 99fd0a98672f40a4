//! The service behind the gateway: it answers by the number of the call, and counts.

use std::{
    sync::{Arc, atomic::AtomicBool, atomic::Ordering},
    time::Duration,
};

use futures_util::stream;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, Empty, StreamBody};
use tokio::time::sleep;
use towline_client::{Execution, RpcError, RpcErrorKind};
use towline_gateway::{
    backend::{Answer, Answering},
    request::Body,
};

use crate::{
    determinism,
    model::Call,
    questions::{answer_of, body_of, head_of, prefixed, refusal_headers, session_headers, wrong_in_request},
    world::World,
};

/// What one life of a gateway reaches.
#[derive(Clone)]
pub(crate) struct Backend {
    pub(crate) world: Arc<World>,
    /// Which gateway that is.
    pub(crate) gateway: usize,
    /// Nothing comes from a gateway that is dead.
    pub(crate) alive: Arc<AtomicBool>,
}

impl Answer for Backend {
    fn answer(&self, request: Request<Body>) -> Answering {
        Box::pin(self.clone().serve(request))
    }
}

impl Backend {
    async fn serve(self, request: Request<Body>) -> Result<Response<Body>, RpcError> {
        let id = request.uri().path().rsplit('/').next().and_then(|id| id.parse().ok()).unwrap_or(0u64);
        let faults = self.world.plan.backend_faults;
        self.pass("before it forwards").await;
        if self.world.draw() < faults {
            self.write_down(id, |call| call.backend_failed = true);
            return Err(RpcError::new(RpcErrorKind::BackendUnavailable, Execution::NotRun, "simulated"));
        }
        let versions = self.world.state().app_versions.iter().copied().max().unwrap_or(1);
        self.write_down(id, |call| {
            call.seen += 1;
            let wrong = wrong_in_request(id, &call.shared, request.headers());
            // A durable call goes with the headers of the app that goes on with it.
            let is_newer = |version| {
                let shared = session_headers(call.client, version);
                wrong_in_request(id, &shared, request.headers()).is_none()
            };
            let wrong = wrong.filter(|_| !call.kept || !(1..=versions).any(is_newer));
            call.wrong = call.wrong.take().or(wrong);
        });
        let pause = self.world.draw_time(Duration::from_millis(200));
        sleep(pause).await;
        // What has not arrived whole is not done.
        let body = request.into_body().collect().await?.to_bytes();
        self.world.note(format!("backend of {} runs {id} ({} bytes)", self.gateway, body.len()));
        let mut run = 0;
        self.write_down(id, |call| {
            call.runs += 1;
            run = call.runs.into();
            let is_whole = body == body_of(id, call.size);
            let wrong = || format!("the backend read another body, of {} bytes", body.len());
            call.wrong = call.wrong.take().or_else(|| (!is_whole).then(wrong));
        });
        self.pass("while the backend works").await;
        let luck = self.world.draw();
        if luck < faults {
            self.write_down(id, |call| {
                (call.backend_failed, call.runs_failed) = (true, call.runs_failed + 1)
            });
            return Err(RpcError::new(RpcErrorKind::BackendFailed, Execution::MayHaveRun, "simulated"));
        }
        if luck < 2.0 * faults {
            // Which counts as done: who may not have it done twice may not ask again.
            self.write_down(id, |call| {
                (call.refused, call.runs_failed) = (true, call.runs_failed + 1);
                call.answered = Some(determinism::elapsed());
            });
            return Ok(self.refusal(id));
        }
        let thinks =
            if self.world.draw() < 0.8 { Duration::from_millis(300) } else { Duration::from_secs(10) };
        let thinks = self.world.draw_time(thinks);
        sleep(thinks).await;
        Ok(self.response(id, run))
    }

    /// gRPC, its messages now and then late.
    fn response(self, id: u64, run: u64) -> Response<Body> {
        let mut left = answer_of(id, run).into_iter();
        let body = stream::unfold((self, Some(())), move |(backend, going)| {
            let next = left.next();
            async move {
                going?;
                backend.pass("while it is answered").await;
                if backend.world.draw() < 0.2 {
                    let late = backend.world.draw_time(Duration::from_secs(2));
                    sleep(late).await;
                }
                Some(match next {
                    Some(message) => (Ok(Frame::data(prefixed(&message))), (backend, Some(()))),
                    None => {
                        backend.write_down(id, |call| call.answered = Some(determinism::elapsed()));
                        let trailers = [("grpc-status".parse().ok()?, HeaderValue::from_static("0"))];
                        (Ok(Frame::trailers(HeaderMap::from_iter(trailers))), (backend, None))
                    }
                })
            }
        });
        let mut response = Response::new(StreamBody::new(body).boxed_unsync());
        *response.headers_mut() = head_of(id, run);
        response
    }

    /// gRPC's UNAVAILABLE, to come again in a moment.
    fn refusal(&self, id: u64) -> Response<Body> {
        let body = Empty::new().map_err(|never| match never {});
        let mut response = Response::new(body.boxed_unsync());
        *response.headers_mut() = refusal_headers(id);
        response
    }

    /// A moment at which the gateway may die. Nothing comes from one that is dead, and nothing goes to it.
    async fn pass(&self, place: &str) {
        let is_alive = || self.alive.load(Ordering::SeqCst);
        if is_alive() && self.world.happens(self.world.plan.backend_deaths) {
            self.world.crash(self.gateway, place);
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
