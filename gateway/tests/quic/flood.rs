//! Initial packets from addresses that nobody proved.

use std::{net::SocketAddr, sync::Arc};

use quinn_proto::{ClientConfig, Endpoint, EndpointConfig, crypto::rustls::QuicClientConfig};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};

use crate::bed::{Bed, client, echo};

/// Makes the first flights of clients that never read an answer.
struct Flood {
    endpoint: Endpoint,
    config: ClientConfig,
    to: SocketAddr,
}

impl Flood {
    fn new(to: SocketAddr, ca: &[u8]) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(CertificateDer::pem_slice_iter(ca).map(Result::unwrap));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"towline/1".to_vec()];
        let config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
        let endpoint = Endpoint::new(Arc::new(EndpointConfig::default()), None, true, None);
        Self { endpoint, config, to }
    }

    /// The datagrams of one more client.
    fn flight(&mut self) -> Vec<Vec<u8>> {
        let now = std::time::Instant::now();
        let (_, mut connection) =
            self.endpoint.connect(now, self.config.clone(), self.to, "127.0.0.1").unwrap();
        let (mut datagrams, mut datagram) = (Vec::new(), Vec::new());
        while connection.poll_transmit(now, 1, &mut datagram).is_some() {
            datagrams.push(std::mem::take(&mut datagram));
        }
        datagrams
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_initials_is_told_to_retry_and_stops_nobody_who_is_there_or_comes() {
    let bed = Bed::on_loopback(|settings| settings.limits.handshakes_max = 16).await;
    let established = client(bed.address(), bed.ca.clone());
    assert_eq!(echo(&established, "before", 0).await, "before");

    let mut flood = Flood::new(bed.address(), &bed.ca);
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for _ in 0..300 {
        for datagram in flood.flight() {
            let _ = socket.send_to(&datagram, bed.address()).await;
        }
    }
    assert_eq!(echo(&established, "during", 0).await, "during");
    // A client that can answer a Retry is served, though every place was asked for by the flood.
    let newcomer = client(bed.address(), bed.ca.clone());
    assert_eq!(echo(&newcomer, "newcomer", 0).await, "newcomer");
    let metrics = &bed.gateway().metrics;
    let retries = metrics.quic_retries.with_label_values(&["edge"]).get();
    assert!(retries > 100, "{retries} of 300 were told to prove where they are");
    let open = bed.gateway().slots.open();
    assert!(open <= 64, "{open} connections are open or half open");
}
