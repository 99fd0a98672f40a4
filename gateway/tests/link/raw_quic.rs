//! The link on QUIC without the client library.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use bytes::BytesMut;
use quinn::{RecvStream, SendStream, crypto::rustls::QuicClientConfig};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use towline_protocols::link::{Control, Event};

use crate::bed::Bed;

/// A connection to `address`, which has the certificate of the bed.
pub async fn connect(bed: &Bed, address: SocketAddr) -> quinn::Connection {
    let mut roots = RootCertStore::empty();
    CertificateDer::pem_slice_iter(&bed.ca).for_each(|root| roots.add(root.unwrap()).unwrap());
    let mut tls =
        rustls::ClientConfig::builder_with_provider(rustls::crypto::aws_lc_rs::default_provider().into())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
    tls.alpn_protocols = vec![b"towline/1".to_vec()];
    let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
    let client = quinn::Endpoint::client(([127, 0, 0, 1], 0).into()).unwrap();
    client.connect_with(config, address, "localhost").unwrap().await.unwrap()
}

pub async fn flush(control: &mut Control, send: &mut SendStream) {
    let mut out = BytesMut::new();
    control.poll_transmit(Instant::now(), &mut out, usize::MAX);
    send.write_all(&out).await.unwrap();
}

pub async fn read_into(recv: &mut RecvStream, input: &mut BytesMut) -> bool {
    let Some(chunk) = recv.read_chunk(16 << 10, true).await.unwrap() else { return false };
    input.extend_from_slice(&chunk.bytes);
    true
}

/// The next event of the control stream.
pub async fn control_event(control: &mut Control, recv: &mut RecvStream) -> Event {
    let mut input = BytesMut::new();
    loop {
        if let Some(event) = control.poll_event() {
            return event;
        }
        assert!(read_into(recv, &mut input).await, "the control stream ended");
        control.handle_bytes(Instant::now(), &mut input).unwrap();
    }
}
