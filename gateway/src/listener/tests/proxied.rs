//! A listener behind a load balancer: everything from the header on, over real sockets.

use std::sync::Mutex;

use http::{Request, Response};
use http_body_util::BodyExt as _;

use super::*;
use crate::{
    backend::{Answer, Answering, Service},
    request::Body,
};

/// A backend that notes the clients that it is told of.
#[derive(Default)]
struct Notes(Mutex<Vec<String>>);

impl Answer for Notes {
    fn answer(&self, request: Request<Body>) -> Answering {
        let client = request.headers().get("x-forwarded-for").map(|value| value.to_str().unwrap().to_owned());
        self.0.lock().unwrap().extend(client);
        Box::pin(async {
            Ok(Response::new(Body::new(http_body_util::Empty::new().map_err(|never| match never {}))))
        })
    }
}

/// Load balancers are at `trusted`.
async fn scene(trusted: &'static str) -> (Scene, Arc<Notes>) {
    let notes = Arc::<Notes>::default();
    let service = Service(Arc::clone(&notes) as Arc<dyn Answer>);
    let scene = Scene::start(move |settings| {
        for listener in &mut settings.listeners {
            listener.proxy_protocol = vec![trusted.parse().unwrap()];
        }
        let mut backend = Backend::new("b", BackendKind::Http1, "in.process:1");
        backend.service = Some(service);
        settings.backends.push(backend);
        settings.routes.push(Route::new("all", "b"));
    });
    (scene.await, notes)
}

const V1: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 51000 443\r\n";
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xcb\0\x71\x09\xc6\x33\x64\x01\xc7\x38\x01\xbb";
const V2_LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

#[tokio::test]
async fn backends_are_told_of_the_client_that_the_header_names() {
    let (scene, notes) = scene("127.0.0.0/8").await;
    for header in [V1, V2, V2_LOCAL] {
        let answer = exchange(scene.tcp("off").await, &[header, GET].concat()).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer:?}");
    }
    assert_eq!(*notes.0.lock().unwrap(), ["192.0.2.7", "203.0.113.9", "127.0.0.1"]);
}

#[tokio::test]
async fn tls_begins_behind_the_header() {
    let (scene, notes) = scene("127.0.0.1").await;
    let mut tcp = scene.tcp("required").await;
    tcp.write_all(V2).await.unwrap();
    let config = client_config(&scene.certificates.ca, &[b"http/1.1"]);
    let name = ServerName::try_from("localhost").unwrap();
    let stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap();
    let answer = exchange(stream, GET).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer:?}");
    assert_eq!(*notes.0.lock().unwrap(), ["203.0.113.9"]);
}

#[tokio::test]
async fn without_a_header_nobody_is_served() {
    let (scene, notes) = scene("127.0.0.1").await;
    assert_eq!(exchange(scene.tcp("off").await, GET).await, "");
    scene.refused("off", "proxy_header", 1).await;
    assert!(notes.0.lock().unwrap().is_empty());
}

#[tokio::test]
async fn who_is_not_trusted_is_not_heard() {
    let (scene, notes) = scene("10.0.0.0/8").await;
    assert_eq!(exchange(scene.tcp("off").await, &[V1, GET].concat()).await, "");
    scene.refused("off", "not_a_proxy", 1).await;
    assert!(notes.0.lock().unwrap().is_empty());
}
