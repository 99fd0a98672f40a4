//! Requests on QUIC while the handshake is under way, as far as the gateway is told so by its transport.

use std::{net::SocketAddr, sync::Arc};

use quinn::crypto::rustls::QuicServerConfig;
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use tokio::sync::mpsc;
use towline_client::{Client, Transports};
use towline_gateway::{
    link,
    request::{Origin, Protocol},
    transport::Handshake,
};

use crate::bed::{Bed, answer, call, endpoint, online};

/// A QUIC endpoint that serves the bed's gateway; what the test sends is the handshake of the next connection.
fn endpoint_with(bed: &Bed) -> (SocketAddr, mpsc::UnboundedSender<Handshake>, quinn::Endpoint) {
    let chain = CertificateDer::pem_file_iter(&bed.certificates.chain).unwrap();
    let chain = chain.collect::<Result<Vec<_>, _>>().unwrap();
    let key = bed.certificates.key.read().unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    tls.alpn_protocols = vec![b"towline/1".to_vec()];
    let crypto = Arc::new(QuicServerConfig::try_from(tls).unwrap());
    let config = quinn::ServerConfig::with_crypto(crypto);
    let server = quinn::Endpoint::server(config, ([127, 0, 0, 1], 0).into()).unwrap();
    let (address, (sender, mut handshakes)) = (server.local_addr().unwrap(), mpsc::unbounded_channel());
    let (gateway, accepting) = (Arc::clone(bed.gateway()), server.clone());
    tokio::spawn(async move {
        while let Some(handshake) = handshakes.recv().await {
            let Some(incoming) = accepting.accept().await else { return };
            let connection = incoming.await.unwrap();
            let peer = connection.remote_address();
            let origin = Origin::new("edge".into(), peer, Protocol::LinkQuic, true);
            let origin = Arc::new(Origin { handshake, ..origin });
            tokio::spawn(link::serve_quic(Arc::clone(&gateway), origin, connection));
        }
    });
    (address, sender, server)
}

#[tokio::test]
async fn a_new_request_runs_early_and_an_earlier_one_waits() {
    let bed = Bed::start().await;
    let (address, next, _server) = endpoint_with(&bed);
    let mut config = bed.config(Transports::Quic);
    config.endpoints = vec![endpoint(address)];
    next.send(Handshake::complete()).unwrap();
    let client = Client::start(config).unwrap();
    let caller = client.clone();
    let earlier = tokio::spawn(async move { caller.call(call("Hold", "earlier")).await });
    bed.backend.wait("Hold", |counts| counts.started == 1).await;
    bed.backend.release();
    bed.backend.wait("Hold", |counts| counts.finished == 1).await;
    assert_eq!(earlier.await.unwrap().unwrap().into_grpc().unwrap(), "earlier");
    bed.backend.hold();
    let caller = client.clone();
    let running = tokio::spawn(async move { caller.call(call("Hold", "running")).await });
    bed.backend.wait("Hold", |counts| counts.started == 2).await;

    // The client's next connection comes with early data.
    let (completion, handshake) = Handshake::pending();
    next.send(handshake).unwrap();
    let mut states = client.states();
    states.mark_unchanged();
    client.reconnect();
    states.changed().await.unwrap();
    online(&client).await;
    assert_eq!(answer(&client, "Echo", "new").await, "new");
    bed.backend.release();
    bed.backend.wait("Hold", |counts| counts.finished == 2).await;
    assert_eq!(answer(&client, "Echo", "newer").await, "newer");
    assert!(!running.is_finished(), "its answer is for who completes the handshake");
    completion.complete();
    assert_eq!(running.await.unwrap().unwrap().into_grpc().unwrap(), "running");
    assert_eq!((bed.backend.counts("Hold").started, bed.backend.counts("Echo").started), (2, 2));
}

#[tokio::test]
async fn a_handshake_that_breaks_ends_the_connection_and_the_next_one_goes_on() {
    let bed = Bed::start().await;
    let (address, next, _server) = endpoint_with(&bed);
    let mut config = bed.config(Transports::Quic);
    config.endpoints = vec![endpoint(address)];
    let (broken, handshake) = Handshake::pending();
    next.send(handshake).unwrap();
    let client = Client::start(config).unwrap();
    let caller = client.clone();
    let running = tokio::spawn(async move { caller.call(call("Echo", "x").idempotent()).await });
    let early = |outcome| bed.gateway().metrics.early_data.with_label_values(&["edge", outcome]).get();
    while bed.gateway().early.free() == towline_gateway::early::WaitingRoom::new().free() {
        tokio::task::yield_now().await;
    }
    drop(broken);
    next.send(Handshake::complete()).unwrap();
    assert_eq!(running.await.unwrap().unwrap().into_grpc().unwrap(), "x");
    assert_eq!((bed.backend.counts("Echo").started, early("broken")), (1, 1));
}
