//! What stands on the wire after the handshake: lengths of records, and alerts for every breach.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use towline_protocols::tls::{
    Alert::{BadRecordMac, DecodeError, IllegalParameter, RecordOverflow, UnexpectedMessage},
    record::{ALERT, APPLICATION_DATA, CHANGE_CIPHER_SPEC, HANDSHAKE, PROTECTED_BYTES_MAX},
};

use super::{
    rogue::{Rogue, check},
    *,
};

const UPDATE: [u8; 5] = [24, 0, 0, 1, 0];
const UPDATE_REQUESTED: [u8; 5] = [24, 0, 0, 1, 1];

/// The lengths of the contents of the records that carry what the server writes at once.
async fn lengths(rogue: &mut Rogue, server: &mut TlsStream, total: usize) -> Vec<usize> {
    let content = vec![7; total];
    let reading = async {
        let mut lengths: Vec<usize> = Vec::new();
        while lengths.iter().sum::<usize>() < total {
            let (content_type, content) = rogue.receive().await;
            assert_eq!(content_type, APPLICATION_DATA);
            lengths.push(content.len());
        }
        lengths
    };
    let writing = async {
        server.write_all(&content).await.unwrap();
        server.flush().await.unwrap();
    };
    tokio::join!(reading, writing).0
}

#[tokio::test]
async fn records_are_small_at_first_grow_with_the_flow_and_are_small_after_a_pause() {
    let sizes = RecordSizes { first: 1000, first_bytes: 3000, idle_ms: 60_000 };
    let (mut rogue, mut server) = Rogue::connected(sizes).await;
    tokio::time::pause();
    let grown = [1000, 1000, 1000, 2000, 4000, 8000, 16_000, 16_384, 16_384];
    assert_eq!(lengths(&mut rogue, &mut server, grown.iter().sum()).await, grown);
    tokio::time::advance(Duration::from_secs(30)).await;
    assert_eq!(lengths(&mut rogue, &mut server, 16_384).await, [16_384]);
    tokio::time::advance(Duration::from_secs(60)).await;
    assert_eq!(lengths(&mut rogue, &mut server, 4500).await, [1000, 1000, 1000, 1500]);
}

#[tokio::test]
async fn several_slices_make_one_record() {
    let (mut rogue, mut server) = Rogue::connected(RecordSizes::default()).await;
    let slices = [IoSlice::new(b"a head, "), IoSlice::new(b""), IoSlice::new(b"a body")];
    assert_eq!(server.write_vectored(&slices).await.unwrap(), 14);
    assert_eq!(rogue.receive().await, (APPLICATION_DATA, b"a head, a body".to_vec()));
}

#[test]
fn a_record_that_does_not_open() {
    for position in [5, 11, 25] {
        check(
            |rogue| {
                let mut record = rogue.seal(APPLICATION_DATA, b"content");
                record[position] ^= 1;
                record
            },
            BadRecordMac,
        );
    }
    // A replay of a good one.
    check(
        |rogue| {
            let record = rogue.seal(APPLICATION_DATA, b"");
            [&record[..], &record].concat()
        },
        BadRecordMac,
    );
}

#[test]
fn records_that_are_too_long() {
    check(|_| [&[23, 3, 3][..], &(PROTECTED_BYTES_MAX as u16 + 1).to_be_bytes()].concat(), RecordOverflow);
    check(|rogue| rogue.seal(APPLICATION_DATA, &[7; 16_385]), RecordOverflow);
}

#[test]
fn what_comes_unprotected() {
    check(|_| [&[CHANGE_CIPHER_SPEC, 3, 3, 0, 1][..], &[1]].concat(), UnexpectedMessage);
    check(|_| [&[ALERT, 3, 3, 0, 2][..], &[1, 0]].concat(), UnexpectedMessage);
    check(|_| [&[HANDSHAKE, 3, 3, 0, 4][..], &[1, 0, 0, 0]].concat(), UnexpectedMessage);
    check(|_| b"GET / HTTP/1.1\r\n\r\n".repeat(600), UnexpectedMessage);
}

#[test]
fn handshake_messages_that_do_not_belong_here() {
    let client_hello = [1, 0, 0, 0];
    check(|rogue| rogue.seal(HANDSHAKE, &client_hello), UnexpectedMessage);
    let certificate = [&[11, 0, 1, 0][..], &[0; 256]].concat();
    check(|rogue| rogue.seal(HANDSHAKE, &certificate), UnexpectedMessage);
    check(|rogue| rogue.seal(HANDSHAKE, &[4, 0, 0, 0]), UnexpectedMessage);
    check(|rogue| rogue.seal(HANDSHAKE, &[]), UnexpectedMessage);
    check(|rogue| rogue.seal(99, b"what"), UnexpectedMessage);
    check(|rogue| rogue.seal(CHANGE_CIPHER_SPEC, &[1]), UnexpectedMessage);
}

#[test]
fn key_updates_that_are_none() {
    check(|rogue| rogue.seal(HANDSHAKE, &[24, 0, 0, 1, 2]), IllegalParameter);
    check(|rogue| rogue.seal(HANDSHAKE, &[24, 0, 0, 2, 0]), DecodeError);
    // "all handshake messages [...] MUST align with a record boundary" at a key change (RFC 8446, section 5.1).
    check(|rogue| rogue.seal(HANDSHAKE, &[UPDATE, UPDATE].concat()), UnexpectedMessage);
    // In pieces, with data between them.
    check(
        |rogue| {
            let pieces = [rogue.seal(HANDSHAKE, &UPDATE[..2]), rogue.seal(APPLICATION_DATA, b"x")];
            pieces.concat()
        },
        UnexpectedMessage,
    );
}

#[test]
fn alerts_that_are_none() {
    check(|rogue| rogue.seal(ALERT, &[1]), DecodeError);
    check(|rogue| rogue.seal(ALERT, &[1, 0, 0]), DecodeError);
}

#[test]
fn floods_of_what_leads_nowhere() {
    check(|rogue| (0..40).flat_map(|_| rogue.seal(APPLICATION_DATA, b"")).collect(), UnexpectedMessage);
    check(|rogue| (0..40).flat_map(|_| rogue.seal(ALERT, &[1, 90])).collect(), UnexpectedMessage);
    check(
        |rogue| {
            let mut bytes = Vec::new();
            for _ in 0..40 {
                bytes.extend(rogue.seal(HANDSHAKE, &UPDATE));
                rogue.update_write();
            }
            bytes
        },
        UnexpectedMessage,
    );
}

#[tokio::test]
async fn a_key_update_in_pieces_is_obeyed_and_answered_once() {
    let (mut rogue, mut server) = Rogue::connected(RecordSizes::default()).await;
    let mut bytes = Vec::new();
    for piece in UPDATE_REQUESTED.chunks(2) {
        bytes.extend(rogue.seal(HANDSHAKE, piece));
    }
    rogue.update_write();
    bytes.extend(rogue.seal(APPLICATION_DATA, b"under the next key"));
    rogue.send(&bytes).await;
    let mut content = [0; 18];
    server.read_exact(&mut content).await.unwrap();
    assert_eq!(&content, b"under the next key");
    assert_eq!(rogue.receive().await, (HANDSHAKE, UPDATE.to_vec()));
    rogue.update_read();
    server.write_all(b"so is this").await.unwrap();
    assert_eq!(rogue.receive().await, (APPLICATION_DATA, b"so is this".to_vec()));
}

#[tokio::test]
async fn a_fatal_alert_ends_both_directions_and_is_not_answered() {
    let (mut rogue, mut server) = Rogue::connected(RecordSizes::default()).await;
    let mut bytes = rogue.seal(APPLICATION_DATA, b"last words");
    bytes.extend(rogue.seal(ALERT, &[2, 80]));
    rogue.send(&bytes).await;
    server.read_exact(&mut [0; 10]).await.unwrap();
    assert!(server.read(&mut [0; 9]).await.is_err());
    assert!(server.write(b"more").await.is_err());
    drop(server);
    assert_eq!(rogue.tcp.read(&mut [0; 9]).await.unwrap_or(0), 0);
}

#[tokio::test]
async fn what_follows_close_notify_is_ignored() {
    let (mut rogue, mut server) = Rogue::connected(RecordSizes::default()).await;
    let mut bytes = rogue.seal(ALERT, &[1, 0]);
    bytes.extend(b"GET / HTTP/1.1\r\n\r\n");
    rogue.send(&bytes).await;
    for _ in 0..3 {
        assert_eq!(server.read(&mut [0; 9]).await.unwrap(), 0);
    }
    server.write_all(b"still open").await.unwrap();
    assert_eq!(rogue.receive().await, (APPLICATION_DATA, b"still open".to_vec()));
}

#[tokio::test]
async fn half_a_record_is_kept_in_its_own_size_and_an_idle_connection_holds_nothing() {
    let (mut rogue, mut server) = Rogue::connected(RecordSizes::default()).await;
    let record = rogue.seal(APPLICATION_DATA, &[7; 5000]);
    rogue.send(&record[..777]).await;
    let mut content = [0; 5000];
    // Reads what came, and waits.
    while held(&server) != 777 {
        let mut reading = std::pin::pin!(server.read(&mut content));
        assert!(futures_util::FutureExt::now_or_never(&mut reading).is_none());
        tokio::task::yield_now().await;
    }
    rogue.send(&record[777..]).await;
    server.read_exact(&mut content).await.unwrap();
    let mut reading = std::pin::pin!(server.read(&mut content));
    assert!(futures_util::FutureExt::now_or_never(&mut reading).is_none());
    assert_eq!(held(&server), 0);
    assert!(server.into_idle().is_ok());
}

fn held(server: &TlsStream) -> usize {
    match &server.io {
        Io::Open(_, State::Established(state)) => state.held_bytes(),
        _ => panic!("TLS 1.3 is our own"),
    }
}
