//! A body in chunks: how it comes in pieces does not matter, and it is no longer than what came.

use bytes::BytesMut;
use towline_protocols::http1::{ChunkError, Chunked, Piece};

pub(crate) fn run(data: &[u8]) {
    let Some((&piece, octets)) = data.split_first() else { return };
    check(octets, usize::from(piece).max(1));
    // Random octets are hardly ever a size: these are.
    let mut sized = format!("{:x}\r\n", octets.len().max(1)).into_bytes();
    sized.extend_from_slice(if octets.is_empty() { b"x" } else { octets });
    sized.extend_from_slice(b"\r\n");
    sized.extend_from_slice(octets);
    check(&sized, usize::from(piece).max(1));
    let digits: Vec<u8> = octets.iter().map(|octet| b"0123\r\n\r\n\r\nab;x"[usize::from(octet % 14)]).collect();
    check(&digits, usize::from(piece).max(1));
}

fn check(octets: &[u8], piece: usize) {
    let (whole, pieces) = (read(octets, octets.len().max(1)), read(octets, piece));
    match (&whole, &pieces) {
        (Ok(a), Ok(b)) => assert_eq!(a, b),
        (Err(_), Err(_)) => {}
        _ => panic!("{whole:?} at once, {pieces:?} in pieces of {piece}"),
    }
    if let Ok((body, trailers, _)) = whole {
        assert!(body.len() + trailers.len() <= octets.len());
    }
}

type Read = (Vec<u8>, Vec<u8>, Option<Vec<u8>>);

fn read(octets: &[u8], piece: usize) -> Result<Read, ChunkError> {
    let (mut chunked, mut input) = (Chunked::default(), BytesMut::new());
    let (mut body, mut trailers) = (Vec::new(), Vec::new());
    for piece in octets.chunks(piece) {
        input.extend_from_slice(piece);
        while let Some(piece) = chunked.next(&mut input)? {
            match piece {
                Piece::Data(data) => body.extend_from_slice(&data),
                Piece::End(lines) => trailers.extend_from_slice(&lines),
            }
        }
    }
    Ok((body, trailers, chunked.is_over().then(|| input.to_vec())))
}
