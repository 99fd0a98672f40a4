//! Keys, points, signatures and certificates that are none: errors, never panics, and nothing wrong accepted.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::sync::LazyLock;

use common::{Certified, sm2_certificate};
use proptest::prelude::*;
use rustls::{
    SignatureScheme,
    pki_types::{CertificateDer, PrivateKeyDer, SignatureVerificationAlgorithm, pem::PemObject as _},
};
use towline_crypto::{KeyError, KeyReference, Provider as _, ShangMi};

/// Made by OpenSSL 3.0.19: `openssl ecparam -genkey -name SM2 -noout | openssl ec -param_enc named_curve`.
const OPENSSL_SEC1: &str = "\
-----BEGIN SM2 PRIVATE KEY-----
MHcCAQEEIGOYGJpusSOUVXkOBmwq/0RUvFoElQJc6Ize8e2bhfCdoAoGCCqBHM9V
AYItoUQDQgAEStk56G57VVZfMZq01BLLNK4/NfXQxf0emKPX93ZMm/TqFHVYOyXZ
gMS55H+Hft0pWX9QSeOfTgxaNQiAdxpNrA==
-----END SM2 PRIVATE KEY-----
";
/// The same key as it comes from `openssl ecparam`, PKCS#8.
const OPENSSL_PKCS8: &str = "\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqBHM9VAYItBG0wawIBAQQgY5gYmm6xI5RVeQ4G
bCr/RFS8WgSVAlzojN7x7ZuF8J2hRANCAARK2TnobntVVl8xmrTUEss0rj819dDF
/R6Yo9f3dkyb9OoUdVg7JdmAxLnkf4d+3SlZf1BJ459ODFo1CIB3Gk2s
-----END PRIVATE KEY-----
";
/// A certificate of that key for itself, by `openssl req -x509 -sm3 -sigopt distid:1234567812345678`.
const OPENSSL_CERTIFICATE: &str = "\
-----BEGIN CERTIFICATE-----
MIIBfjCCASWgAwIBAgIUZzbWID2ZfOHEpdYrw/6M6YrqI8IwCgYIKoEcz1UBg3Uw
FDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyNjA1NTUzNVoYDzIxMjYxMTAy
MDU1NTM1WjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqgRzP
VQGCLQNCAARK2TnobntVVl8xmrTUEss0rj819dDF/R6Yo9f3dkyb9OoUdVg7JdmA
xLnkf4d+3SlZf1BJ459ODFo1CIB3Gk2so1MwUTAdBgNVHQ4EFgQUJnVsbsEXyfZt
y3XcLjJIyt0uoqUwHwYDVR0jBBgwFoAUJnVsbsEXyfZty3XcLjJIyt0uoqUwDwYD
VR0TAQH/BAUwAwEB/zAKBggqgRzPVQGDdQNHADBEAiAKby1Pg3jVcJ6N9d9Vql1N
VBSxWF0xlJfuEQSkOBnGvAIgXGSfJ5ydwPeawIAsGPuvRv6+CaIUYHlFg00w6dP3
pyA=
-----END CERTIFICATE-----
";
/// `openssl ecparam -genkey -name prime256v1 -noout`.
const OPENSSL_P256: &str = "\
-----BEGIN EC PRIVATE KEY-----
MHcCAQEEICRoMlMCP3++0694uHM6HD04XdDS7jmSCiDkbl1xt0KZoAoGCCqGSM49
AwEHoUQDQgAERGiKnrW06vM7UuE1lZglc54e/L2fSsX3PqFlD29qsk1EanlvqZBr
QB6E618qRqZn2g1AKg0ra+ifgyXVcTy9nA==
-----END EC PRIVATE KEY-----
";

struct Sample {
    certified: Certified,
    key_der: Vec<u8>,
    point: Vec<u8>,
    signature: Vec<u8>,
}

const MESSAGE: &[u8] = b"what is signed";

static SAMPLE: LazyLock<Sample> = LazyLock::new(|| {
    let certified = sm2_certificate();
    let der = PrivateKeyDer::from_pem_slice(certified.key_pem.as_bytes()).unwrap();
    let key_der = der.secret_der().to_vec();
    let key =
        ShangMi::default().load_key(&KeyReference::Pem(certified.key_pem.clone().into_bytes())).unwrap();
    let spki = key.public_key().unwrap();
    let signer = key.choose_scheme(&[SignatureScheme::Unknown(0x0708)]).unwrap();
    Sample {
        point: spki[spki.len() - 65..].to_vec(),
        signature: signer.sign(MESSAGE).unwrap(),
        key_der,
        certified,
    }
});

fn in_handshakes() -> &'static dyn SignatureVerificationAlgorithm {
    ShangMi::default().crypto().signature_verification_algorithms.mapping[0].1[0]
}

fn in_certificates() -> &'static dyn SignatureVerificationAlgorithm {
    ShangMi::default().crypto().signature_verification_algorithms.all[0]
}

fn load(pem: &str) -> Result<(), KeyError> {
    ShangMi::default().load_key(&KeyReference::Pem(pem.as_bytes().to_vec())).map(|_| ())
}

#[test]
fn openssls_keys_and_certificate_are_read() {
    load(OPENSSL_SEC1).unwrap();
    // OpenSSL 1.1.1 gave it the general label.
    load(&OPENSSL_SEC1.replace("SM2 PRIVATE", "EC PRIVATE")).unwrap();
    let leaf = CertificateDer::from_pem_slice(OPENSSL_CERTIFICATE.as_bytes()).unwrap();
    assert!(ShangMi::default().certifies(&leaf));
    let key = KeyReference::Pem(OPENSSL_PKCS8.as_bytes().to_vec());
    ShangMi::default().certified_key(vec![leaf], &key).unwrap();
}

#[test]
fn keys_of_other_curves_and_kinds_are_refused() {
    assert!(matches!(load(OPENSSL_P256), Err(KeyError::Unusable(_))));
    let ed25519 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap().serialize_pem();
    assert!(matches!(load(&ed25519), Err(KeyError::Unusable(_))));
    assert!(matches!(load(OPENSSL_CERTIFICATE), Err(KeyError::NoKey)));
    assert!(matches!(load(&OPENSSL_SEC1[..60]), Err(KeyError::Pem(_) | KeyError::NoKey)));
}

#[test]
fn another_certificates_key_is_refused() {
    let key = KeyReference::Pem(OPENSSL_PKCS8.as_bytes().to_vec());
    let leaf = SAMPLE.certified.leaf.clone();
    let error = ShangMi::default().certified_key(vec![leaf], &key).unwrap_err();
    assert!(matches!(error, KeyError::OtherCertificate));
}

fn with_bit(bytes: &[u8], bit: prop::sample::Index) -> Vec<u8> {
    let bit = bit.index(bytes.len() * 8);
    let mut changed = bytes.to_vec();
    changed[bit / 8] ^= 1 << (bit % 8);
    changed
}

fn agree(point: &[u8]) -> bool {
    let group = ShangMi::default().crypto().kx_groups[0];
    group.start_and_complete(point).is_ok()
}

proptest! {
    #[test]
    fn noise_is_nothing(noise in prop::collection::vec(any::<u8>(), 0..200)) {
        let keys = ShangMi::default().crypto().key_provider;
        for key in [PrivateKeyDer::Pkcs8(noise.clone().into()), PrivateKeyDer::Sec1(noise.clone().into())] {
            prop_assert!(keys.load_private_key(key).is_err());
        }
        prop_assert!(!agree(&noise));
        for algorithm in [in_handshakes(), in_certificates()] {
            prop_assert!(algorithm.verify_signature(&noise, MESSAGE, &SAMPLE.signature).is_err());
            prop_assert!(algorithm.verify_signature(&SAMPLE.point, MESSAGE, &noise).is_err());
        }
        prop_assert!(!ShangMi::default().certifies(&noise.into()));
    }

    #[test]
    fn coordinates_by_chance_are_off_the_curve(mut point in prop::array::uniform32(any::<u8>()), y: [u8; 32]) {
        point[0] &= 0x7f;
        prop_assert!(!agree(&[&[4], &point[..], &y].concat()));
    }

    #[test]
    fn a_changed_bit_in_a_key_is_no_reason_to_panic(bit: prop::sample::Index) {
        // It may still be a key: a version or an attribute changes nothing.
        let key = PrivateKeyDer::Pkcs8(with_bit(&SAMPLE.key_der, bit).into());
        let _ = ShangMi::default().crypto().key_provider.load_private_key(key);
    }

    #[test]
    fn a_changed_point_is_refused(bit: prop::sample::Index) {
        prop_assert!(!agree(&with_bit(&SAMPLE.point, bit)));
    }

    #[test]
    fn a_changed_signature_is_refused(bit: prop::sample::Index) {
        let changed = with_bit(&SAMPLE.signature, bit);
        prop_assert!(in_handshakes().verify_signature(&SAMPLE.point, MESSAGE, &changed).is_err());
        prop_assert!(in_handshakes().verify_signature(&SAMPLE.point, MESSAGE, &SAMPLE.signature).is_ok());
    }

    #[test]
    fn a_shortened_or_lengthened_signature_is_refused(keep: prop::sample::Index, more in prop::collection::vec(any::<u8>(), 1..9)) {
        let short = &SAMPLE.signature[..keep.index(SAMPLE.signature.len())];
        let long = [&SAMPLE.signature[..], &more].concat();
        for changed in [short, &long] {
            prop_assert!(in_handshakes().verify_signature(&SAMPLE.point, MESSAGE, changed).is_err());
        }
    }
}
