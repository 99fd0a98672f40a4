//! The admin listener: metrics, health, status, and the push API that backends call.

mod auth;
mod dictionaries;
mod outbox;
mod policy;
mod status;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{Html, IntoResponse},
    routing::get,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{net::TcpListener, sync::Semaphore};
use tracing::debug;

use crate::{
    gateway::{Gateway, StartError},
    push,
};

/// Scrapers and backends are few; this keeps a runaway one from taking the gateway's files.
const CONNECTIONS_MAX: usize = 256;
/// How long connections are left in the kernel's backlog when one could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A bound admin listener, not yet served.
pub struct Admin {
    listener: TcpListener,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Admin {
    /// Binds the address of the settings.
    ///
    /// # Errors
    /// What the operating system said.
    pub async fn bind(address: SocketAddr) -> Result<Self, StartError> {
        let failed = |source| StartError::Bind {
            listener: "admin".into(),
            transport: "TCP",
            address,
            source,
            advice: "choose another admin.bind, or stop what listens there",
        };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, address })
    }

    /// Serves until the drain is over: whoever waits for the drain watches it here.
    pub fn serve(self, gateway: Arc<Gateway>) {
        tokio::spawn(accept(self.listener, gateway));
    }
}

async fn accept(listener: TcpListener, gateway: Arc<Gateway>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let service = TowerToHyperService::new(router(Arc::clone(&gateway)));
    let mut drain = gateway.drain.watch();
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let accepted = tokio::select! {
            () = drain.over() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((tcp, peer)) = accepted else {
            // Without a file left, the next try fails as fast.
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let (service, mut drain) = (service.clone(), drain.clone());
        tokio::spawn(async move {
            let server = auto::Builder::new(TokioExecutor::new());
            let served = tokio::select! {
                () = drain.over() => Ok(()),
                served = server.serve_connection(TokioIo::new(tcp), service) => served,
            };
            if let Err(error) = served {
                debug!(%peer, "admin connection: {error}");
            }
            drop(place);
        });
    }
}

fn router(gateway: Arc<Gateway>) -> Router {
    let push = push::router(Arc::clone(&gateway));
    Router::new()
        .route("/", get(status_page))
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/sessions", get(sessions))
        .merge(auth::router())
        .merge(dictionaries::router())
        .merge(outbox::router())
        .merge(policy::router())
        .with_state(gateway)
        .merge(push)
        .fallback(not_found)
}

/// gRPC clients read it as UNIMPLEMENTED.
async fn not_found() -> (StatusCode, &'static str) {
    (
        StatusCode::NOT_FOUND,
        "here are /, /metrics, /healthz, /readyz, /sessions, /auth/forget, /dictionaries, /outbox, /policy and the push API (gRPC)\n",
    )
}

async fn metrics(State(gateway): State<Arc<Gateway>>) -> impl IntoResponse {
    gateway.dictionaries.observe(&gateway.metrics);
    gateway.mqtt.observe(&gateway.metrics);
    ([(CONTENT_TYPE, "text/plain; version=0.0.4")], gateway.metrics.render())
}

/// The process is alive and answers.
async fn healthz() -> &'static str {
    "ok\n"
}

/// Whether a load balancer may send new clients here.
async fn readyz(State(gateway): State<Arc<Gateway>>) -> (StatusCode, &'static str) {
    if gateway.drain.is_draining() {
        (StatusCode::SERVICE_UNAVAILABLE, "draining\n")
    } else {
        (StatusCode::OK, "ready\n")
    }
}

async fn sessions(State(gateway): State<Arc<Gateway>>) -> Json<status::Counts> {
    Json(status::Counts::of(&gateway))
}

async fn status_page(State(gateway): State<Arc<Gateway>>) -> Html<String> {
    Html(status::page(&gateway))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::{
        hub::Message,
        settings::{Backend, BackendKind, Listener, Route, Settings},
    };

    async fn get(address: SocketAddr, path: &str) -> String {
        let mut tcp = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n");
        tcp.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        tcp.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn operators_see_metrics_health_and_status() {
        let mut settings = Settings::side_by_side();
        let folder = tempfile::tempdir().unwrap();
        settings.data_dir = folder.path().into();
        settings.listeners.push(Listener::plain("front", ([127, 0, 0, 1], 0).into()));
        settings.backends.push(Backend::new("b<1>", BackendKind::Http1, "127.0.0.1:1"));
        settings.routes.push(Route::new("all", "b<1>"));
        let gateway = Gateway::build(settings).unwrap();
        gateway.metrics.limit_hit("limits.streams_max");
        let retained = Message { topic: "t".into(), payload: "x".into(), retain: true, ..Message::default() };
        gateway.mqtt.retained.retain(&Arc::new(retained), std::time::Instant::now()).unwrap();
        let admin = Admin::bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let address = admin.address;
        admin.serve(Arc::clone(&gateway));

        let metrics = get(address, "/metrics").await;
        assert!(metrics.contains("towline_limit_hits_total{limit=\"limits.streams_max\"} 1"), "{metrics}");
        assert!(metrics.contains("\ntowline_mqtt_retained_messages 1\n"), "{metrics}");
        assert!(!metrics.contains("\ntowline_mqtt_retained_bytes 0\n"), "{metrics}");
        assert!(metrics.contains("\ntowline_mqtt_sessions 0\n"), "{metrics}");
        assert!(get(address, "/healthz").await.starts_with("HTTP/1.1 200"));
        assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        let counts = get(address, "/sessions").await;
        assert!(counts.contains("\"connections\":0") && counts.contains("\"draining\":false"), "{counts}");
        let page = get(address, "/").await;
        assert!(page.contains("<td>front") && page.contains("<td>everything"), "{page}");
        assert!(page.contains("b&lt;1&gt;") && !page.contains("b<1>"), "names are escaped: {page}");
        assert!(get(address, "/nowhere").await.starts_with("HTTP/1.1 404"));

        gateway.drain.begin(tokio::time::Instant::now() + Duration::from_secs(3600));
        assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 503"));
        assert!(get(address, "/healthz").await.starts_with("HTTP/1.1 200"), "alive while it drains");
    }
}
