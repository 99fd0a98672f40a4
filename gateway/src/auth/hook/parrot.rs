//! A hook for tests that says the same to every question.

use std::sync::Arc;

use http_body_util::{BodyExt as _, Full};

use crate::{
    backend::{Answer, Answering, Service},
    request::Body,
    settings::{Backend, BackendKind},
};

struct Parrot(&'static str);

impl Answer for Parrot {
    fn answer(&self, _: http::Request<Body>) -> Answering {
        let body = Full::from(self.0).map_err(|never| match never {});
        Box::pin(async { Ok(http::Response::new(Body::new(body))) })
    }
}

/// The backend `accounts`, which answers with `json`.
pub fn parrot(json: &'static str) -> Backend {
    let service = Some(Service(Arc::new(Parrot(json))));
    Backend { service, ..Backend::new("accounts", BackendKind::Http1, "127.0.0.1:1") }
}
