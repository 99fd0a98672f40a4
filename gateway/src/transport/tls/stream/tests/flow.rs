//! Bytes in both directions, closes, and what is held meanwhile.

use proptest::prelude::*;
use rustls::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::transport::Stream;

/// What happens next on a connection.
#[derive(Clone, Debug)]
enum Step {
    /// The server writes slices of these lengths at once.
    ServerWrites(Vec<usize>),
    ClientWrites(usize),
    /// The client changes its key and demands a change of the server's.
    ClientUpdates,
    /// The server's socket is taken away and put back.
    Parks,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => prop::collection::vec(prop_oneof![0usize..50, 0usize..20_000], 1..5).prop_map(Step::ServerWrites),
        3 => prop_oneof![1usize..100, 1usize..40_000].prop_map(Step::ClientWrites),
        1 => Just(Step::ClientUpdates),
        1 => Just(Step::Parks),
    ]
}

fn bytes(seed: usize, length: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed as u64);
    (0..length).map(|_| random.u8(..)).collect()
}

/// Reads `length` bytes in pieces of `piece`.
async fn read(stream: &mut (impl AsyncRead + Unpin), length: usize, piece: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while all.len() < length {
        let mut part = vec![0; piece.min(length - all.len())];
        match stream.read(&mut part).await.unwrap() {
            0 => break,
            count => all.extend_from_slice(&part[..count]),
        }
    }
    all
}

async fn write_slices(stream: &mut TlsStream, content: &[u8], lengths: &[usize]) {
    let mut rest = content;
    let mut slices = Vec::new();
    for length in lengths {
        let (slice, after) = rest.split_at(*length);
        slices.push(IoSlice::new(slice));
        rest = after;
    }
    let mut slices = &mut slices[..];
    while slices.iter().any(|slice| !slice.is_empty()) {
        let count = stream.write_vectored(slices).await.unwrap();
        assert!(count > 0);
        IoSlice::advance_slices(&mut slices, count);
    }
    stream.flush().await.unwrap();
}

async fn run(scene: Scene, steps: Vec<Step>, piece: usize, client_closes_first: bool) {
    let (mut client, mut server) = scene.established().await;
    assert_eq!(server.alpn(), Some(ALPN_LINK));
    for (seed, step) in steps.into_iter().enumerate() {
        match step {
            Step::ServerWrites(lengths) => {
                let content = bytes(seed, lengths.iter().sum());
                let reading = read(&mut client, content.len(), piece);
                let ((), got) = tokio::join!(write_slices(&mut server, &content, &lengths), reading);
                assert!(got == content, "{} bytes from the server", content.len());
            }
            Step::ClientWrites(length) => {
                let content = bytes(seed, length);
                let writing = async {
                    client.write_all(&content).await.unwrap();
                    client.flush().await.unwrap();
                };
                let ((), got) = tokio::join!(writing, read(&mut server, length, piece));
                assert!(got == content, "{length} bytes from the client");
            }
            Step::ClientUpdates => match client.get_mut().1.refresh_traffic_keys() {
                Ok(()) | Err(Error::HandshakeNotComplete) => client.flush().await.unwrap(),
                // TLS 1.2 has none.
                Err(_) => {}
            },
            Step::Parks => {
                // All was read and written.
                let (tcp, idle) = server.into_idle().unwrap();
                let tcp = TcpStream::from_std(tcp.into_std().unwrap()).unwrap();
                server = TlsStream::from_idle(tcp, idle);
            }
        }
    }
    if client_closes_first {
        client.shutdown().await.unwrap();
        assert_eq!(server.read(&mut [0; 9]).await.unwrap(), 0);
        // The other direction stays open.
        server.write_all(b"the rest").await.unwrap();
        server.shutdown().await.unwrap();
        assert_eq!(read(&mut client, 100, piece).await, b"the rest");
    } else {
        server.shutdown().await.unwrap();
        assert_eq!(client.read(&mut [0; 9]).await.unwrap(), 0);
        client.write_all(b"the rest").await.unwrap();
        client.shutdown().await.unwrap();
        assert_eq!(read(&mut server, 100, piece).await, b"the rest");
        assert!(server.write_all(b"more").await.is_err());
    }
}

fn in_a_runtime(work: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn what_one_end_writes_the_other_reads(
        steps in prop::collection::vec(step(), 1..12),
        piece in prop_oneof![1usize..200, 1usize..20_000, Just(100_000)],
        client_closes_first in any::<bool>(),
        tls12 in prop::bool::weighted(0.25),
    ) {
        let scene = if tls12 { Scene::tls12() } else { Scene::new() };
        in_a_runtime(run(scene, steps, piece, client_closes_first));
    }
}

#[tokio::test]
async fn suites_of_every_kind_carry_data() {
    for suite in aws_lc_rs::default_provider().cipher_suites {
        let provider = CryptoProvider { cipher_suites: vec![suite], ..aws_lc_rs::default_provider() };
        let scene = Scene::with(provider, |_, _| {});
        let scene =
            if suite.tls13().is_some() { scene } else { Scene { client: Scene::tls12().client, ..scene } };
        if suite.tls13().is_none() && format!("{suite:?}").contains("_RSA_") {
            continue;
        }
        run(scene, vec![Step::ServerWrites(vec![40_000]), Step::ClientWrites(40_000)], 5000, true).await;
    }
}

#[tokio::test]
async fn the_server_changes_its_key_in_time() {
    let (mut client, mut server) = Scene::new().established().await;
    for round in 0..3 {
        let Io::Open(_, State::Established(state)) = &mut server.io else { panic!("TLS 1.3 is our own") };
        state.wear_out();
        server.write_all(&[round; 3000]).await.unwrap();
        assert_eq!(read(&mut client, 3000, 3000).await, [round; 3000]);
    }
}

#[tokio::test]
async fn a_slow_reader_holds_the_writer_back_and_gets_everything() {
    for scene in [Scene::new(), Scene::tls12()] {
        let (mut client, mut server) = scene.established().await;
        let content = bytes(1, 8 << 20);
        let writing = async {
            server.write_all(&content).await.unwrap();
            server.shutdown().await.unwrap();
        };
        let reading = async {
            let mut all = Vec::new();
            let mut part = [0; 3000];
            loop {
                tokio::task::yield_now().await;
                match client.read(&mut part).await.unwrap() {
                    0 => return all,
                    count => all.extend_from_slice(&part[..count]),
                }
            }
        };
        let ((), got) = tokio::join!(writing, reading);
        assert!(got == content);
    }
}

#[tokio::test]
async fn a_peer_that_takes_nothing_meets_the_write_timeout() {
    let (client, server) = Scene::new().established().await;
    tokio::time::pause();
    let mut stream = Stream::tls(server, Duration::from_secs(30));
    let started = Instant::now();
    let error = loop {
        if let Err(error) = stream.write_all(&[0; 65_536]).await {
            break error;
        }
    };
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    assert_eq!(started.elapsed().as_secs(), 30);
    drop(client);
}

#[tokio::test]
async fn a_close_without_close_notify_is_an_error() {
    for scene in [Scene::new(), Scene::tls12()] {
        let (client, mut server) = scene.established().await;
        client.into_inner().0.shutdown().await.unwrap();
        let error = server.read(&mut [0; 9]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}

#[tokio::test]
async fn a_session_is_resumed_and_a_ticket_under_an_unknown_key_makes_a_full_handshake() {
    let scene = Scene::new();
    let connect = async |scene: &Scene| {
        let (mut client, mut server) = scene.established().await;
        server.write_all(b"tickets came before").await.unwrap();
        client.read_exact(&mut [0; 19]).await.unwrap();
        client.get_ref().1.handshake_kind().unwrap()
    };
    assert_eq!(connect(&scene).await, rustls::HandshakeKind::Full);
    assert_eq!(connect(&scene).await, rustls::HandshakeKind::Resumed);
    let mut server = ServerConfig::clone(&scene.server);
    server.ticketer = early_data::ticketer(aws_lc_rs::Ticketer::new().unwrap());
    let other = Scene { server: Arc::new(server), ..scene };
    assert_eq!(connect(&other).await, rustls::HandshakeKind::Full);
}
