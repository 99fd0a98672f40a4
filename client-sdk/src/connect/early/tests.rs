//! Against rustls' own server, whose early data is driven by hand: tokio-rustls hands it out too late.

use std::io::{Read as _, Write as _};

use rustls::{
    ServerConfig, ServerConnection,
    pki_types::{PrivateKeyDer, pem::PemObject as _},
    server::ServerSessionMemoryCache,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use towline_protocols::policy::KeyExchange;

use super::*;
use crate::{
    connect::{Wire, sockets::Sockets, tcp, tls},
    tickets::{Tickets, Transport},
};

const FLIGHT: &[u8] = b"HELLO and a request";
const ANSWER: &[u8] = b"WELCOME and the answer";

/// What a server saw until it had answered.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    /// Bytes of early data.
    early: Vec<u8>,
    /// Bytes behind the handshake.
    late: Vec<u8>,
    /// How often it had to wait for the client.
    flights: usize,
}

struct Rig {
    client: tls::Secured,
    server: ServerConfig,
}

impl Rig {
    fn new(early_data: bool) -> Self {
        let key = rcgen::generate_simple_self_signed(["gateway.example".to_owned()]).unwrap();
        let (pem, der) = (key.cert.pem(), key.cert.der().clone());
        let private = PrivateKeyDer::from_pem_slice(key.signing_key.serialize_pem().as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![der], private)
            .unwrap();
        server.alpn_protocols = vec![tls::ALPN.to_vec()];
        server.max_early_data_size = 1024;
        server.send_half_rtt_data = true;
        server.session_storage = ServerSessionMemoryCache::new(16);
        Self {
            client: tls::secured(&crate::config::Tls::new(pem.as_bytes()), early_data, &Tickets::default())
                .unwrap(),
            server,
        }
    }

    /// One connection: the flight, and what the client has to send again of it, until the answer.
    async fn connect(&self, flight: Option<&'static [u8]>) -> (usize, Seen) {
        let (near, far) = tokio::io::duplex(1 << 16);
        let expected = flight.unwrap_or(FLIGHT).len();
        let serving = serve(far, Arc::new(self.server.clone()), expected);
        let calling = async {
            let name = ServerName::try_from("gateway.example").unwrap();
            let first: FirstFlight = Arc::new(move || flight.map(Bytes::from_static));
            let made = self.client.streams(Transport::Tcp, &name, KeyExchange::Hybrid);
            let (mut stream, early) = secure(&made, name, near, &first).await.unwrap();
            stream.write_all(&flight.unwrap_or(FLIGHT)[early..]).await.unwrap();
            stream.flush().await.unwrap();
            let mut answer = [0; ANSWER.len()];
            stream.read_exact(&mut answer).await.unwrap();
            assert_eq!(answer, ANSWER);
            early
        };
        tokio::join!(calling, serving)
    }
}

/// Answers when `expected` bytes are there.
async fn serve<S>(mut io: S, config: Arc<ServerConfig>, expected: usize) -> Seen
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut tls, mut seen) = (ServerConnection::new(config).unwrap(), Seen::default());
    let mut answered = false;
    let mut bytes = vec![0; 1 << 16];
    loop {
        let Ok(count @ 1..) = io.read(&mut bytes).await else { return seen };
        seen.flights += usize::from(!answered);
        let mut rest = &bytes[..count];
        while !rest.is_empty() {
            tls.read_tls(&mut rest).unwrap();
            tls.process_new_packets().unwrap();
            if let Some(mut early) = tls.early_data() {
                early.read_to_end(&mut seen.early).unwrap();
            }
            // It says that there is no more yet.
            let _ = tls.reader().read_to_end(&mut seen.late);
        }
        if !answered && seen.early.len() + seen.late.len() >= expected {
            answered = true;
            tls.writer().write_all(ANSWER).unwrap();
        }
        let mut out = Vec::new();
        while tls.wants_write() {
            tls.write_tls(&mut out).unwrap();
        }
        // A client that has its answer does not wait for tickets.
        let _ = io.write_all(&out).await;
    }
}

fn seen(early: &[u8], late: &[u8], flights: usize) -> Seen {
    Seen { early: early.to_vec(), late: late.to_vec(), flights }
}

#[tokio::test]
async fn with_a_ticket_the_answer_comes_after_one_round_trip() {
    let rig = Rig::new(true);
    assert_eq!(rig.connect(Some(FLIGHT)).await, (0, seen(b"", FLIGHT, 2)), "there is no ticket yet");
    assert_eq!(rig.connect(Some(FLIGHT)).await, (FLIGHT.len(), seen(FLIGHT, b"", 1)));
}

#[tokio::test]
async fn of_a_flight_that_is_rejected_nothing_was_taken() {
    let mut rig = Rig::new(true);
    rig.connect(Some(FLIGHT)).await;
    rig.server.max_early_data_size = 0;
    assert_eq!(rig.connect(Some(FLIGHT)).await, (0, seen(b"", FLIGHT, 2)), "the session is known still");
    rig.server.session_storage = ServerSessionMemoryCache::new(16);
    assert_eq!(rig.connect(Some(FLIGHT)).await, (0, seen(b"", FLIGHT, 2)), "nor the session");
}

#[tokio::test]
async fn what_a_ticket_does_not_admit_follows_the_handshake() {
    static LONG: [u8; 1500] = [7; 1500];
    let rig = Rig::new(true);
    rig.connect(Some(FLIGHT)).await;
    assert_eq!(rig.connect(Some(&LONG)).await, (1024, seen(&LONG[..1024], &LONG[1024..], 2)));
}

#[tokio::test]
async fn nothing_goes_early_where_nothing_may() {
    let rig = Rig::new(true);
    rig.connect(None).await;
    assert_eq!(rig.connect(None).await, (0, seen(b"", FLIGHT, 2)), "the line had nothing to say");
    let off = Rig::new(false);
    off.connect(Some(FLIGHT)).await;
    assert_eq!(off.connect(Some(FLIGHT)).await, (0, seen(b"", FLIGHT, 2)), "the app said no");
}

#[tokio::test]
async fn a_ticket_is_used_once() {
    let mut rig = Rig::new(true);
    rig.server.send_tls13_tickets = 1;
    rig.connect(Some(FLIGHT)).await;
    rig.server.send_tls13_tickets = 0;
    assert_eq!(rig.connect(Some(FLIGHT)).await.0, FLIGHT.len());
    assert_eq!(rig.connect(Some(FLIGHT)).await.0, 0);
}

#[tokio::test(start_paused = true)]
async fn an_address_that_takes_the_flight_and_never_answers_loses_the_race() {
    let rig = Rig::new(true);
    let listen = async || {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    };
    let ((silent, silent_address), (real, address)) = (listen().await, listen().await);
    let config = Arc::new(rig.server.clone());
    tokio::spawn(async move {
        while let Ok((io, _)) = real.accept().await {
            tokio::spawn(serve(io, Arc::clone(&config), FLIGHT.len()));
        }
    });
    let flown = std::sync::atomic::AtomicBool::new(true);
    let flown = Arc::new(flown);
    let once = Arc::clone(&flown);
    let flight: FirstFlight = Arc::new(move || {
        let flown = once.swap(true, std::sync::atomic::Ordering::SeqCst);
        (!flown).then(|| Bytes::from_static(FLIGHT))
    });
    let connect = async |address| {
        let host = "gateway.example".to_owned();
        let connected = tcp::connect(Sockets::default(), address).await.unwrap();
        let (secured, offer) = (Some(rig.client.clone()), KeyExchange::Hybrid);
        connected.secure(secured, offer, host, flight.clone()).await.unwrap()
    };
    let Wire::Tcp { mut stream, early: 0, .. } = connect(address).await else {
        panic!("there is no ticket yet")
    };
    stream.write_all(FLIGHT).await.unwrap();
    stream.flush().await.unwrap();
    stream.read_exact(&mut [0; ANSWER.len()]).await.unwrap();
    flown.store(false, std::sync::atomic::Ordering::SeqCst);
    let later = async {
        tokio::time::sleep(std::time::Duration::from_millis(250)).await;
        connect(address).await
    };
    let raced = tokio::select! {
        biased;
        made = connect(silent_address) => made,
        made = later => made,
    };
    assert!(matches!(raced, Wire::Tcp { early: 0, .. }), "the flight is with the other one");
    let (mut io, _) = silent.accept().await.unwrap();
    let mut hello = Vec::new();
    io.read_to_end(&mut hello).await.unwrap();
    assert!(hello.len() > FLIGHT.len(), "it was given the flight, and is closed");
}
