//! SM2 (GB/T 32918-2016): keys and signatures, as bytes in and bytes out.
//!
//! Keys are read, and numbers modulo the group's order reckoned with, by the crate `sm2`. Points are multiplied here,
//! in half of the crate's time and as independently of secrets.

mod field;
mod point;

use rustls::{crypto::hmac::Hmac as _, pki_types::PrivateKeyDer};
use sm2::{
    FieldBytes, Scalar, SecretKey,
    dsa::Signature,
    elliptic_curve::{ff::PrimeField as _, ops::Reduce as _},
    pkcs8::DecodePrivateKey as _,
};
use sm3::{Digest as _, Sm3};
use zeroize::{Zeroize as _, Zeroizing};

use self::point::Affine;
use super::sm3::HMAC_SM3;

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
        let scalar = Zeroizing::new(<[u8; 32]>::from(secret.to_bytes()));
        let public = point::multiply_generator(&scalar).to_affine().ok_or(Invalid)?.to_bytes();
        Ok(Self { secret, public })
    }

    /// Its public half.
    pub(super) fn public(&self) -> &Point {
        &self.public
    }

    /// Ready to sign under an identifier.
    pub(super) fn signer(&self, id: &str) -> Result<Signer, Invalid> {
        let d = *self.secret.to_nonzero_scalar();
        let inverse = (d + Scalar::ONE).invert().into_option().ok_or(Invalid)?;
        Ok(Signer { d, inverse, z: identity(id, &self.public)? })
    }

    /// The x coordinate of the point that both sides come to: plain Diffie-Hellman, as RFC 8998, section 3.3,
    /// uses the curve.
    pub(super) fn agree(&self, peer: &[u8]) -> Result<Zeroizing<[u8; 32]>, Invalid> {
        let peer = Affine::from_bytes(peer).ok_or(Invalid)?;
        let scalar = Zeroizing::new(<[u8; 32]>::from(self.secret.to_bytes()));
        let shared = point::multiply(&peer, &scalar).to_affine().ok_or(Invalid)?;
        Ok(Zeroizing::new(shared.x()))
    }

    /// PKCS#8, PEM.
    #[cfg(feature = "issue")]
    pub(super) fn to_pem(&self) -> Result<Zeroizing<String>, Invalid> {
        sm2::pkcs8::EncodePrivateKey::to_pkcs8_pem(&self.secret, sm2::pkcs8::LineEnding::LF)
            .map_err(|_| Invalid)
    }
}

/// A private key and the hash of its identifier, curve and public half. It erases itself.
pub(super) struct Signer {
    d: Scalar,
    /// `1 / (1 + d)`.
    inverse: Scalar,
    z: [u8; 32],
}

impl Signer {
    /// `r` and `s` over a message, in DER (GB/T 32918.2, section 6.1). The nonce comes from key, message and fresh
    /// random numbers together, so a weak generator alone does not give the key away.
    pub(super) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Invalid> {
        // A draw fails with a chance of 2^-32; that many in a row mean that something is broken.
        const DRAWS_MAX: u8 = 8;
        let e = digest(&self.z, message);
        let mut fresh = Zeroizing::new([0; 32]);
        aws_lc_rs::rand::fill(fresh.as_mut()).map_err(|_| Invalid)?;
        let key = HMAC_SM3.with_key(&Zeroizing::new(<[u8; 32]>::from(self.d.to_repr()))[..]);
        for draw in 0..DRAWS_MAX {
            let nonce = key.sign_concat(&[draw], &[&fresh[..]], &e);
            if let Some(signature) = self.sign_with(&e, nonce.as_ref()) {
                return Ok(signature.to_der().as_bytes().to_vec());
            }
        }
        Err(Invalid)
    }

    /// Steps A4 to A7; `None` where A3 has to draw again.
    fn sign_with(&self, e: &[u8; 32], nonce: &[u8]) -> Option<Signature> {
        let nonce = Zeroizing::new(<[u8; 32]>::try_from(nonce).ok()?);
        let k = Zeroizing::new(Scalar::from_repr((*nonce).into()).into_option()?);
        let x = point::multiply_generator(&nonce).to_affine()?.x();
        let r = reduce(e) + reduce(&x);
        if bool::from(r.is_zero() | (r + *k).is_zero()) {
            return None;
        }
        let s = self.inverse * (*k - r * self.d);
        // Refuses an s of zero.
        Signature::from_scalars(r, s).ok()
    }
}

impl Drop for Signer {
    fn drop(&mut self) {
        self.d.zeroize();
        self.inverse.zeroize();
    }
}

/// Checks a DER signature (GB/T 32918.2, section 7.1).
pub(super) fn verify(public: &[u8], id: &str, message: &[u8], signature: &[u8]) -> Result<(), Invalid> {
    let point = Affine::from_bytes(public).ok_or(Invalid)?;
    let z = identity(id, &point.to_bytes())?;
    // Both halves are in 1..n-1.
    let (r, s) = Signature::from_der(signature).map_err(|_| Invalid)?.split_scalars();
    let t = *r + *s;
    if t.is_zero().into() {
        return Err(Invalid);
    }
    let with_generator = point::multiply_generator(&s.to_repr().into());
    let sum = point::multiply(&point, &t.to_repr().into()).add(&with_generator);
    let x = sum.to_affine().ok_or(Invalid)?.x();
    if *r == reduce(&digest(&z, message)) + reduce(&x) { Ok(()) } else { Err(Invalid) }
}

/// `Z`: the hash of the signer's identifier, the curve and the public key (GB/T 32918.2, section 5.5).
fn identity(id: &str, public: &Point) -> Result<[u8; 32], Invalid> {
    let bits = u16::try_from(id.len() * 8).map_err(|_| Invalid)?.to_be_bytes();
    let hash = Sm3::new().chain_update(bits).chain_update(id).chain_update(CURVE).chain_update(&public[1..]);
    Ok(hash.finalize().into())
}

/// `e`: the hash of `Z` and the message.
fn digest(z: &[u8; 32], message: &[u8]) -> [u8; 32] {
    Sm3::new().chain_update(z).chain_update(message).finalize().into()
}

fn reduce(bytes: &[u8; 32]) -> Scalar {
    Scalar::reduce(&FieldBytes::from(*bytes))
}

/// `a`, `b` and the generator's coordinates (GB/T 32918.5-2017, section 2).
const CURVE: &[u8] = b"\
    \xff\xff\xff\xfe\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\
    \xff\xff\xff\xff\x00\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xfc\
    \x28\xe9\xfa\x9e\x9d\x9f\x5e\x34\x4d\x5a\x9e\x4b\xcf\x65\x09\xa7\
    \xf3\x97\x89\xf5\x15\xab\x8f\x92\xdd\xbc\xbd\x41\x4d\x94\x0e\x93\
    \x32\xc4\xae\x2c\x1f\x19\x81\x19\x5f\x99\x04\x46\x6a\x39\xc9\x94\
    \x8f\xe3\x0b\xbf\xf2\x66\x0b\xe1\x71\x5a\x45\x89\x33\x4c\x74\xc7\
    \xbc\x37\x36\xa2\xf4\xf6\x77\x9c\x59\xbd\xce\xe3\x6b\x69\x21\x53\
    \xd0\xa9\x87\x7c\xc6\x2a\x47\x40\x02\xdf\x32\xe5\x21\x39\xf0\xa0";

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
