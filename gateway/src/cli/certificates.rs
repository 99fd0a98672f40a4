//! Certificates that `towline dev` and `towline cert` make.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose};
use rustls::pki_types::CertificateDer;
use towline_crypto::{
    shangmi::issue::{self, Sm2KeyPair},
    x509::{self, KeyKind},
};
use zeroize::Zeroizing;

use super::{Failure, cert::authority_params};
use crate::transport::tls;

/// Apple's clients refuse leaves that live longer than 825 days.
const LEAF_LIFE: Duration = Duration::from_secs(820 * 86_400);
const CA_LIFE: Duration = Duration::from_secs(3650 * 86_400);
/// Clocks of two machines differ.
const BACKDATE: Duration = Duration::from_secs(86_400);

/// Where the certificates of `towline dev` are.
#[derive(Clone, Debug)]
pub struct DevelopmentCertificates {
    /// What clients trust.
    pub ca: PathBuf,
    /// The gateway's chain.
    pub chain: PathBuf,
    /// The gateway's key.
    pub key: PathBuf,
    /// The same three for ShangMi: CA, chain, key.
    pub sm2: [PathBuf; 3],
}

/// The certificates of `folder`, made there if they are missing.
pub(super) fn ensure(folder: &Path) -> Result<DevelopmentCertificates, Failure> {
    let international = ["dev-ca.pem", "dev-cert.pem", "dev-key.pem"].map(|name| folder.join(name));
    let sm2 = ["dev-sm2-ca.pem", "dev-sm2-cert.pem", "dev-sm2-key.pem"].map(|name| folder.join(name));
    for (files, kind) in [(&international, KeyType::Ecdsa), (&sm2, KeyType::Sm2)] {
        if !files.iter().all(|file| file.exists()) {
            make(folder, files, kind)?;
        }
    }
    let [ca, chain, key] = international;
    Ok(DevelopmentCertificates { ca, chain, key, sm2 })
}

fn make(folder: &Path, [ca, chain, key]: &[PathBuf; 3], kind: KeyType) -> Result<(), Failure> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|error| unwritten(folder, error))?;

    // The CA's own key is not kept: nothing but this leaf is ever signed with it.
    let authority = Authority::generate(kind)?;
    let leaf_key = Key::generate(kind).map_err(unmade)?;
    let leaf = authority.sign(&leaf_params().map_err(unmade)?, &leaf_key)?;
    let leaf_key = leaf_key.to_pem().map_err(unmade)?;
    for (path, text, mode) in [(ca, &authority.pem, 0o644), (chain, &leaf, 0o644), (key, &*leaf_key, 0o600)] {
        write(path, text, mode).map_err(|error| unwritten(path, error))?;
    }
    Ok(())
}

fn leaf_params() -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(["localhost", "127.0.0.1", "::1"].map(String::from))?;
    params.distinguished_name.push(DnType::CommonName, "Towline development gateway");
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    set_life(&mut params, LEAF_LIFE);
    Ok(params)
}

/// The kind of a key to make.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyType {
    /// ECDSA on P-256
    Ecdsa,
    /// RSA of 2048 bits
    Rsa,
    /// Ed25519
    Ed25519,
    /// SM2, for ShangMi
    Sm2,
}

/// A private key. It has no Debug.
pub(super) enum Key {
    International(Box<KeyPair>),
    Sm2(Box<Sm2KeyPair>),
}

impl Key {
    pub(super) fn generate(kind: KeyType) -> Result<Self, rcgen::Error> {
        let algorithm = match kind {
            KeyType::Ecdsa => &rcgen::PKCS_ECDSA_P256_SHA256,
            KeyType::Rsa => &rcgen::PKCS_RSA_SHA256,
            KeyType::Ed25519 => &rcgen::PKCS_ED25519,
            KeyType::Sm2 => return Ok(Self::Sm2(Box::new(Sm2KeyPair::generate()?))),
        };
        Ok(Self::International(Box::new(KeyPair::generate_for(algorithm)?)))
    }

    /// The certificate in PEM that the key signs for itself.
    pub(super) fn self_signed(&self, params: &CertificateParams) -> Result<String, rcgen::Error> {
        match self {
            Self::International(key) => Ok(params.self_signed(&**key)?.pem()),
            Self::Sm2(key) => issue::to_pem(&issue::self_signed(params, key)?),
        }
    }

    pub(super) fn to_pem(&self) -> Result<Zeroizing<String>, rcgen::Error> {
        match self {
            Self::International(key) => Ok(Zeroizing::new(key.serialize_pem())),
            Self::Sm2(key) => key.to_pem(),
        }
    }
}

/// A certificate with its key that signs others.
pub(super) struct Authority {
    pem: String,
    issuer: AnyIssuer,
}

enum AnyIssuer {
    International(Issuer<'static, KeyPair>),
    Sm2(Issuer<'static, Sm2KeyPair>),
}

impl Authority {
    fn generate(kind: KeyType) -> Result<Self, Failure> {
        let mut params = authority_params("Towline development CA").map_err(unmade)?;
        set_life(&mut params, CA_LIFE);
        let key = Key::generate(kind).map_err(unmade)?;
        let pem = key.self_signed(&params).map_err(unmade)?;
        let issuer = match key {
            Key::International(key) => AnyIssuer::International(Issuer::new(params, *key)),
            Key::Sm2(key) => AnyIssuer::Sm2(Issuer::new(params, *key)),
        };
        Ok(Self { pem, issuer })
    }

    /// Of PEM files.
    pub(super) fn read(certificate: &Path, key: &Path) -> Result<Self, Failure> {
        let wrong = |path: &Path, problem: &dyn std::fmt::Display| {
            Failure::Other(format!("{}: {problem}", path.display()))
        };
        let pem = fs::read_to_string(certificate).map_err(|error| wrong(certificate, &error))?;
        let der = tls::read_certificates(certificate)?.remove(0);
        let kind = x509::Certificate::parse(&der).map_err(|error| wrong(certificate, &error))?.key_kind();
        let text = Zeroizing::new(fs::read_to_string(key).map_err(|error| wrong(key, &error))?);
        let unusable = |error: rcgen::Error| wrong(key, &error);
        let issuer = if kind == KeyKind::Sm2 {
            AnyIssuer::Sm2(issuer(&der, Sm2KeyPair::from_pem(&text).map_err(unusable)?)?)
        } else {
            AnyIssuer::International(issuer(&der, KeyPair::from_pem(&text).map_err(unusable)?)?)
        };
        Ok(Self { pem, issuer })
    }

    /// The certificate of a key, in PEM.
    pub(super) fn sign(&self, params: &CertificateParams, key: &Key) -> Result<String, Failure> {
        match (&self.issuer, key) {
            (AnyIssuer::International(issuer), Key::International(key)) => {
                Ok(params.signed_by(&**key, issuer).map_err(unmade)?.pem())
            }
            (AnyIssuer::Sm2(issuer), Key::Sm2(key)) => {
                let certificate = issue::signed_by(params, key, issuer).map_err(unmade)?;
                issue::to_pem(&certificate).map_err(unmade)
            }
            _ => Err(Failure::Other(
                "an SM2 authority signs SM2 keys, and only that; make one with `towline cert ca --kind sm2`"
                    .to_owned(),
            )),
        }
    }
}

fn issuer<K: rcgen::SigningKey>(
    certificate: &CertificateDer<'_>,
    key: K,
) -> Result<Issuer<'static, K>, Failure> {
    Issuer::from_ca_cert_der(certificate, key).map_err(unmade)
}

pub(super) fn unmade(error: rcgen::Error) -> Failure {
    Failure::Other(format!("cannot make a certificate: {error}"))
}

pub(super) fn unwritten(path: &Path, error: io::Error) -> Failure {
    Failure::Other(format!("{}: {error}", path.display()))
}

pub(super) fn set_life(params: &mut CertificateParams, life: Duration) {
    let now = SystemTime::now();
    params.not_before = (now - BACKDATE).into();
    params.not_after = (now + life).into();
}

/// Writes aside and renames, so that a crash leaves no half of a file. A key is never readable by others,
/// not even for a moment.
pub(super) fn write(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let mut aside = path.to_owned().into_os_string();
    aside.push(".new");
    let _ = fs::remove_file(&aside);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&aside)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(aside, path)
}
