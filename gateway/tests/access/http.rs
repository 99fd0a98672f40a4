//! HTTP clients, and a backend that says who they are.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use serde_json::{Value, json};
use towline_gateway::{
    auth,
    settings::{Authentication, BackendKind, Hook},
};

use crate::{
    bed::{self, Bed},
    oracle::Oracle,
};

fn request(password: &str) -> Request<Full<Bytes>> {
    let credential = BASE64.encode(format!("ada:{password}"));
    let request = Request::get("/nowhere").header("authorization", format!("Basic {credential}"));
    request.body(Full::default()).unwrap()
}

#[tokio::test]
async fn an_http_client_is_admitted_or_told_whether_to_come_again() {
    let oracle = Oracle::new(|question| match question["password"].as_str() {
        Some("right") => json!({ "verdict": "allow" }),
        Some("banned") => json!({ "verdict": "deny", "reason": "banned", "text": "you know why" }),
        Some("busy") => json!({ "verdict": "deny", "reason": "busy" }),
        Some("broken") => Value::Null,
        _ => json!({ "verdict": "deny" }),
    });
    let mut settings = bed::settings(vec![oracle.serve(BackendKind::Grpc).await], Vec::new());
    settings.listeners[0].authentication = Authentication::Password;
    settings.auth.hook = Some(Hook { deadline: Duration::from_secs(5), ..Hook::new("accounts") });
    let bed = Bed::start(settings).await;
    for (password, status, text) in [
        ("right", 404, "no route"),
        ("right", 404, "no route"),
        ("wrong", 401, "credentials"),
        ("banned", 403, "you know why"),
        ("busy", 503, "try again later"),
        ("broken", 503, "try again later"),
    ] {
        let got = bed.request(request(password)).await;
        assert!(
            got.status == status && got.text().contains(text),
            "{password}: {} {}",
            got.status,
            got.text()
        );
        let is_temporary = got.headers.contains_key("retry-after");
        assert_eq!(is_temporary, status == 503, "{password}");
    }
    let asked = oracle.asked();
    assert_eq!(asked.len(), 5, "the second was known");
    assert_eq!((&asked[0]["protocol"], &asked[0]["client_id"]), (&json!("http"), &json!("")));
}

#[tokio::test]
async fn a_hook_that_left_a_client_to_the_password_file_is_asked_again_on_its_connection() {
    let users = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(users.path(), auth::password_line("ada", b"local").unwrap()).unwrap();
    let oracle = Oracle::new(|_| json!({ "verdict": "not_mine" }));
    let mut settings = bed::settings(vec![oracle.serve(BackendKind::Http1).await], Vec::new());
    settings.listeners[0].authentication = Authentication::Password;
    settings.auth.password_file = Some(users.path().to_owned());
    let hook = Hook { path: "/hook".to_owned(), denied_for: Duration::ZERO, ..Hook::new("accounts") };
    settings.auth.hook = Some(hook);
    let bed = Bed::start(settings).await;
    let mut connection = bed.http1().await;
    let mut again = async || {
        let mut request = request("local");
        request.headers_mut().insert("host", "shop.example".parse().unwrap());
        bed::got(connection.send_request(request).await.unwrap()).await.status
    };
    assert_eq!((again().await, again().await), (404, 404));
    oracle.now_says(|_| Value::Null);
    assert_eq!((again().await, oracle.asked().len()), (503, 3), "who gives no answer is waited for once");
    oracle.now_says(|_| json!({ "verdict": "deny", "reason": "banned" }));
    assert_eq!(
        (again().await, oracle.asked().len()),
        (403, 5),
        "the last twice, since it is no longer left to others"
    );
    let logins = |outcome| bed.gateway.metrics.logins.with_label_values(&[bed::LISTENER, outcome]).get();
    let seen = (logins("ok"), logins("unavailable"), logins("refused"));
    assert_eq!(seen, (1, 1, 1), "the password was checked once");
}
