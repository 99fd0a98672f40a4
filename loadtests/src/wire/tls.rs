//! TLS 1.3 towards a server whose CA is known.

use std::{path::Path, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    client::Resumption,
    pki_types::{CertificateDer, pem::PemObject},
};
use towline_crypto::ServerVerifier;

use crate::plan::Protocol;

/// A configuration that trusts the CA certificates in `ca` alone and offers the ALPN name of `protocol`.
///
/// Sessions are not resumed: each connection is a client that the server has never seen.
pub fn config(ca: &Path, protocol: Protocol) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    // Who offers the link's name is shown delegated certificates (PROTOCOL.md, section 18).
    let verifier = ServerVerifier::new(Arc::new(roots(ca)?), Vec::new(), &[Arc::clone(&provider)])
        .map_err(|error| error.to_string())?;
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    config.alpn_protocols = alpn(protocol).iter().map(|name| name.to_vec()).collect();
    Ok(config)
}

fn roots(ca: &Path) -> Result<RootCertStore, String> {
    let shown = ca.display();
    let certificates = CertificateDer::pem_file_iter(ca).map_err(|error| format!("--ca {shown}: {error}"))?;
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        let certificate = certificate.map_err(|error| format!("--ca {shown}: {error}"))?;
        roots.add(certificate).map_err(|error| format!("--ca {shown}: {error}"))?;
    }
    if roots.is_empty() {
        return Err(format!(
            "--ca {shown}: holds no certificate; give a PEM file with BEGIN CERTIFICATE lines"
        ));
    }
    Ok(roots)
}

fn alpn(protocol: Protocol) -> &'static [&'static [u8]] {
    match protocol {
        Protocol::Link => &[b"towline/1"],
        Protocol::Http2 => &[b"h2"],
        Protocol::Http1 => &[b"http/1.1"],
        // Brokers do not agree on a name for MQTT, and servers without ALPN take none amiss.
        Protocol::Mqtt | Protocol::None => &[],
    }
}
