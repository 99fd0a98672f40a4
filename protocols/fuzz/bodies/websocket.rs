//! A client's WebSocket frames: how they come in pieces does not matter, and data is no longer than what came.

use towline_protocols::websocket::{Reader, Violation};

const MESSAGE_OCTETS_MAX: u64 = 300;

pub(crate) fn run(data: &[u8]) {
    let Some((&piece, octets)) = data.split_first() else { return };
    let whole = read(octets, octets.len().max(1));
    let pieces = read(octets, usize::from(piece).max(1));
    match (&whole, &pieces) {
        (Ok(a), Ok(b)) => assert_eq!(a, b),
        (Err(a), Err(b)) => assert_eq!(a, b),
        _ => panic!("{whole:?} at once, {pieces:?} in pieces of {piece}"),
    }
}

type Read = (Vec<u8>, Option<Option<u16>>, bool);

fn read(octets: &[u8], piece: usize) -> Result<Read, Violation> {
    let mut reader = Reader::new(MESSAGE_OCTETS_MAX);
    let mut data = Vec::new();
    for piece in octets.chunks(piece) {
        let mut piece = piece.to_vec();
        let kept = reader.handle(&mut piece)?;
        data.extend_from_slice(&piece[..kept]);
        reader.take_ping();
    }
    Ok((data, reader.close(), reader.is_between_messages()))
}
