//! Each rule of the profile, broken by itself.

use rcgen::{CertificateParams, ExtendedKeyUsagePurpose};
use rustls::{
    SignatureScheme,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};

use super::*;
use crate::{
    ServerVerifier,
    fixtures::{Authority, NOW, chain_of, now, provider, rsa_key},
};

/// An RSA certificate with its key, and what it vouches for.
struct Scene {
    authority: Authority,
    issuer: CertificateDer<'static>,
    key: rcgen::KeyPair,
    leaf_key: rcgen::KeyPair,
}

impl Scene {
    fn new(change: impl FnOnce(&mut CertificateParams)) -> Self {
        let (authority, key) = (Authority::new(), rsa_key());
        let issuer = chain_of(&authority, &key, change).remove(0);
        Self { authority, issuer, key, leaf_key: rcgen::KeyPair::generate().unwrap() }
    }

    fn leaf(&self, hours: i64) -> CertificateDer<'static> {
        self.leaf_from(NOW - 3600, NOW - 3600 + hours * 3600)
    }

    fn leaf_from(&self, not_before: i64, not_after: i64) -> CertificateDer<'static> {
        let spki = rcgen::PublicKeyData::subject_public_key_info(&self.leaf_key);
        self.sign(&self.unsigned(&spki, not_before, not_after), &self.key)
    }

    fn unsigned(&self, public_key: &[u8], not_before: i64, not_after: i64) -> Vec<u8> {
        let leaf = Leaf { issuer: &self.issuer, public_key, serial: [9; 16], not_before, not_after };
        leaf.to_be_signed().unwrap()
    }

    fn sign(&self, to_be_signed: &[u8], key: &rcgen::KeyPair) -> CertificateDer<'static> {
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let key = provider().key_provider.load_private_key(key).unwrap();
        let signer = key.choose_scheme(&[SignatureScheme::RSA_PKCS1_SHA256]).unwrap();
        Leaf::signed(to_be_signed, &signer.sign(to_be_signed).unwrap())
    }

    #[track_caller]
    fn check(&self, leaf: &CertificateDer<'_>, reason: &str) {
        self.check_for("edge.example", &[leaf.clone(), self.issuer.clone()], reason);
    }

    #[track_caller]
    fn check_for(&self, name: &str, chain: &[CertificateDer<'_>], reason: &str) {
        let verifier = ServerVerifier::new(self.authority.store(), Vec::new(), &[provider()]).unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let result = verifier.verify_server_cert(&chain[0], &chain[1..], &name, &[], now());
        let shown = result.map_or_else(|error| error.to_string(), |_| String::new());
        assert!(
            shown.contains(reason) && shown.is_empty() == reason.is_empty(),
            "{shown:?} is not {reason:?}"
        );
    }
}

#[test]
fn a_leaf_of_hours_is_taken_for_its_name_and_no_other() {
    let scene = Scene::new(|_| ());
    scene.check(&scene.leaf(24), "");
    scene.check(&scene.leaf(7 * 24 + 1), "");
    scene.check_for("other.example", &[scene.leaf(24), scene.issuer.clone()], "not valid for");
}

#[test]
fn a_leaf_past_its_hours_or_of_too_many_is_refused() {
    let scene = Scene::new(|_| ());
    scene.check(&scene.leaf_from(NOW - 7200, NOW - 1), "expired");
    scene.check(&scene.leaf_from(NOW + 60, NOW + 3600), "not valid yet");
    scene.check(&scene.leaf_from(NOW - 3600, NOW - 3600 + LIFE_MAX as i64 + 1), "longer than seven days");
    scene.check(&scene.leaf_from(NOW - 3600, NOW - 7200), "longer than seven days");
}

#[test]
fn a_leaf_of_a_stranger_is_refused() {
    let scene = Scene::new(|_| ());
    let spki = rcgen::PublicKeyData::subject_public_key_info(&scene.leaf_key);
    let forged = scene.sign(&scene.unsigned(&spki, NOW, NOW + 3600), &rsa_key());
    scene.check(&forged, "BadSignature");
    let stranger = Scene::new(|_| ());
    let chain = [stranger.leaf(24), stranger.issuer.clone()];
    scene.check_for("edge.example", &chain, "UnknownIssuer");
    scene.check_for("edge.example", &[stranger.leaf(24), scene.issuer.clone()], "BadSignature");
}

#[test]
fn a_leaf_without_its_issuer_is_refused() {
    let scene = Scene::new(|_| ());
    scene.check_for("edge.example", &[scene.leaf(24)], "without the RSA certificate");
    let authority = scene.authority.certificate.clone();
    scene.check_for("edge.example", &[scene.leaf(24), authority], "CaUsedAsEndEntity");
}

#[test]
fn the_rsa_certificate_itself_must_stand() {
    use rcgen::date_time_ymd;
    let scene = Scene::new(|issuer| issuer.not_after = date_time_ymd(2020, 1, 1));
    scene.check(&scene.leaf(24), "expired");
    let scene = Scene::new(|issuer| issuer.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]);
    scene.check(&scene.leaf(24), "extended key usage");
    let scene = Scene::new(|issuer| issuer.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained));
    scene.check(&scene.leaf(24), "CaUsedAsEndEntity");
}

#[test]
fn without_the_extension_an_rsa_certificate_vouches_for_nothing() {
    let scene = Scene::new(|_| ());
    let spki = rcgen::PublicKeyData::subject_public_key_info(&scene.leaf_key);
    let unsigned = scene.unsigned(&spki, NOW, NOW + 3600);
    // Another object identifier of the same length stands where the extension's was.
    let at = unsigned.windows(EXTENSION_OID.len()).position(|window| window == EXTENSION_OID).unwrap();
    let mut without = unsigned.clone();
    without[at + 5] ^= 1;
    scene.check(&scene.sign(&without, &scene.key), "EndEntityUsedAsCa");
    let mut unknown = unsigned;
    *unknown.last_mut().unwrap() = 2;
    scene.check(&scene.sign(&unknown, &scene.key), "unknown profile");
}

#[test]
fn a_leaf_of_another_use_or_key_is_refused() {
    let scene = Scene::new(|_| ());
    let spki = rcgen::PublicKeyData::subject_public_key_info(&scene.leaf_key);
    let mut unsigned = scene.unsigned(&spki, NOW, NOW + 3600);
    let at = unsigned.windows(8).position(|window| window == oid::SERVER_AUTH).unwrap();
    // id-kp-clientAuth.
    unsigned[at + 7] = 2;
    scene.check(&scene.sign(&unsigned, &scene.key), "purpose");
    let rsa = rcgen::PublicKeyData::subject_public_key_info(&scene.key);
    let leaf = scene.sign(&scene.unsigned(&rsa, NOW, NOW + 3600), &scene.key);
    scene.check(&leaf, "not P-256");
}

#[test]
fn an_ecdsa_certificate_delegates_nothing() {
    let mut scene = Scene::new(|_| ());
    let key = rcgen::KeyPair::generate().unwrap();
    scene.issuer = chain_of(&scene.authority, &key, |_| ()).remove(0);
    scene.check(&scene.leaf(24), "no RSA key");
}
