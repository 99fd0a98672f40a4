//! ShangMi at the gateway's door, beside international cryptography or alone.

use crate::{
    bed::{Bed, GET, GET_AND_STAY, HELLO, echo},
    peer::{Peer, Talk, check},
    sm2::{self, STRICTLY, SUITES},
};

const INTERNATIONAL: &str = r#"{ chain = "dev-cert.pem", key = "dev-key.pem" }"#;
const SHANGMI: &str = r#"{ chain = "leaf.pem", key = "leaf.key" }"#;

/// A listener that speaks these kinds, in this order, with a certificate of each.
async fn bed(crypto: &str) -> Bed {
    let certificates = match crypto {
        r#""international""# => INTERNATIONAL.to_owned(),
        r#""shangmi""# => SHANGMI.to_owned(),
        _ => format!("[{INTERNATIONAL}, {SHANGMI}]"),
    };
    Bed::with(&format!("crypto = [{crypto}]\ncertificate = {certificates}")).await
}

/// The client trusts `ca` and nothing else.
fn s_client(peer: &Peer, bed: &Bed, ca: &str, arguments: &[&str]) -> Talk {
    let address = bed.address("edge").to_string();
    let all = ["s_client", "-connect", &address, "-servername", "localhost", "-CAfile", ca];
    let verify = ["-verify_return_error", "-verify_hostname", "localhost"];
    peer.start(bed.path(), &[&all[..], &verify, arguments].concat())
}

/// One request by a client of RFC 8998 alone.
async fn get(peer: &Peer, words: &[&str], bed: &Bed, arguments: &[&str]) -> String {
    let arguments = [&STRICTLY[..], words, arguments, &["-tls1_3", "-ign_eof"]].concat();
    let mut talk = s_client(peer, bed, "ca.pem", &arguments);
    talk.say(GET).await;
    talk.end().await
}

#[tokio::test]
async fn requests_of_shangmi_clients_with_both_suites_and_resumption() {
    let bed = bed(r#""shangmi""#).await;
    for (peer, words) in sm2::peers() {
        for suite in SUITES {
            let first = ["-ciphersuites", suite, "-sess_out", "session.pem"];
            let said = get(&peer, words, &bed, &first).await;
            check(&said, &[&format!("New, TLSv1.3, Cipher is {suite}"), "Verify return code: 0 (ok)", HELLO]);
            let second = ["-ciphersuites", suite, "-sess_in", "session.pem"];
            let said = get(&peer, words, &bed, &second).await;
            check(&said, &[&format!("Reused, TLSv1.3, Cipher is {suite}"), HELLO]);
        }
    }
}

#[tokio::test]
async fn bulk_and_new_keys() {
    let bed = bed(r#""shangmi""#).await;
    for (peer, words) in sm2::peers() {
        for suite in SUITES {
            let arguments = [&STRICTLY[..], words, &["-ciphersuites", suite]].concat();
            let mut talk = s_client(&peer, &bed, "ca.pem", &[&arguments[..], &["-ign_eof"]].concat());
            talk.say(echo(1_000_000, "the last bytes")).await;
            let said = talk.end().await;
            check(&said, &["HTTP/1.1 200", "the last bytes"]);
            assert!(said.len() > 1_000_000);
            let mut talk = s_client(&peer, &bed, "ca.pem", &arguments);
            talk.hear("Verify return code: 0 (ok)").await;
            for (round, command) in ["k\n", "K\n", "K\n"].into_iter().enumerate() {
                talk.say(command).await;
                talk.hear_times(round + 1, "KEYUPDATE").await;
                talk.say(GET_AND_STAY).await;
                talk.hear_times(round + 1, HELLO).await;
            }
            talk.finish().await;
        }
    }
}

#[tokio::test]
async fn a_client_of_one_kind_gets_that_kind_and_a_client_of_both_what_the_listener_prefers() {
    let Some(openssl) = Peer::openssl() else { return };
    let both = ["-ciphersuites", "TLS_AES_128_GCM_SHA256:TLS_SM4_GCM_SM3", "-groups", "X25519:curveSM2"];
    let both = [&both[..], &["-sigalgs", "ecdsa_secp256r1_sha256:sm2sig_sm3"]].concat();
    for (crypto, ca, preferred) in [
        (r#""shangmi", "international""#, "ca.pem", "TLS_SM4_GCM_SM3"),
        (r#""international", "shangmi""#, "dev-ca.pem", "TLS_AES_128_GCM_SHA256"),
    ] {
        let bed = bed(crypto).await;
        let said = get(&openssl, &[], &bed, &["-ciphersuites", "TLS_SM4_CCM_SM3"]).await;
        check(&said, &["Cipher is TLS_SM4_CCM_SM3", HELLO]);
        let talk = s_client(&openssl, &bed, "dev-ca.pem", &["-tls1_2"]);
        talk.hear("Cipher is ECDHE-ECDSA-").await;
        talk.finish().await;
        let talk = s_client(&openssl, &bed, ca, &both);
        let said = talk.hear("Verify return code: 0 (ok)").await;
        check(&said, &[&format!("Cipher is {preferred}")]);
        talk.finish().await;
    }
}

#[tokio::test]
async fn a_listener_of_one_kind_refuses_the_other_with_an_alert() {
    let Some(openssl) = Peer::openssl() else { return };
    let international = bed(r#""international""#).await;
    let shangmi_client = [&STRICTLY[..], &["-tls1_3", "-ciphersuites", SUITES[0]]].concat();
    let said = s_client(&openssl, &international, "ca.pem", &shangmi_client).end().await;
    check(&said, &["alert handshake failure"]);
    let shangmi = bed(r#""shangmi""#).await;
    let said = s_client(&openssl, &shangmi, "ca.pem", &["-tls1_3"]).end().await;
    check(&said, &["alert handshake failure"]);
}
