//! Requests for a WebSocket, one header at a time.

use super::handshake::{Asked, asked, check};
use crate::settings::{Authentication, Listener};
use http::{HeaderName, Request, StatusCode, Version};

fn listener(authentication: Authentication, origins: Option<&[&str]>) -> Listener {
    Listener {
        authentication,
        websocket_origins: origins.map(|origins| origins.iter().map(|&origin| origin.into()).collect()),
        ..Listener::plain("a", ([127, 0, 0, 1], 0).into())
    }
}

/// The request of RFC 6455, section 1.3, for MQTT.
fn request() -> Request<()> {
    Request::get("/mqtt")
        .header("host", "server.example.com")
        .header("upgrade", "websocket")
        .header("connection", "keep-alive, Upgrade")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .header("sec-websocket-protocol", "chat, mqtt")
        .header("sec-websocket-version", "13")
        .body(())
        .unwrap()
}

fn with(name: &'static str, value: &'static str) -> Request<()> {
    let mut request = request();
    request.headers_mut().insert(HeaderName::from_static(name), value.parse().unwrap());
    request
}

#[track_caller]
fn check_refused(request: &Request<()>, status: StatusCode) {
    let refused = check(&listener(Authentication::Password, None), request, Asked::Upgrade, false);
    assert_eq!(refused.map(|answer| answer.status()).map_err(|refused| refused.status), Err(status));
}

#[test]
fn the_example_of_rfc_6455() {
    let request = request();
    assert_eq!(asked(&request), Some(Asked::Upgrade));
    let answer = check(&listener(Authentication::Password, None), &request, Asked::Upgrade, false).unwrap();
    assert_eq!(answer.status(), StatusCode::SWITCHING_PROTOCOLS);
    let header = |name: &str| answer.headers()[name].to_str().unwrap();
    assert_eq!(header("sec-websocket-accept"), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    assert_eq!(header("sec-websocket-protocol"), "mqtt");
    assert_eq!((header("upgrade"), header("connection")), ("websocket", "Upgrade"));
    assert!(!answer.headers().contains_key("sec-websocket-extensions"));
}

#[test]
fn what_is_missing_is_refused() {
    check_refused(&with("sec-websocket-version", "8"), StatusCode::UPGRADE_REQUIRED);
    check_refused(&with("sec-websocket-protocol", "chat, MQTT"), StatusCode::BAD_REQUEST);
    check_refused(&with("sec-websocket-key", "dGhlIHNhbXBsZQ=="), StatusCode::BAD_REQUEST);
    check_refused(&with("connection", "keep-alive"), StatusCode::BAD_REQUEST);
    let mut old = request();
    *old.version_mut() = Version::HTTP_10;
    check_refused(&old, StatusCode::BAD_REQUEST);
    let mut posted = request();
    *posted.method_mut() = http::Method::POST;
    check_refused(&posted, StatusCode::BAD_REQUEST);
    for name in ["sec-websocket-protocol", "sec-websocket-key", "host"] {
        let mut without = request();
        without.headers_mut().remove(name);
        check_refused(&without, StatusCode::BAD_REQUEST);
    }
}

#[test]
fn clients_of_mqtt_3_1_know_another_name() {
    let chosen = |offered| {
        let request = with("sec-websocket-protocol", offered);
        let answer =
            check(&listener(Authentication::Password, None), &request, Asked::Tunnel, false).unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        answer.headers()["sec-websocket-protocol"].to_str().unwrap().to_owned()
    };
    assert_eq!(chosen("mqttv3.1"), "mqttv3.1");
    assert_eq!(chosen("mqttv3.1, mqtt"), "mqtt");
}

#[test]
fn other_requests_are_not_for_this_room() {
    assert_eq!(asked(&with("upgrade", "h2c")), None);
    let mut plain = request();
    plain.headers_mut().remove("upgrade");
    assert_eq!(asked(&plain), None);
    *plain.version_mut() = Version::HTTP_2;
    *plain.method_mut() = http::Method::CONNECT;
    assert_eq!(asked(&plain), None);
    plain.extensions_mut().insert(hyper::ext::Protocol::from_static("websocket"));
    assert_eq!(asked(&plain), Some(Asked::Tunnel));
}

/// Pages of any origin where they bring a password of their own; of none where the browser would bring what opens.
#[test]
fn what_a_page_may_do_depends_on_who_brings_the_credential() {
    let page = with("origin", "https://app.example.com");
    let admits = |authentication, origins: Option<&[&str]>| {
        check(&listener(authentication, origins), &page, Asked::Upgrade, false).is_ok()
    };
    assert!(admits(Authentication::Password, None));
    assert!(!admits(Authentication::None, None));
    assert!(!admits(Authentication::Certificate, None));
    for authentication in [Authentication::Password, Authentication::None, Authentication::Certificate] {
        assert!(admits(authentication, Some(&["https://other.example.com", "https://app.example.com"])));
        assert!(admits(authentication, Some(&["*"])));
        assert!(!admits(authentication, Some(&["https://app.example.com:8443"])));
        assert!(!admits(authentication, Some(&[])));
        assert!(
            check(&listener(authentication, None), &request(), Asked::Upgrade, false).is_ok(),
            "no browser"
        );
    }
}

/// Python's paho names the server as its origin.
#[test]
fn the_servers_own_origin_is_admitted_where_nobody_can_pretend_to_it() {
    let admits = |origin: &str, host: &str, encrypted| {
        let mut request = request();
        request.headers_mut().insert("origin", origin.parse().unwrap());
        request.headers_mut().insert("host", host.parse().unwrap());
        check(&listener(Authentication::None, None), &request, Asked::Upgrade, encrypted).is_ok()
    };
    for host in ["localhost:1883", "127.0.0.1:1883", "[::1]:1883", "broker:1883"] {
        assert!(admits(&format!("http://{host}"), host, false), "{host}");
        assert!(!admits("http://elsewhere:1883", host, false), "{host}");
    }
    assert!(!admits("http://rebound.example.com:1883", "rebound.example.com:1883", false));
    assert!(admits("https://mqtt.example.com", "mqtt.example.com", true));
    assert!(!admits("null", "localhost", false));
}
