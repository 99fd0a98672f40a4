//! Keys that tokens are verified with.

use aws_lc_rs::{
    digest, hmac,
    signature::{self, RsaPublicKeyComponents, UnparsedPublicKey},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64_URL};
use serde_json::{Map, Value};

/// Keys of one set; an issuer has two or three at a time.
const KEYS_MAX: usize = 64;
/// A coordinate of P-256, and a key of Ed25519.
const COORDINATE_BYTES: usize = 32;
/// RSA moduli below are broken, above waste time (2048 to 8192 bits).
const MODULUS_BYTES: std::ops::RangeInclusive<usize> = 256..=1024;

/// How a token is signed (RFC 7518, RFC 8037).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// ECDSA with P-256 and SHA-256.
    Es256,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// RSASSA-PSS with SHA-256.
    Ps256,
    /// Ed25519.
    EdDsa,
    /// HMAC with SHA-256.
    Hs256,
}

impl Algorithm {
    /// Each with its name; there is no `none`.
    pub const NAMES: &[(&str, Self)] = &[
        ("ES256", Self::Es256),
        ("RS256", Self::Rs256),
        ("PS256", Self::Ps256),
        ("EdDSA", Self::EdDsa),
        ("HS256", Self::Hs256),
    ];

    pub(super) fn parse(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|(_, algorithm)| *algorithm)
    }
}

/// Keys of an issuer. Those of kinds that are not known here are left out.
#[derive(Default)]
pub struct KeySet(Vec<Key>);

/// Tells a key from others by what it is made of, whatever its issuer calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyMark([u8; 8]);

struct Key {
    mark: KeyMark,
    id: Option<String>,
    /// The only algorithm that it is for, if it says so.
    algorithm: Option<Algorithm>,
    material: Material,
}

enum Material {
    P256([u8; 1 + 2 * COORDINATE_BYTES]),
    Rsa { modulus: Vec<u8>, exponent: Vec<u8> },
    Ed25519([u8; COORDINATE_BYTES]),
    Secret(Box<hmac::Key>),
}

impl KeySet {
    /// Reads a JWK Set (RFC 7517, section 5). Symmetric keys in it are not taken: it may be public.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let document: Value =
            serde_json::from_slice(bytes).map_err(|error| format!("is not JSON: {error}"))?;
        let keys = document.get("keys").and_then(Value::as_array);
        let keys = keys.ok_or("is not a JWK Set, an object with a list `keys` (RFC 7517)")?;
        if keys.len() > KEYS_MAX {
            return Err(format!("holds more than {KEYS_MAX} keys"));
        }
        let keys: Vec<_> = keys.iter().filter_map(|key| Key::parse(key.as_object()?)).collect();
        if keys.is_empty() {
            return Err(
                "holds no key for signatures of a kind that is known here (EC P-256, RSA of 2048 to 8192 \
                        bits, OKP Ed25519)"
                    .to_owned(),
            );
        }
        Ok(Self(keys))
    }

    /// A secret that issuer and gateway share.
    pub(super) fn add_secret(&mut self, secret: &[u8]) {
        let material = Material::Secret(Box::new(hmac::Key::new(hmac::HMAC_SHA256, secret)));
        self.0.push(Key {
            mark: KeyMark::of(&[secret]),
            id: None,
            algorithm: Some(Algorithm::Hs256),
            material,
        });
    }

    /// Whether the key is one of them.
    pub(super) fn holds(&self, mark: KeyMark) -> bool {
        self.0.iter().any(|key| key.mark == mark)
    }

    /// Whether all of its keys are in `other` too.
    pub(super) fn is_within(&self, other: &Self) -> bool {
        self.0.iter().all(|key| other.holds(key.mark))
    }

    /// Whether some key fits, and whether one of those verifies.
    pub(super) fn verify(&self, algorithm: Algorithm, id: Option<&str>, signed: &[u8], mac: &[u8]) -> Fit {
        let mut fit = Fit::None;
        for key in self.0.iter().filter(|key| key.fits(algorithm, id)) {
            if key.material.verify(algorithm, signed, mac) {
                return Fit::Verifies(key.mark);
            }
            fit = Fit::Fails;
        }
        fit
    }
}

/// What a set of keys says of a signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    /// It has no key for it.
    None,
    /// It was not made with a key of the set.
    Fails,
    /// It is genuine, by this key.
    Verifies(KeyMark),
}

impl KeyMark {
    fn of(material: &[&[u8]]) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        material.iter().for_each(|part| context.update(part));
        let mut mark = [0; 8];
        mark.copy_from_slice(&context.finish().as_ref()[..8]);
        Self(mark)
    }
}

impl Key {
    fn parse(jwk: &Map<String, Value>) -> Option<Self> {
        let text = |name: &str| jwk.get(name).and_then(Value::as_str);
        if text("use").is_some_and(|usage| usage != "sig") {
            return None;
        }
        let bytes = |name: &str| BASE64_URL.decode(text(name)?).ok();
        let material = match (text("kty")?, text("crv")) {
            ("EC", Some("P-256")) => {
                let (x, y) = (bytes("x")?, bytes("y")?);
                // The uncompressed point (SEC 1, section 2.3.3).
                let point = [&[4], &x[..], &y[..]].concat();
                Material::P256(point.try_into().ok().filter(|_| x.len() == COORDINATE_BYTES)?)
            }
            ("OKP", Some("Ed25519")) => Material::Ed25519(bytes("x")?.try_into().ok()?),
            ("RSA", _) => {
                let (modulus, exponent) = (bytes("n")?, bytes("e")?);
                let modulus = modulus.into_iter().skip_while(|byte| *byte == 0).collect::<Vec<_>>();
                MODULUS_BYTES.contains(&modulus.len()).then_some(Material::Rsa { modulus, exponent })?
            }
            _ => return None,
        };
        let algorithm = match text("alg") {
            Some(name) => Some(Algorithm::parse(name)?),
            None => None,
        };
        let mark = match &material {
            Material::P256(point) => KeyMark::of(&[point]),
            Material::Rsa { modulus, exponent } => KeyMark::of(&[modulus, exponent]),
            Material::Ed25519(key) => KeyMark::of(&[key]),
            // A set holds none.
            Material::Secret(_) => return None,
        };
        Some(Self { mark, id: text("kid").map(str::to_owned), algorithm, material })
    }

    /// A token that names no key may be of any; a key without a name is no other's.
    fn fits(&self, algorithm: Algorithm, id: Option<&str>) -> bool {
        let is_kind = match (&self.material, algorithm) {
            (Material::P256(_), Algorithm::Es256) => true,
            (Material::Rsa { .. }, Algorithm::Rs256 | Algorithm::Ps256) => true,
            (Material::Ed25519(_), Algorithm::EdDsa) => true,
            // The one secret is for whatever the issuer calls it.
            (Material::Secret(_), Algorithm::Hs256) => return true,
            _ => false,
        };
        is_kind
            && self.algorithm.is_none_or(|only| only == algorithm)
            && id.is_none_or(|id| self.id.as_deref() == Some(id))
    }
}

impl Material {
    fn verify(&self, algorithm: Algorithm, signed: &[u8], mac: &[u8]) -> bool {
        match self {
            Self::P256(point) => {
                UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point).verify(signed, mac).is_ok()
            }
            Self::Ed25519(key) => {
                UnparsedPublicKey::new(&signature::ED25519, key).verify(signed, mac).is_ok()
            }
            Self::Rsa { modulus, exponent } => {
                let parameters = match algorithm {
                    Algorithm::Ps256 => &signature::RSA_PSS_2048_8192_SHA256,
                    _ => &signature::RSA_PKCS1_2048_8192_SHA256,
                };
                RsaPublicKeyComponents { n: modulus, e: exponent }.verify(parameters, signed, mac).is_ok()
            }
            Self::Secret(key) => hmac::verify(key, signed, mac).is_ok(),
        }
    }
}
