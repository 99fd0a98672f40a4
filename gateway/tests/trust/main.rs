//! Whom the gateway and its clients trust, end to end: delegated certificates, pins, clients' certificates as users,
//! conditions of routes and header fields, and routes for encrypted transports, over TCP and QUIC.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panic")]
#![allow(unreachable_pub, reason = "a test has no outside")]

mod bed;
mod withdrawn;

use http::Method;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use towline_client::{CallRequest, ClientCertificate, Pin, ShangMi, Transports};
use towline_gateway::transport::tls::read_certificates;

use self::bed::{Bed, mqtt_connect, mqtt_publish};

const BOTH: [Transports; 2] = [Transports::Tcp, Transports::Quic];

#[tokio::test]
async fn an_rsa_certificate_serves_the_sdk_by_delegation_and_others_by_itself() {
    let bed = Bed::start(&["rsa"], "").await;
    let pin = Pin::of_certificate(&read_certificates(&bed.path("rsa.pem")).unwrap()[0]).unwrap();
    for transports in BOTH {
        let answer = bed.call(transports, |tls| tls.pins = vec![pin]).await.unwrap();
        assert!(answer.contains("x-forwarded-proto: https"), "{answer}");
    }
    assert!(bed.https(None, "/headers", "").await.unwrap().contains("200 OK"));
    assert_eq!(bed.certificate_kind(Some(b"towline/1")).await, "ecdsa");
    assert_eq!(bed.certificate_kind(Some(b"h2")).await, "rsa");
    assert_eq!(bed.certificate_kind(None).await, "rsa");
}

#[tokio::test]
async fn a_wrong_pin_keeps_the_sdk_away_and_says_so() {
    let bed = Bed::start(&["ecdsa"], "").await;
    for transports in BOTH {
        let pins = vec![Pin::of_public_key(b"another")];
        let error = bed.call(transports, |tls| tls.pins = pins).await.unwrap_err();
        assert!(error.contains("has a pinned key"), "{error}");
    }
}

#[tokio::test]
async fn a_clients_certificate_is_its_user_and_reaches_the_backend() {
    let edge = "client_certificates = \"required\"\nclient_ca = \"clients.pem\"\nforward_client_certificate = true\n\
                authentication = \"certificate\"";
    let bed = Bed::start(&["ecdsa"], edge).await;
    let (cert, key) = bed.client("meter-7.devices.example");
    for transports in BOTH {
        let answer = bed
            .call(transports, |tls| tls.certificate = Some(ClientCertificate::pem(&*cert, &*key)))
            .await
            .unwrap();
        assert!(answer.contains("x-towline-user: meter-7.devices.example"), "{answer}");
        assert!(
            answer.contains("\nclient-cert: :MII") || answer.starts_with("client-cert: :MII"),
            "{answer}"
        );
        let error = bed.call(transports, |_| ()).await.unwrap_err();
        assert!(error.to_lowercase().contains("certificate"), "{error}");
    }
    let forged = "Client-Cert: :Zm9yZ2Vk:\r\nClient_Cert: x\r\nclient-cert-chain: :Zm9yZ2Vk:\r\n";
    let answer = bed.https(Some((&cert, &key)), "/headers", forged).await.unwrap();
    assert!(answer.contains("client-cert: :MII") && !answer.contains("Zm9yZ2Vk"), "{answer}");
    assert!(answer.contains("x-towline-user: meter-7.devices.example"), "{answer}");
    assert!(bed.https(None, "/headers", "").await.is_err(), "the handshake refuses who has none");
    let connack = mqtt_connect(&mut bed.tls(Some((&cert, &key)), Some(b"mqtt")).await.unwrap()).await;
    assert_eq!(connack[3], 0, "{connack:?}");
}

#[tokio::test]
async fn who_is_asked_and_has_none_is_told_in_its_own_protocol() {
    let edge =
        "client_certificates = \"optional\"\nclient_ca = \"clients.pem\"\nauthentication = \"certificate\"";
    let bed = Bed::start(&["ecdsa"], edge).await;
    let error = bed.call(Transports::Tcp, |_| ()).await.unwrap_err();
    assert!(error.contains("no certificate"), "{error}");
    assert!(bed.https(None, "/hello", "").await.unwrap().contains("403 Forbidden"));
    let connack = mqtt_connect(&mut bed.tls(None, Some(b"mqtt")).await.unwrap()).await;
    assert_eq!(connack[3], 0x86, "bad user name or password: {connack:?}");
}

#[tokio::test]
async fn a_device_is_known_by_its_certificate_over_quic_as_over_tcp() {
    let edge =
        "client_certificates = \"optional\"\nclient_ca = \"clients.pem\"\nauthentication = \"certificate\"";
    let rules = "[acl]\ndefault = \"deny\"\n[[acl.rules]]\nname = \"own\"\npermission = \"allow\"\n\
                 topics = [\"devices/${cert_common_name}/${username}/#\"]\n";
    let bed = Bed::with(&["ecdsa"], edge, rules).await;
    let (cert, key) = bed.client("meter-7");
    let (mut device, _open) = bed.quic(Some((&cert, &key)), b"mqtt").await.unwrap();
    assert_eq!(mqtt_connect(&mut device).await[3], 0);
    for (topic, reason) in [("devices/meter-7/meter-7/a", 0x10), ("devices/meter-8/meter-8/a", 0x87)] {
        let puback = mqtt_publish(&mut device, topic).await;
        assert_eq!((puback[0], puback[4]), (0x40, reason), "{topic}");
    }
    let (mut nobody, _open) = bed.quic(None, b"mqtt").await.unwrap();
    let connack = mqtt_connect(&mut nobody).await;
    assert_eq!(connack[3], 0x86, "bad user name or password: {connack:?}");
    let (cert, key) = bed.stranger();
    let refused = match bed.quic(Some((&cert, &key)), b"mqtt").await {
        // A client has shaken hands before the server has looked at its certificate.
        Ok((mut device, _open)) => {
            device.write_all(b"\x10").await.is_err() || device.read_u8().await.is_err()
        }
        Err(_) => true,
    };
    assert!(refused);
}

#[tokio::test]
async fn a_route_may_be_for_clients_whose_certificate_bears_a_name() {
    let edge = "client_certificates = \"optional\"\nclient_ca = \"clients.pem\"\nauthentication = \"none\"";
    let routes = "[[routes]]\nname = \"meters\"\npath = \"/hello\"\nclient_certificate = \"*.devices.example\"\n\
                  backend = \"demo\"\n";
    let bed = Bed::with(&["ecdsa"], edge, routes).await;
    let (cert, key) = bed.client("meter-7.devices.example");
    assert!(bed.https(Some((&cert, &key)), "/hello", "").await.unwrap().contains("200 OK"));
    let (cert, key) = bed.client("meter-7.elsewhere.example");
    assert!(bed.https(Some((&cert, &key)), "/hello", "").await.unwrap().contains("404 Not Found"));
    assert!(bed.https(None, "/hello", "").await.unwrap().contains("404 Not Found"));
}

#[tokio::test]
async fn wrong_client_certificates_are_refused_and_counted() {
    let edge = "client_certificates = \"required\"\nclient_ca = \"clients.pem\"\nauthentication = \"none\"";
    let bed = Bed::start(&["ecdsa"], edge).await;
    let (cert, key) = bed.stranger();
    for transports in BOTH {
        let certificate = ClientCertificate::pem(&*cert, &*key);
        let error = bed.call(transports, |tls| tls.certificate = Some(certificate)).await.unwrap_err();
        assert!(error.contains("UnknownCA") || error.contains("error 48"), "{error}");
    }
    let metrics = bed.serving.gateway.metrics.render();
    assert!(metrics.contains("towline_connections_refused_total{listener=\"edge\",reason=\"handshake\"}"));
}

#[tokio::test]
async fn one_listener_speaks_two_kinds_of_cryptography() {
    let both = Bed::start(&["ecdsa", "sm2"], "crypto = [\"international\", \"shangmi\"]").await;
    for transports in BOTH {
        both.call(transports, |_| ()).await.unwrap();
    }
    let alone = Bed::start(&["sm2"], "crypto = [\"shangmi\"]").await;
    for (bed, transports) in
        [&both, &alone].into_iter().flat_map(|bed| BOTH.map(|transports| (bed, transports)))
    {
        let shangmi = |tls: &mut towline_client::Tls| {
            tls.roots_pem = std::fs::read(bed.path("sm2-ca.pem")).unwrap();
            tls.crypto = vec![std::sync::Arc::new(ShangMi::default())];
        };
        bed.call(transports, shangmi).await.unwrap();
    }
}

#[tokio::test]
async fn the_next_run_of_an_app_resumes_sessions_of_every_kind() {
    for transports in BOTH {
        let delegated = Bed::start(&["rsa"], "").await;
        assert_eq!(delegated.twice(transports, "app", |_| ()).await, 1, "delegated, {transports:?}");
        let sm2 = Bed::start(&["sm2"], "crypto = [\"shangmi\"]").await;
        let shangmi = |tls: &mut towline_client::Tls| {
            tls.roots_pem = std::fs::read(sm2.path("sm2-ca.pem")).unwrap();
            tls.crypto = vec![std::sync::Arc::new(ShangMi::default())];
        };
        assert_eq!(sm2.twice(transports, "app", shangmi).await, 1, "ShangMi, {transports:?}");
        let edge =
            "client_certificates = \"required\"\nclient_ca = \"clients.pem\"\nauthentication = \"none\"";
        let mutual = Bed::start(&["ecdsa"], edge).await;
        let (cert, key) = mutual.client("meter-7.devices.example");
        let certificate = ClientCertificate::pem(&*cert, &*key);
        let shown = |tls: &mut towline_client::Tls| tls.certificate = Some(certificate);
        assert_eq!(mutual.twice(transports, "app", shown).await, 1, "with a certificate, {transports:?}");
    }
}

#[tokio::test]
async fn a_route_for_encrypted_transports_refuses_plaintext_on_every_front() {
    let routes = "[[routes]]\nname = \"private\"\npath = \"/hello\"\nencrypted_only = true\nbackend = \"demo\"\n\
                  [[routes]]\nname = \"readings\"\ntopic = \"private/#\"\nencrypted_only = true\nbackend = \"demo\"\n\
                  call = \"/events\"\n";
    let bed = Bed::with(&["ecdsa"], "tls = \"optional\"\nauthentication = \"none\"", routes).await;
    for transports in BOTH {
        let answer = bed.request(transports, CallRequest::http(Method::GET, "/hello", ""), |_| ()).await;
        assert!(answer.unwrap().contains("hello"), "encrypted");
    }
    let plain = bed.plaintext_call(CallRequest::http(Method::GET, "/hello", "")).await.unwrap_err();
    assert!(plain.contains("is served over TLS and QUIC only"), "{plain}");
    let http = bed.plaintext_http("/hello").await;
    assert!(http.starts_with("HTTP/1.1 426 ") && http.contains("encryption_required"), "{http}");
    let mut plain = bed.plaintext().await;
    assert_eq!(mqtt_connect(&mut plain).await[3], 0);
    let puback = mqtt_publish(&mut plain, "private/a").await;
    assert_eq!((puback[0], puback[4]), (0x40, 0x87), "not authorized: {puback:?}");
    let mut encrypted = bed.tls(None, Some(b"mqtt")).await.unwrap();
    assert_eq!(mqtt_connect(&mut encrypted).await[3], 0);
    let puback = mqtt_publish(&mut encrypted, "private/a").await;
    assert!(puback[1] == 2 || puback[4] < 0x80, "{puback:?}");
}
