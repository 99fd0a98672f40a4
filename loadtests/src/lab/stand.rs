//! Servers of this program's own: a backend that counts what it runs, and a captive portal.

use std::{
    collections::HashMap,
    io,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use clap::Args;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// `backend`.
#[derive(Debug, Args)]
pub struct BackendArgs {
    /// Where it listens
    #[arg(long)]
    pub bind: SocketAddr,
}

/// `portal`.
#[derive(Debug, Args)]
pub struct PortalArgs {
    /// Where it listens, on ports 80 and 443
    #[arg(long)]
    pub address: Ipv4Addr,
    /// PEM file of its certificate
    #[arg(long)]
    pub chain: PathBuf,
    /// PEM file of its key
    #[arg(long)]
    pub key: PathBuf,
}

/// Calls that are counted by name; further ones run uncounted, which a run of some thousands does not come near.
const CALLS_MAX: usize = 1 << 20;
/// Longest answer that can be asked for.
const ANSWER_BYTES_MAX: usize = 16 << 20;

type Runs = Arc<Mutex<HashMap<String, u64>>>;

/// `POST /call/NAME/BYTES` runs the call of that name and answers with so many bytes that do not compress;
/// `GET /runs` says how many ran, and which of them more than once.
pub(super) async fn backend(args: &BackendArgs) -> Result<(), String> {
    let runs = Runs::default();
    serve(args.bind, move |socket| {
        let runs = Arc::clone(&runs);
        async move {
            let answer = service_fn(move |request| backend_answer(Arc::clone(&runs), request));
            // A gateway that closes its connection is no failure.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(socket), answer).await;
        }
    })
    .await
    .map_err(|error| format!("{}: {error}", args.bind))
}

async fn backend_answer(
    runs: Runs,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let path = request.uri().path().to_owned();
    // The call runs when all of it is here.
    request.into_body().collect().await?;
    let mut parts = path.trim_start_matches('/').split('/');
    let answer = match (parts.next(), parts.next(), parts.next().and_then(|text| text.parse().ok())) {
        (Some("runs"), None, _) => Response::new(Full::from(count(&runs))),
        (Some("call"), Some(name), Some(bytes)) => {
            run(&runs, name);
            Response::new(Full::from(noise(name, bytes)))
        }
        _ => status(StatusCode::NOT_FOUND),
    };
    Ok(answer)
}

fn run(runs: &Runs, name: &str) {
    let mut runs = runs.lock().unwrap_or_else(PoisonError::into_inner);
    if runs.len() < CALLS_MAX || runs.contains_key(name) {
        *runs.entry(name.to_owned()).or_default() += 1;
    }
}

fn count(runs: &Runs) -> String {
    let runs = runs.lock().unwrap_or_else(PoisonError::into_inner);
    let calls: u64 = runs.values().sum();
    let mut twice: Vec<&String> =
        runs.iter().filter(|(_, count)| **count > 1).map(|(name, _)| name).collect();
    twice.sort();
    serde_json::json!({ "calls": calls, "twice": twice }).to_string()
}

/// Bytes that follow from the name.
fn noise(name: &str, bytes: usize) -> Vec<u8> {
    let seed = name.bytes().fold(17, |seed: u64, byte| seed.wrapping_mul(31).wrapping_add(byte.into()));
    let mut noise = vec![0; bytes.min(ANSWER_BYTES_MAX)];
    fastrand::Rng::with_seed(seed).fill(&mut noise);
    noise
}

fn status(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}

/// Answers everything with a page, under a certificate of another name, and plain HTTP with a redirect.
pub(super) async fn portal(args: &PortalArgs) -> Result<(), String> {
    let acceptor = TlsAcceptor::from(Arc::new(portal_tls(args)?));
    let secure = serve((args.address, 443).into(), move |socket| {
        let acceptor = acceptor.clone();
        async move {
            // Most clients refuse the certificate, which is what it is for.
            let Ok(stream) = Box::pin(acceptor.accept(socket)).await else { return };
            let page = service_fn(|_| async { Ok::<_, hyper::Error>(page()) });
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), page).await;
        }
    });
    let plain = serve((args.address, 80).into(), |socket| async {
        let redirect = service_fn(|_| async { Ok::<_, hyper::Error>(redirect()) });
        let _ = http1::Builder::new().serve_connection(TokioIo::new(socket), redirect).await;
    });
    let (secure, plain) = tokio::join!(secure, plain);
    secure.and(plain).map_err(|error| format!("portal at {}: {error}", args.address))
}

fn page() -> Response<Full<Bytes>> {
    Response::new(Full::from("log in here"))
}

fn redirect() -> Response<Full<Bytes>> {
    let mut response = status(StatusCode::FOUND);
    let target = header::HeaderValue::from_static("https://login.portal.test/");
    response.headers_mut().insert(header::LOCATION, target);
    response
}

async fn serve<F>(bind: SocketAddr, handle: impl Fn(TcpStream) -> F) -> io::Result<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind(bind).await?;
    loop {
        let (socket, _) = listener.accept().await?;
        // A slower answer is all that a refusal costs.
        let _ = socket.set_nodelay(true);
        tokio::spawn(handle(socket));
    }
}

fn portal_tls(args: &PortalArgs) -> Result<ServerConfig, String> {
    let chain = CertificateDer::pem_file_iter(&args.chain).map_err(|error| error.to_string())?;
    let chain: Vec<_> = chain.collect::<Result<_, _>>().map_err(|error| error.to_string())?;
    let key = PrivateKeyDer::from_pem_file(&args.key).map_err(|error| error.to_string())?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    builder.with_no_client_auth().with_single_cert(chain, key).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_twice_is_named() {
        let runs = Runs::default();
        for name in ["a", "b", "c", "b"] {
            run(&runs, name);
        }
        assert_eq!(count(&runs), r#"{"calls":4,"twice":["b"]}"#);
    }

    #[test]
    fn answers_differ_by_name_and_not_by_time() {
        assert_eq!(noise("a", 100), noise("a", 100));
        assert_ne!(noise("a", 100), noise("b", 100));
        assert_eq!(noise("a", 2048).len(), 2048);
    }
}
