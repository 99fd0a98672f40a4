//! Requests on QUIC while the handshake is under way, as far as the gateway is told so by its transport.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use bytes::{Bytes, BytesMut};
use quinn::{RecvStream, SendStream, crypto::rustls::QuicServerConfig};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use tokio::sync::mpsc;
use towline_client::{Client, Transports};
use towline_gateway::{
    link,
    request::{Origin, Protocol},
    transport::Handshake,
};

use towline_protocols::{
    compress::Compressor,
    link::{
        Config, Control, Event, Hello, Priority, RpcErrorKind, Welcome,
        frame::{Frame, Part, RequestFrame, decode, encode},
    },
    varint,
};

use crate::{
    bed::{Bed, answer, call, endpoint, online},
    raw_quic::{connect, control_event, flush, read_into},
};

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

/// They wait for the handshake, and hold what they were decompressed to; the last waits for them as it came.
#[tokio::test]
async fn requests_that_decompress_to_much_are_served_behind_the_handshake() {
    const CONTENT_BYTES: usize = 3 << 20;
    let bed = Bed::start().await;
    let (address, next, _server) = endpoint_with(&bed);
    next.send(Handshake::complete()).unwrap();
    let (_first, _, welcome) = greeted(&bed, address, 1, 0).await;
    let (completion, handshake) = Handshake::pending();
    next.send(handshake).unwrap();
    let (connection, _control, welcome) = greeted(&bed, address, 2, welcome.session_id).await;
    assert!(welcome.visiting);
    let compressed = Compressor::new(3, 0).compress(&vec![0; CONTENT_BYTES]).unwrap();
    let mut streams = Vec::new();
    for seq in [1, 2, 3] {
        let (mut send, recv) = connection.open_bi().await.unwrap();
        let mut bytes = Vec::new();
        varint::put(&mut bytes, compressed.bytes_before as u64);
        bytes.extend_from_slice(&compressed.frame);
        let part = Part { compressed: true, more: false, bytes: bytes.into() };
        // POST and / of the static table, by which nothing waits for instructions.
        let header_block = Bytes::from_static(b"\x00\x00\xc2\xc3");
        let request = RequestFrame {
            seq,
            priority: Priority::NORMAL,
            idempotent: false,
            acknowledges: false,
            heard: false,
            deadline_ms: None,
            header_block,
            part: Some(part),
            end: false,
        };
        let mut out = BytesMut::new();
        encode(&Frame::Request(request), &mut out);
        send.write_all(&out).await.unwrap();
        streams.push((send, recv));
    }
    completion.complete();
    for (_send, mut recv) in streams {
        let mut answer = BytesMut::new();
        let frame = loop {
            if let Some(frame) = decode(&mut answer, 16_640).unwrap() {
                break frame;
            }
            assert!(read_into(&mut recv, &mut answer).await, "the stream ended");
        };
        let is_limited =
            matches!(&frame, Frame::Reset { error, .. } if error.kind == RpcErrorKind::LimitExceeded);
        assert!(!is_limited, "{frame:?}");
    }
}

/// A connection of a client whose HELLO was answered, with its control stream.
async fn greeted(
    bed: &Bed,
    address: SocketAddr,
    epoch: u64,
    session_id: u64,
) -> (quinn::Connection, (SendStream, RecvStream), Welcome) {
    let connection = connect(bed, address).await;
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    let session_secret = vec![7; 16].into();
    let hello = Hello { client_id: "raw".into(), session_secret, epoch, session_id, ..Hello::default() };
    let mut control = Control::client(Arc::new(Config::default()), hello, Instant::now());
    flush(&mut control, &mut send).await;
    let Event::Welcome(welcome) = control_event(&mut control, &mut recv).await else { panic!("no WELCOME") };
    (connection, (send, recv), *welcome)
}
