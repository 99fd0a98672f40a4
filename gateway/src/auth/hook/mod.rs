//! A backend that says who clients are and what they may do, by HTTP or gRPC (`proto/auth.proto`).
//!
//! ```text
//!  question --> kept answer? --> asked already? --> place (bounded) --> backend --> kept for a while
//!                   |yes              |wait with it     |no, or late        |no answer
//!                   v                 v                 v                   v
//!                answer            answer         nobody is admitted: "come back later"
//! ```
//!
//! Whoever asks may go away; the answer is kept for the next one.

mod answer;
mod cache;
#[cfg(test)]
pub mod parrot;
mod question;

use std::{
    borrow::Cow,
    fmt,
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use aws_lc_rs::{
    hmac,
    rand::{SecureRandom, SystemRandom},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header, uri::PathAndQuery};
use http_body_util::{BodyExt as _, Full};
use prometheus::{HistogramVec, IntCounterVec};
use tokio::{
    sync::{Semaphore, oneshot},
    time::timeout_at,
};
use towline_protocols::link::Priority;

use self::cache::{Awaited, Cache, Found, Place};
pub use self::{
    answer::{Allowed, Answer, Verdict},
    question::Question,
};
use crate::{
    auth::By,
    backend::{self, Backend},
    error::RpcError,
    metrics::Metrics,
    request::{Body, Origin, Request},
    router::Route,
    settings::{self, BackendKind},
    throttle::Throttle,
};

/// Names and claims of one client: more are no answer.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// One failure per period is logged; all are counted.
const FAILURE_LOG_PERIOD: Duration = Duration::from_secs(10);
/// What the backend's own name has in front of it in logs.
const ROUTE: &str = "auth.hook";
const GRPC_STATUS: &str = "grpc-status";
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// What a question came to.
pub(super) type Outcome = Result<Answer, Failure>;

/// Why there is no answer. It holds nothing of the question.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Failure(Cow<'static, str>);

impl Failure {
    fn of(what: &'static str) -> Self {
        Self(Cow::Borrowed(what))
    }
}

impl From<RpcError> for Failure {
    fn from(error: RpcError) -> Self {
        Self(Cow::Owned(error.message))
    }
}

/// The backend with what it said lately.
pub struct Hook {
    settings: settings::Hook,
    routes: Routes,
    /// Of this process's choice: what is in the cache means nothing to anybody else.
    key: hmac::Key,
    cache: Cache,
    places: Semaphore,
    meters: HookMeters,
    failures: Throttle,
}

/// Ways to the backend.
struct Routes {
    connect: Arc<Route>,
    access: Arc<Route>,
}

/// What hooks count.
#[derive(Clone)]
pub struct HookMeters {
    questions: IntCounterVec,
    seconds: HistogramVec,
    limit_hits: IntCounterVec,
}

impl HookMeters {
    /// Those of a gateway.
    pub fn of(metrics: &Metrics) -> Self {
        Self {
            questions: metrics.hook_questions.clone(),
            seconds: metrics.hook_seconds.clone(),
            limit_hits: metrics.limit_hits.clone(),
        }
    }
}

impl Hook {
    /// Makes no connection yet.
    ///
    /// # Errors
    /// Says what is wrong with the settings, or that the system has no random numbers.
    pub fn new(
        settings: &settings::Hook,
        backend: &Arc<Backend>,
        meters: HookMeters,
    ) -> Result<Self, String> {
        let kind = backend.settings().kind;
        let path = |method: &str, name: &str| {
            let path = match kind {
                BackendKind::Grpc => format!("/towline.auth.v1.Auth/{method}"),
                _ => format!("{}/{name}", settings.path.trim_end_matches('/')),
            };
            path.parse::<PathAndQuery>().map_err(|_| format!("auth.hook.path: \"{path}\" is no path"))
        };
        if kind == BackendKind::Mqtt {
            return Err(format!("auth.hook.backend: \"{}\" is an MQTT broker", settings.backend));
        }
        let route = |call| Arc::new(Route::of_gateway(ROUTE, backend, call, settings.deadline));
        let routes =
            Routes { connect: route(path("Connect", "connect")?), access: route(path("Access", "access")?) };
        let mut key = [0; 32];
        SystemRandom::new().fill(&mut key).map_err(|_| "the operating system gave no random bytes")?;
        let settings::Hook { questions_max, waiting_max, cache_entries_max, allowed_for, denied_for, .. } =
            *settings;
        Ok(Self {
            settings: settings.clone(),
            routes,
            key: hmac::Key::new(hmac::HMAC_SHA256, &key),
            cache: Cache::new(cache_entries_max, questions_max + waiting_max, allowed_for, denied_for),
            places: Semaphore::new(questions_max),
            meters,
            failures: Throttle::new(FAILURE_LOG_PERIOD),
        })
    }

    /// Whether it is the same for other settings, so that what it knows stays good.
    pub fn is_for(&self, settings: &settings::Hook, backend: &Arc<Backend>) -> bool {
        self.settings == *settings && Arc::ptr_eq(&self.routes.connect.backend, backend)
    }

    /// Whether the same backend is asked in the same words.
    pub fn asks_as(&self, other: &Self) -> bool {
        self.settings.backend == other.settings.backend && self.settings.path == other.settings.path
    }

    /// Whether it had its say when a client was admitted by `by`.
    pub fn had_say(&self, by: &By) -> bool {
        match by {
            By::Nothing | By::Token(_) => false,
            By::Hook(_) | By::PasswordFile => true,
            By::Certificate => self.settings.certificates,
        }
    }

    /// Whether it is asked about clients of listeners that go by certificates.
    pub fn judges_certificates(&self) -> bool {
        self.settings.certificates
    }

    /// From a question to its whole answer.
    pub fn deadline(&self) -> Duration {
        self.settings.deadline
    }

    /// Forgets what the backend said of a user, or of everybody, so that it is asked again. Says how many answers that were.
    pub fn forget(&self, user: Option<&str>) -> usize {
        self.cache.forget(user)
    }

    /// The answer, if there is one without asking.
    pub fn known(&self, question: &Question<'_>) -> Option<Answer> {
        let answer = self.cache.kept(&question.key(&self.key), now())?;
        self.count(question.name(), "hit");
        Some(answer)
    }

    /// The answer, from the cache or the backend.
    ///
    /// # Errors
    /// There is none; another attempt may do better.
    pub fn ask(
        self: &Arc<Self>,
        question: &Question<'_>,
    ) -> impl Future<Output = Result<Answer, Failure>> + Send + use<> {
        let begun = self.begin(question);
        async move {
            match begun {
                Begun::Over(outcome) => outcome,
                Begun::Awaited(awaited) => {
                    awaited.await.unwrap_or_else(|_| Err(Failure::of("the gateway is ending")))
                }
            }
        }
    }

    fn begin(self: &Arc<Self>, question: &Question<'_>) -> Begun {
        let key = question.key(&self.key);
        match self.cache.find(&key, question.user(), now()) {
            Found::Kept(answer) => {
                self.count(question.name(), "hit");
                Begun::Over(Ok(answer))
            }
            Found::Asked(awaited) => {
                self.count(question.name(), "shared");
                Begun::Awaited(awaited)
            }
            Found::Full => {
                self.count(question.name(), "failed");
                self.limit_hit("auth.hook.waiting_max");
                Begun::Over(Err(Failure::of("too many questions wait for an answer")))
            }
            Found::Nobody(place, sender, awaited) => {
                let asking = Asking::new(self, question);
                tokio::spawn(Arc::clone(self).pose(asking, place, sender));
                Begun::Awaited(awaited)
            }
        }
    }

    /// Asks, and tells everybody who waits.
    async fn pose(self: Arc<Self>, asking: Asking, place: Place, sender: oneshot::Sender<Outcome>) {
        let began = Instant::now();
        let deadline = tokio::time::Instant::now() + self.settings.deadline;
        let name = asking.name;
        let outcome = match timeout_at(deadline, self.call(asking, deadline)).await {
            Ok(outcome) => outcome,
            Err(_late) => Err(Failure::of("no answer within auth.hook.deadline")),
        };
        self.meters.seconds.with_label_values(&[name]).observe(began.elapsed().as_secs_f64());
        let word = match &outcome {
            Ok(answer) => answer.verdict.label(),
            Err(_) => "failed",
        };
        self.count(name, word);
        if let Err(error) = &outcome
            && let Some(held_back) = self.failures.pass(Instant::now())
        {
            let backend = &*self.settings.backend;
            tracing::warn!(backend, question = name, %error, held_back, "a hook gave no answer: clients are refused");
        }
        if self.cache.settle(place, outcome.as_ref().ok(), now()) {
            self.limit_hit("auth.hook.cache_entries_max");
        }
        // Whoever asked may be gone.
        _ = sender.send(outcome);
    }

    async fn call(&self, asking: Asking, deadline: tokio::time::Instant) -> Outcome {
        let _place = match self.places.try_acquire() {
            Ok(place) => place,
            Err(_full) => {
                self.limit_hit("auth.hook.questions_max");
                self.places.acquire().await.map_err(|_| Failure::of("the gateway is ending"))?
            }
        };
        let Asking { name, route, origin, body, .. } = asking;
        let is_grpc = route.backend.settings().kind == BackendKind::Grpc;
        let mut http = http::Request::new(Body::new(Full::new(body?).map_err(|never| match never {})));
        *http.method_mut() = Method::POST;
        *http.uri_mut() = route.call.clone().map(Into::into).unwrap_or_default();
        let headers = match is_grpc {
            true => backend::grpc_headers(),
            false => HeaderMap::from_iter([(header::CONTENT_TYPE, JSON), (header::ACCEPT, JSON)]),
        };
        let deadline = Some(deadline.into_std());
        let request = Request { origin, deadline, priority: Priority::default(), idempotent: true, http };
        let answer = route.backend.call_with(&route, Box::new(request), headers).await?;
        if !is_grpc {
            return json_answer(answer).await;
        }
        match name {
            "connect" => Answer::of_connect(grpc_reply(answer).await?),
            _ => Answer::of_access(grpc_reply(answer).await?),
        }
    }

    fn count(&self, question: &str, outcome: &str) {
        self.meters.questions.with_label_values(&[question, outcome]).inc();
    }

    fn limit_hit(&self, limit: &str) {
        self.meters.limit_hits.with_label_values(&[limit]).inc();
    }
}

/// A cache key and a backend are not for the log.
impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hook").field("settings", &self.settings).finish_non_exhaustive()
    }
}

enum Begun {
    Over(Outcome),
    Awaited(Awaited),
}

/// A question that is ready to be sent.
struct Asking {
    name: &'static str,
    route: Arc<Route>,
    origin: Arc<Origin>,
    /// Holds the password, and goes with the request.
    body: Result<Bytes, Failure>,
}

impl Asking {
    fn new(hook: &Hook, question: &Question<'_>) -> Self {
        let route = match question {
            Question::Connect(..) => &hook.routes.connect,
            Question::Access(..) => &hook.routes.access,
        };
        let body = match route.backend.settings().kind {
            BackendKind::Grpc => Ok(question.framed()),
            _ => question.json(),
        };
        let origin = Arc::new(question.origin().clone());
        Self { name: question.name(), route: Arc::clone(route), origin, body }
    }
}

impl Verdict {
    /// The value of metrics' `outcome` label.
    const fn label(&self) -> &'static str {
        match self {
            Self::Allow(_) => "allow",
            Self::Deny(..) => "deny",
            Self::NotMine => "not_mine",
        }
    }
}

async fn json_answer(answer: http::Response<Body>) -> Outcome {
    let (head, body) = answer.into_parts();
    if head.status != http::StatusCode::OK {
        return Err(Failure(Cow::Owned(format!("HTTP status {}", head.status.as_u16()))));
    }
    let body = http_body_util::Limited::new(body, ANSWER_BYTES_MAX).collect().await;
    let body = body.map_err(|_| Failure::of("an answer that is cut off or larger than 64 KiB"))?;
    Answer::parse(&body.to_bytes())
}

/// A status comes with a text, which may repeat what was asked: it goes nowhere.
async fn grpc_reply<M: prost::Message + Default>(answer: http::Response<Body>) -> Result<M, Failure> {
    let (head, body) = answer.into_parts();
    let body = http_body_util::Limited::new(body, ANSWER_BYTES_MAX).collect().await;
    let body = body.map_err(|_| Failure::of("an answer that is cut off or larger than 64 KiB"))?;
    let trailer = body.trailers().and_then(|trailers| trailers.get(GRPC_STATUS));
    let status = head.headers.get(GRPC_STATUS).or(trailer);
    let status: Option<u16> = status.and_then(|status| status.to_str().ok()?.parse().ok());
    match status {
        Some(0) => backend::unframed(&body.to_bytes()).ok_or(Failure::of("something else than one reply")),
        Some(status) => Err(Failure(Cow::Owned(format!("gRPC status {status}")))),
        None => Err(Failure::of("no grpc-status")),
    }
}

/// Moved by tests, as all that waits.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
