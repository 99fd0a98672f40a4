//! Bodies, piece by piece, and over more than one connection.

use http_body::Body as _;
use http_body_util::BodyExt as _;
use towline_protocols::link::RpcErrorKind;

use super::{pipe::MERGED_BYTES_MAX, *};

#[tokio::test]
async fn messages_get_their_prefix_and_bytes_their_credit() {
    let credits = Arc::new(Credits::default());
    let (sender, body) = channel(7, true, Arc::clone(&credits));
    sender.part(Some(4), Bytes::from_static(b"ab"), false).unwrap();
    sender.part(None, Bytes::from_static(b"cd"), true).unwrap();
    sender.part(Some(0), Bytes::new(), true).unwrap();
    sender.end().unwrap();
    assert!(credits.take().taken.is_empty(), "nothing is taken yet");
    let whole = body.collect().await.unwrap().to_bytes();
    assert_eq!(whole, &b"\0\0\0\0\x04abcd\0\0\0\0\0"[..]);
    assert_eq!(credits.take().taken, [(7, 4)]);
}

#[tokio::test]
async fn a_message_that_is_there_whole_is_one_frame_and_the_last() {
    let credits = Arc::new(Credits::default());
    let (sender, mut body) = channel(7, true, Arc::clone(&credits));
    sender.part(Some(2), Bytes::from_static(b"ab"), true).unwrap();
    sender.end().unwrap();
    assert!(!body.is_end_stream());
    let frame = body.frame().await.unwrap().unwrap();
    assert_eq!(frame.into_data().unwrap(), &b"\0\0\0\0\x02ab"[..]);
    assert!(body.is_end_stream());
    assert!(body.frame().await.is_none());
    assert_eq!(credits.take().taken, [(7, 2)]);
}

#[tokio::test]
async fn pieces_are_not_copied_together_beyond_the_limit() {
    let (sender, mut body) = channel(1, false, Arc::default());
    for length in [MERGED_BYTES_MAX - 1, 1, 1] {
        sender.part(None, vec![7; length].into(), false).unwrap();
    }
    let mut lengths = Vec::new();
    for _ in 0..2 {
        lengths.push(body.frame().await.unwrap().unwrap().into_data().unwrap().len());
    }
    assert_eq!(lengths, [MERGED_BYTES_MAX, 1]);
}

#[tokio::test]
async fn a_plain_body_is_the_concatenation() {
    let (sender, body) = channel(1, false, Arc::default());
    sender.part(Some(2), Bytes::from_static(b"ab"), true).unwrap();
    sender.part(Some(1), Bytes::from_static(b"c"), true).unwrap();
    sender.trailers(HeaderMap::from_iter([(http::header::ETAG, "x".parse().unwrap())])).unwrap();
    let collected = body.collect().await.unwrap();
    assert!(collected.trailers().unwrap().contains_key("etag"));
    assert_eq!(collected.to_bytes(), "abc");
}

#[tokio::test]
async fn what_a_backend_leaves_is_credited() {
    let credits = Arc::new(Credits::default());
    let (sender, body) = channel(3, true, Arc::clone(&credits));
    sender.part(Some(4), Bytes::from_static(b"ab"), false).unwrap();
    drop(body);
    assert_eq!(credits.take().taken, [(3, 2)]);
    sender.part(None, Bytes::from_static(b"cde"), false).unwrap();
    assert_eq!(credits.take().taken, [(3, 3)]);
}

#[tokio::test]
async fn a_body_that_was_broken_off_fails() {
    let (sender, body) = channel(1, false, Arc::default());
    sender.part(Some(2), Bytes::from_static(b"a"), false).unwrap();
    sender.upload().break_off();
    assert_eq!(body.collect().await.unwrap_err().kind, RpcErrorKind::Cancelled);
}

#[tokio::test]
async fn a_backend_that_waits_is_woken_by_each_piece_and_where_the_rest_will_not_come() {
    let (sender, mut body) = channel(1, false, Arc::default());
    let taken = tokio::spawn(async move {
        let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
        (first, body.frame().await.unwrap().unwrap_err().kind)
    });
    tokio::task::yield_now().await;
    sender.part(Some(2), Bytes::from_static(b"a"), false).unwrap();
    tokio::task::yield_now().await;
    sender.upload().break_off();
    assert_eq!(taken.await.unwrap(), (Bytes::from_static(b"a"), RpcErrorKind::Cancelled));
}

#[test]
fn a_body_that_nobody_takes_is_closed_and_keeps_nothing() {
    let (sender, body) = channel(1, false, Arc::default());
    sender.part(Some(1), Bytes::from_static(b"a"), false).unwrap();
    drop(body);
    assert!(!sender.is_open());
    sender.part(Some(1), Bytes::from_static(b"b"), false).unwrap();
    assert!(sender.upload().0.lock().pieces.is_empty());
}

#[tokio::test]
async fn what_is_large_is_credited_when_it_is_taken_and_kept_until_its_last_byte_is_let_go_of() {
    const LARGE: usize = MERGED_BYTES_MAX + 1;
    let credits = Arc::new(Credits::default());
    let (sender, mut body) = channel(7, false, Arc::clone(&credits));
    for length in [LARGE, LARGE - 1] {
        sender.part(Some(length as u64), vec![1; length].into(), true).unwrap();
    }
    let mut next = async || body.frame().await.unwrap().unwrap().into_data().unwrap();
    let due = || {
        let TakenBytes { taken, kept, let_go } = credits.take();
        (taken, kept, let_go)
    };
    let mut large = next().await;
    assert_eq!(due(), (vec![(7, LARGE)], LARGE, 0));
    let last = large.split_off(LARGE - 1);
    drop((large, next().await));
    assert_eq!(due(), (vec![(7, LARGE - 1)], 0, 0), "small ones are not kept");
    drop(last);
    assert_eq!(due(), (vec![], 0, LARGE));
}
