//! Families of cryptography, by name.

use std::{fmt, sync::Arc};

use rustls::{
    CipherSuite, SupportedCipherSuite, SupportedProtocolVersion,
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs},
    pki_types::CertificateDer,
    quic,
    server::ParsedCertificate,
    sign::{CertifiedKey, SigningKey},
};

use crate::{KeyError, KeyReference, ShangMi};

/// A family of cryptography: what a handshake may use of it, and how it comes by private keys.
///
/// Everything that rustls can delegate goes through [`Provider::crypto`]: suites (their AEADs, hash and HKDF, for
/// TLS and for QUIC), key exchange groups, verification of signatures and random numbers. A module that holds
/// keys overrides [`Provider::load_key`] and answers [`KeyReference::Uri`] with a [`SigningKey`] that signs
/// inside the module. The rest has defaults that follow from `crypto`.
///
/// One configuration offers one family: rustls does not tie suite, group and signature together, so families
/// are kept in separate configurations and [`Provider::serves`] decides between them by the ClientHello.
pub trait Provider: fmt::Debug + Send + Sync + 'static {
    /// What a configuration calls it, for instance `international`.
    fn name(&self) -> &str;

    /// What rustls works with, in the order of preference.
    fn crypto(&self) -> Arc<CryptoProvider>;

    /// The TLS versions it is meant for. QUIC needs 1.3.
    fn versions(&self) -> &'static [&'static SupportedProtocolVersion] {
        TLS13
    }

    /// What protects QUIC's Initial packets, AES-128-GCM with SHA-256 whatever the family (RFC 9001,
    /// section 5.2). Pass it to quinn's `with_initial`. `None` if QUIC cannot use this provider.
    fn quic_initial(&self) -> Option<quic::Suite> {
        international_initial()
    }

    /// Makes a private key ready to sign with.
    ///
    /// # Errors
    /// [`KeyError`], to be told together with where the reference was written.
    fn load_key(&self, reference: &KeyReference) -> Result<Arc<dyn SigningKey>, KeyError> {
        self.crypto().key_provider.load_private_key(reference.read()?).map_err(KeyError::Unusable)
    }

    /// A chain, its leaf first, with its key, checked to belong together where the key tells its public half.
    ///
    /// # Errors
    /// As [`Provider::load_key`]; [`KeyError::OtherCertificate`].
    fn certified_key(
        &self,
        chain: Vec<CertificateDer<'static>>,
        reference: &KeyReference,
    ) -> Result<CertifiedKey, KeyError> {
        let certified = CertifiedKey::new(chain, self.load_key(reference)?);
        match certified.keys_match() {
            Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => Ok(certified),
            Err(rustls::Error::InconsistentKeys(_)) => Err(KeyError::OtherCertificate),
            Err(other) => Err(KeyError::Unusable(other)),
        }
    }

    /// Whether a certificate's public key is of a kind that this family verifies, so that the certificate
    /// belongs to it.
    fn certifies(&self, leaf: &CertificateDer<'_>) -> bool {
        knows_key(&self.crypto().signature_verification_algorithms, leaf)
    }

    /// Whether a client that offers this can complete a handshake of this family.
    fn serves(&self, offer: &Offer<'_>) -> bool {
        let crypto = self.crypto();
        let schemes = &crypto.signature_verification_algorithms.mapping;
        crypto.cipher_suites.iter().any(|suite| offer.has_suite(suite))
            && meet(offer.groups, crypto.kx_groups.iter().map(|group| group.name().into()))
            && meet(offer.signature_schemes, schemes.iter().map(|(scheme, _)| (*scheme).into()))
    }
}

/// What a ClientHello offers, by IANA's numbers. An empty list of groups or schemes stands for an absent
/// extension, which excludes nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Offer<'a> {
    /// `cipher_suites` (RFC 8446, section 4.1.2).
    pub cipher_suites: &'a [u16],
    /// `supported_groups` (section 4.2.7).
    pub groups: &'a [u16],
    /// `signature_algorithms` (section 4.2.3).
    pub signature_schemes: &'a [u16],
}

impl Offer<'_> {
    fn has_suite(&self, suite: &SupportedCipherSuite) -> bool {
        self.cipher_suites.contains(&suite.suite().into())
    }
}

/// The world's TLS: aws-lc-rs, X25519MLKEM768 first, TLS 1.3 and 1.2. TLS_AES_128_GCM_SHA256 comes first too, as
/// phones and browsers have it: processors hash SHA-256 in hardware and SHA-384 mostly not, which was a sixth of a
/// server's work in a handshake.
#[derive(Clone, Debug)]
pub struct International {
    crypto: Arc<CryptoProvider>,
}

impl International {
    /// Its name in configurations.
    pub const NAME: &'static str = "international";
}

impl Default for International {
    fn default() -> Self {
        let mut crypto = aws_lc_rs::default_provider();
        // Stable: the others keep their order.
        crypto.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
        Self { crypto: Arc::new(crypto) }
    }
}

impl Provider for International {
    fn name(&self) -> &str {
        Self::NAME
    }

    fn crypto(&self) -> Arc<CryptoProvider> {
        Arc::clone(&self.crypto)
    }

    #[cfg(feature = "tls12")]
    fn versions(&self) -> &'static [&'static SupportedProtocolVersion] {
        TLS13_AND_TLS12
    }
}

/// The providers that configurations may name. A value, passed to whoever reads a configuration; cheap to clone.
///
/// ```
/// # use std::sync::Arc;
/// # use towline_crypto::{International, Provider, Providers};
/// # #[derive(Debug)]
/// # struct Module(International);
/// # impl Provider for Module {
/// #     fn name(&self) -> &str { "module" }
/// #     fn crypto(&self) -> Arc<rustls::crypto::CryptoProvider> { self.0.crypto() }
/// # }
/// let providers = Providers::default().with(Module(International::default()));
/// assert!(providers.get("module").is_some());
/// ```
#[derive(Clone, Debug)]
pub struct Providers {
    list: Vec<Arc<dyn Provider>>,
}

impl Default for Providers {
    /// Those that are built in.
    fn default() -> Self {
        Self { list: vec![Arc::new(International::default()), Arc::new(ShangMi::default())] }
    }
}

impl Providers {
    /// Adds a provider. It replaces the one of the same name, so a certified module can stand behind a name that
    /// configurations use already.
    #[must_use]
    pub fn with(mut self, provider: impl Provider) -> Self {
        self.list.retain(|known| known.name() != provider.name());
        self.list.push(Arc::new(provider));
        self
    }

    /// The provider of a name.
    pub fn get(&self, name: &str) -> Option<&Arc<dyn Provider>> {
        self.list.iter().find(|provider| provider.name() == name)
    }

    /// Every name, for an operator who wrote another.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.list.iter().map(|provider| provider.name())
    }
}

static TLS13: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];
#[cfg(feature = "tls12")]
static TLS13_AND_TLS12: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13, &rustls::version::TLS12];

pub(crate) fn international_initial() -> Option<quic::Suite> {
    aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256.tls13()?.quic_suite()
}

/// Whether a certificate's public key is of a kind that one of the algorithms verifies.
pub(crate) fn knows_key(algorithms: &WebPkiSupportedAlgorithms, leaf: &CertificateDer<'_>) -> bool {
    let Ok(parsed) = ParsedCertificate::try_from(leaf) else { return false };
    let spki = parsed.subject_public_key_info();
    let Some(kind) = algorithm(&spki) else { return false };
    algorithms.all.iter().any(|algorithm| algorithm.public_key_alg_id().as_ref() == kind)
}

/// Whether ours and the peer's have one in common; what the peer does not mention excludes nothing.
fn meet(offered: &[u16], mut ours: impl Iterator<Item = u16>) -> bool {
    offered.is_empty() || ours.any(|ours| offered.contains(&ours))
}

/// What stands inside AlgorithmIdentifier at the start of a SubjectPublicKeyInfo (RFC 5280, section 4.1):
/// `SEQUENCE { SEQUENCE { ... } BIT STRING }`.
fn algorithm(spki: &[u8]) -> Option<&[u8]> {
    sequence(sequence(spki)?)
}

/// The content of the DER SEQUENCE that `der` begins with.
fn sequence(der: &[u8]) -> Option<&[u8]> {
    let (&[tag, length], rest) = der.split_first_chunk::<2>()?;
    // Lengths of a certificate's key fit in two bytes.
    let (length, rest) = match length {
        0..=0x7f => (usize::from(length), rest),
        0x81 => rest.split_first().map(|(length, rest)| (usize::from(*length), rest))?,
        0x82 => {
            rest.split_first_chunk().map(|(length, rest)| (usize::from(u16::from_be_bytes(*length)), rest))?
        }
        _ => return None,
    };
    if tag == 0x30 { rest.get(..length) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RSA_SUITE: u16 = 0xc02f;
    const AES_128_GCM_SHA256: u16 = 0x1301;
    const SM4_GCM_SM3: u16 = 0x00c6;

    #[track_caller]
    fn check(suites: &[u16], groups: &[u16], schemes: &[u16], expected: bool) {
        let offer = Offer { cipher_suites: suites, groups, signature_schemes: schemes };
        assert_eq!(International::default().serves(&offer), expected, "{offer:?}");
    }

    #[test]
    fn a_client_is_served_by_a_family_it_shares_suite_group_and_signature_with() {
        check(&[AES_128_GCM_SHA256], &[29], &[0x0403], true);
        check(&[RSA_SUITE], &[], &[], true);
        check(&[SM4_GCM_SM3], &[29], &[0x0403], false);
        check(&[AES_128_GCM_SHA256], &[41], &[0x0403], false);
        check(&[AES_128_GCM_SHA256], &[29], &[0x0708], false);
        check(&[], &[], &[], false);
    }

    #[test]
    fn international_prefers_the_hybrid_group() {
        let suite = International::default().crypto().cipher_suites[0].suite();
        assert_eq!(suite, CipherSuite::TLS13_AES_128_GCM_SHA256);
        let first = International::default().crypto().kx_groups[0].name();
        assert_eq!(first, rustls::NamedGroup::X25519MLKEM768);
    }

    #[test]
    fn a_certificate_belongs_to_the_family_that_verifies_its_key() {
        let certified = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
        assert!(International::default().certifies(certified.cert.der()));
        assert!(!International::default().certifies(&CertificateDer::from_slice(b"nonsense")));
    }

    #[test]
    fn a_key_must_be_its_certificates() {
        let ours = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
        let other = rcgen::KeyPair::generate().unwrap();
        let load = |pem: String| {
            let chain = vec![ours.cert.der().clone()];
            International::default().certified_key(chain, &KeyReference::Pem(pem.into_bytes()))
        };
        assert!(load(ours.signing_key.serialize_pem()).is_ok());
        assert!(matches!(load(other.serialize_pem()), Err(KeyError::OtherCertificate)));
        assert!(matches!(load(String::new()), Err(KeyError::NoKey)));
    }

    #[test]
    fn the_operators_provider_takes_the_place_of_its_name() {
        #[derive(Debug)]
        struct Certified(International);
        impl Provider for Certified {
            fn name(&self) -> &str {
                International::NAME
            }
            fn crypto(&self) -> Arc<CryptoProvider> {
                self.0.crypto()
            }
        }
        let providers = Providers::default().with(Certified(International::default()));
        assert_eq!(providers.names().filter(|name| *name == International::NAME).count(), 1);
        let provider = providers.get(International::NAME).unwrap();
        assert_eq!(provider.versions().len(), 1, "the default of the trait, not that of the replaced one");
        assert!(providers.get("tlcp").is_none());
    }
}
