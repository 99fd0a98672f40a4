//! Whole TLS handshakes with ShangMi, rustls on both sides.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::{
    io::{Read as _, Write as _},
    sync::Arc,
};

use common::{Pair, client, server, sm2_certificate};
use rustls::{AlertDescription, CipherSuite, Error, HandshakeKind, crypto::CryptoProvider};
use towline_crypto::{International, Offer, Provider, ShangMi};

const GCM: CipherSuite = CipherSuite::Unknown(0x00c6);
const CCM: CipherSuite = CipherSuite::Unknown(0x00c7);

/// ShangMi with one suite of its two.
#[derive(Debug)]
struct Only(CipherSuite);

impl Provider for Only {
    fn name(&self) -> &str {
        "only"
    }

    fn crypto(&self) -> Arc<CryptoProvider> {
        let mut crypto = (*ShangMi::default().crypto()).clone();
        crypto.cipher_suites.retain(|suite| suite.suite() == self.0);
        Arc::new(crypto)
    }
}

#[track_caller]
fn check_exchange(pair: &mut Pair, bytes: usize) {
    let (question, answer) = (vec![b'?'; bytes], vec![b'!'; bytes]);
    pair.client.writer().write_all(&question).unwrap();
    pair.server.writer().write_all(&answer).unwrap();
    pair.drive().unwrap();
    let (mut heard, mut got) = (vec![0; bytes], vec![0; bytes]);
    pair.server.reader().read_exact(&mut heard).unwrap();
    pair.client.reader().read_exact(&mut got).unwrap();
    assert!(heard == question && got == answer);
}

#[test]
fn both_suites_carry_data_both_ways() {
    let certified = sm2_certificate();
    for suite in [GCM, CCM] {
        let mut pair = Pair::new(
            &Arc::new(client(&Only(suite), &certified)),
            &Arc::new(server(&ShangMi::default(), &certified)),
        );
        pair.drive().unwrap();
        assert_eq!(pair.client.negotiated_cipher_suite().unwrap().suite(), suite);
        assert_eq!(u16::from(pair.server.negotiated_key_exchange_group().unwrap().name()), 41);
        for bytes in [1, 100, 16_384] {
            check_exchange(&mut pair, bytes);
        }
    }
}

#[test]
fn keys_are_updated() {
    let certified = sm2_certificate();
    let provider = ShangMi::default();
    let mut pair =
        Pair::new(&Arc::new(client(&provider, &certified)), &Arc::new(server(&provider, &certified)));
    pair.drive().unwrap();
    pair.client.refresh_traffic_keys().unwrap();
    pair.server.refresh_traffic_keys().unwrap();
    check_exchange(&mut pair, 100);
}

#[test]
fn a_session_is_resumed() {
    let certified = sm2_certificate();
    let provider = ShangMi::default();
    let (client, server) = (Arc::new(client(&provider, &certified)), Arc::new(server(&provider, &certified)));
    for expected in [HandshakeKind::Full, HandshakeKind::Resumed] {
        let mut pair = Pair::new(&client, &server);
        pair.drive().unwrap();
        check_exchange(&mut pair, 100);
        assert_eq!(pair.client.handshake_kind(), Some(expected));
    }
}

#[test]
fn families_do_not_mix() {
    let certified = sm2_certificate();
    let server = Arc::new(server(&ShangMi::default(), &certified));
    let client = Arc::new(client(&International::default(), &certified));
    assert!(matches!(Pair::new(&client, &server).drive(), Err(Error::PeerIncompatible(_))));
}

#[test]
fn a_client_trusts_its_own_authority_alone() {
    let provider = ShangMi::default();
    let server = Arc::new(server(&provider, &sm2_certificate()));
    let client = Arc::new(client(&provider, &sm2_certificate()));
    let mut pair = Pair::new(&client, &server);
    let error = pair.drive().unwrap_err();
    assert!(matches!(error, Error::InvalidCertificate(_)), "{error:?}");
    let told = pair.drive().unwrap_err();
    let expected = [AlertDescription::UnknownCA, AlertDescription::DecryptError];
    assert!(matches!(told, Error::AlertReceived(alert) if expected.contains(&alert)), "{told:?}");
}

#[test]
fn the_client_hello_decides_between_families() {
    let (shangmi, international) = (ShangMi::default(), International::default());
    let only = Offer { cipher_suites: &[0x00c6, 0x00c7], groups: &[41], signature_schemes: &[0x0708] };
    assert!(shangmi.serves(&only) && !international.serves(&only));
    let other = Offer { cipher_suites: &[0x1301], groups: &[29], signature_schemes: &[0x0403] };
    assert!(!shangmi.serves(&other) && international.serves(&other));
    let both =
        Offer { cipher_suites: &[0x1301, 0x00c6], groups: &[29, 41], signature_schemes: &[0x0403, 0x0708] };
    assert!(shangmi.serves(&both) && international.serves(&both));
}

#[test]
fn a_certificate_tells_its_family() {
    let sm2 = sm2_certificate();
    let ecdsa = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    assert!(ShangMi::default().certifies(&sm2.leaf) && !International::default().certifies(&sm2.leaf));
    assert!(!ShangMi::default().certifies(ecdsa.cert.der()));
}
