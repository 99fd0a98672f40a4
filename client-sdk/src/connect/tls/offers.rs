//! Which key exchange a handshake offers, what it resumes then, and what follows from it; against rustls' own server.

use rustls::{HandshakeKind, pki_types::ServerName, server::ServerSessionMemoryCache};
use towline_crypto::International;
use towline_protocols::policy::KeyExchange::{self, Classical, ClassicalResumed, Hybrid};

use super::{
    kept_sessions::{FLIGHT, HOST, Rig, Run},
    *,
};
use crate::{
    config::Limits,
    connect::{Handshake, sockets::Sockets},
};

fn name() -> ServerName<'static> {
    ServerName::try_from(HOST).unwrap()
}

/// A handshake by TCP with that offer: how it went, in which group, whether it was made without the hybrid, and what
/// arrived as early data.
fn shakes(rig: &Rig, run: &Run, offer: KeyExchange) -> (HandshakeKind, NamedGroup, bool, bool) {
    let made = run.secured.streams(Transport::Tcp, &name(), offer);
    let (connection, early) = rig.shakes_hands(Arc::clone(&made.config));
    let group = connection.negotiated_key_exchange_group().unwrap().name();
    assert_eq!(made.is_classical, group == CLASSICAL);
    (connection.handshake_kind().unwrap(), group, made.check(&connection).is_ok(), early == FLIGHT)
}

/// The octets of ClientHello, its header and the record's included.
fn hello_bytes(run: &Run, offer: KeyExchange) -> usize {
    let made = run.secured.streams(Transport::Tcp, &name(), offer);
    let mut client = rustls::ClientConnection::new(made.config, name()).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    5 + usize::from(u16::from_be_bytes([bytes[3], bytes[4]]))
}

#[test]
fn a_session_crosses_from_the_hybrid_to_x25519_and_back() {
    let rig = Rig::new();
    for keeps in [false, true] {
        let run = rig.run();
        if !keeps {
            assert_eq!(shakes(&rig, &run, ClassicalResumed), (HandshakeKind::Full, HYBRID, true, false));
        }
        // With early data, and without a HelloRetryRequest.
        for offer in [ClassicalResumed, Hybrid, ClassicalResumed, ClassicalResumed, Classical, Hybrid] {
            let group = if offer == Hybrid { HYBRID } else { CLASSICAL };
            assert_eq!(shakes(&rig, &run, offer), (HandshakeKind::Resumed, group, true, true), "{offer:?}");
        }
        shakes(&rig, &run, Hybrid);
    }
}

#[test]
fn a_share_of_the_hybrid_is_most_of_a_client_hello() {
    let rig = Rig::new();
    let run = rig.run();
    let (hybrid, classical) = (hello_bytes(&run, Hybrid), hello_bytes(&run, Classical));
    // Its entry, and its name in the list of groups.
    assert_eq!(hybrid - classical, 4 + 1184 + 32 + 2, "{hybrid} {classical}");
    assert!(classical < 300, "{classical}");
}

#[test]
fn only_what_began_with_the_hybrid_is_resumed_in_its_place() {
    let rig = Rig::new();
    let run = rig.run();
    assert_eq!(shakes(&rig, &run, Classical), (HandshakeKind::Full, CLASSICAL, true, false));
    let made = run.secured.streams(Transport::Tcp, &name(), ClassicalResumed);
    assert!(!made.is_classical, "its sessions began with X25519");
    // Nor in the next run of the app, which finds them on disk.
    let next = rig.run();
    let made = next.secured.streams(Transport::Tcp, &name(), ClassicalResumed);
    assert!(!made.is_classical);
    assert_eq!(shakes(&rig, &next, Hybrid).0, HandshakeKind::Resumed, "which is as good a session else");
    assert_eq!(shakes(&rig, &next, ClassicalResumed), (HandshakeKind::Resumed, CLASSICAL, true, true));
}

#[test]
fn x25519_leaves_no_trace_in_hybrid_handshakes() {
    let rig = Rig::new();
    let run = rig.run();
    shakes(&rig, &run, Classical);
    shakes(&rig, &run, Classical);
    // rustls offers a share of what a server took before. Who would rather have the hybrid asks for it then, which takes a
    // round trip, and the early data with it.
    assert_eq!(shakes(&rig, &run, Hybrid), (HandshakeKind::Resumed, HYBRID, true, true));
}

#[test]
fn a_server_that_has_forgotten_the_session_gets_no_word_without_the_hybrid() {
    let mut rig = Rig::new();
    let run = rig.run();
    shakes(&rig, &run, Hybrid);
    rig.server.session_storage = ServerSessionMemoryCache::new(64);
    let (kind, group, is_allowed, _) = shakes(&rig, &run, ClassicalResumed);
    assert_eq!((kind, group, is_allowed), (HandshakeKind::Full, CLASSICAL, false));
    run.secured.resuming.refused(Transport::Tcp, &name());
    let made = run.secured.streams(Transport::Tcp, &name(), ClassicalResumed);
    assert!(!made.is_classical, "there is another session, and it is not tried in the same way");
    let made = run.secured.streams(Transport::Tcp, &name(), Classical);
    assert!(!made.is_classical);
}

/// On real sockets: a gateway that was started anew gets a hybrid handshake, in the same attempt.
#[tokio::test]
async fn on_tcp_what_is_refused_is_made_anew() {
    let mut rig = Rig::new();
    let run = rig.run();
    shakes(&rig, &run, Hybrid);
    rig.server.session_storage = ServerSessionMemoryCache::new(64);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let config = Arc::new(rig.server.clone());
    // The groups of each connection in turn.
    let serving = std::thread::spawn(move || {
        [(); 2].map(|()| {
            let (mut stream, _) = listener.accept().unwrap();
            let mut server = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
            // Whoever is refused ends its connection.
            let _ = server.complete_io(&mut stream);
            server.negotiated_key_exchange_group().map(|group| group.name())
        })
    });
    let connected = crate::connect::tcp::connect(Sockets::default(), address).await.unwrap();
    let flight: crate::connect::FirstFlight = Arc::new(|| None);
    let wire = connected.secure(Some(run.secured.clone()), ClassicalResumed, HOST.to_owned(), flight).await;
    assert_eq!(serving.join().unwrap(), [Some(CLASSICAL), Some(HYBRID)]);
    assert!(wire.is_ok());
}

#[tokio::test]
async fn on_quic_what_is_refused_is_made_anew() {
    let mut rig = Rig::new();
    rig.server.send_tls13_tickets = 4;
    let run = rig.run();
    let handshake = Handshake { offer: ClassicalResumed, flies: false, round_trip: None, repeat: None };
    let serve = |rig: &Rig| {
        let crypto = quinn::crypto::rustls::QuicServerConfig::try_from(rig.server.clone()).unwrap();
        let config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
        let server = quinn::Endpoint::server(config, ([127, 0, 0, 1], 0).into()).unwrap();
        let accepting = server.clone();
        tokio::spawn(async move {
            let mut connections = Vec::new();
            while let Some(incoming) = accepting.accept().await {
                connections.extend(incoming.await.ok());
            }
        });
        server
    };
    let connect = async |server: &quinn::Endpoint| {
        let server =
            crate::connect::quic::Server { address: server.local_addr().unwrap(), name: HOST.to_owned() };
        crate::connect::quic::connect(&run.secured, Sockets::default(), server, handshake, &Limits::default())
            .await
            .map_err(|error| error.0)
            .unwrap()
    };
    let has_session = || {
        let session = run.secured.resuming.classically(Transport::Quic, &name(), ClassicalResumed);
        session.is_some()
    };
    let first = serve(&rig);
    let _wire = connect(&first).await;
    while rig.files().len() < 4 {
        tokio::task::yield_now().await;
    }
    assert!(has_session());
    let _wire = connect(&first).await;
    assert!(has_session(), "the server has resumed one");
    rig.server.session_storage = ServerSessionMemoryCache::new(64);
    let anew = serve(&rig);
    let _wire = connect(&anew).await;
    assert!(!has_session(), "the last one was refused, and the hybrid is offered from now on");
}

#[test]
fn transports_have_sessions_of_their_own() {
    let rig = Rig::new();
    let run = rig.run();
    shakes(&rig, &run, Hybrid);
    let made = run.secured.streams(Transport::Http, &name(), ClassicalResumed);
    assert!(!made.is_classical && !made.config.enable_early_data);
    let handshake = Handshake { offer: ClassicalResumed, flies: false, round_trip: None, repeat: None };
    let made = run.secured.quic(&name(), handshake, &Limits::default()).unwrap();
    assert!(!made.is_classical);
}

#[test]
fn other_cryptography_is_left_as_it_is() {
    let rig = Rig::new();
    let mut security = rig.security.clone();
    for providers in [vec![shang_mi()], vec![shang_mi(), Arc::new(International::default())]] {
        security.crypto = providers;
        let secured = secured(&security, true, &Tickets::default()).unwrap();
        for offer in [Hybrid, ClassicalResumed, Classical] {
            let made = secured.streams(Transport::Tcp, &name(), offer);
            let groups = |config: &TlsConfig| -> Vec<_> {
                config.crypto_provider().kx_groups.iter().map(|group| group.name()).collect()
            };
            assert!(!made.is_classical);
            assert_eq!(groups(&made.config), groups(&secured.tls));
        }
        if security.crypto.len() > 1 {
            let shakes = || rig.shakes_hands(secured.streams(Transport::Tcp, &name(), Hybrid).config).0;
            assert_eq!(shakes().handshake_kind(), Some(HandshakeKind::FullWithHelloRetryRequest));
            for offer in [ClassicalResumed, Classical, ClassicalResumed, Classical] {
                secured.streams(Transport::Tcp, &name(), offer);
            }
            assert_eq!(shakes().handshake_kind(), Some(HandshakeKind::Resumed), "the session is still there");
        }
    }
}

fn shang_mi() -> Arc<dyn Provider> {
    Arc::new(towline_crypto::ShangMi::default())
}
