//! Servers of this program's own that comparisons need: a backend, and libraries with nothing on top.

mod light;

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use bytes::Bytes;
use clap::{Args, ValueEnum};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use quinn::crypto::rustls::QuicServerConfig;
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

/// `stand`.
#[derive(Debug, Args)]
pub struct StandArgs {
    /// Which one
    #[arg(value_enum)]
    pub which: Which,
    /// Where it listens
    #[arg(long)]
    pub bind: SocketAddr,
    /// PEM file of its certificate
    #[arg(long)]
    pub chain: Option<PathBuf>,
    /// PEM file of its key
    #[arg(long)]
    pub key: Option<PathBuf>,
}

/// The stand-ins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Which {
    /// Answers every HTTP request: with its body, or with as many bytes as /bytes/N says
    Backend,
    /// Answers every request with the same 1 KB, and does nothing else
    Light,
    /// The same as a gRPC message
    LightGrpc,
    /// quinn; connections stay idle
    Quinn,
    /// tokio-rustls; what comes is read and forgotten
    TokioRustls,
}

/// Serves until it is killed.
pub fn run(args: &StandArgs) -> Result<(), String> {
    crate::machine::Limits::of_this_machine();
    match args.which {
        Which::Light => return light::run(args.bind, light::Says::Body),
        Which::LightGrpc => return light::run(args.bind, light::Says::Grpc),
        Which::Backend | Which::Quinn | Which::TokioRustls => {}
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.map_err(|error| error.to_string())?.block_on(async {
        match args.which {
            Which::Backend => backend(args.bind).await,
            Which::Quinn => quinn(args).await,
            Which::TokioRustls => tokio_rustls(args).await,
            Which::Light | Which::LightGrpc => Ok(()),
        }
    })
}

async fn backend(bind: SocketAddr) -> Result<(), String> {
    let serve = |socket| async {
        let server = auto::Builder::new(TokioExecutor::new());
        // A gateway that closes its connection is no failure.
        let _ = server.serve_connection(TokioIo::new(socket), service_fn(answer)).await;
    };
    accept(bind, serve).await
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let asked = request.uri().path().strip_prefix("/bytes/").and_then(|count| count.parse().ok());
    let body = request.into_body().collect().await?.to_bytes();
    let body = asked.map_or(body, |count: usize| Bytes::from(vec![b'x'; count]));
    Ok(Response::new(Full::new(body)))
}

async fn tokio_rustls(args: &StandArgs) -> Result<(), String> {
    let acceptor = TlsAcceptor::from(Arc::new(tls(args)?));
    accept(args.bind, move |socket| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(mut stream) = Box::pin(acceptor.accept(socket)).await else { return };
            let mut scrap = [0; 64];
            while matches!(stream.read(&mut scrap).await, Ok(1..)) {}
        }
    })
    .await
}

async fn quinn(args: &StandArgs) -> Result<(), String> {
    let crypto = QuicServerConfig::try_from(tls(args)?).map_err(|error| error.to_string())?;
    let config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    let endpoint = quinn::Endpoint::server(config, args.bind).map_err(|error| error.to_string())?;
    tokio::spawn(async move {
        while let Some(incoming) = endpoint.accept().await {
            tokio::spawn(async move {
                let Ok(connection) = incoming.await else { return };
                connection.closed().await;
            });
        }
    });
    // Whoever started this waits for a TCP port.
    accept(args.bind, |_| async {}).await
}

async fn accept<F>(bind: SocketAddr, serve: impl Fn(TcpStream) -> F) -> Result<(), String>
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind(bind).await.map_err(|error| format!("{bind}: {error}"))?;
    loop {
        let (socket, _) = listener.accept().await.map_err(|error| error.to_string())?;
        // A slower answer is all that a refusal costs.
        let _ = socket.set_nodelay(true);
        tokio::spawn(serve(socket));
    }
}

fn tls(args: &StandArgs) -> Result<ServerConfig, String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let (Some(chain), Some(key)) = (&args.chain, &args.key) else {
        return Err("give --chain and --key".into());
    };
    let chain = CertificateDer::pem_file_iter(chain).map_err(|error| error.to_string())?;
    let chain: Vec<_> = chain.collect::<Result<_, _>>().map_err(|error| error.to_string())?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(|error| error.to_string())?;
    let builder = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| error.to_string())?;
    builder.with_no_client_auth().with_single_cert(chain, key).map_err(|error| error.to_string())
}
