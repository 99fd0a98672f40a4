//! Ed25519 (RFC 8032) for documents that an operator signs away from gateways, as endpoint lists are.

use std::{fmt, str::FromStr};

use aws_lc_rs::{
    digest::{SHA256, digest},
    signature::{ED25519, ED25519_PUBLIC_KEY_LEN, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey},
};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use rustls::pki_types::{PrivatePkcs8KeyDer, pem::PemObject as _};
use zeroize::{Zeroize as _, Zeroizing};

/// Length of a signature, bytes.
pub const SIGNATURE_BYTES: usize = 64;
/// Length of what names a key, bytes.
pub const KEY_ID_BYTES: usize = 8;
/// Of a line of PEM (RFC 7468, section 2).
const PEM_LINE: usize = 64;

/// A public key, as an app or a configuration has it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey([u8; ED25519_PUBLIC_KEY_LEN]);

/// Not a public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "is no public key; write ed25519/ and the base64 of its 32 bytes, as `towline endpoints keygen` prints it"
)]
pub struct MalformedKey;

impl PublicKey {
    /// Of its 32 bytes.
    pub fn from_bytes(bytes: [u8; ED25519_PUBLIC_KEY_LEN]) -> Self {
        Self(bytes)
    }

    /// What names it beside a signature: the first bytes of its SHA-256.
    pub fn id(&self) -> [u8; KEY_ID_BYTES] {
        let mut id = [0; KEY_ID_BYTES];
        id.copy_from_slice(&digest(&SHA256, &self.0).as_ref()[..KEY_ID_BYTES]);
        id
    }

    /// Whether its owner signed this message.
    pub fn verify(&self, message: &[u8], signature: &[u8; SIGNATURE_BYTES]) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.0).verify(message, signature).is_ok()
    }

    /// Whether one of `keys` is called `id` and signed this message.
    pub fn any_signed(
        keys: &[Self],
        id: &[u8; KEY_ID_BYTES],
        message: &[u8],
        signature: &[u8; SIGNATURE_BYTES],
    ) -> bool {
        keys.iter().any(|key| key.id() == *id && key.verify(message, signature))
    }
}

/// `ed25519/` and base64; the prefix may be left out.
impl FromStr for PublicKey {
    type Err = MalformedKey;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let decoded = BASE64.decode(text.strip_prefix("ed25519/").unwrap_or(text));
        decoded.ok().and_then(|bytes| bytes.try_into().ok()).map(Self).ok_or(MalformedKey)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ed25519/{}", BASE64.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A private key.
pub struct SigningKey(Ed25519KeyPair);

/// Why there is no private key. The operator's to mend; a retry does not help.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SigningKeyError {
    /// The text is none.
    #[error("is no Ed25519 private key in PEM (PKCS#8)")]
    Malformed,
    /// None could be made.
    #[error("the system gives no random bytes")]
    Random,
}

impl SigningKey {
    /// A new one.
    ///
    /// # Errors
    /// The system gives no random bytes.
    pub fn generate() -> Result<Self, SigningKeyError> {
        Ed25519KeyPair::generate().map(Self).map_err(|_| SigningKeyError::Random)
    }

    /// Reads PEM, as [`SigningKey::to_pem`] and `openssl genpkey -algorithm ed25519` write it.
    ///
    /// # Errors
    /// It is no such key.
    pub fn from_pem(text: &[u8]) -> Result<Self, SigningKeyError> {
        let key = PrivatePkcs8KeyDer::from_pem_slice(text).map_err(|_| SigningKeyError::Malformed)?;
        let key = Ed25519KeyPair::from_pkcs8_maybe_unchecked(key.secret_pkcs8_der());
        key.map(Self).map_err(|_| SigningKeyError::Malformed)
    }

    /// PKCS#8 (RFC 5958) in PEM.
    ///
    /// # Errors
    /// The key does not show itself.
    pub fn to_pem(&self) -> Result<Zeroizing<String>, SigningKeyError> {
        let der = self.0.to_pkcs8v1().map_err(|_| SigningKeyError::Malformed)?;
        let mut base64 = BASE64.encode(der.as_ref());
        let mut text = Zeroizing::new(String::with_capacity(256));
        text.push_str("-----BEGIN PRIVATE KEY-----\n");
        for line in base64.as_bytes().chunks(PEM_LINE) {
            line.iter().for_each(|&octet| text.push(char::from(octet)));
            text.push('\n');
        }
        text.push_str("-----END PRIVATE KEY-----\n");
        base64.zeroize();
        Ok(text)
    }

    /// The key that others verify with.
    pub fn public(&self) -> PublicKey {
        let mut bytes = [0; ED25519_PUBLIC_KEY_LEN];
        bytes.copy_from_slice(self.0.public_key().as_ref());
        PublicKey(bytes)
    }

    /// The signature over a message.
    pub fn sign(&self, message: &[u8]) -> [u8; SIGNATURE_BYTES] {
        let mut bytes = [0; SIGNATURE_BYTES];
        bytes.copy_from_slice(self.0.sign(message).as_ref());
        bytes
    }
}

/// The key stays out of logs.
impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey(of {})", self.public())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_key_signs_it_and_no_other_verifies_and_its_file_is_the_key() {
        let (key, other) = (SigningKey::generate().unwrap(), SigningKey::generate().unwrap());
        let again = SigningKey::from_pem(key.to_pem().unwrap().as_bytes()).unwrap();
        assert_eq!(again.public(), key.public());
        let signature = again.sign(b"message");
        let keys = [other.public(), key.public()];
        let check = |keys: &[PublicKey], message: &[u8], expected| {
            let signed = PublicKey::any_signed(keys, &key.public().id(), message, &signature);
            assert_eq!(signed, expected);
        };
        check(&keys, b"message", true);
        check(&keys, b"massage", false);
        check(&keys[..1], b"message", false);
        assert!(
            !PublicKey::any_signed(&keys, &other.public().id(), b"message", &signature),
            "another's name"
        );
        assert_eq!(key.public().to_string().parse(), Ok(key.public()));
        assert_eq!("ed25519/AAAA".parse::<PublicKey>(), Err(MalformedKey));
        assert_eq!(SigningKey::from_pem(b"nothing").err(), Some(SigningKeyError::Malformed));
    }

    /// RFC 8032, section 7.1, test 1.
    #[test]
    fn the_first_vector_of_the_rfc() {
        let public = "ed25519/11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=".parse::<PublicKey>().unwrap();
        let signature =
            "5VZDAMNgrHKQhuLMgG6CioSHfx645dl02HPgZSJJAVVfuIIVkKM7rMYeOXAc+bRr0lv18FlbviRlUUFDjnoQCw==";
        // The file that openssl makes of the vector's secret key.
        let pem = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n\
                   -----END PRIVATE KEY-----\n";
        let key = SigningKey::from_pem(pem.as_bytes()).unwrap();
        assert_eq!(key.public(), public);
        assert_eq!(BASE64.encode(key.sign(b"")), signature);
        assert!(public.verify(b"", &key.sign(b"")));
        assert_eq!(key.to_pem().unwrap().as_str(), pem);
    }
}
