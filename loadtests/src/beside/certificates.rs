//! A CA of this run and the certificates that every server shows.

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, RsaKeySize,
};

use towline_crypto::shangmi::issue::{self, Sm2KeyPair};

/// PEM files of one certificate.
#[derive(Clone, Debug)]
pub(super) struct Files {
    /// The leaf alone: its issuer is the root.
    pub(super) chain: PathBuf,
    pub(super) key: PathBuf,
    /// Both in one file, as HAProxy reads them.
    pub(super) both: PathBuf,
}

/// The certificates of a run, all for `localhost`.
#[derive(Clone, Debug)]
pub(super) struct Certificates {
    pub(super) ca: PathBuf,
    pub(super) ecdsa: Files,
    pub(super) rsa: Files,
    /// Its own issuer: the root has a key of another kind.
    pub(super) sm2: Files,
}

/// Makes the certificates in `folder`.
pub(super) fn make(folder: &Path) -> Result<Certificates, String> {
    let failed = |error: rcgen::Error| format!("cannot make a certificate: {error}");
    let ca_key = KeyPair::generate().map_err(failed)?;
    let mut ca_params = CertificateParams::new(Vec::new()).map_err(failed)?;
    ca_params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca_params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let ca_pem = ca_params.self_signed(&ca_key).map_err(failed)?.pem();
    let issuer = Issuer::new(ca_params, ca_key);
    let leaf = |name: &str, key: KeyPair| {
        let chain = leaf_params().and_then(|leaf| leaf.signed_by(&key, &issuer)).map_err(failed)?.pem();
        write_leaf(folder, name, &chain, &key.serialize_pem())
    };
    Ok(Certificates {
        ca: write(folder, "ca.pem", &ca_pem)?,
        ecdsa: leaf("ecdsa", KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?)?,
        rsa: leaf("rsa", KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).map_err(failed)?)?,
        sm2: sm2_leaf(folder).map_err(failed)??,
    })
}

fn sm2_leaf(folder: &Path) -> Result<Result<Files, String>, rcgen::Error> {
    let key = Sm2KeyPair::generate()?;
    let chain = issue::to_pem(&issue::self_signed(&leaf_params()?, &key)?)?;
    Ok(write_leaf(folder, "sm2", &chain, &key.to_pem()?))
}

fn leaf_params() -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()])?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    Ok(params)
}

fn write_leaf(folder: &Path, name: &str, chain: &str, key: &str) -> Result<Files, String> {
    Ok(Files {
        chain: write(folder, &format!("{name}-chain.pem"), chain)?,
        key: write(folder, &format!("{name}-key.pem"), key)?,
        both: write(folder, &format!("{name}.pem"), &format!("{chain}{key}"))?,
    })
}

fn write(folder: &Path, name: &str, text: &str) -> Result<PathBuf, String> {
    let path = folder.join(name);
    std::fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(path)
}
