//! What a client says of its body's length. A backend on HTTP/1.1 that believed a wrong one would take what follows on
//! its connection, other clients' requests, for a body.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use http::{HeaderValue, Method, header::CONTENT_LENGTH};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};
use towline_client::{CallRequest, Client, Execution, Transports};
use towline_gateway::settings::{Backend, BackendKind, Route};

use crate::bed::{BOTH, Bed};

type Seen = Arc<Mutex<String>>;

/// A backend that answers each head without a look at the body; all that it reads.
async fn backend() -> (SocketAddr, Seen) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, seen) = (listener.local_addr().unwrap(), Seen::default());
    let kept = Arc::clone(&seen);
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let seen = Arc::clone(&kept);
            tokio::spawn(async move {
                let mut read = [0; 4096];
                while let Ok(count @ 1..) = socket.read(&mut read).await {
                    let text = String::from_utf8_lossy(&read[..count]).into_owned();
                    let heads = text.matches("\r\n\r\n").count();
                    seen.lock().unwrap().push_str(&text);
                    let answers = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".repeat(heads);
                    socket.write_all(answers.as_bytes()).await.unwrap();
                }
            });
        }
    });
    (address, seen)
}

async fn bed(address: SocketAddr) -> Bed {
    Bed::with(|settings| {
        settings.backends.push(Backend::new("old", BackendKind::Http1, address.to_string()));
        settings.routes.push(Route { path: Some("/old/*".into()), ..Route::new("old", "old") });
    })
    .await
}

fn declared(method: Method, body: &'static str, length: &'static str) -> CallRequest {
    CallRequest::http(method, "/old/x", body).header(CONTENT_LENGTH, HeaderValue::from_static(length))
}

/// Says what was refused, and that nothing of it reached the backend.
async fn check_refused(client: &Client, seen: &Seen, request: CallRequest) {
    let text = format!("{} {:?}", request.method, request.headers);
    let outcome = client.call(request).await.map(|response| response.status);
    assert_eq!(*seen.lock().unwrap(), "", "{text}");
    let error = outcome.unwrap_err();
    assert_eq!(error.execution, Execution::NotRun, "{text}: {error}");
    assert!(error.message.contains("content-length"), "{text}: {error}");
}

#[tokio::test]
async fn a_length_that_the_body_does_not_have_reaches_no_backend() {
    let (address, seen) = backend().await;
    let bed = bed(address).await;
    for transport in BOTH {
        let client = bed.client(transport);
        check_refused(&client, &seen, declared(Method::GET, "", "50")).await;
        check_refused(&client, &seen, declared(Method::DELETE, "", "50")).await;
        check_refused(&client, &seen, declared(Method::POST, "four", "5")).await;
        check_refused(&client, &seen, declared(Method::POST, "four", "3")).await;
        check_refused(&client, &seen, declared(Method::POST, "four", "+4")).await;
        let twice = declared(Method::POST, "four", "4").header(CONTENT_LENGTH, HeaderValue::from_static("4"));
        check_refused(&client, &seen, twice).await;
    }
    let client = bed.client(Transports::Tcp);
    assert_eq!(client.call(declared(Method::POST, "four", "4")).await.unwrap().status, 200);
    let seen = seen.lock().unwrap();
    assert_eq!(seen.matches("content-length: 4\r\n").count(), 1, "{seen}");
    assert!(seen.ends_with("\r\n\r\nfour"), "{seen}");
}
