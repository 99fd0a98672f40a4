//! One connection to a backend: TCP, and TLS on it where the backend has that.

use std::{io, time::Duration};

use socket2::{SockRef, TcpKeepalive};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout_at},
};

use super::{tls, wire::Wire};
use crate::{
    error::{Execution, RpcError, RpcErrorKind},
    settings,
};

/// A backend whose host vanished is noticed after this, not after the kernel's 15 minutes.
const USER_TIMEOUT: Duration = Duration::from_secs(10);
/// The same while nothing is in flight.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// What callers are asked to wait when the backend cannot be reached.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Resolves and connects within the backend's connect timeout.
pub(crate) async fn dial(backend: &settings::Backend) -> Result<TcpStream, RpcError> {
    dial_until(backend, Instant::now() + backend.connect_timeout).await
}

async fn dial_until(backend: &settings::Backend, deadline: Instant) -> Result<TcpStream, RpcError> {
    let connect = TcpStream::connect(&*backend.address);
    let stream = match timeout_at(deadline, connect).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(unavailable(backend, &error)),
        Err(_elapsed) => return Err(unavailable(backend, &"connect timed out")),
    };
    tune(&stream).map_err(|error| unavailable(backend, &error))?;
    Ok(stream)
}

/// [`dial`], and TLS where the backend has it, for the protocol that ALPN calls `alpn`, both within the connect timeout.
pub(crate) async fn connect(backend: &settings::Backend, alpn: &[u8]) -> Result<Wire, RpcError> {
    let deadline = Instant::now() + backend.connect_timeout;
    let tcp = dial_until(backend, deadline).await?;
    let Some(tls) = &backend.tls else { return Ok(Wire::Plain(tcp)) };
    match timeout_at(deadline, tls::connect(tcp, backend, tls, Some(alpn))).await {
        Ok(Ok(stream)) => Ok(Wire::Tls(Box::new(stream))),
        Ok(Err(why)) => Err(unavailable(backend, &why)),
        Err(_elapsed) => Err(unavailable(backend, &"TLS handshake timed out")),
    }
}

/// The backend cannot be reached; nothing was sent. The text reaches clients, so it names the backend without where it
/// is.
pub(crate) fn unavailable(backend: &settings::Backend, why: &dyn std::fmt::Display) -> RpcError {
    let message = format!("backend {}: {why}", backend.name);
    let mut error = RpcError::new(RpcErrorKind::BackendUnavailable, Execution::NotRun, message);
    error.retry_after = Some(RETRY_AFTER);
    error
}

/// The backend may have seen the request, and there is no answer.
pub(crate) fn failed(backend: &settings::Backend, why: &dyn std::fmt::Display) -> RpcError {
    let message = format!("backend {}: {why}", backend.name);
    RpcError::new(RpcErrorKind::BackendFailed, Execution::MayHaveRun, message)
}

/// More callers wait for the backend than it can serve in time.
pub(crate) fn overloaded(backend: &settings::Backend) -> RpcError {
    let message = format!(
        "backend {}: all connections (connections_max = {}) are busy and too many requests wait",
        backend.name, backend.connections_max
    );
    let mut error = RpcError::new(RpcErrorKind::LimitExceeded, Execution::NotRun, message);
    error.retry_after = Some(RETRY_AFTER);
    error
}

fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use rustls::pki_types::{PrivateKeyDer, pem::PemObject as _};
    use tokio::net::TcpListener;

    use super::*;
    use crate::settings::{Backend, BackendKind, BackendTls};

    const NAME: &str = "accounts.internal.example";

    /// A backend that shows a certificate for [`NAME`], whatever it is asked for.
    async fn serve(folder: &Path) -> Backend {
        let made = rcgen::generate_simple_self_signed([NAME.to_owned()]).unwrap();
        let ca = folder.join("ca.pem");
        fs::write(&ca, made.cert.pem()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(made.signing_key.serialize_pem().as_bytes()).unwrap();
        let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move { acceptor.accept(tcp).await.map(drop) });
            }
        });
        let tls = Some(BackendTls { ca, server_name: Some(NAME.to_owned()), certificate: None });
        Backend { tls, ..Backend::new("b", BackendKind::Http1, address) }
    }

    #[tokio::test]
    async fn what_clients_are_told_of_a_failure_names_neither_hosts_nor_files() {
        let folder = tempfile::tempdir().unwrap();
        let backend = serve(folder.path()).await;
        assert!(connect(&backend, b"http/1.1").await.is_ok());
        let told = async |change: &dyn Fn(&mut Backend)| {
            let mut backend = backend.clone();
            change(&mut backend);
            let Err(error) = connect(&backend, b"http/1.1").await else { panic!("it is reached") };
            assert_eq!((error.kind, error.execution), (RpcErrorKind::BackendUnavailable, Execution::NotRun));
            let folder = folder.path().display().to_string();
            let places = ["127.0.0.1", "internal", "elsewhere", "nowhere", &folder];
            let said = places.iter().find(|place| error.message.contains(**place));
            assert_eq!(said, None, "{}", error.message);
            error.message
        };
        let tls =
            |backend: &mut Backend, change: &dyn Fn(&mut BackendTls)| change(backend.tls.as_mut().unwrap());
        let another =
            told(&|backend| tls(backend, &|tls| tls.server_name = Some("elsewhere".to_owned()))).await;
        assert_eq!(&*another, "backend b: TLS: its certificate is for another name");
        told(&|backend| tls(backend, &|tls| tls.server_name = None)).await;
        told(&|backend| tls(backend, &|tls| tls.server_name = Some("else where".to_owned()))).await;
        told(&|backend| tls(backend, &|tls| tls.ca = folder.path().join("nowhere.pem"))).await;
        told(&|backend| backend.address = "nowhere.invalid:1".to_owned()).await;
        told(&|backend| backend.address = "127.0.0.1:1".to_owned()).await;
    }
}
