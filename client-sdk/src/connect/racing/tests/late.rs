//! A client that is slower than the gateway's answer: what it would have said early is not early any more.

use bytes::BytesMut;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::{io::AsyncWriteExt as _, sync::mpsc, time::timeout};
use towline_protocols::link::{self, Welcome};

use super::*;
use crate::{ConnectionState, Transport, Transports, line};

/// How a gateway shakes hands: it knows nothing of those before, and names the session of whoever comes.
fn server(signed: &rcgen::CertifiedKey<rcgen::KeyPair>) -> quinn::ServerConfig {
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(signed.signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![signed.cert.der().clone()], key)
        .unwrap();
    tls.alpn_protocols = vec![b"towline/1".to_vec()];
    tls.max_early_data_size = u32::MAX;
    let crypto = quinn::crypto::rustls::QuicServerConfig::try_from(tls).unwrap();
    quinn::ServerConfig::with_crypto(Arc::new(crypto))
}

/// Welcomes whoever says HELLO on the first stream, for as long as that is open.
async fn serve(connection: quinn::Connection) {
    let (mut send, mut recv) = connection.accept_bi().await.unwrap();
    let mut control = link::Control::server(Arc::default(), now());
    let (mut input, mut out) = (BytesMut::new(), BytesMut::new());
    while let Ok(Some(chunk)) = recv.read_chunk(1 << 16, true).await {
        input.extend_from_slice(&chunk.bytes);
        control.handle_bytes(now(), &mut input).unwrap();
        while let Some(event) = control.poll_event() {
            if matches!(event, link::Event::Hello(_)) {
                control.welcome(Welcome { session_id: 7, ..Welcome::default() });
            }
        }
        control.poll_transmit(now(), &mut out, usize::MAX);
        send.write_all_buf(&mut out).await.unwrap();
    }
}

#[tokio::test]
async fn a_client_whose_early_data_was_rejected_before_it_said_anything_goes_on() {
    let signed = rcgen::generate_simple_self_signed(vec!["127.0.0.1".into()]).unwrap();
    let gateway = quinn::Endpoint::server(server(&signed), ([127, 0, 0, 1], 0).into()).unwrap();
    let (shaken, mut handshakes) = mpsc::unbounded_channel();
    let accepting = gateway.clone();
    tokio::spawn(async move {
        while let Some(incoming) = accepting.accept().await {
            let connection = incoming.await.unwrap();
            shaken.send(()).unwrap();
            tokio::spawn(serve(connection));
        }
    });

    let at = gateway.local_addr().unwrap();
    let endpoint = Endpoint { host: at.ip().to_string(), port: at.port() };
    let mut config = ClientConfig::new(vec![endpoint], signed.cert.pem());
    config.transports = Transports::Quic;
    let rig = Rig::new(config);
    let mut states = rig.shared.states.subscribe();
    let online = |state: &ConnectionState| matches!(state, ConnectionState::Online { early_data: false, .. });
    let greeting = Arc::new(Greeting::new(Arc::clone(&rig.shared), rig.config.clone()));
    for round in 0..2 {
        let opening = Opening::new(Arc::clone(&greeting), 0.0, true);
        let (connector, gateways) = (rig.connector.clone(), rig.config.endpoints.clone());
        let mut racing = Racing::begin(
            Network::default(),
            connector,
            &rig.shared,
            &opening,
            gateways,
            Duration::from_secs(10),
        );
        let made = racing.next().await.map_err(|error| error.0).unwrap();
        assert_eq!((made.wire.transport(), made.wire.is_unanswered()), (Transport::Quic, round == 1));
        // The gateway has the client's Finished: the client knows that early data was rejected.
        handshakes.recv().await.unwrap();
        let line = tokio::spawn(async move { line::run(made, &opening, racing).await.reason });
        let came = timeout(Duration::from_secs(20), states.wait_for(online)).await.is_ok();
        assert!(came, "no WELCOME in round {round}");
        assert!(!line.is_finished(), "round {round}");
        line.abort();
        rig.shared.set_state(ConnectionState::Connecting);
        // The client has a ticket for early data by now, which a gateway that was started anew does not know.
        gateway.set_server_config(Some(server(&signed)));
    }
}
