//! Early data: read before the handshake ends, once, and never again.

use std::io::{Read as _, Write as _};

use rustls::{ClientConnection, server::ProducesTickets};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use towline_protocols::tls::Alert;

use super::*;

/// rustls' client, with its bytes in hand.
struct Client {
    connection: ClientConnection,
    tcp: TcpStream,
}

impl Client {
    fn new(scene: &Scene, tcp: TcpStream) -> Self {
        Self { connection: ClientConnection::new(Arc::clone(&scene.client), name()).unwrap(), tcp }
    }

    /// What rustls wants to send.
    fn flight(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.connection.wants_write() {
            self.connection.write_tls(&mut bytes).unwrap();
        }
        bytes
    }

    async fn send(&mut self) {
        let flight = self.flight();
        self.tcp.write_all(&flight).await.unwrap();
    }

    /// Reads once, and lets rustls work on it.
    async fn receive(&mut self) -> Result<usize, rustls::Error> {
        let mut bytes = vec![0; 65_536];
        let count = self.tcp.read(&mut bytes).await.unwrap();
        let mut bytes = &bytes[..count];
        while !bytes.is_empty() {
            self.connection.read_tls(&mut bytes).unwrap();
            self.connection.process_new_packets()?;
        }
        Ok(count)
    }

    /// Until so many octets of the answer came.
    async fn answer(&mut self, length: usize) -> Vec<u8> {
        let mut answer = vec![0; length];
        let mut got = 0;
        while got < length {
            match self.connection.reader().read(&mut answer[got..]) {
                Ok(count) => got += count,
                Err(_) => assert_ne!(self.receive().await.unwrap(), 0),
            }
        }
        answer
    }

    async fn alert(&mut self) -> rustls::AlertDescription {
        loop {
            match self.receive().await {
                Ok(count) => assert_ne!(count, 0, "closed without an alert"),
                Err(rustls::Error::AlertReceived(alert)) => return alert,
                Err(other) => panic!("{other}"),
            }
        }
    }
}

/// A scene whose client has tickets.
async fn visited() -> Scene {
    let scene = Scene::new();
    visit(&scene).await;
    scene
}

async fn visit(scene: &Scene) {
    let (mut client, mut server) = scene.established().await;
    server.write_all(b"x").await.unwrap();
    client.read_exact(&mut [0; 1]).await.unwrap();
}

/// A client that offers `early`, with its first flight.
async fn offering(scene: &Scene, early: &[u8]) -> (Client, Vec<u8>, TcpStream) {
    let (near, far) = sockets().await;
    let mut client = Client::new(scene, far);
    client.connection.early_data().expect("a ticket with early data").write_all(early).unwrap();
    let flight = client.flight();
    (client, flight, near)
}

#[tokio::test]
async fn early_data_is_read_and_answered_before_the_handshake_ends_and_a_replay_is_not() {
    let scene = visited().await;
    let (mut client, recorded, near) = offering(&scene, b"request").await;
    client.tcp.write_all(&recorded).await.unwrap();
    let mut server = scene.accept(near).await.unwrap().stream;
    let handshake = server.handshake();
    assert!(!handshake.is_complete());
    let mut request = [0; 7];
    server.read_exact(&mut request).await.unwrap();
    assert_eq!(&request, b"request");
    server.write_all(b"answer").await.unwrap();
    // Nothing of the client's second flight is sent yet.
    assert_eq!(client.answer(6).await, b"answer");
    assert!(client.connection.is_early_data_accepted());
    assert!(!handshake.is_complete());

    // Byte for byte the same, to the same server.
    let (near, mut far) = sockets().await;
    far.write_all(&recorded).await.unwrap();
    far.shutdown().await.unwrap();
    assert!(scene.accept(near).await.is_err(), "the replay is not read as early data");

    client.connection.writer().write_all(b"more").unwrap();
    client.send().await;
    handshake.completed().await.unwrap();
    server.read_exact(&mut request[..4]).await.unwrap();
    assert_eq!(&request[..4], b"more");
    assert!(server.handshake().is_complete());
    server.write_all(b"and on").await.unwrap();
    assert_eq!(client.answer(6).await, b"and on");
    // Tickets came although they were sealed among other records.
    visit(&scene).await;
}

#[tokio::test]
async fn the_end_of_the_handshake_is_noticed_while_nobody_reads() {
    let scene = visited().await;
    let (mut client, flight, near) = offering(&scene, b"request").await;
    client.tcp.write_all(&flight).await.unwrap();
    let server = scene.accept(near).await.unwrap().stream;
    let handshake = server.handshake();
    let waiting = tokio::spawn(async move { handshake.completed().await });
    client.receive().await.unwrap();
    client.send().await;
    assert_eq!(waiting.await.unwrap(), Ok(()));
    let mut server = server;
    server.read_exact(&mut [0; 7]).await.unwrap();
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_connection_that_ends_before_its_handshake_says_so() {
    let scene = visited().await;
    let (mut client, flight, near) = offering(&scene, b"request").await;
    client.tcp.write_all(&flight).await.unwrap();
    let mut server = scene.accept(near).await.unwrap().stream;
    let handshake = server.handshake();
    drop(client);
    assert!(handshake.completed().await.is_err());
    server.read_exact(&mut [0; 7]).await.unwrap();
    assert!(server.read(&mut [0; 9]).await.is_err());
    assert!(server.write_all(b"answer").await.is_err());
}

#[tokio::test]
async fn a_handshake_that_does_not_end_is_given_up() {
    let scene = visited().await;
    let (mut client, flight, near) = offering(&scene, b"request").await;
    client.tcp.write_all(&flight).await.unwrap();
    let server = scene.accept(near).await.unwrap().stream;
    tokio::time::pause();
    assert!(server.handshake().completed().await.is_err());
    drop(client);
}

/// Offers early data that is not accepted, and then says the same after the handshake.
async fn rejected(scene: &Scene, early: &[u8]) {
    let (mut client, flight, near) = offering(scene, early).await;
    client.tcp.write_all(&flight).await.unwrap();
    let talking = async {
        while client.connection.is_handshaking() {
            client.receive().await.unwrap();
            client.send().await;
        }
        assert!(!client.connection.is_early_data_accepted());
        client.connection.writer().write_all(b"late").unwrap();
        client.send().await;
        client
    };
    let (server, mut client) = tokio::join!(scene.accept(near), talking);
    let mut server = server.unwrap().stream;
    assert!(server.handshake().is_complete());
    let mut late = [0; 4];
    server.read_exact(&mut late).await.unwrap();
    assert_eq!(&late, b"late");
    server.write_all(b"answer").await.unwrap();
    assert_eq!(client.answer(6).await, b"answer");
}

#[tokio::test]
async fn a_ticket_of_another_process_resumes_without_early_data() {
    for early in [&b"request"[..], &[7; 9000]] {
        let inner: Arc<dyn ProducesTickets> = aws_lc_rs::Ticketer::new().unwrap();
        let scene = Scene::with(aws_lc_rs::default_provider(), |server, _| {
            server.ticketer = early_data::ticketer_of_another_process(Arc::clone(&inner));
        });
        visit(&scene).await;
        let mut server = ServerConfig::clone(&scene.server);
        server.ticketer = early_data::ticketer(inner);
        rejected(&Scene { server: Arc::new(server), ..scene }, early).await;
    }
}

#[tokio::test]
async fn early_data_of_a_ticket_under_an_unknown_key_is_skipped() {
    let scene = visited().await;
    let mut server = ServerConfig::clone(&scene.server);
    server.ticketer = early_data::ticketer(aws_lc_rs::Ticketer::new().unwrap());
    rejected(&Scene { server: Arc::new(server), ..scene }, &[7; 9000]).await;
}

#[tokio::test]
async fn a_listener_without_early_data_skips_it() {
    let scene = visited().await;
    let mut server = ServerConfig::clone(&scene.server);
    early_data::prepare(&mut server, 0);
    rejected(&Scene { server: Arc::new(server), ..scene }, &[7; 5000]).await;
}

#[tokio::test]
async fn early_data_before_a_hello_retry_is_skipped() {
    let scene = visited().await;
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![aws_lc_rs::kx_group::SECP384R1];
    let other = Scene::with(provider, |_, _| {});
    let mut server = ServerConfig::clone(&other.server);
    server.ticketer = scene.server.ticketer.clone();
    server.cert_resolver = scene.server.cert_resolver.clone();
    rejected(&Scene { server: Arc::new(server), ..scene }, &[7; 5000]).await;
}

#[tokio::test]
async fn more_early_data_than_the_bound_gets_its_alert() {
    let scene = visited().await;
    let mut server = ServerConfig::clone(&scene.server);
    early_data::prepare(&mut server, 100);
    let scene = Scene { server: Arc::new(server), ..scene };
    let (mut client, flight, near) = offering(&scene, &[7; 1000]).await;
    client.tcp.write_all(&flight).await.unwrap();
    let (accepted, alert) = tokio::join!(scene.accept(near), client.alert());
    assert!(accepted.is_err());
    assert_eq!(u8::from(alert), Alert::UnexpectedMessage as u8);
}
