//! Who a client is by its certificate.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use http::HeaderValue;
use rustls::pki_types::CertificateDer;
use towline_crypto::x509::{Certificate, SubjectName};

use super::Authority;

/// A client's certificate, which the handshake verified against the listener's `client_ca`, or that did so for
/// the session that goes on.
#[derive(Clone, Debug)]
pub struct PeerIdentity {
    /// The subject's common name.
    pub common_name: Option<Arc<str>>,
    /// DNS names, mail addresses and URIs of subjectAltName, in its order.
    pub names: Vec<Arc<str>>,
    /// SHA-256 of the certificate, DER.
    pub fingerprint_sha256: [u8; 32],
    /// The listener's authority that stands behind it.
    pub authority: Option<Authority>,
    /// `Client-Cert` as backends get it (RFC 9440), where the listener forwards it.
    pub(crate) client_cert: Option<HeaderValue>,
}

/// The client's certificate expired after the session that goes on had begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the client's certificate has expired since its session began")]
pub struct Expired;

impl PeerIdentity {
    /// Reads the first certificate of a chain that was verified against `authority`; `None` without one. `forward` keeps
    /// it for backends.
    ///
    /// # Errors
    /// [`Expired`]: a resumed handshake verifies no certificate, so its time is looked at here.
    pub fn of(
        chain: Option<&[CertificateDer<'_>]>,
        authority: Option<Authority>,
        forward: bool,
        now: SystemTime,
    ) -> Result<Option<Arc<Self>>, Expired> {
        let Some(leaf) = chain.and_then(<[_]>::first) else { return Ok(None) };
        // What rustls verified parses here too; if not, nobody is named by it.
        let Ok(certificate) = Certificate::parse(leaf) else { return Err(Expired) };
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() as i64;
        if now > certificate.validity().1 {
            return Err(Expired);
        }
        let names = certificate.names().filter_map(|name| match name {
            SubjectName::Dns(text) | SubjectName::Email(text) | SubjectName::Uri(text) => Some(text.into()),
            SubjectName::Ip(_) => None,
        });
        let mut fingerprint_sha256 = [0; 32];
        fingerprint_sha256.copy_from_slice(digest(&SHA256, leaf).as_ref());
        Ok(Some(Arc::new(Self {
            common_name: certificate.common_name().map(Into::into),
            names: names.collect(),
            fingerprint_sha256,
            authority,
            client_cert: forward.then(|| client_cert(leaf)).flatten(),
        })))
    }

    /// The name that stands for the client as a user: its common name, or else its first other name.
    pub fn user(&self) -> Option<&Arc<str>> {
        self.common_name.as_ref().filter(|name| !name.is_empty()).or(self.names.first())
    }

    /// Whether it bears a name: exactly, or one below `*.suffix`; `*` is every name, and having none.
    pub fn is_named(&self, pattern: &str) -> bool {
        let fits = |name: &str| match pattern.strip_prefix('*') {
            Some(suffix) => name.len() > suffix.len() && name.ends_with(suffix),
            None => name == pattern,
        };
        pattern == "*" || self.common_name.iter().chain(&self.names).any(|name| fits(name))
    }
}

/// A byte sequence of structured fields (RFC 9440, section 2.2).
fn client_cert(leaf: &CertificateDer<'_>) -> Option<HeaderValue> {
    HeaderValue::from_str(&format!(":{}:", BASE64.encode(leaf))).ok()
}
