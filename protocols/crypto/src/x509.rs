//! What a certificate says (RFC 5280), as far as gateway and SDK ask it. Nothing here decides whom to trust.

use std::net::IpAddr;

use rustls::pki_types::CertificateDer;

use crate::der::{self, Malformed, Reader, tag};

/// A certificate, borrowed from its bytes.
#[derive(Clone, Copy, Debug)]
pub struct Certificate<'a> {
    issuer: &'a [u8],
    subject: &'a [u8],
    spki: &'a [u8],
    /// Seconds since 1970.
    not_before: i64,
    not_after: i64,
    /// Content of the SEQUENCE OF Extension; empty if there is none.
    extensions: &'a [u8],
}

/// An extension of a certificate (RFC 5280, section 4.2).
#[derive(Clone, Copy, Debug)]
pub struct Extension<'a> {
    /// Content of the object identifier.
    pub oid: &'a [u8],
    /// Whether a verifier that does not know it must refuse.
    pub critical: bool,
    /// What the OCTET STRING holds.
    pub value: &'a [u8],
}

/// Whom a certificate names (RFC 5280, section 4.2.1.6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SubjectName<'a> {
    /// A DNS name, perhaps with a wildcard.
    Dns(&'a str),
    /// A mail address.
    Email(&'a str),
    /// A URI.
    Uri(&'a str),
    /// An address.
    Ip(IpAddr),
}

/// The kind of a certificate's public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyKind {
    /// RSA.
    Rsa,
    /// ECDSA on P-256.
    EcdsaP256,
    /// ECDSA on another curve.
    Ecdsa,
    /// Ed25519.
    Ed25519,
    /// SM2.
    Sm2,
    /// One that nothing here knows.
    Other,
}

/// Content of the object identifiers of extensions and purposes.
pub mod oid {
    /// keyUsage.
    pub const KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x0f];
    /// subjectAltName.
    pub const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
    /// basicConstraints.
    pub const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];
    /// extKeyUsage.
    pub const EXT_KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x25];
    /// id-kp-serverAuth.
    pub const SERVER_AUTH: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x01];
    pub(super) const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
    pub(super) const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
    pub(super) const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
    pub(super) const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
    pub(super) const SM2: &[u8] = &[0x2a, 0x81, 0x1c, 0xcf, 0x55, 0x01, 0x82, 0x2d];
    pub(super) const ED25519: &[u8] = &[0x2b, 0x65, 0x70];
}

impl<'a> Certificate<'a> {
    /// Reads a certificate's fields:
    ///
    /// ```text
    /// SEQUENCE { SEQUENCE { [0] version, serial, algorithm, issuer, validity, subject, key, [3] extensions },
    ///            algorithm, signature }
    /// ```
    ///
    /// # Errors
    /// The bytes are no certificate of version 1 to 3.
    pub fn parse(certificate: &'a CertificateDer<'_>) -> Result<Self, Malformed> {
        let mut outer = Reader::new(certificate.as_ref());
        let mut tbs = Reader::new(Reader::new(outer.take(tag::SEQUENCE)?).take(tag::SEQUENCE)?);
        tbs.optional(tag::CONTEXT_0)?;
        tbs.take(tag::INTEGER)?;
        tbs.take(tag::SEQUENCE)?;
        let issuer = tbs.whole(tag::SEQUENCE)?;
        let mut validity = Reader::new(tbs.take(tag::SEQUENCE)?);
        let (not_before, not_after) = (der::time(&mut validity)?, der::time(&mut validity)?);
        let subject = tbs.whole(tag::SEQUENCE)?;
        let spki = tbs.whole(tag::SEQUENCE)?;
        // Unique identifiers of version 2.
        tbs.optional(tag::CONTEXT_1_PRIMITIVE)?;
        tbs.optional(tag::CONTEXT_2_PRIMITIVE)?;
        let extensions = match tbs.optional(tag::CONTEXT_3)? {
            Some(wrapped) => Reader::new(wrapped).take(tag::SEQUENCE)?,
            None => &[],
        };
        let certificate = Self { issuer, subject, spki, not_before, not_after, extensions };
        certificate.extensions().try_for_each(|extension| extension.map(drop))?;
        Ok(certificate)
    }

    /// The issuer's name, DER.
    pub fn issuer(&self) -> &'a [u8] {
        self.issuer
    }

    /// The subject's name, DER.
    pub fn subject(&self) -> &'a [u8] {
        self.subject
    }

    /// SubjectPublicKeyInfo, DER.
    pub fn public_key(&self) -> &'a [u8] {
        self.spki
    }

    /// First and last second of its life, since 1970.
    pub fn validity(&self) -> (i64, i64) {
        (self.not_before, self.not_after)
    }

    /// What it says of its own kind and use.
    pub fn extension(&self, oid: &[u8]) -> Option<Extension<'a>> {
        self.extensions().flatten().find(|extension| extension.oid == oid)
    }

    /// Whether it may sign others.
    pub fn is_authority(&self) -> bool {
        let Some(constraints) = self.extension(oid::BASIC_CONSTRAINTS) else { return false };
        let constraints = Reader::new(constraints.value).take(tag::SEQUENCE);
        let authority = constraints.and_then(|content| Reader::new(content).optional(tag::BOOLEAN));
        authority.is_ok_and(|authority| authority.is_some_and(|value| value != [0]))
    }

    /// Whether its purposes include `purpose`; one that names none serves all.
    pub fn allows(&self, purpose: &[u8]) -> bool {
        let Some(purposes) = self.extension(oid::EXT_KEY_USAGE) else { return true };
        let Ok(list) = Reader::new(purposes.value).take(tag::SEQUENCE) else { return false };
        let mut list = Reader::new(list);
        std::iter::from_fn(|| list.take(tag::OID).ok()).any(|each| each == purpose)
    }

    /// The kind of its public key.
    pub fn key_kind(&self) -> KeyKind {
        self.algorithm().unwrap_or(KeyKind::Other)
    }

    /// Names in subjectAltName, in its order; of kinds that nothing here knows, none.
    pub fn names(&self) -> impl Iterator<Item = SubjectName<'a>> + use<'a> {
        let list = self.extension(oid::SUBJECT_ALT_NAME).map_or(&[][..], |extension| extension.value);
        let mut list = Reader::new(Reader::new(list).take(tag::SEQUENCE).unwrap_or_default());
        std::iter::from_fn(move || list.any().ok()).filter_map(|(tag, value)| SubjectName::new(tag, value))
    }

    /// The last common name of the subject, if it is text.
    pub fn common_name(&self) -> Option<String> {
        let mut name = Reader::new(Reader::new(self.subject).take(tag::SEQUENCE).ok()?);
        let parts = std::iter::from_fn(|| name.take(tag::SET).ok());
        parts.filter_map(common_name).last()
    }

    fn algorithm(&self) -> Result<KeyKind, Malformed> {
        let mut spki = Reader::new(Reader::new(self.spki).take(tag::SEQUENCE)?);
        let mut algorithm = Reader::new(spki.take(tag::SEQUENCE)?);
        Ok(match algorithm.take(tag::OID)? {
            oid::RSA => KeyKind::Rsa,
            oid::ED25519 => KeyKind::Ed25519,
            oid::EC => match algorithm.take(tag::OID)? {
                oid::P256 => KeyKind::EcdsaP256,
                oid::SM2 => KeyKind::Sm2,
                _ => KeyKind::Ecdsa,
            },
            _ => KeyKind::Other,
        })
    }

    fn extensions(&self) -> impl Iterator<Item = Result<Extension<'a>, Malformed>> + use<'a> {
        let mut list = Reader::new(self.extensions);
        std::iter::from_fn(move || (!list.is_empty()).then(|| Extension::parse(&mut list)))
            // A list that does not parse ends with its first error.
            .scan(
                false,
                |failed, next| {
                    if std::mem::replace(failed, next.is_err()) { None } else { Some(next) }
                },
            )
    }
}

impl<'a> Extension<'a> {
    fn parse(list: &mut Reader<'a>) -> Result<Self, Malformed> {
        let mut extension = Reader::new(list.take(tag::SEQUENCE)?);
        let oid = extension.take(tag::OID)?;
        let critical = extension.optional(tag::BOOLEAN)?.is_some_and(|value| value != [0]);
        Ok(Self { oid, critical, value: extension.take(tag::OCTET_STRING)? })
    }
}

impl<'a> SubjectName<'a> {
    /// GeneralName: the choice is the tag.
    fn new(tag: u8, value: &'a [u8]) -> Option<Self> {
        let text = || std::str::from_utf8(value).ok().filter(|text| text.is_ascii());
        match tag {
            0x81 => text().map(Self::Email),
            0x82 => text().map(Self::Dns),
            0x86 => text().map(Self::Uri),
            0x87 => address(value).map(Self::Ip),
            _ => None,
        }
    }
}

impl KeyKind {
    /// As metrics spell it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Rsa => "rsa",
            Self::EcdsaP256 | Self::Ecdsa => "ecdsa",
            Self::Ed25519 => "ed25519",
            Self::Sm2 => "sm2",
            Self::Other => "other",
        }
    }
}

fn address(octets: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(octets) {
        return Some(v4.into());
    }
    <[u8; 16]>::try_from(octets).ok().map(IpAddr::from)
}

/// `SET { SEQUENCE { type, value } }`
fn common_name(set: &[u8]) -> Option<String> {
    let mut pair = Reader::new(Reader::new(set).take(tag::SEQUENCE).ok()?);
    if pair.take(tag::OID).ok()? != oid::COMMON_NAME {
        return None;
    }
    match pair.any().ok()? {
        (tag::UTF8_STRING | tag::PRINTABLE_STRING | tag::IA5_STRING, text) => {
            std::str::from_utf8(text).ok().map(str::to_owned)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, SanType};

    use super::*;

    fn certificate(change: impl FnOnce(&mut CertificateParams)) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(vec!["a.example".into(), "192.0.2.1".into()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "Zoë");
        change(&mut params);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    #[test]
    fn a_certificate_tells_names_purposes_and_life() {
        let der = certificate(|params| {
            let uri = SanType::URI("urn:dev:7".try_into().unwrap());
            let email = SanType::Rfc822Name("a@b.example".try_into().unwrap());
            params.subject_alt_names.extend([uri, email]);
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            params.not_before = rcgen::date_time_ymd(2024, 2, 29);
            params.not_after = rcgen::date_time_ymd(2051, 1, 1);
        });
        let certificate = Certificate::parse(&der).unwrap();
        assert_eq!(certificate.common_name().as_deref(), Some("Zoë"));
        let names: Vec<_> = certificate.names().collect();
        assert_eq!(names[0], SubjectName::Dns("a.example"));
        assert_eq!(names[1], SubjectName::Ip([192, 0, 2, 1].into()));
        assert_eq!(names[2..], [SubjectName::Uri("urn:dev:7"), SubjectName::Email("a@b.example")]);
        assert!(!certificate.allows(oid::SERVER_AUTH));
        assert_eq!(certificate.validity(), (1_709_164_800, 2_556_144_000));
        assert_eq!(certificate.key_kind(), KeyKind::EcdsaP256);
        assert!(!certificate.is_authority());
        assert_eq!(certificate.issuer(), certificate.subject());
    }

    #[test]
    fn an_authority_says_so() {
        let der = certificate(|params| params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Constrained(0)));
        assert!(Certificate::parse(&der).unwrap().is_authority());
        let der = certificate(|params| params.is_ca = IsCa::ExplicitNoCa);
        assert!(!Certificate::parse(&der).unwrap().is_authority());
    }

    proptest! {
        #[test]
        fn whatever_the_bytes_nothing_panics(flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8), cut in any::<prop::sample::Index>()) {
            let mut bytes = certificate(|_| ()).to_vec();
            for (index, value) in flips {
                let index = index.index(bytes.len());
                bytes[index] = value;
            }
            bytes.truncate(cut.index(bytes.len() + 1));
            if let Ok(certificate) = Certificate::parse(&bytes.into()) {
                let _ = (certificate.common_name(), certificate.names().count(), certificate.key_kind());
                let _ = (certificate.is_authority(), certificate.allows(oid::SERVER_AUTH));
            }
        }
    }
}
