//! Authorities and chains that the unit tests share.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::{
    RootCertStore,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, UnixTime},
};

use crate::{International, Provider as _};

/// The tests' present, seconds since 1970.
pub(crate) const NOW: i64 = 1_800_000_000;

pub(crate) fn now() -> UnixTime {
    UnixTime::since_unix_epoch(std::time::Duration::from_secs(NOW as u64))
}

pub(crate) fn provider() -> Arc<CryptoProvider> {
    International::default().crypto()
}

/// A root.
pub(crate) struct Authority {
    pub(crate) certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        // Each has a name of its own, so that one is not taken for another with a wrong key.
        let name = rcgen::PublicKeyData::der_bytes(&key)[1..9].iter().map(|byte| format!("{byte:02x}"));
        params.distinguished_name.push(DnType::CommonName, name.collect::<String>());
        let certificate = params.self_signed(&key).unwrap().der().clone();
        Self { certificate, issuer: Issuer::new(params, key) }
    }

    pub(crate) fn store(&self) -> Arc<RootCertStore> {
        let mut store = RootCertStore::empty();
        store.add(self.certificate.clone()).unwrap();
        Arc::new(store)
    }
}

/// A server's chain for `edge.example`, which `change` may spoil.
pub(crate) fn chain(
    authority: &Authority,
    change: impl FnOnce(&mut CertificateParams),
) -> Vec<CertificateDer<'static>> {
    chain_of(authority, &KeyPair::generate().unwrap(), change)
}

pub(crate) fn chain_of(
    authority: &Authority,
    key: &KeyPair,
    change: impl FnOnce(&mut CertificateParams),
) -> Vec<CertificateDer<'static>> {
    let mut params = CertificateParams::new(vec!["edge.example".into()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, "edge.example");
    change(&mut params);
    vec![params.signed_by(key, &authority.issuer).unwrap().der().clone()]
}

pub(crate) fn rsa_key() -> KeyPair {
    KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap()
}
