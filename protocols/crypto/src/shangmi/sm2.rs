//! SM2 (GB/T 32918-2016): keys and signatures, as bytes in and bytes out.
//!
//! The arithmetic is the crate `sm2`'s: formally verified field operations, complete addition formulas and
//! tables read in whole, so that neither signing nor key exchange branches or indexes by a secret.

use rustls::pki_types::PrivateKeyDer;
use sm2::{
    ProjectivePoint, PublicKey, Scalar, SecretKey,
    dsa::{
        Signature, SigningKey, VerifyingKey,
        signature::{RandomizedSigner as _, Verifier as _},
    },
    elliptic_curve::{
        point::AffineCoordinates as _,
        rand_core::{TryCryptoRng, TryRng},
        sec1::ToSec1Point as _,
    },
    pkcs8::DecodePrivateKey as _,
};
use zeroize::Zeroizing;

/// The signer's identifier in certificates, the standard's default (GM/T 0009-2012, section 10).
pub(super) const ID_DEFAULT: &str = "1234567812345678";
/// The signer's identifier in CertificateVerify (RFC 8998, section 3.2.1).
pub(super) const ID_TLS13: &str = "TLSv1.3+GM+Cipher+Suite";

/// An uncompressed point (SEC 1, section 2.3.3): 4, x, y.
pub(super) type Point = [u8; 65];

/// A private key. It has no Debug and erases itself.
#[derive(Clone)]
pub(super) struct PrivateKey {
    secret: SecretKey,
    public: Point,
}

/// A key, point or signature that is none. It says no more, lest it be an oracle.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Invalid;

impl PrivateKey {
    /// A fresh key from the system's random numbers.
    pub(super) fn generate() -> Result<Self, Invalid> {
        // A draw outside of 1..n-1 has a chance of 2^-32; that many in a row mean a broken generator.
        const DRAWS_MAX: usize = 8;
        let mut draw = Zeroizing::new([0; 32]);
        for _ in 0..DRAWS_MAX {
            aws_lc_rs::rand::fill(draw.as_mut()).map_err(|_| Invalid)?;
            if let Ok(key) = Self::from_bytes(draw.as_ref()) {
                return Ok(key);
            }
        }
        Err(Invalid)
    }

    /// 32 bytes, big-endian, in 1..n-2: GB/T 32918.1, section 6.1, excludes n-1, with which nothing can be signed.
    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, Invalid> {
        Self::new(SecretKey::from_slice(bytes).map_err(|_| Invalid)?)
    }

    /// SEC1 (RFC 5915) or PKCS#8 (RFC 5958), on SM2's curve.
    pub(super) fn from_der(key: &PrivateKeyDer<'_>) -> Result<Self, Invalid> {
        let secret = match key {
            PrivateKeyDer::Sec1(der) => {
                SecretKey::from_sec1_der(der.secret_sec1_der()).map_err(|_| Invalid)?
            }
            PrivateKeyDer::Pkcs8(der) => {
                SecretKey::from_pkcs8_der(der.secret_pkcs8_der()).map_err(|_| Invalid)?
            }
            _ => return Err(Invalid),
        };
        Self::new(secret)
    }

    fn new(secret: SecretKey) -> Result<Self, Invalid> {
        if *secret.to_nonzero_scalar() == -Scalar::ONE {
            return Err(Invalid);
        }
        let public = encode(&secret.public_key())?;
        Ok(Self { secret, public })
    }

    /// Its public half.
    pub(super) fn public(&self) -> &Point {
        &self.public
    }

    /// Ready to sign under an identifier.
    pub(super) fn signer(&self, id: &str) -> Result<Signer, Invalid> {
        SigningKey::new(id, &self.secret).map(Signer).map_err(|_| Invalid)
    }

    /// The x coordinate of the point that both sides come to: plain Diffie-Hellman, as RFC 8998, section 3.3,
    /// uses the curve.
    pub(super) fn agree(&self, peer: &[u8]) -> Result<Zeroizing<[u8; 32]>, Invalid> {
        let peer = decode(peer)?;
        let shared = ProjectivePoint::from(*peer.as_affine()) * *self.secret.to_nonzero_scalar();
        Ok(Zeroizing::new(shared.to_affine().x().into()))
    }

    /// PKCS#8, PEM.
    #[cfg(feature = "issue")]
    pub(super) fn to_pem(&self) -> Result<Zeroizing<String>, Invalid> {
        sm2::pkcs8::EncodePrivateKey::to_pkcs8_pem(&self.secret, sm2::pkcs8::LineEnding::LF)
            .map_err(|_| Invalid)
    }
}

/// A private key and the hash of its identifier, curve and public half (`Z` in GB/T 32918.2, section 5.5).
#[derive(Clone)]
pub(super) struct Signer(SigningKey);

impl Signer {
    /// `r` and `s` over a message, in DER (GB/T 32918.2, section 6.1). The nonce is derived from key, message and
    /// fresh random numbers together, so a weak generator alone does not give the key away.
    pub(super) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Invalid> {
        let signature: Signature = self.0.try_sign_with_rng(&mut SystemRng, message).map_err(|_| Invalid)?;
        Ok(signature.to_der().as_bytes().to_vec())
    }
}

/// Checks a DER signature (GB/T 32918.2, section 7.1).
pub(super) fn verify(public: &[u8], id: &str, message: &[u8], signature: &[u8]) -> Result<(), Invalid> {
    let key = VerifyingKey::new(id, decode(public)?).map_err(|_| Invalid)?;
    let signature = Signature::from_der(signature).map_err(|_| Invalid)?;
    key.verify(message, &signature).map_err(|_| Invalid)
}

/// A point of the curve, never that at infinity. TLS knows uncompressed points only (RFC 8446, section 4.2.8.2).
fn decode(point: &[u8]) -> Result<PublicKey, Invalid> {
    const UNCOMPRESSED: u8 = 4;
    if point.first() != Some(&UNCOMPRESSED) {
        return Err(Invalid);
    }
    PublicKey::from_sec1_bytes(point).map_err(|_| Invalid)
}

fn encode(public: &PublicKey) -> Result<Point, Invalid> {
    public.to_sec1_point(false).as_bytes().try_into().map_err(|_| Invalid)
}

/// The system's random numbers, as the crate `sm2` wants them.
struct SystemRng;

impl TryRng for SystemRng {
    type Error = Unavailable;

    fn try_next_u32(&mut self) -> Result<u32, Unavailable> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_ne_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Unavailable> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_ne_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Unavailable> {
        aws_lc_rs::rand::fill(bytes).map_err(|_| Unavailable)
    }
}

impl TryCryptoRng for SystemRng {}

#[derive(Debug, thiserror::Error)]
#[error("the system has no random numbers")]
struct Unavailable;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::hex;

    /// GB/T 32918.5-2017, appendix A.2: key, identifier and message of the sample signature.
    const KEY: &str = "3945208f7b2144b13f36e38ac6d39f95889393692860b51a42fb81ef4df7c5b8";
    const PUBLIC: &str = "04
        09f9df311e5421a150dd7d161e4bc5c672179fad1833fc076bb08ff356f35020
        ccea490ce26775a52dc6ea718cc1aa600aed05fbf35e084a6632f6072da9ad13";
    const R: &str = "f5a03b0648d2c4630eeac513e1bb81a15944da3827d5b74143ac7eaceee720b3";
    const S: &str = "b1b6aa29df212fd8763182bc0d421ca1bb9038fd1f7f42d4840b69c485bbc1aa";
    const MESSAGE: &[u8] = b"message digest";

    fn sample() -> PrivateKey {
        PrivateKey::from_bytes(&hex(KEY)).unwrap()
    }

    /// DER of two integers whose first bit is set.
    fn der(r: &[u8], s: &[u8]) -> Vec<u8> {
        [&[0x30, 0x46, 2, 0x21, 0], r, &[2, 0x21, 0], s].concat()
    }

    #[test]
    fn the_standards_sample_key_and_signature() {
        assert_eq!(sample().public().as_slice(), hex(PUBLIC));
        verify(&hex(PUBLIC), ID_DEFAULT, MESSAGE, &der(&hex(R), &hex(S))).unwrap();
    }

    #[test]
    fn a_signature_holds_for_its_key_identifier_and_message_alone() {
        let signature = sample().signer(ID_TLS13).unwrap().sign(b"handshake").unwrap();
        let public = hex(PUBLIC);
        assert_eq!(verify(&public, ID_TLS13, b"handshake", &signature), Ok(()));
        assert_eq!(verify(&public, ID_DEFAULT, b"handshake", &signature), Err(Invalid));
        assert_eq!(verify(&public, ID_TLS13, b"handshakf", &signature), Err(Invalid));
        let other = PrivateKey::generate().unwrap();
        assert_eq!(verify(other.public(), ID_TLS13, b"handshake", &signature), Err(Invalid));
    }

    #[test]
    fn two_signatures_differ_since_random_numbers_take_part() {
        let signer = sample().signer(ID_TLS13).unwrap();
        assert_ne!(signer.sign(b"same").unwrap(), signer.sign(b"same").unwrap());
    }

    #[test]
    fn both_sides_agree() {
        let (alice, bob) = (PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());
        assert_eq!(*alice.agree(bob.public()).unwrap(), *bob.agree(alice.public()).unwrap());
    }

    #[track_caller]
    fn check_refused(point: &[u8]) {
        assert!(sample().agree(point).is_err());
        assert!(verify(point, ID_DEFAULT, MESSAGE, &der(&hex(R), &hex(S))).is_err());
    }

    #[test]
    fn points_that_are_none_are_refused() {
        let good = hex(PUBLIC);
        check_refused(&[]);
        check_refused(&[0]);
        check_refused(&[4]);
        check_refused(&[0; 65]);
        check_refused(&good[..64]);
        check_refused(&[good.as_slice(), &[0]].concat());
        // On the curve, but compressed or hybrid.
        check_refused(&[&[3], &good[1..33]].concat());
        check_refused(&[&[7], &good[1..]].concat());
        // Off the curve by one bit: P-256's generator is as little a point of this curve.
        let mut off = good.clone();
        off[64] ^= 1;
        check_refused(&off);
        // Coordinates at or above the field's modulus.
        let mut above = good;
        above[1..33].fill(0xff);
        check_refused(&above);
    }

    #[track_caller]
    fn check_key_refused(key: &str) {
        assert!(PrivateKey::from_bytes(&hex(key)).is_err());
    }

    #[test]
    fn keys_are_between_one_and_the_order_less_two() {
        check_key_refused("");
        check_key_refused(&"00".repeat(32));
        check_key_refused("fffffffeffffffffffffffffffffffff7203df6b21c6052b53bbf40939d54122");
        check_key_refused("fffffffeffffffffffffffffffffffff7203df6b21c6052b53bbf40939d54123");
        check_key_refused(&"ff".repeat(32));
        assert!(PrivateKey::from_bytes(&hex(KEY)).is_ok());
    }

    #[test]
    fn zero_and_the_order_are_no_half_of_a_signature() {
        let order = hex("fffffffeffffffffffffffffffffffff7203df6b21c6052b53bbf40939d54123");
        let public = hex(PUBLIC);
        for (r, s) in [(order.clone(), hex(S)), (hex(R), order)] {
            assert!(verify(&public, ID_DEFAULT, MESSAGE, &der(&r, &s)).is_err());
        }
        assert!(verify(&public, ID_DEFAULT, MESSAGE, &hex("3006020100020100")).is_err());
    }
}
