//! Commands that ask a running gateway at its admin listener.

use std::fmt::Display;

use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;

use super::{Failure, runtime};

/// Answers are lists and numbers.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Where the gateway is asked.
#[derive(Debug, Args)]
pub(super) struct Admin {
    /// The admin listener.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7900")]
    admin: String,
}

impl Admin {
    #[cfg(test)]
    pub(super) fn at(admin: &str) -> Self {
        Self { admin: admin.to_owned() }
    }

    /// The text of the answer.
    pub(super) fn ask(&self, method: &str, path: &str, body: Bytes) -> Result<String, Failure> {
        runtime()?.block_on(self.exchange(method, path, body))
    }

    async fn exchange(&self, method: &str, path: &str, body: Bytes) -> Result<String, Failure> {
        let at = &self.admin;
        let tcp = tokio::net::TcpStream::connect(at).await.map_err(|error| other(at, &error))?;
        let connected = hyper::client::conn::http1::handshake(TokioIo::new(tcp)).await;
        let (mut sender, connection) = connected.map_err(|error| other(at, &error))?;
        tokio::spawn(connection);
        let request = http::Request::builder().method(method).uri(path).header(http::header::HOST, at);
        let request = request.body(Full::new(body)).map_err(|error| other(&path, &error))?;
        let answer = sender.send_request(request).await.map_err(|error| other(at, &error))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| other(at, &error))?.to_bytes();
        let text = String::from_utf8_lossy(&body).trim_end().to_owned();
        if status.is_success() { Ok(text) } else { Err(Failure::Other(format!("{at}: {text}"))) }
    }
}

pub(super) fn other(what: &dyn Display, error: &dyn Display) -> Failure {
    Failure::Other(format!("{what}: {error}"))
}
