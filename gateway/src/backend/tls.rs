//! TLS towards backends and upstream brokers.

use std::{
    fmt::Display,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    CertificateError, ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::settings::{Backend, BackendTls};

/// Shakes hands, for the protocol that ALPN calls `alpn`, if it has a name there. Files are read anew each time, so that a
/// renewed certificate is used.
///
/// # Errors
/// A text for clients: it names neither hosts nor files.
pub(crate) async fn connect(
    tcp: TcpStream,
    backend: &Backend,
    tls: &BackendTls,
    alpn: Option<&[u8]>,
) -> Result<TlsStream<TcpStream>, String> {
    let untold = |why: String| {
        tracing::debug!(backend = &*backend.name, "TLS: {why}");
        "TLS: the gateway has no use of its files or name".to_owned()
    };
    let name = server_name(backend, tls).map_err(untold)?;
    let files = tls.clone();
    // A file of all public authorities takes milliseconds to read.
    let config = tokio::task::spawn_blocking(move || config(&files)).await;
    let mut config = config.map_err(|_| "the gateway is ending")?.map_err(untold)?;
    config.alpn_protocols = alpn.into_iter().map(<[u8]>::to_vec).collect();
    let connector = TlsConnector::from(Arc::new(config));
    connector.connect(name, tcp).await.map_err(|error| format!("TLS: {}", reason(backend, &error)))
}

/// rustls says of a certificate for another name which it is, and which was wanted.
fn reason(backend: &Backend, error: &io::Error) -> String {
    use CertificateError::{NotValidForName, NotValidForNameContext};
    let of_tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match of_tls {
        Some(rustls::Error::InvalidCertificate(NotValidForName | NotValidForNameContext { .. })) => {
            tracing::debug!(backend = &*backend.name, "TLS: {error}");
            "its certificate is for another name".to_owned()
        }
        _ => error.to_string(),
    }
}

/// Whether everything is there that a connection will need.
///
/// # Errors
/// Names the file, or the name, and what is wrong with it.
pub fn check(backend: &Backend, tls: &BackendTls) -> Result<(), String> {
    server_name(backend, tls)?;
    config(tls).map(drop)
}

fn server_name(backend: &Backend, tls: &BackendTls) -> Result<ServerName<'static>, String> {
    let host = backend.address.rsplit_once(':').map_or(&*backend.address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let name = tls.server_name.as_deref().unwrap_or(host);
    ServerName::try_from(name.to_owned())
        .map_err(|_| format!("\"{name}\" is neither a host name nor an address; set server_name"))
}

fn config(tls: &BackendTls) -> Result<ClientConfig, String> {
    client_config(&tls.ca, tls.certificate.as_ref())
}

/// Trusts the authorities in `ca`, and shows a certificate of its own if it has one: chain and key.
pub(crate) fn client_config(
    ca: &Path,
    certificate: Option<&(PathBuf, PathBuf)>,
) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(ca)? {
        roots.add(certificate).map_err(|error| unusable(ca, &error))?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots);
    let Some((chain, key)) = certificate else { return Ok(builder.with_no_client_auth()) };
    let private_key = PrivateKeyDer::from_pem_file(key).map_err(|error| unusable(key, &error))?;
    builder.with_client_auth_cert(certificates(chain)?, private_key).map_err(|error| unusable(key, &error))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let certificates = read.map_err(|error| unusable(path, &error))?;
    if certificates.is_empty() {
        return Err(format!("{}: holds no certificate (PEM)", path.display()));
    }
    Ok(certificates)
}

fn unusable(path: &Path, error: &dyn Display) -> String {
    format!("{}: {error}", path.display())
}
