//! The delegated ECDSA certificate: a short-lived P-256 leaf that an RSA certificate's own key signed, so that
//! a handshake costs an ECDSA signature while the operator needs only the RSA certificate.
//!
//! ```text
//! trust anchor ── intermediates ── RSA certificate ── delegated leaf
//!                 ordinary rules (RFC 5280)         rules of this file
//! ```
//!
//! An RSA certificate is no authority, so ordinary verifiers refuse the chain. PROTOCOL.md says which clients get
//! one. Here is the profile, for those who issue and for those who verify.

use std::{fmt, sync::Arc};

use rustls::{
    CertificateError, Error, OtherError, RootCertStore,
    client::{danger::ServerCertVerifier, verify_server_cert_signed_by_trust_anchor, verify_server_name},
    crypto::WebPkiSupportedAlgorithms,
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
};

use crate::{
    der::{Malformed, tag, time_value, value},
    x509::{Certificate, KeyKind, oid},
};

/// Object identifier 2.25.166717413709746094891488569373315911280 (ITU-T X.667), content only: the extension that
/// makes a certificate a delegated leaf. It is not critical; its value is the profile's number, INTEGER 1.
pub const EXTENSION_OID: &[u8] = &[
    0x69, 0x81, 0xfa, 0xec, 0xcd, 0xc7, 0xca, 0xaa, 0xa2, 0xbc, 0x9b, 0x9c, 0x9f, 0xae, 0x94, 0x9f, 0x93,
    0xb5, 0x9c, 0x70,
];
/// The longest life of a delegated leaf from its first second to its last, seconds: seven days and
/// [`BACKDATED`].
pub const LIFE_MAX: u64 = 7 * 86_400 + BACKDATED;
/// A leaf is valid from so many seconds before it was made, because clocks differ.
pub const BACKDATED: u64 = 3600;

const PROFILE: &[u8] = &[0x02, 0x01, 0x01];
/// AlgorithmIdentifier of sha256WithRSAEncryption (RFC 8017, appendix A.2.4).
const SHA256_WITH_RSA: &[u8] =
    &[0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0b, 0x05, 0x00];
/// BIT STRING of digitalSignature alone.
const DIGITAL_SIGNATURE: &[u8] = &[0x03, 0x02, 0x07, 0x80];

/// A delegated leaf before it is signed.
#[derive(Clone, Copy, Debug)]
pub struct Leaf<'a> {
    /// The RSA certificate that vouches for it.
    pub issuer: &'a CertificateDer<'a>,
    /// The new key's SubjectPublicKeyInfo, DER; P-256.
    pub public_key: &'a [u8],
    /// Drawn at random.
    pub serial: [u8; 16],
    /// Seconds since 1970.
    pub not_before: i64,
    /// At most [`LIFE_MAX`] later.
    pub not_after: i64,
}

impl Leaf<'_> {
    /// What is to be signed with RSASSA-PKCS1-v1_5 and SHA-256 by the RSA certificate's key.
    ///
    /// # Errors
    /// The issuer is no certificate.
    pub fn to_be_signed(&self) -> Result<Vec<u8>, Malformed> {
        let issuer = Certificate::parse(self.issuer)?;
        let mut serial = self.serial;
        // Positive, and not zero (RFC 5280, section 4.1.2.2).
        serial[0] = serial[0] & 0x7f | 0x40;
        let validity = value(tag::SEQUENCE, &[&time_value(self.not_before), &time_value(self.not_after)]);
        let names = issuer.extension(oid::SUBJECT_ALT_NAME).ok_or(Malformed)?;
        let purposes = value(tag::SEQUENCE, &[&value(tag::OID, &[oid::SERVER_AUTH])]);
        let extensions = value(
            tag::SEQUENCE,
            &[
                &extension(oid::KEY_USAGE, true, DIGITAL_SIGNATURE),
                &extension(oid::EXT_KEY_USAGE, false, &purposes),
                &extension(oid::SUBJECT_ALT_NAME, names.critical, names.value),
                &extension(EXTENSION_OID, false, PROFILE),
            ],
        );
        Ok(value(
            tag::SEQUENCE,
            &[
                &value(tag::CONTEXT_0, &[&[tag::INTEGER, 1, 2]]),
                &value(tag::INTEGER, &[&serial]),
                SHA256_WITH_RSA,
                issuer.subject(),
                &validity,
                issuer.subject(),
                self.public_key,
                &value(tag::CONTEXT_3, &[&extensions]),
            ],
        ))
    }

    /// The certificate of what was to be signed and its signature.
    pub fn signed(to_be_signed: &[u8], signature: &[u8]) -> CertificateDer<'static> {
        let signature = value(tag::BIT_STRING, &[&[0], signature]);
        value(tag::SEQUENCE, &[to_be_signed, SHA256_WITH_RSA, &signature]).into()
    }
}

/// Whether a certificate claims to be a delegated leaf.
pub fn is_delegated(certificate: &CertificateDer<'_>) -> bool {
    Certificate::parse(certificate).is_ok_and(|certificate| certificate.extension(EXTENSION_OID).is_some())
}

/// Verifies a delegated leaf; `chain` begins with the RSA certificate, which `ordinary` verifies as it would
/// a server's own.
///
/// # Errors
/// As rustls' own verifier, for whichever of the two certificates is at fault; [`Refused`] inside
/// [`CertificateError::Other`] for what only a delegated leaf can be refused for.
pub fn verify(
    ordinary: &dyn ServerCertVerifier,
    algorithms: &WebPkiSupportedAlgorithms,
    leaf: &CertificateDer<'_>,
    chain: &[CertificateDer<'_>],
    name: &ServerName<'_>,
    now: UnixTime,
) -> Result<(), Error> {
    let (issuer, intermediates) = chain.split_first().ok_or(refused(Refused::NoIssuer))?;
    // Name, purpose, life and trust of the RSA certificate; an authority is refused here.
    ordinary.verify_server_cert(issuer, intermediates, name, &[], now)?;
    check_profile(leaf, issuer)?;
    let parsed = ParsedCertificate::try_from(leaf)?;
    let mut issuers = RootCertStore::empty();
    issuers.add(CertificateDer::from_slice(issuer))?;
    // Signature, life and purpose of the leaf, with nothing between it and its issuer.
    verify_server_cert_signed_by_trust_anchor(&parsed, &issuers, &[], now, algorithms.all)?;
    verify_server_name(&parsed, name)
}

/// Why a delegated leaf is refused that an ordinary certificate would not be refused for.
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It came alone.
    #[error("a delegated certificate came without the RSA certificate that signed it")]
    NoIssuer,
    /// The certificate behind it has another kind of key.
    #[error("a delegated certificate's issuer has no RSA key")]
    IssuerNotRsa,
    /// Its key is of another kind.
    #[error("a delegated certificate's key is not P-256")]
    KeyNotP256,
    /// It lives for longer than [`LIFE_MAX`].
    #[error("a delegated certificate lives for longer than seven days")]
    LivesTooLong,
    /// Its purposes do not say serverAuth, which they must expressly.
    #[error("a delegated certificate's purpose is not the authentication of servers")]
    WrongPurpose,
    /// The extension says another profile.
    #[error("a delegated certificate of an unknown profile")]
    UnknownProfile,
}

/// rustls shows the reason by Debug alone, and people are to read it.
impl fmt::Debug for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn check_profile(leaf: &CertificateDer<'_>, issuer: &CertificateDer<'_>) -> Result<(), Error> {
    let bad = |_: Malformed| Error::InvalidCertificate(CertificateError::BadEncoding);
    let (leaf, issuer) = (Certificate::parse(leaf).map_err(bad)?, Certificate::parse(issuer).map_err(bad)?);
    let (not_before, not_after) = leaf.validity();
    let life = not_after.checked_sub(not_before).and_then(|life| u64::try_from(life).ok());
    let profile = leaf.extension(EXTENSION_OID).map(|extension| extension.value);
    let rules = [
        (profile == Some(PROFILE), Refused::UnknownProfile),
        (issuer.key_kind() == KeyKind::Rsa, Refused::IssuerNotRsa),
        (leaf.key_kind() == KeyKind::EcdsaP256, Refused::KeyNotP256),
        (life.is_some_and(|life| life <= LIFE_MAX), Refused::LivesTooLong),
        (
            leaf.extension(oid::EXT_KEY_USAGE).is_some() && leaf.allows(oid::SERVER_AUTH),
            Refused::WrongPurpose,
        ),
    ];
    match rules.iter().find(|(holds, _)| !holds) {
        Some((_, rule)) => Err(refused(*rule)),
        None => Ok(()),
    }
}

fn refused(why: Refused) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(why))))
}

fn extension(oid: &[u8], critical: bool, content: &[u8]) -> Vec<u8> {
    let critical: &[u8] = if critical { &[tag::BOOLEAN, 1, 0xff] } else { &[] };
    value(tag::SEQUENCE, &[&value(tag::OID, &[oid]), critical, &value(tag::OCTET_STRING, &[content])])
}

#[cfg(test)]
mod tests;
