//! ShangMi inside QUIC, quinn on both sides.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::{net::SocketAddr, sync::Arc};

use common::{Certified, client, server, sm2_certificate};
use quinn::{
    ClientConfig, Endpoint, ServerConfig,
    crypto::rustls::{HandshakeData, QuicClientConfig, QuicServerConfig},
};
use rustls::{CipherSuite, crypto::CryptoProvider};
use towline_crypto::{Provider, ShangMi};

const ALPN: &[u8] = b"test";

fn server_config(provider: &dyn Provider, certified: &Certified) -> ServerConfig {
    let mut tls = server(provider, certified);
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let crypto = QuicServerConfig::with_initial(Arc::new(tls), provider.quic_initial().unwrap()).unwrap();
    ServerConfig::with_crypto(Arc::new(crypto))
}

fn client_config(provider: &dyn Provider, certified: &Certified) -> ClientConfig {
    let mut tls = client(provider, certified);
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let crypto = QuicClientConfig::with_initial(Arc::new(tls), provider.quic_initial().unwrap()).unwrap();
    ClientConfig::new(Arc::new(crypto))
}

/// Answers every stream with what it says.
fn echo(config: ServerConfig) -> (Endpoint, SocketAddr) {
    let endpoint = Endpoint::server(config, "127.0.0.1:0".parse().unwrap()).unwrap();
    let address = endpoint.local_addr().unwrap();
    let accepting = endpoint.clone();
    tokio::spawn(async move {
        while let Some(incoming) = accepting.accept().await {
            let Ok(connection) = incoming.await else { continue };
            tokio::spawn(async move {
                while let Ok((mut send, mut receive)) = connection.accept_bi().await {
                    let said = receive.read_to_end(1 << 20).await.unwrap();
                    send.write_all(&said).await.unwrap();
                    send.finish().unwrap();
                }
            });
        }
    });
    (endpoint, address)
}

#[tokio::test]
async fn a_stream_goes_there_and_back_and_keys_are_updated() {
    for suite in [0x00c6, 0x00c7] {
        let (provider, certified) = (Only(suite), sm2_certificate());
        let (_server, address) = echo(server_config(&provider, &certified));
        let endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        let connecting = endpoint.connect_with(client_config(&provider, &certified), address, "localhost");
        let connection = connecting.unwrap().await.unwrap();
        let data = connection.handshake_data().unwrap().downcast::<HandshakeData>().unwrap();
        assert_eq!(data.protocol.as_deref(), Some(ALPN));
        for length in [1, 100_000] {
            let (mut send, mut receive) = connection.open_bi().await.unwrap();
            let message = vec![0xa5; length];
            send.write_all(&message).await.unwrap();
            send.finish().unwrap();
            assert_eq!(receive.read_to_end(1 << 20).await.unwrap(), message);
            connection.force_key_update();
        }
    }
}

#[tokio::test]
async fn a_session_is_resumed_with_early_data() {
    let (provider, certified) = (ShangMi::default(), sm2_certificate());
    let mut tls = server(&provider, &certified);
    tls.alpn_protocols = vec![ALPN.to_vec()];
    tls.max_early_data_size = u32::MAX;
    let crypto = QuicServerConfig::with_initial(Arc::new(tls), provider.quic_initial().unwrap()).unwrap();
    let (_server, address) = echo(ServerConfig::with_crypto(Arc::new(crypto)));

    let mut tls = client(&provider, &certified);
    tls.alpn_protocols = vec![ALPN.to_vec()];
    tls.enable_early_data = true;
    let crypto = QuicClientConfig::with_initial(Arc::new(tls), provider.quic_initial().unwrap()).unwrap();
    let config = ClientConfig::new(Arc::new(crypto));
    let endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();

    let first = endpoint.connect_with(config.clone(), address, "localhost").unwrap().await.unwrap();
    // The ticket has come when the first stream is answered.
    assert_eq!(ask(&first, b"first").await, b"first");
    let connecting = endpoint.connect_with(config, address, "localhost").unwrap();
    let Ok((second, accepted)) = connecting.into_0rtt() else { panic!("no ticket to begin with") };
    assert_eq!(ask(&second, b"early").await, b"early");
    assert!(accepted.await);
}

async fn ask(connection: &quinn::Connection, question: &[u8]) -> Vec<u8> {
    let (mut send, mut receive) = connection.open_bi().await.unwrap();
    send.write_all(question).await.unwrap();
    send.finish().unwrap();
    receive.read_to_end(1 << 20).await.unwrap()
}

/// ShangMi with one suite of its two.
#[derive(Debug)]
struct Only(u16);

impl Provider for Only {
    fn name(&self) -> &str {
        "only"
    }

    fn crypto(&self) -> Arc<CryptoProvider> {
        let mut crypto = (*ShangMi::default().crypto()).clone();
        crypto.cipher_suites.retain(|suite| suite.suite() == CipherSuite::Unknown(self.0));
        Arc::new(crypto)
    }
}
