//! How a client verifies a gateway: trust anchors, delegated leaves, pinned keys.

use std::{fmt, str::FromStr, sync::Arc};

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use rustls::{
    CertificateError, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms},
    pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime},
    server::VerifierBuilderError,
};
use webpki::{EndEntityCert, KeyUsage, VerifiedPath};

use crate::{delegated, providers::knows_key};

/// The SHA-256 of a certificate's SubjectPublicKeyInfo: it names a key, whatever certificates it gets
/// (RFC 7469, section 2.4).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pin([u8; 32]);

/// Verifies a gateway's certificates. Beside ordinary chains it takes a [`delegated`] leaf; with pins, at least
/// one certificate of the verified path has a pinned key.
#[derive(Debug)]
pub struct ServerVerifier {
    /// Never empty.
    families: Vec<Family>,
    roots: Arc<RootCertStore>,
    /// Empty: none is asked for.
    pins: Vec<Pin>,
}

/// What one kind of cryptography verifies.
#[derive(Debug)]
struct Family {
    ordinary: Arc<WebPkiServerVerifier>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerVerifier {
    /// Trusts exactly `roots`, and verifies what the signatures of `providers` can prove.
    ///
    /// # Errors
    /// There are no roots, or no providers.
    pub fn new(
        roots: Arc<RootCertStore>,
        pins: Vec<Pin>,
        providers: &[Arc<CryptoProvider>],
    ) -> Result<Self, VerifierBuilderError> {
        let families: Vec<_> =
            providers.iter().map(|provider| Family::new(&roots, provider)).collect::<Result<_, _>>()?;
        if families.is_empty() {
            return Err(VerifierBuilderError::NoRootAnchors);
        }
        Ok(Self { families, roots, pins })
    }

    /// The family that a certificate belongs to; of one that belongs to none, the first will say so.
    fn family_of(&self, leaf: &CertificateDer<'_>) -> Option<&Family> {
        self.families.iter().find(|family| knows_key(&family.algorithms, leaf)).or(self.families.first())
    }

    fn family_for(&self, scheme: SignatureScheme) -> Option<&Family> {
        let knows = |family: &&Family| family.algorithms.mapping.iter().any(|(known, _)| *known == scheme);
        self.families.iter().find(knows).or(self.families.first())
    }

    /// The path is sought once more, because only what was verified counts: a server may send any
    /// certificate beside its own.
    fn check_pins(
        &self,
        algorithms: &WebPkiSupportedAlgorithms,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        if self.pins.is_empty() {
            return Ok(());
        }
        let pinned = |path: &VerifiedPath<'_>| match self.is_pinned(path) {
            true => Ok(()),
            false => Err(webpki::Error::UnknownIssuer),
        };
        let leaf = EndEntityCert::try_from(leaf).map_err(|_| Error::from(CertificateError::BadEncoding))?;
        let verified = leaf.verify_for_usage(
            algorithms.all,
            &self.roots.roots,
            intermediates,
            now,
            KeyUsage::server_auth(),
            None,
            Some(&pinned),
        );
        match verified {
            Ok(_) => Ok(()),
            Err(_) => Err(CertificateError::Other(OtherError(Arc::new(NotPinned))).into()),
        }
    }

    fn is_pinned(&self, path: &VerifiedPath<'_>) -> bool {
        let pinned = |spki: &[u8]| self.pins.contains(&Pin::of_public_key(spki));
        pinned(&path.end_entity().subject_public_key_info())
            || path.intermediate_certificates().any(|each| pinned(&each.subject_public_key_info()))
            || pinned(&anchor_public_key(path.anchor()))
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let no_family = || Error::General("there is no provider".to_owned());
        let family = self.family_of(end_entity).ok_or_else(no_family)?;
        let (ordinary, algorithms): (&dyn ServerCertVerifier, _) = (&*family.ordinary, &family.algorithms);
        if !delegated::is_delegated(end_entity) {
            ordinary.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)?;
            self.check_pins(algorithms, end_entity, intermediates, now)?;
            return Ok(ServerCertVerified::assertion());
        }
        delegated::verify(ordinary, algorithms, end_entity, intermediates, server_name, now)?;
        // The leaf's key is new every day; what can be pinned begins at the RSA certificate.
        if let Some((issuer, rest)) = intermediates.split_first() {
            self.check_pins(algorithms, issuer, rest, now)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match self.family_for(dss.scheme) {
            Some(family) => family.ordinary.verify_tls12_signature(message, cert, dss),
            None => Err(Error::General("there is no provider".to_owned())),
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match self.family_for(dss.scheme) {
            Some(family) => family.ordinary.verify_tls13_signature(message, cert, dss),
            None => Err(Error::General("there is no provider".to_owned())),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.families.iter().flat_map(|family| family.ordinary.supported_verify_schemes()).collect()
    }
}

impl Family {
    fn new(roots: &Arc<RootCertStore>, provider: &Arc<CryptoProvider>) -> Result<Self, VerifierBuilderError> {
        let builder = WebPkiServerVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(provider));
        Ok(Self { ordinary: builder.build()?, algorithms: provider.signature_verification_algorithms })
    }
}

/// Several kinds of cryptography in one offer, the preferred first, for a client: rustls does not tie suites,
/// groups and signatures together, but a gateway answers within one kind. Verify by a [`ServerVerifier`] of
/// the same providers. `None` without any.
pub fn offer_of(providers: &[Arc<CryptoProvider>]) -> Option<CryptoProvider> {
    let (first, others) = providers.split_first()?;
    let mut offer = (**first).clone();
    for other in others {
        offer.cipher_suites.extend_from_slice(&other.cipher_suites);
        offer.kx_groups.extend_from_slice(&other.kx_groups);
    }
    Some(offer)
}

/// No certificate of the path has a pinned key. The network's fault, or a key was changed without the apps.
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no certificate of the gateway's verified chain has a pinned key")]
pub struct NotPinned;

/// As for [`delegated::Refused`].
impl fmt::Debug for NotPinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Pin {
    /// Of a SubjectPublicKeyInfo, DER.
    pub fn of_public_key(spki: &[u8]) -> Self {
        let mut pin = [0; 32];
        pin.copy_from_slice(digest(&SHA256, spki).as_ref());
        Self(pin)
    }

    /// Of a certificate's key; `None` if it is no certificate.
    pub fn of_certificate(certificate: &CertificateDer<'_>) -> Option<Self> {
        let parsed = crate::x509::Certificate::parse(certificate).ok()?;
        Some(Self::of_public_key(parsed.public_key()))
    }
}

/// `sha256/` and base64, as curl and browsers write pins; the prefix may be left out.
impl FromStr for Pin {
    type Err = MalformedPin;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // curl writes two slashes; base64 itself may begin with one.
        let text = text.strip_prefix("sha256//").or_else(|| text.strip_prefix("sha256/")).unwrap_or(text);
        let decoded = BASE64.decode(text);
        decoded.ok().and_then(|bytes| bytes.try_into().ok()).map(Self).ok_or(MalformedPin)
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256/{}", BASE64.encode(self.0))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Not a pin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "is not a pin; write sha256/ and the base64 of the SHA-256 of a public key, as `towline cert pin` prints it"
)]
pub struct MalformedPin;

/// webpki keeps an anchor's key without the SEQUENCE around it.
fn anchor_public_key(anchor: &TrustAnchor<'_>) -> Vec<u8> {
    crate::der::value(crate::der::tag::SEQUENCE, &[&anchor.subject_public_key_info])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{Authority, chain, now, provider};

    #[track_caller]
    fn check(certified: &[CertificateDer<'static>], roots: &Authority, pins: Vec<Pin>, reason: &str) {
        let verifier = ServerVerifier::new(roots.store(), pins, &[provider()]).unwrap();
        let name = ServerName::try_from("edge.example").unwrap();
        let result = verifier.verify_server_cert(&certified[0], &certified[1..], &name, &[], now());
        let shown = result.map_or_else(|error| error.to_string(), |_| String::new());
        assert!(shown.contains(reason) && shown.is_empty() == reason.is_empty(), "{shown}");
    }

    #[test]
    fn a_pin_is_met_by_any_certificate_of_the_verified_path() {
        let authority = Authority::new();
        let certified = chain(&authority, |_| ());
        let of = |certificate: &CertificateDer<'_>| vec![Pin::of_certificate(certificate).unwrap()];
        check(&certified, &authority, Vec::new(), "");
        check(&certified, &authority, of(&certified[0]), "");
        check(&certified, &authority, of(&authority.certificate), "");
        let mut several = of(&Authority::new().certificate);
        several.extend(of(&certified[0]));
        check(&certified, &authority, several, "");
    }

    #[test]
    fn a_pinned_certificate_that_is_merely_sent_along_does_not_count() {
        let (authority, other) = (Authority::new(), Authority::new());
        let mut certified = chain(&authority, |_| ());
        let pinned = vec![Pin::of_certificate(&other.certificate).unwrap()];
        check(&certified, &authority, pinned.clone(), "has a pinned key");
        certified.push(other.certificate.clone());
        check(&certified, &authority, pinned, "has a pinned key");
    }

    #[test]
    fn pins_are_read_as_they_are_shown() {
        let pin = Pin::of_public_key(b"key");
        assert_eq!(pin.to_string().parse(), Ok(pin));
        assert_eq!(
            pin.to_string().replace('/', "//").parse::<Pin>().is_ok(),
            !pin.to_string()[7..].contains('/')
        );
        assert_eq!(pin.to_string()[7..].parse(), Ok(pin));
        for wrong in ["", "sha256/", "sha256/AAAA", "md5/AAAA", "sha256/!"] {
            assert_eq!(wrong.parse::<Pin>(), Err(MalformedPin), "{wrong}");
        }
    }

    #[test]
    fn chains_that_are_wrong_are_refused_with_the_reason() {
        use rcgen::{ExtendedKeyUsagePurpose, date_time_ymd};
        let authority = Authority::new();
        let wrong = |change: fn(&mut rcgen::CertificateParams)| chain(&authority, change);
        check(&wrong(|leaf| leaf.not_after = date_time_ymd(2020, 1, 1)), &authority, vec![], "expired");
        check(
            &wrong(|leaf| leaf.not_before = date_time_ymd(2090, 1, 1)),
            &authority,
            vec![],
            "not valid yet",
        );
        check(&wrong(|leaf| leaf.subject_alt_names.clear()), &authority, vec![], "not valid for");
        let client = |leaf: &mut rcgen::CertificateParams| {
            leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        };
        check(&wrong(client), &authority, vec![], "extended key usage");
        check(&wrong(|_| ()), &Authority::new(), vec![], "UnknownIssuer");
    }
}
