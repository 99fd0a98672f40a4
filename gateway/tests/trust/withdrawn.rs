//! What becomes of connections whose clients' authority is taken out of `client_ca`.

use http::Method;
use tokio::io::AsyncReadExt;
use towline_client::{CallRequest, Client, ConnectionState};

use crate::{
    BOTH,
    bed::{Bed, mqtt_connect_as, mqtt_packet},
};

const EDGE: &str =
    "client_certificates = \"optional\"\nclient_ca = \"clients.pem\"\nauthentication = \"certificate\"";

async fn until(client: &Client, wanted: impl Fn(&ConnectionState) -> bool) {
    let mut states = client.states();
    states.wait_for(wanted).await.unwrap();
}

fn is_online(state: &ConnectionState) -> bool {
    matches!(state, ConnectionState::Online { .. })
}

#[tokio::test]
async fn connections_of_an_authority_that_is_taken_out_end_and_no_others() {
    let bed = Bed::start(&["ecdsa"], EDGE).await;
    // The two bear one name: the signature tells whose client it is.
    let second = bed.add_authority();
    let (gone, stays) = (bed.client("gone.example"), second.client("stays.example"));
    let apps =
        BOTH.map(|transports| [&gone, &stays].map(|certificate| bed.client_with(transports, certificate)));
    for app in apps.iter().flatten() {
        until(app, is_online).await;
    }
    let mut devices = Vec::new();
    for (certificate, id) in [(&gone, b"m1"), (&stays, b"m2")] {
        let (cert, key) = certificate;
        let mut device = bed.tls(Some((cert, key)), Some(b"mqtt")).await.unwrap();
        assert_eq!(mqtt_connect_as(&mut device, id).await[3], 0);
        devices.push(device);
    }
    let (cert, key) = &gone;
    let (mut on_quic, _open) = bed.quic(Some((cert, key)), b"mqtt").await.unwrap();
    assert_eq!(mqtt_connect_as(&mut on_quic, b"m3").await[3], 0);
    bed.take_first_authority_out(&second);
    for disconnect in [mqtt_packet(&mut devices[0]).await, mqtt_packet(&mut on_quic).await] {
        assert_eq!((disconnect[0], disconnect[2]), (0xe0, 0x98), "administrative action: {disconnect:?}");
    }
    for [gone, stays] in &apps {
        until(gone, |state| !is_online(state)).await;
        let hello = CallRequest::http(Method::GET, "/hello", "");
        assert_eq!(stays.call(hello).await.unwrap().status, 200);
    }
    let metrics = bed.serving.gateway.metrics.render();
    for (protocol, count) in [("link", 2), ("mqtt", 2)] {
        let labels = format!("{{protocol=\"{protocol}\",reason=\"authorities\"}} {count}\n");
        assert!(metrics.contains(&format!("towline_connections_withdrawn_total{labels}")), "{metrics}");
    }
    let mut back = bed.tls(Some((cert, key)), Some(b"mqtt")).await.unwrap();
    assert!(back.read_u8().await.is_err(), "it does not come back");
}
