//! Handshakes that fail, and the alerts on the wire.

use rustls::ClientConnection;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use towline_protocols::tls::{
    Alert,
    record::{ALERT, HANDSHAKE, HELLO_RECORDS_MAX},
};

use super::*;

/// rustls' first flight: one record with a ClientHello.
fn client_hello(scene: &Scene) -> Vec<u8> {
    let mut connection = ClientConnection::new(Arc::clone(&scene.client), name()).unwrap();
    let mut bytes = Vec::new();
    connection.write_tls(&mut bytes).unwrap();
    bytes
}

/// Sends `bytes` instead of a ClientHello, and reads until the close.
async fn answer(scene: &Scene, bytes: Vec<u8>) -> (Result<Accepted, HandshakeError>, Vec<u8>) {
    let (near, mut far) = sockets().await;
    let talking = async {
        far.write_all(&bytes).await.unwrap();
        far.shutdown().await.unwrap();
        let mut answer = Vec::new();
        let _ = far.read_to_end(&mut answer).await;
        answer
    };
    tokio::join!(scene.accept(near), talking)
}

#[track_caller]
fn check(bytes: Vec<u8>, expected: Alert) {
    let work = async {
        let (result, answer) = answer(&Scene::new(), bytes).await;
        assert!(matches!(result, Err(HandshakeError::Peer(_))), "{:?}", result.err());
        assert_eq!(answer, [ALERT, 3, 3, 0, 2, 2, expected as u8]);
    };
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work);
}

fn records(message: &[u8], length: usize) -> Vec<u8> {
    let record = |part: &[u8]| [&[HANDSHAKE, 3, 1][..], &(part.len() as u16).to_be_bytes(), part].concat();
    message.chunks(length).flat_map(record).collect()
}

#[test]
fn what_is_no_client_hello() {
    let hello = client_hello(&Scene::new());
    let message = &hello[5..];
    check([&[HANDSHAKE, 3, 1, 0x40, 1][..], &[1; 100]].concat(), Alert::RecordOverflow);
    check(vec![HANDSHAKE, 3, 1, 0, 0], Alert::UnexpectedMessage);
    check(vec![HANDSHAKE, 2, 1, 0, 9], Alert::ProtocolVersion);
    check(vec![23, 3, 3, 0, 9], Alert::UnexpectedMessage);
    check(records(&[2, 0, 0, 0], 100), Alert::UnexpectedMessage);
    check(records(&[1, 1, 0, 0], 100), Alert::DecodeError);
    check(records(&[message, &[0]].concat(), 4000), Alert::UnexpectedMessage);
    check(records(&message[..HELLO_RECORDS_MAX + 1], 1), Alert::DecodeError);
    let cut = [&[1, 0, 0, 50][..], &message[4..54]].concat();
    check(records(&cut, 4000), Alert::DecodeError);
}

#[test]
fn what_rustls_refuses() {
    let hello = |minor: u8, extensions: &[u8]| {
        let body: Vec<u8> =
            [3, minor].into_iter().chain([9; 32]).chain([0, 0, 2, 0xc0, 0x2b, 1, 0]).collect();
        let body = [&body[..], &[0, extensions.len() as u8], extensions].concat();
        records(&[&[1, 0, 0, body.len() as u8][..], &body].concat(), 4000)
    };
    let signatures = [0, 13, 0, 4, 0, 2, 4, 3];
    check(hello(1, &signatures), Alert::ProtocolVersion);
    // TLS 1.2 without anything that it needs.
    check(hello(3, &[]), Alert::HandshakeFailure);
    check(hello(3, &[0, 13, 0, 4, 0, 2, 9, 9]), Alert::HandshakeFailure);
}

#[tokio::test]
async fn no_protocol_in_common() {
    let scene = Scene::with(aws_lc_rs::default_provider(), |_, client| {
        client.alpn_protocols = vec![b"other".to_vec()];
    });
    let (told, error) = second_flight(scene, |flight| flight).await;
    assert!(told.is_some());
    assert_eq!(u8::from(alert(error)), Alert::NoApplicationProtocol as u8);
}

fn alert(error: rustls::Error) -> rustls::AlertDescription {
    match error {
        rustls::Error::AlertReceived(alert) => alert,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_hello_in_many_records_is_as_good_as_one() {
    let scene = Scene::new();
    let message = client_hello(&scene)[5..].to_vec();
    for length in [100, 4000] {
        let (result, answer) = answer(&scene, records(&message, length)).await;
        // The client is gone after its hello; until then all went well.
        assert!(matches!(result, Err(HandshakeError::Io(_))), "{:?}", result.err());
        assert_eq!(answer.first(), Some(&HANDSHAKE));
    }
}

/// Lets a client come as far as the server's flight, and then sends what `second` makes of its own.
async fn second_flight(
    scene: Scene,
    second: impl FnOnce(Vec<u8>) -> Vec<u8>,
) -> (Option<String>, rustls::Error) {
    let (near, mut far) = sockets().await;
    let mut client = ClientConnection::new(Arc::clone(&scene.client), name()).unwrap();
    let talking = async {
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        far.write_all(&bytes).await.unwrap();
        let mut second = Some(second);
        loop {
            let mut bytes = vec![0; 65_536];
            let count = far.read(&mut bytes).await.unwrap();
            assert_ne!(count, 0, "closed without an alert");
            client.read_tls(&mut &bytes[..count]).unwrap();
            if let Err(error) = client.process_new_packets() {
                return error;
            }
            if !client.is_handshaking()
                && let Some(second) = second.take()
            {
                let mut flight = Vec::new();
                while client.wants_write() {
                    client.write_tls(&mut flight).unwrap();
                }
                far.write_all(&second(flight)).await.unwrap();
            }
        }
    };
    let (result, error) = tokio::join!(scene.accept(near), talking);
    (result.err().map(|error| error.to_string()), error)
}

#[tokio::test]
async fn what_is_wrong_with_a_second_flight() {
    type Second = fn(Vec<u8>) -> Vec<u8>;
    let cases: [(Second, rustls::AlertDescription); 5] = [
        // A Finished that was touched.
        (
            |mut flight| {
                *flight.last_mut().unwrap() ^= 1;
                flight
            },
            rustls::AlertDescription::BadRecordMac,
        ),
        // Plaintext where all is protected.
        (|_| b"GET / HTTP/1.1\r\n\r\n".repeat(500), rustls::AlertDescription::UnexpectedMessage),
        (
            |_| vec![23, 3, 3, 0, 20, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0],
            rustls::AlertDescription::BadRecordMac,
        ),
        (|_| vec![HANDSHAKE, 3, 3, 0, 4, 20, 0, 0, 0], rustls::AlertDescription::BadRecordMac),
        // Too long.
        (|_| vec![23, 3, 3, 0x41, 1], rustls::AlertDescription::RecordOverflow),
    ];
    for (number, (second, expected)) in cases.into_iter().enumerate() {
        let (told, error) = second_flight(Scene::new(), second).await;
        assert!(told.is_some());
        assert_eq!(alert(error), expected, "{number}");
    }
}

#[tokio::test]
async fn fuzzed_hellos_are_refused_or_answered_and_never_more() {
    let scene = Scene::new();
    let hello = client_hello(&scene);
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..300 {
        let mut bytes = hello.clone();
        for _ in 0..random.usize(1..4) {
            let position = random.usize(..bytes.len());
            bytes[position] = random.u8(..);
        }
        if random.u8(..) < 60 {
            bytes.truncate(random.usize(..bytes.len()));
        }
        let (result, _) = answer(&scene, bytes).await;
        assert!(result.is_err());
    }
}
