//! TLS and QUIC configurations: rustls with ring, TLS 1.3, the app's own roots, ALPN `towline/1`.

use std::{sync::Arc, time::Duration};

use rustls::{
    ClientConfig as TlsConfig, RootCertStore,
    client::Resumption,
    pki_types::{CertificateDer, pem::PemObject as _},
};

use crate::error::StartError;

/// The link protocol's name in ALPN.
pub(super) const ALPN: &[u8] = b"towline/1";

/// Tickets kept, in memory: rustls takes up to 8 of each host, so this is 16 hosts.
const TICKETS_MAX: usize = 128;

/// QUIC's own idle timeout: a bound for connections whose beats were lost. The beats of the policy keep
/// the NAT binding; this must be above the longest beat allowed.
const QUIC_IDLE_MAX: Duration = Duration::from_secs(3700);

/// Reads the roots; none at all is a mistake to tell at the start, not a reason to trust nobody later.
pub(super) fn tls_config(roots_pem: &[u8], early_data: bool) -> Result<Arc<TlsConfig>, StartError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(roots_pem) {
        let certificate = certificate.map_err(|error| StartError::Roots(format!("not PEM: {error:?}")))?;
        roots.add(certificate).map_err(|error| StartError::Roots(error.to_string()))?;
    }
    if roots.is_empty() {
        let text =
            "no certificate found: pass the PEM of the authority that signed the gateway's certificate";
        return Err(StartError::Roots(text.to_owned()));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = TlsConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| StartError::Roots(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.enable_early_data = early_data;
    config.resumption = Resumption::in_memory_sessions(TICKETS_MAX);
    Ok(Arc::new(config))
}

/// The same trust for QUIC.
pub(super) fn quic_config(
    tls: &Arc<TlsConfig>,
    stream_window: u32,
) -> Result<quinn::ClientConfig, StartError> {
    let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(Arc::clone(tls))
        .map_err(|error| StartError::Roots(error.to_string()))?;
    let mut transport = quinn::TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(0u8.into())
        .max_concurrent_uni_streams(0u8.into())
        .stream_receive_window(stream_window.into())
        .max_idle_timeout(quinn::IdleTimeout::try_from(QUIC_IDLE_MAX).ok());
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::new(transport));
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pem: &str, reason: &str) {
        let error = tls_config(pem.as_bytes(), true).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }

    #[test]
    fn roots_that_are_none_are_refused_at_the_start() {
        check("", "no certificate found");
        check("hello", "no certificate found");
        check("-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n", "not PEM");
        check("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "roots:");
    }
}
