//! One GET of a key set.

use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Uri, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use crate::backend::client_config;

/// From the first packet to the last byte.
const FETCH_TIMEOUT: Duration = Duration::from_secs(10);
const ANSWER_BYTES_MAX: usize = 256 * 1024;

/// Reads what is at `url`; by TLS, the authorities in `ca` are trusted. Redirections are not followed.
///
/// # Errors
/// What went wrong.
pub async fn fetch(url: &Uri, ca: Option<&Path>) -> Result<Bytes, String> {
    match tokio::time::timeout(FETCH_TIMEOUT, fetch_slowly(url, ca)).await {
        Ok(fetched) => fetched,
        Err(_late) => Err(format!("no answer within {} s", FETCH_TIMEOUT.as_secs())),
    }
}

async fn fetch_slowly(url: &Uri, ca: Option<&Path>) -> Result<Bytes, String> {
    let authority = url.authority().ok_or("the URL names no host")?;
    let is_https = url.scheme_str() == Some("https");
    let port = authority.port_u16().unwrap_or(if is_https { 443 } else { 80 });
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let tcp = TcpStream::connect((host, port)).await.map_err(|error| error.to_string())?;
    if !is_https {
        return get(tcp, url).await;
    }
    let ca = ca.ok_or("by https, jwks_ca has to name the authorities that are trusted")?;
    let name = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
    let connector = TlsConnector::from(Arc::new(client_config(ca, None)?));
    let stream = connector.connect(name, tcp).await.map_err(|error| format!("TLS: {error}"))?;
    get(stream, url).await
}

async fn get(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    url: &Uri,
) -> Result<Bytes, String> {
    let text = |error: hyper::Error| error.to_string();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(text)?;
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    let host = url.authority().map(ToString::to_string).unwrap_or_default();
    let request = Request::get(path).header(header::HOST, host).header(header::ACCEPT, "application/json");
    let request = request.body(Empty::<Bytes>::new()).map_err(|error| error.to_string())?;
    let exchange = async move {
        let answer = sender.send_request(request).await.map_err(text)?;
        if answer.status() != http::StatusCode::OK {
            return Err(format!("HTTP status {}", answer.status().as_u16()));
        }
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
        body.map(|body| body.to_bytes()).map_err(|error| error.to_string())
    };
    // The connection carries the exchange and ends with it.
    tokio::pin!(exchange);
    tokio::select! {
        biased;
        fetched = &mut exchange => fetched,
        ended = connection => match ended {
            Ok(()) => exchange.await,
            Err(error) => Err(error.to_string()),
        },
    }
}
