//! `openssl s_client`, OpenSSL's and Tongsuo's, at the gateway's door.

use crate::{
    bed::{Bed, GET, GET_AND_STAY, HELLO, echo},
    peer::{Peer, Talk, check},
};

/// Connects to `edge`, with full verification and `arguments`.
fn s_client(peer: &Peer, bed: &Bed, arguments: &[&str]) -> Talk {
    let address = bed.address("edge").to_string();
    let mut all = vec!["s_client", "-connect", &address, "-servername", "localhost"];
    all.extend(["-CAfile", "dev-ca.pem", "-verify_return_error", "-verify_hostname", "localhost"]);
    all.extend(arguments);
    peer.start(bed.path(), &all)
}

/// One request on a fresh connection; what the command printed, the answer among it.
async fn get(peer: &Peer, bed: &Bed, arguments: &[&str]) -> String {
    let mut talk = s_client(peer, bed, &[arguments, &["-ign_eof"]].concat());
    talk.say(GET).await;
    talk.end().await
}

#[tokio::test]
async fn every_suite_and_group_of_tls_1_3() {
    let bed = Bed::start().await;
    for peer in Peer::built() {
        for suite in ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"] {
            let said = get(&peer, &bed, &["-tls1_3", "-ciphersuites", suite]).await;
            check(&said, &[&format!("New, TLSv1.3, Cipher is {suite}"), "Verify return code: 0 (ok)", HELLO]);
            check(&said, &["Negotiated TLS1.3 group: X25519MLKEM768"]);
        }
        for (group, shown) in
            [("X25519", "Peer Temp Key: X25519"), ("P-256", "prime256v1"), ("P-384", "secp384r1")]
        {
            let said = get(&peer, &bed, &["-tls1_3", "-groups", group]).await;
            check(&said, &[shown, "Verify return code: 0 (ok)", HELLO]);
        }
    }
}

#[tokio::test]
async fn tls_1_2() {
    let bed = Bed::start().await;
    for peer in Peer::built() {
        for suite in ["ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-CHACHA20-POLY1305"] {
            let said = get(&peer, &bed, &["-tls1_2", "-cipher", suite]).await;
            check(&said, &[&format!("New, TLSv1.2, Cipher is {suite}"), HELLO]);
        }
    }
}

#[tokio::test]
async fn sessions_are_resumed() {
    let bed = Bed::start().await;
    for peer in Peer::built() {
        for version in ["-tls1_3", "-tls1_2"] {
            let first = get(&peer, &bed, &[version, "-sess_out", "session.pem"]).await;
            check(&first, &["New, ", HELLO]);
            let second = get(&peer, &bed, &[version, "-sess_in", "session.pem"]).await;
            check(&second, &["Reused, ", HELLO]);
        }
    }
}

#[tokio::test]
async fn early_data_is_accepted_once_for_each_ticket() {
    let bed = Bed::start().await;
    std::fs::write(bed.path().join("early"), GET).unwrap();
    for peer in Peer::built() {
        let talk = s_client(&peer, &bed, &["-tls1_3", "-sess_out", "session.pem"]);
        talk.hear("Max Early Data: 16384").await;
        talk.finish().await;
        let again = ["-tls1_3", "-sess_in", "session.pem", "-early_data", "early", "-ign_eof"];
        let said = s_client(&peer, &bed, &again).end().await;
        check(&said, &["Reused, TLSv1.3", "Early data was accepted", HELLO]);
        let mut talk = s_client(&peer, &bed, &again);
        talk.hear("Early data was rejected").await;
        talk.say(GET).await;
        check(&talk.end().await, &[HELLO]);
    }
}

#[tokio::test]
async fn bulk_goes_both_ways() {
    let bed = Bed::start().await;
    for peer in Peer::built() {
        let mut talk = s_client(&peer, &bed, &["-ign_eof"]);
        talk.say(echo(1_000_000, "the last bytes")).await;
        let said = talk.end().await;
        check(&said, &["HTTP/1.1 200", "the last bytes"]);
        assert!(said.len() > 1_000_000);
    }
}

#[tokio::test]
async fn keys_are_updated_while_requests_run() {
    let bed = Bed::start().await;
    for peer in Peer::built() {
        let mut talk = s_client(&peer, &bed, &["-tls1_3"]);
        talk.hear("Verify return code: 0 (ok)").await;
        // "k" updates the client's own key, "K" asks the gateway to update its key too.
        for (round, command) in ["k\n", "K\n", "K\n"].into_iter().enumerate() {
            talk.say(command).await;
            talk.hear_times(round + 1, "KEYUPDATE").await;
            talk.say(GET_AND_STAY).await;
            talk.hear_times(round + 1, HELLO).await;
        }
        talk.finish().await;
    }
}

#[tokio::test]
async fn alpn_chooses_the_protocol() {
    let Some(openssl) = Peer::openssl() else { return };
    let bed = Bed::start().await;
    for (offer, chosen) in [("h2,http/1.1", "h2"), ("http/1.1", "http/1.1"), ("mqtt", "mqtt")] {
        let talk = s_client(&openssl, &bed, &["-alpn", offer]);
        talk.hear(&format!("ALPN protocol: {chosen}\n")).await;
        talk.finish().await;
    }
    let said = s_client(&openssl, &bed, &["-alpn", "smtp"]).end().await;
    check(&said, &["alert no application protocol"]);
}

#[tokio::test]
async fn mqtt_inside_tls() {
    let Some(openssl) = Peer::openssl() else { return };
    let bed = Bed::start().await;
    let mut talk = s_client(&openssl, &bed, &["-alpn", "mqtt", "-ign_eof", "-quiet"]);
    // CONNECT of an MQTT 5 client, PUBLISH of QoS 1 to its own topic after SUBSCRIBE.
    talk.say(b"\x10\x11\0\x04MQTT\x05\x02\0\x3c\0\0\x04cell").await;
    talk.say(b"\x82\x07\0\x01\0\0\x01t\x01").await;
    talk.say(b"\x32\x0d\0\x01t\0\x02\0payload").await;
    talk.hear("payload").await;
    talk.say(b"\xe0\0").await;
    talk.end().await;
}
