//! The authorities that a listener takes clients' certificates from, and which of them stands behind a client: its
//! connection is to end when that one is taken out.

use std::sync::Arc;

use aws_lc_rs::digest::{self, SHA256};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, TrustAnchor, UnixTime},
    server::WebPkiClientVerifier,
};
use towline_crypto::{Provider, x509};

/// One authority, by its name and its key: it stays the same under a renewed certificate. Shared by all whom it stands
/// behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority(Arc<[u8; 32]>);

/// Those of one listener; none where it asks for no certificates.
pub(super) struct Authorities {
    pub(super) store: Arc<RootCertStore>,
    /// In the store's order.
    each: Vec<Authority>,
}

impl Authority {
    fn of(root: &TrustAnchor<'_>) -> Self {
        let mut hash = digest::Context::new(&SHA256);
        for part in [root.subject.as_ref(), root.subject_public_key_info.as_ref()] {
            hash.update(&(part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        let mut mark = [0; 32];
        mark.copy_from_slice(hash.finish().as_ref());
        Self(Arc::new(mark))
    }
}

impl Authorities {
    pub(super) fn new(store: RootCertStore) -> Self {
        let each = store.roots.iter().map(Authority::of).collect();
        Self { store: Arc::new(store), each }
    }

    /// Whether all of them are among `others`.
    pub(super) fn are_within(&self, others: &Self) -> bool {
        self.each.iter().all(|authority| others.has(authority))
    }

    pub(super) fn has(&self, authority: &Authority) -> bool {
        self.each.contains(authority)
    }

    /// Which of them stands behind a chain that a handshake has verified; `None` if it is none of them, since the
    /// handshake went by others. A name decides, unless several bear it: then the signatures do, which rustls has looked
    /// at, but does not tell of.
    pub(super) fn behind<'p>(
        &self,
        chain: &[CertificateDer<'_>],
        providers: impl Iterator<Item = &'p Arc<dyn Provider>> + Clone,
    ) -> Option<&Authority> {
        let parsed: Vec<_> = chain.iter().filter_map(|each| x509::Certificate::parse(each).ok()).collect();
        let has_signed = |root: &TrustAnchor<'_>| {
            parsed.iter().any(|certificate| content(certificate.issuer()) == Some(root.subject.as_ref()))
        };
        let named = || self.store.roots.iter().zip(&self.each).filter(|(root, _)| has_signed(root));
        match (named().next(), named().nth(1)) {
            (only, None) => only.map(|(_, authority)| authority),
            _ => {
                let mut named = named();
                named
                    .find(|(root, _)| verifies(root, chain, providers.clone()))
                    .map(|(_, authority)| authority)
            }
        }
    }
}

fn verifies<'p>(
    root: &TrustAnchor<'_>,
    chain: &[CertificateDer<'_>],
    mut providers: impl Iterator<Item = &'p Arc<dyn Provider>>,
) -> bool {
    let Some((leaf, between)) = chain.split_first() else { return false };
    let store = Arc::new(RootCertStore { roots: vec![root.to_owned()] });
    providers.any(|provider| {
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&store), provider.crypto()).build();
        verifier.is_ok_and(|verifier| verifier.verify_client_cert(leaf, between, UnixTime::now()).is_ok())
    })
}

/// What a SEQUENCE holds: trust anchors have their names without the header.
fn content(sequence: &[u8]) -> Option<&[u8]> {
    let header = match sequence.get(1)? {
        0..=0x7f => 2,
        0x81 => 3,
        0x82 => 4,
        _ => return None,
    };
    sequence.get(header..)
}
