//! SM2 certificates and their keys, for rustls and webpki.

use std::{fmt, sync::Arc};

use rustls::{
    Error, SignatureAlgorithm, SignatureScheme,
    crypto::{KeyProvider, WebPkiSupportedAlgorithms},
    pki_types::{
        AlgorithmIdentifier, InvalidSignature, PrivateKeyDer, SignatureVerificationAlgorithm,
        SubjectPublicKeyInfoDer,
    },
    sign::{Signer, SigningKey},
};

use super::sm2::{self, ID_DEFAULT, ID_TLS13, PrivateKey};

/// sm2sig_sm3 (RFC 8998, section 3.2.1).
pub(super) const SM2SIG_SM3: SignatureScheme = SignatureScheme::Unknown(0x0708);

/// The content of AlgorithmIdentifier: id-ecPublicKey, SM2's curve (1.2.156.10197.1.301; GM/T 0015-2012).
const PUBLIC_KEY: AlgorithmIdentifier = AlgorithmIdentifier::from_slice(
    b"\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x81\x1c\xcf\x55\x01\x82\x2d",
);
/// SM2 with SM3 (1.2.156.10197.1.501; GM/T 0006-2012).
const SIGNATURE: AlgorithmIdentifier =
    AlgorithmIdentifier::from_slice(b"\x06\x08\x2a\x81\x1c\xcf\x55\x01\x83\x75");
/// The same with parameters NULL, as some authorities write it.
const SIGNATURE_NULL: AlgorithmIdentifier =
    AlgorithmIdentifier::from_slice(b"\x06\x08\x2a\x81\x1c\xcf\x55\x01\x83\x75\x05\x00");

/// What comes before the point in a SubjectPublicKeyInfo: two SEQUENCEs, [`PUBLIC_KEY`], a BIT STRING's head.
const SPKI_HEAD: &[u8] =
    b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x81\x1c\xcf\x55\x01\x82\x2d\x03\x42\x00";

/// Chains are signed under the default identifier, handshakes under that of RFC 8998.
pub(super) static VERIFICATION: WebPkiSupportedAlgorithms = WebPkiSupportedAlgorithms {
    all: &[&IN_CERTIFICATES, &IN_CERTIFICATES_NULL],
    mapping: &[(SM2SIG_SM3, &[&IN_HANDSHAKES])],
};

static IN_CERTIFICATES: Verification = Verification { id: ID_DEFAULT, signature: SIGNATURE };
static IN_CERTIFICATES_NULL: Verification = Verification { id: ID_DEFAULT, signature: SIGNATURE_NULL };
static IN_HANDSHAKES: Verification = Verification { id: ID_TLS13, signature: SIGNATURE };

/// Reads SM2 private keys.
#[derive(Debug)]
pub(super) struct Keys;

impl KeyProvider for Keys {
    fn load_private_key(&self, key: PrivateKeyDer<'static>) -> Result<Arc<dyn SigningKey>, Error> {
        let refused = |_| Error::General("not an SM2 key in SEC1 or PKCS#8".into());
        let key = PrivateKey::from_der(&key).map_err(refused)?;
        let signer = key.signer(ID_TLS13).map_err(refused)?;
        Ok(Arc::new(Sm2Key { spki: spki(key.public()), signer: Arc::new(signer) }))
    }
}

/// SubjectPublicKeyInfo of a point.
pub(super) fn spki(public: &sm2::Point) -> Vec<u8> {
    [SPKI_HEAD, public].concat()
}

/// The key of a certificate, which signs handshakes.
struct Sm2Key {
    spki: Vec<u8>,
    signer: Arc<sm2::Signer>,
}

impl SigningKey for Sm2Key {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        offered.contains(&SM2SIG_SM3).then(|| Box::new(HandshakeSigner(Arc::clone(&self.signer))) as _)
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        Some(SubjectPublicKeyInfoDer::from(self.spki.as_slice()))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        // The lower byte of the scheme, where TLS 1.2 has the algorithm.
        SignatureAlgorithm::Unknown(8)
    }
}

impl fmt::Debug for Sm2Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sm2Key")
    }
}

struct HandshakeSigner(Arc<sm2::Signer>);

impl Signer for HandshakeSigner {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        self.0.sign(message).map_err(|_| Error::General("SM2 could not sign".into()))
    }

    fn scheme(&self) -> SignatureScheme {
        SM2SIG_SM3
    }
}

impl fmt::Debug for HandshakeSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HandshakeSigner")
    }
}

#[derive(Debug)]
struct Verification {
    id: &'static str,
    signature: AlgorithmIdentifier,
}

impl SignatureVerificationAlgorithm for Verification {
    fn verify_signature(
        &self,
        public_key: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        sm2::verify(public_key, self.id, message, signature).map_err(|_| InvalidSignature)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        PUBLIC_KEY
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        self.signature
    }
}
