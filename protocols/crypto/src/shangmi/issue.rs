//! Certificates for SM2 keys, by rcgen.
//!
//! rcgen knows no SM2 and takes no algorithm from outside. But ecdsa-with-SHA256 over P-256 has object identifiers
//! of the same lengths as SM2's: rcgen writes a certificate for these, and both identifiers are put right in
//! what is signed and in what comes out.

use rcgen::{
    CertificateParams, Issuer, PKCS_ECDSA_P256_SHA256, PublicKeyData, SignatureAlgorithm, SigningKey,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use sm2::pkcs8::der::pem;
use zeroize::Zeroizing;

use super::sm2::{ID_DEFAULT, PrivateKey, Signer};

/// id-ecPublicKey and prime256v1, whole, as in a SubjectPublicKeyInfo.
const P256: &[u8] = b"\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07";
const SM2: &[u8] = b"\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x81\x1c\xcf\x55\x01\x82\x2d";
/// An AlgorithmIdentifier of ecdsa-with-SHA256, and that of SM2 with SM3.
const ECDSA_SHA256: &[u8] = b"\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02";
const SM2_SM3: &[u8] = b"\x30\x0a\x06\x08\x2a\x81\x1c\xcf\x55\x01\x83\x75";

/// An SM2 key that certificates are made for and signed with.
pub struct Sm2KeyPair {
    key: PrivateKey,
    signer: Signer,
}

impl Sm2KeyPair {
    /// A fresh key.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn generate() -> Result<Self, rcgen::Error> {
        Self::new(PrivateKey::generate().map_err(|_| rcgen::Error::RingUnspecified)?)
    }

    /// The key of a PEM file, PKCS#8 or SEC1.
    ///
    /// # Errors
    /// No PEM, or no SM2 key.
    pub fn from_pem(text: &str) -> Result<Self, rcgen::Error> {
        let der =
            PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|_| rcgen::Error::CouldNotParseKeyPair)?;
        Self::new(PrivateKey::from_der(&der).map_err(|_| rcgen::Error::CouldNotParseKeyPair)?)
    }

    /// PKCS#8, for a file that only its owner reads.
    ///
    /// # Errors
    /// The key cannot be encoded.
    pub fn to_pem(&self) -> Result<Zeroizing<String>, rcgen::Error> {
        self.key.to_pem().map_err(|_| rcgen::Error::CouldNotParseKeyPair)
    }

    fn new(key: PrivateKey) -> Result<Self, rcgen::Error> {
        let signer = key.signer(ID_DEFAULT).map_err(|_| rcgen::Error::CouldNotParseKeyPair)?;
        Ok(Self { key, signer })
    }
}

impl PublicKeyData for Sm2KeyPair {
    fn der_bytes(&self) -> &[u8] {
        self.key.public()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

/// Signs what a certificate of this module says, not what rcgen wrote.
impl SigningKey for Sm2KeyPair {
    fn sign(&self, to_be_signed: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.signer.sign(&as_sm2(to_be_signed)).map_err(|_| rcgen::Error::RingUnspecified)
    }
}

/// A certificate that its own key signs: an authority, or a test's server.
///
/// # Errors
/// rcgen's, on parameters that contradict each other.
pub fn self_signed(
    params: &CertificateParams,
    key: &Sm2KeyPair,
) -> Result<CertificateDer<'static>, rcgen::Error> {
    Ok(as_sm2(params.self_signed(key)?.der()).into())
}

/// A certificate for an SM2 key, signed by an authority with one: `Issuer::new(its params, its key)`.
///
/// # Errors
/// As [`self_signed`].
pub fn signed_by(
    params: &CertificateParams,
    key: &Sm2KeyPair,
    issuer: &Issuer<'_, Sm2KeyPair>,
) -> Result<CertificateDer<'static>, rcgen::Error> {
    Ok(as_sm2(params.signed_by(key, issuer)?.der()).into())
}

/// A certificate as the text of a PEM file.
///
/// # Errors
/// The certificate is longer than PEM allows.
pub fn to_pem(certificate: &CertificateDer<'_>) -> Result<String, rcgen::Error> {
    pem::encode_string("CERTIFICATE", pem::LineEnding::LF, certificate)
        .map_err(|error| rcgen::Error::PemError(error.to_string()))
}

/// Only whole identifiers with their tags are replaced: a key or name that holds these bytes by chance is a matter
/// of 2^-96 and more.
fn as_sm2(der: &[u8]) -> Vec<u8> {
    replace(&replace(der, P256, SM2), ECDSA_SHA256, SM2_SM3)
}

fn replace(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    let mut at = 0;
    while let Some(found) = out[at..].windows(from.len()).position(|window| window == from) {
        out[at + found..][..to.len()].copy_from_slice(to);
        at += found + to.len();
    }
    out
}
