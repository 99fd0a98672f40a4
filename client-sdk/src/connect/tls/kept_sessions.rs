//! Sessions of one run of the app in the next one, against rustls' and quinn's own servers.

use std::{
    fs,
    io::{Read as _, Write as _},
    path::PathBuf,
};

use rustls::{
    ClientConnection, HandshakeKind, ServerConfig, ServerConnection,
    pki_types::{PrivateKeyDer, ServerName},
    server::ServerSessionMemoryCache,
};
use tempfile::TempDir;

use super::*;
use crate::{
    config::{ClientConfig, Endpoint, Limits},
    connect::Handshake,
    identity::Identity,
    tickets::TicketCounts,
};

pub(super) const HOST: &str = "gateway.example";
pub(super) const FLIGHT: &[u8] = b"HELLO and a request";

/// A server, and an app's storage.
pub(super) struct Rig {
    pub(super) server: ServerConfig,
    pub(super) security: Tls,
    folder: TempDir,
}

/// What a run of the app has: everything but the storage is gone with it.
pub(super) struct Run {
    pub(super) secured: Secured,
    tickets: Tickets,
}

impl Run {
    fn tls(&self) -> Arc<TlsConfig> {
        let name = ServerName::try_from(HOST).unwrap();
        self.secured.streams(Transport::Tcp, &name, KeyExchange::Hybrid).config
    }
}

impl Rig {
    pub(super) fn new() -> Self {
        let key = rcgen::generate_simple_self_signed([HOST.to_owned()]).unwrap();
        let (pem, der) = (key.cert.pem(), key.cert.der().clone());
        let private = PrivateKeyDer::from_pem_slice(key.signing_key.serialize_pem().as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![der], private)
            .unwrap();
        server.alpn_protocols = vec![ALPN.to_vec()];
        server.max_early_data_size = u32::MAX;
        server.session_storage = ServerSessionMemoryCache::new(64);
        server.send_tls13_tickets = 2;
        Self { server, security: Tls::new(pem.as_bytes()), folder: tempfile::tempdir().unwrap() }
    }

    fn config(&self) -> ClientConfig {
        let endpoint = Endpoint { host: HOST.to_owned(), port: 443 };
        let mut config = ClientConfig::new(vec![endpoint], Vec::new());
        config.security = crate::config::Security::Tls(self.security.clone());
        config.identity_file = Some(self.folder.path().join("identity"));
        config
    }

    pub(super) fn run(&self) -> Run {
        self.run_of(&self.config())
    }

    fn run_of(&self, config: &ClientConfig) -> Run {
        let identity = Identity::open(config).unwrap();
        let tickets = Tickets::open(config, &identity);
        let crate::config::Security::Tls(security) = &config.security else { panic!("TLS") };
        Run { secured: secured(security, true, &tickets).unwrap(), tickets }
    }

    pub(super) fn files(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.folder.path().join("identity.tickets"));
        entries.into_iter().flatten().map(|entry| entry.unwrap().path()).collect()
    }

    /// A connection on TCP: how its handshake went, and what arrived as early data.
    fn connect(&self, run: &Run) -> (HandshakeKind, Vec<u8>) {
        let (client, early) = self.shakes_hands(run.tls());
        (client.handshake_kind().unwrap(), early)
    }

    /// The connection, and what arrived as early data.
    pub(super) fn shakes_hands(&self, tls: Arc<TlsConfig>) -> (ClientConnection, Vec<u8>) {
        let name = ServerName::try_from(HOST).unwrap();
        let mut client = ClientConnection::new(tls, name).unwrap();
        let mut server = ServerConnection::new(Arc::new(self.server.clone())).unwrap();
        if let Some(mut early) = client.early_data() {
            early.write_all(FLIGHT).unwrap();
        }
        let mut early = Vec::new();
        while client.wants_write() || server.wants_write() {
            let mut bytes = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut bytes).unwrap();
            }
            server.read_tls(&mut &bytes[..]).unwrap();
            server.process_new_packets().unwrap();
            if let Some(mut data) = server.early_data() {
                data.read_to_end(&mut early).unwrap();
            }
            let mut bytes = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut bytes).unwrap();
            }
            client.read_tls(&mut &bytes[..]).unwrap();
            client.process_new_packets().unwrap();
        }
        assert!(!client.is_handshaking() && !server.is_handshaking());
        assert_eq!(client.is_early_data_accepted(), !early.is_empty());
        (client, early)
    }
}

fn counts(kept: u64, restored: u64, damaged: u64, dropped: u64) -> TicketCounts {
    TicketCounts { kept, restored, damaged, dropped }
}

#[test]
fn the_next_run_sends_early_data_on_tcp() {
    let rig = Rig::new();
    let first = rig.run();
    assert_eq!(rig.connect(&first), (HandshakeKind::Full, Vec::new()));
    assert_eq!((rig.files().len(), first.tickets.counts()), (2, counts(2, 0, 0, 0)));
    drop(first);
    let next = rig.run();
    assert_eq!(rig.connect(&next), (HandshakeKind::Resumed, FLIGHT.to_vec()));
    assert_eq!(next.tickets.counts().restored, 1);
}

#[tokio::test]
async fn the_next_run_sends_early_data_on_quic() {
    let rig = Rig::new();
    let crypto = quinn::crypto::rustls::QuicServerConfig::try_from(rig.server.clone()).unwrap();
    let config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    let server = quinn::Endpoint::server(config, ([127, 0, 0, 1], 0).into()).unwrap();
    let address = server.local_addr().unwrap();
    tokio::spawn(async move {
        while let Some(incoming) = server.accept().await {
            let Ok(connecting) = incoming.accept() else { continue };
            let Ok((connection, _)) = connecting.into_0rtt() else { continue };
            tokio::spawn(async move {
                let Ok(mut stream) = connection.accept_uni().await else { return };
                let bytes = stream.read_to_end(100).await.unwrap();
                let mut answer = connection.open_uni().await.unwrap();
                answer.write_all(&bytes).await.unwrap();
                answer.finish().unwrap();
                connection.closed().await;
            });
        }
    });
    // Whether there was early data, and whether it was accepted.
    let connect = async |run: &Run| {
        let endpoint = quinn::Endpoint::client(([127, 0, 0, 1], 0).into()).unwrap();
        let handshake = Handshake { offer: KeyExchange::Hybrid, flies: true, round_trip: None, repeat: None };
        let name = ServerName::try_from(HOST).unwrap();
        let mut quic = run.secured.quic(&name, handshake, &Limits::default()).unwrap().config;
        // quinn's own server opens streams to the client here; the link's does not.
        quic.transport_config(Arc::default());
        let connecting = endpoint.connect_with(quic, address, HOST).unwrap();
        let (connection, accepted) = match connecting.into_0rtt() {
            Ok((connection, accepted)) => (connection, Some(accepted)),
            Err(connecting) => (connecting.await.unwrap(), None),
        };
        let mut stream = connection.open_uni().await.unwrap();
        stream.write_all(FLIGHT).await.unwrap();
        stream.finish().unwrap();
        let early = match accepted {
            Some(accepted) => accepted.await,
            None => false,
        };
        let mut answer = connection.accept_uni().await.unwrap();
        assert_eq!(answer.read_to_end(100).await.unwrap(), FLIGHT);
        connection.close(0u32.into(), b"");
        endpoint.wait_idle().await;
        early
    };
    let first = rig.run();
    assert!(!connect(&first).await, "there is no ticket yet");
    while rig.files().len() < 2 {
        tokio::task::yield_now().await;
    }
    drop(first);
    let next = rig.run();
    assert!(connect(&next).await);
    assert_eq!(next.tickets.counts().restored, 1);
}

/// Every file, changed.
fn change(rig: &Rig, change: impl Fn(&mut Vec<u8>)) {
    for path in rig.files() {
        let mut bytes = fs::read(&path).unwrap();
        change(&mut bytes);
        fs::write(path, bytes).unwrap();
    }
}

#[test]
fn every_suite_is_resumed_with_its_own() {
    for suite in rustls::crypto::aws_lc_rs::ALL_CIPHER_SUITES.iter().filter(|suite| suite.tls13().is_some()) {
        let mut rig = Rig::new();
        let mut provider = rustls::crypto::aws_lc_rs::default_provider();
        provider.cipher_suites = vec![*suite];
        let resolver = Arc::clone(&rig.server.cert_resolver);
        let mut server = ServerConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(resolver);
        server.alpn_protocols = vec![ALPN.to_vec()];
        server.max_early_data_size = 1024;
        server.session_storage = ServerSessionMemoryCache::new(64);
        rig.server = server;
        rig.connect(&rig.run());
        assert_eq!(rig.connect(&rig.run()), (HandshakeKind::Resumed, FLIGHT.to_vec()), "{suite:?}");
    }
}

#[test]
fn each_is_used_once_whether_it_was_in_memory_or_on_disk() {
    let mut rig = Rig::new();
    let first = rig.run();
    rig.connect(&first);
    rig.server.send_tls13_tickets = 0;
    rig.connect(&first);
    assert_eq!(rig.files().len(), 1, "the one that was used from memory");
    // A run that is killed before it is given new ones leaves none; its handshake is resumed all the same.
    assert_eq!(rig.connect(&rig.run()).0, HandshakeKind::Resumed);
    assert!(rig.files().is_empty());
    assert_eq!(rig.connect(&rig.run()).0, HandshakeKind::Full);
    assert_eq!(rig.connect(&first).0, HandshakeKind::Full, "of two runs at one time, the server takes one");
}

#[test]
fn runs_that_are_killed_at_once_find_one_each_as_long_as_there_are_any() {
    let mut rig = Rig::new();
    let first = rig.run();
    rig.server.send_tls13_tickets = 6;
    rig.connect(&first);
    assert_eq!((rig.files().len(), first.tickets.counts()), (4, counts(6, 0, 0, 2)));
    rig.server.send_tls13_tickets = 0;
    let kinds: Vec<_> = (0..5).map(|_| rig.connect(&rig.run()).0).collect();
    let [rest @ .., last] = &kinds[..] else { panic!("five") };
    assert!(rest.iter().all(|kind| *kind == HandshakeKind::Resumed) && *last == HandshakeKind::Full);
}

#[test]
fn other_pins_roots_certificates_or_identities_find_nothing() {
    let rig = Rig::new();
    rig.connect(&rig.run());
    let pin: towline_crypto::Pin = "sha256/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=".parse().unwrap();
    let stranger = rcgen::generate_simple_self_signed(["stranger".to_owned()]).unwrap();
    let key = stranger.signing_key.serialize_pem();
    let changes: [&dyn Fn(&mut Tls); 4] = [
        &|tls| tls.pins = vec![pin],
        &|tls| tls.roots_pem.extend(stranger.cert.pem().into_bytes()),
        &|tls| tls.certificate = Some(ClientCertificate::pem(stranger.cert.pem(), &*key)),
        &|tls| tls.crypto.push(Arc::new(towline_crypto::ShangMi::default())),
    ];
    let name = ServerName::try_from(HOST).unwrap();
    let finds = |config: &ClientConfig| {
        let run = rig.run_of(config);
        let mut client = ClientConnection::new(run.tls(), name.clone()).unwrap();
        assert_eq!(run.tickets.counts().damaged, 0);
        client.early_data().is_some()
    };
    for (place, change) in changes.iter().enumerate() {
        let mut config = rig.config();
        let mut security = rig.security.clone();
        change(&mut security);
        config.security = crate::config::Security::Tls(security);
        assert!(!finds(&config), "{place}");
    }
    let mut config = rig.config();
    config.keep_tickets = false;
    assert!(!finds(&config), "the app wants none");
    let identity = rig.folder.path().join("identity");
    let kept = fs::read(&identity).unwrap();
    fs::remove_file(&identity).unwrap();
    assert!(!finds(&rig.config()), "another secret");
    fs::write(identity, kept).unwrap();
    assert!(finds(&rig.config()));
}

#[test]
fn what_is_damaged_is_counted_and_the_handshake_is_a_whole_one() {
    let changes: [fn(&mut Vec<u8>); 4] = [
        |bytes| bytes[0] ^= 1,
        |bytes| *bytes.last_mut().unwrap() ^= 1,
        |bytes| bytes.truncate(20),
        |bytes| bytes.resize(1 << 20, 0),
    ];
    for damage in changes {
        let rig = Rig::new();
        rig.connect(&rig.run());
        change(&rig, damage);
        let next = rig.run();
        assert_eq!(rig.connect(&next).0, HandshakeKind::Full);
        assert_eq!((next.tickets.counts(), rig.files().len()), (counts(2, 0, 2, 0), 2), "they are gone");
    }
    let rig = Rig::new();
    rig.connect(&rig.run());
    // One file's content under the other's name.
    let [one, two] = &rig.files()[..] else { panic!("two") };
    fs::copy(one, two).unwrap();
    let next = rig.run();
    assert_eq!(rig.connect(&next).0, HandshakeKind::Resumed);
    assert!(next.tickets.counts().damaged <= 1);
}

/// The app was installed anew, and its folder of tickets is one of before, as a backup may bring it back.
#[test]
fn what_another_identity_has_sealed_is_replaced_behind_a_whole_handshake() {
    let rig = Rig::new();
    rig.connect(&rig.run());
    let others: Vec<_> = rig.files().into_iter().map(|path| (fs::read(&path).unwrap(), path)).collect();
    fs::remove_file(rig.folder.path().join("identity")).unwrap();
    let stranger = rig.run();
    assert_eq!(rig.connect(&stranger).0, HandshakeKind::Full);
    drop(stranger);
    for (_, path) in &others {
        fs::remove_file(path).unwrap();
    }
    // Under names that this identity looks for, sealed by a key that it has not.
    for (path, (sealed, _)) in rig.files().iter().zip(&others) {
        fs::write(path, sealed).unwrap();
    }
    let next = rig.run();
    assert_eq!(rig.connect(&next), (HandshakeKind::Full, Vec::new()), "and nothing was said early");
    assert_eq!(next.tickets.counts(), counts(2, 0, 2, 0));
    let files = rig.files();
    assert_eq!(files.len(), 2, "what could not be read is gone");
    assert!(files.iter().all(|path| others.iter().all(|(sealed, _)| fs::read(path).unwrap() != *sealed)));
    drop(next);
    assert_eq!(rig.connect(&rig.run()), (HandshakeKind::Resumed, FLIGHT.to_vec()));
}

#[test]
fn files_tell_nothing_and_are_for_their_owner_only() {
    let rig = Rig::new();
    let run = rig.run();
    rig.connect(&run);
    let shown = format!("{:?}", run.tls().resumption);
    assert!(!shown.contains("psk") && !shown.contains(HOST), "{shown}");
    for path in rig.files() {
        let holds = |text: &str, bytes: &[u8]| bytes.windows(text.len()).any(|part| part == text.as_bytes());
        assert!(!holds(HOST, &fs::read(&path).unwrap()) && !path.display().to_string().contains(HOST));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
        }
    }
}

#[test]
fn what_cannot_be_taken_away_is_not_used() {
    let rig = Rig::new();
    rig.connect(&rig.run());
    let run = rig.run();
    // A folder of that name cannot be unlinked as a file.
    for path in rig.files() {
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
    }
    assert_eq!(rig.connect(&run).0, HandshakeKind::Full);
    assert_eq!(run.tickets.counts().restored, 0);
}
