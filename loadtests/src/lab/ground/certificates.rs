//! Certificates of a laboratory.

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use crate::lab::model::NAMES;

/// PEM files.
#[derive(Clone, Debug)]
pub(in crate::lab) struct Certificates {
    /// Who signed the gateway's and the peer's.
    pub(in crate::lab) ca: PathBuf,
    pub(in crate::lab) chain: PathBuf,
    pub(in crate::lab) key: PathBuf,
    /// What a portal shows: signed by itself, for another name.
    pub(in crate::lab) portal_chain: PathBuf,
    pub(in crate::lab) portal_key: PathBuf,
}

/// Makes them in `folder`.
pub(in crate::lab) fn make(folder: &Path) -> Result<Certificates, String> {
    let failed = |error: rcgen::Error| format!("cannot make a certificate: {error}");
    let write = |name: &str, text: String| {
        let path = folder.join(name);
        std::fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok::<_, String>(path)
    };
    let ca_key = KeyPair::generate().map_err(failed)?;
    let mut ca = CertificateParams::new(Vec::new()).map_err(failed)?;
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    // Another name than the leaves' have: OpenSSL takes a certificate for self-signed that names itself.
    ca.distinguished_name.push(DnType::CommonName, "Towline laboratory");
    let ca_pem = ca.self_signed(&ca_key).map_err(failed)?.pem();
    let key = KeyPair::generate().map_err(failed)?;
    let names = NAMES.map(|(name, _)| name.to_owned()).to_vec();
    let chain =
        leaf(names).and_then(|leaf| leaf.signed_by(&key, &Issuer::new(ca, ca_key))).map_err(failed)?;
    let portal_key = KeyPair::generate().map_err(failed)?;
    let portal = leaf(vec!["login.portal.test".to_owned()]);
    let portal = portal.and_then(|leaf| leaf.self_signed(&portal_key)).map_err(failed)?;
    Ok(Certificates {
        ca: write("ca.pem", ca_pem)?,
        chain: write("chain.pem", chain.pem())?,
        key: write("key.pem", key.serialize_pem())?,
        portal_chain: write("portal-chain.pem", portal.pem())?,
        portal_key: write("portal-key.pem", portal_key.serialize_pem())?,
    })
}

fn leaf(names: Vec<String>) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(names)?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    Ok(params)
}
