//! What the hook said of clients, by the admin listener.

use std::sync::Arc;

use axum::{
    Router,
    extract::{RawQuery, State},
    http::StatusCode,
    routing::post,
};

use crate::gateway::Gateway;

pub(super) fn router() -> Router<Arc<Gateway>> {
    Router::new().route("/auth/forget", post(forget))
}

/// Forgets the hook's answers about the user that the body names, or about everybody if it names none, and ends their
/// connections, unless the query is `keep-connections`.
async fn forget(
    State(gateway): State<Arc<Gateway>>,
    RawQuery(query): RawQuery,
    user: String,
) -> Result<String, (StatusCode, &'static str)> {
    let keeps = match query.as_deref().unwrap_or_default() {
        "" => false,
        "keep-connections" => true,
        _ => return Err((StatusCode::BAD_REQUEST, "the query may be \"keep-connections\"\n")),
    };
    let snapshot = gateway.snapshot.load_full();
    let hook = snapshot.hook.as_ref();
    let hook = hook.ok_or((StatusCode::NOT_FOUND, "there is no [auth.hook], and nothing to forget\n"))?;
    let user = Some(&*user).filter(|user| !user.is_empty());
    let count = hook.forget(user);
    let ended = if keeps { 0 } else { gateway.withdraw_forgotten(hook, user) };
    tracing::info!(?user, count, ended, "answers of the hook are forgotten");
    Ok(format!("{count} answers forgotten, {ended} connections ended\n"))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::{
        auth::{Credentials, hook::parrot::parrot},
        control::admin::Admin,
        request::{Origin, Protocol},
        settings::{Authentication, Hook, Listener, Settings},
    };

    async fn forget(gateway: &Arc<Gateway>, user: &str) -> String {
        let admin = Admin::bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let mut tcp = tokio::net::TcpStream::connect(admin.address).await.unwrap();
        admin.serve(Arc::clone(gateway));
        let head = "POST /auth/forget HTTP/1.1\r\nhost: h\r\nconnection: close";
        let request = format!("{head}\r\ncontent-length: {}\r\n\r\n{user}", user.len());
        tcp.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        tcp.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn operators_have_the_hook_asked_again() {
        let plain = Listener::plain("edge", ([127, 0, 0, 1], 0).into());
        let mut settings = Settings {
            listeners: vec![Listener { authentication: Authentication::Password, ..plain }],
            backends: vec![parrot("{\"verdict\":\"allow\"}")],
            ..Settings::default()
        };
        assert!(forget(&Gateway::build(settings.clone()).unwrap(), "").await.starts_with("HTTP/1.1 404"));
        settings.auth.hook = Some(Hook::new("accounts"));
        let gateway = Gateway::build(settings).unwrap();
        let origin = Origin::new("edge".into(), ([127, 0, 0, 1], 1).into(), Protocol::Mqtt, false);
        let asked = || gateway.metrics.hook_questions.with_label_values(&["connect", "allow"]).get();
        let come = async || {
            for user in ["ada", "bob", "ada", "bob"] {
                let credentials = Credentials { client_id: "c", user: Some(user), password: b"pw" };
                gateway.authenticate(&origin, credentials).await.unwrap();
            }
        };
        come().await;
        assert_eq!(asked(), 2);
        let answer = forget(&gateway, "ada").await;
        assert!(
            answer.starts_with("HTTP/1.1 200")
                && answer.ends_with("1 answers forgotten, 0 connections ended\n"),
            "{answer}"
        );
        come().await;
        assert_eq!(asked(), 3);
        assert!(forget(&gateway, "").await.ends_with("2 answers forgotten, 0 connections ended\n"));
        come().await;
        assert_eq!(asked(), 5);
    }
}
