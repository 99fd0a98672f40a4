//! A backend that asks for later is asked again by the client: once for each try, and only where that does no harm.

use http::{HeaderName, HeaderValue};
use towline_client::{CallRequest, CallResponse, Client, ClientConfig, ShortCalls, Transports};

use crate::bed::{BOTH, Bed, call};

/// A call that is refused so many times.
fn refused(method: &str, times: usize, how: &'static str) -> CallRequest {
    call(method, "pay")
        .header(HeaderName::from_static("x-refusals"), HeaderValue::from(times))
        .header(HeaderName::from_static("x-refusal"), HeaderValue::from_static(how))
}

async fn outcome(config: ClientConfig, request: CallRequest) -> CallResponse {
    Client::start(config).unwrap().call(request).await.unwrap()
}

#[tokio::test]
async fn an_idempotent_call_reaches_the_backend_as_often_as_it_was_refused_and_once_more() {
    let bed = Bed::start().await;
    for transports in BOTH {
        for how in ["http 0", "http 1", "grpc 10"] {
            let method = format!("Echo-{transports:?}-{}", how.replace(' ', "-"));
            let response = outcome(bed.config(transports), refused(&method, 2, how).idempotent()).await;
            assert_eq!(response.timeline.attempts, 3, "{method}");
            assert_eq!(response.into_grpc().unwrap(), "pay", "{method}");
            let counts = bed.backend.counts(&method);
            assert_eq!((counts.started, counts.finished), (3, 3), "{method}");
        }
    }
}

#[tokio::test]
async fn a_call_by_post_is_asked_again_by_another_post() {
    let bed = Bed::start().await;
    let config = ClientConfig { short_calls: ShortCalls::Always, ..bed.config(Transports::Tcp) };
    let response = outcome(config, refused("Echo", 2, "http 0").idempotent()).await;
    assert_eq!(response.into_grpc().unwrap(), "pay");
    assert_eq!(bed.backend.counts("Echo").started, 3);
}

#[tokio::test]
async fn the_answer_is_the_apps_where_a_try_could_do_harm_or_the_backend_wants_none_or_all_are_used_up() {
    let bed = Bed::start().await;
    let check = async |name: &str, request: CallRequest, status: u16, started: usize| {
        let response = outcome(bed.config(Transports::Quic), request).await;
        assert_eq!((response.status, bed.backend.counts(name).started), (status, started), "{name}");
        response
    };
    let response = check("Unsafe", refused("Unsafe", 1, "http 0"), 503, 1).await;
    assert_eq!(response.body(), "busy");
    assert_eq!(response.headers["retry-after"], "0");
    check("Worn", refused("Worn", 9, "http 0").idempotent(), 503, 3).await;
    let response = check("Never", refused("Never", 1, "grpc -1").idempotent(), 200, 1).await;
    assert_eq!(response.grpc_status().unwrap().code, 14);
}

#[tokio::test]
async fn a_stream_that_was_refused_before_the_app_saw_anything_begins_again() {
    let bed = Bed::start().await;
    for transports in BOTH {
        let method = format!("Echo-{transports:?}");
        let client = bed.client(transports);
        let (mut sender, mut receiver) = client.stream(refused(&method, 1, "grpc 10").idempotent());
        sender.send("one").await.unwrap();
        sender.finish().await.unwrap();
        for message in ["pay", "one"] {
            assert_eq!(receiver.message().await.unwrap().unwrap(), message, "{transports:?}");
        }
        assert_eq!(receiver.message().await.unwrap(), None);
        assert_eq!(bed.backend.counts(&method).started, 2);
    }
}
