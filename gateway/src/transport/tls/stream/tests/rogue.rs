//! A client that did its handshake and then sends what it wants.

use std::{collections::HashMap, sync::Mutex};

use rustls::KeyLog;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use towline_protocols::tls::{
    Alert,
    record::{ALERT, HEADER_BYTES, Header},
};

use super::*;
use crate::transport::tls::record::{Direction, OVERHEAD_BYTES, Records};

pub(super) struct Rogue {
    pub(super) tcp: TcpStream,
    records: Records,
}

#[derive(Debug, Default)]
struct Log(Mutex<HashMap<String, Vec<u8>>>);

impl KeyLog for Log {
    fn log(&self, label: &str, _client_random: &[u8], secret: &[u8]) {
        self.0.lock().unwrap().insert(label.to_owned(), secret.to_vec());
    }
}

impl Rogue {
    /// Connected, with the server's end.
    pub(super) async fn connected(sizes: RecordSizes) -> (Self, TlsStream) {
        let log = Arc::new(Log::default());
        let mut scene = Scene::with(aws_lc_rs::default_provider(), |server, client| {
            // Without tickets, the server's records are counted from zero.
            server.send_tls13_tickets = 0;
            client.key_log = log.clone();
        });
        scene.sizes = sizes;
        let (client, server) = scene.established().await;
        let (tcp, connection) = client.into_inner();
        let suite = connection.negotiated_cipher_suite().unwrap().tls13().unwrap();
        let secret = |label: &str| Direction::new(&log.0.lock().unwrap()[label]).unwrap();
        let (read, write) = (secret("SERVER_TRAFFIC_SECRET_0"), secret("CLIENT_TRAFFIC_SECRET_0"));
        (Self { tcp, records: Records::new(suite, read, write) }, server)
    }

    /// A good record, sealed in its turn.
    pub(super) fn seal(&mut self, content_type: u8, content: &[u8]) -> Vec<u8> {
        let mut record = vec![0; content.len() + OVERHEAD_BYTES];
        self.records.seal_message(content_type, content, &mut record).unwrap();
        record
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) {
        self.tcp.write_all(bytes).await.unwrap();
    }

    /// The next record of the server: its type and content.
    pub(super) async fn receive(&mut self) -> (u8, Vec<u8>) {
        let mut record = vec![0; HEADER_BYTES];
        self.tcp.read_exact(&mut record).await.unwrap();
        let length = Header::read(&record).unwrap().length;
        record.resize(HEADER_BYTES + length, 0);
        self.tcp.read_exact(&mut record[HEADER_BYTES..]).await.unwrap();
        let opened = self.records.open(&mut record).unwrap();
        (opened.content_type, record[HEADER_BYTES..HEADER_BYTES + opened.length].to_vec())
    }

    /// What the server answered is under its next secret now.
    pub(super) fn update_read(&mut self) {
        self.records.update_read().unwrap();
    }

    pub(super) fn update_write(&mut self) {
        self.records.update_write().unwrap();
    }
}

/// Sends what `attack` makes, and expects the server to fail with `expected` on the wire.
#[track_caller]
pub(super) fn check(attack: impl FnOnce(&mut Rogue) -> Vec<u8>, expected: Alert) {
    let work = async {
        let (mut rogue, mut server) = Rogue::connected(RecordSizes::default()).await;
        let bytes = attack(&mut rogue);
        let reading = tokio::spawn(async move { (server.read(&mut [0; 100]).await, server) });
        rogue.send(&bytes).await;
        let (content_type, content) = rogue.receive().await;
        assert_eq!((content_type, &content[..]), (ALERT, &expected.encode()[..]));
        let (result, mut server) = reading.await.unwrap();
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert!(server.write_all(b"more").await.is_err());
        assert!(server.read(&mut [0; 9]).await.is_err());
    };
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work);
}
