//! What of a body has arrived and was not taken, and what is known of what was.

use std::{collections::VecDeque, sync::Arc, task::Waker, time::Instant};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http::HeaderMap;
use towline_protocols::link::{Execution, RpcError, RpcErrorKind};

use super::{Credits, Received};
use crate::session::held::Held;

/// What is under way from one end to the other.
pub(super) struct Pipe {
    pub(super) seq: u64,
    pub(super) grpc: bool,
    /// Not bounded here: flow control allows the sender no more than the stream's window, since credit is given
    /// back only as pieces are taken, and what one connection left counts against the window of the next.
    pub(super) pieces: VecDeque<Piece>,
    /// Who waits for a piece.
    pub(super) waiting: Option<Waker>,
    /// Of the connection that feeds it.
    pub(super) credits: Option<Arc<Credits>>,
    /// What the session's owner holds, with what is large of this.
    pub(super) held: Option<Arc<Held>>,
    /// Taken since the next connection was told what waits, and before it feeds.
    pub(super) uncredited: usize,
    pub(super) feeder: u64,
    /// A connection was told what has arrived, and may feed the rest.
    pub(super) offered: Option<Received>,
    /// Since when there is no connection that may feed it.
    pub(super) parked_since: Option<Instant>,
    /// Whole messages that have arrived.
    pub(super) messages: u64,
    /// The one behind them.
    pub(super) message: Option<Arriving>,
    /// All of it has arrived.
    pub(super) ended: bool,
    /// The rest will not come.
    pub(super) broken: bool,
    /// The backend's end is gone.
    pub(super) closed: bool,
}

/// A message of which a part has arrived.
#[derive(Clone, Copy)]
pub(super) struct Arriving {
    pub(super) length: u64,
    /// Bytes of it that were passed on.
    pub(super) passed: usize,
    /// Those of them that come again.
    pub(super) again: usize,
}

impl Arriving {
    /// How much of it a connection brings that goes on with it.
    fn comes(self) -> u64 {
        self.length.saturating_sub((self.passed - self.again) as u64)
    }
}

pub(super) enum Piece {
    /// Bytes, and how many of them came over the link.
    Data(Bytes, usize),
    Trailers(Box<HeaderMap>),
    End,
}

/// Pieces are copied together up to an HTTP/2 frame of the default size.
pub(super) const MERGED_BYTES_MAX: usize = 16 << 10;

impl Pipe {
    pub(super) fn new(seq: u64, grpc: bool, credits: Arc<Credits>) -> Self {
        Self {
            seq,
            grpc,
            pieces: VecDeque::new(),
            waiting: None,
            credits: Some(credits),
            held: None,
            uncredited: 0,
            feeder: 0,
            offered: None,
            parked_since: None,
            messages: 0,
            message: None,
            ended: false,
            broken: false,
            closed: false,
        }
    }

    pub(super) fn wants_more(&self) -> bool {
        !self.ended && !self.closed && !self.broken
    }

    /// Takes a part in, without the bytes that another connection has brought.
    pub(super) fn accept(
        &mut self,
        message_bytes: Option<u64>,
        mut bytes: Bytes,
        end_of_message: bool,
    ) -> Result<(), RpcError> {
        let arriving = match (self.message, message_bytes) {
            (Some(arriving), None) => arriving,
            (Some(arriving), Some(length)) if arriving.comes() == length => arriving,
            (Some(_), Some(_)) => {
                return Err(malformed("the message that had arrived in part goes on with another length"));
            }
            (None, length) => {
                let length = length.unwrap_or_default();
                if self.grpc {
                    self.pieces.push_back(Piece::Data(grpc_prefix(length), 0));
                }
                Arriving { length, passed: 0, again: 0 }
            }
        };
        let again = arriving.again.min(bytes.len());
        bytes.advance(again);
        self.credit(again);
        let passed = arriving.passed + bytes.len();
        self.message =
            (!end_of_message).then_some(Arriving { passed, again: arriving.again - again, ..arriving });
        self.messages += u64::from(end_of_message);
        if !bytes.is_empty() {
            let length = bytes.len();
            self.pieces.push_back(Piece::Data(self.counted(bytes), length));
        }
        Ok(())
    }

    /// Gives back the credit of a piece that the backend's end takes. It may wait there for a connection, for the backend,
    /// or to be sent again: of a large one the connection hears when nobody has any of it any more.
    pub(super) fn hand_over(&mut self, piece: Piece) -> Piece {
        match (piece, &self.credits) {
            (Piece::Data(bytes, of_link), Some(credits)) if of_link > MERGED_BYTES_MAX => {
                credits.add_kept(self.seq, of_link);
                let lent = Lent { bytes, of_link, credits: Arc::clone(credits) };
                Piece::Data(Bytes::from_owner(lent), of_link)
            }
            (piece, _) => {
                self.credit(piece.of_link());
                piece
            }
        }
    }

    /// Windows count bytes on the wire, and a message that came compressed may be a thousand times larger here, as one
    /// piece. What a connection has room for is no bound for requests that have lost theirs, nor for many clients.
    fn counted(&self, bytes: Bytes) -> Bytes {
        match &self.held {
            Some(held) if bytes.len() > MERGED_BYTES_MAX => Bytes::from_owner(Counted::new(bytes, held)),
            _ => bytes,
        }
    }

    /// The backend took `bytes` that came over the link, or nobody needs them.
    pub(super) fn credit(&mut self, bytes: usize) {
        match &self.credits {
            Some(credits) => credits.add(self.seq, bytes),
            None => self.uncredited += bytes,
        }
    }

    /// The next piece. Small ones that are there already go out as one: a frame costs more than a copy.
    pub(super) fn take(&mut self) -> Option<Piece> {
        let (first, mut of_link) = match self.pieces.pop_front()? {
            Piece::Data(first, of_link) => (first, of_link),
            other => return Some(other),
        };
        let mut length = first.len();
        let fits = |piece: &&Piece| match piece {
            Piece::Data(bytes, _) => {
                length += bytes.len();
                length <= MERGED_BYTES_MAX
            }
            Piece::Trailers(_) | Piece::End => false,
        };
        let more = self.pieces.iter().take_while(fits).count();
        if more == 0 {
            return Some(Piece::Data(first, of_link));
        }
        let mut merged = BytesMut::from(&first[..]);
        for piece in self.pieces.drain(..more) {
            if let Piece::Data(bytes, length) = piece {
                merged.extend_from_slice(&bytes);
                of_link += length;
            }
        }
        Some(Piece::Data(merged.freeze(), of_link))
    }
}

impl Piece {
    pub(super) fn of_link(&self) -> usize {
        match self {
            Self::Data(_, of_link) => *of_link,
            Self::Trailers(_) | Self::End => 0,
        }
    }
}

/// Bytes that a connection counts against its room until nobody has any of them.
struct Lent {
    bytes: Bytes,
    of_link: usize,
    credits: Arc<Credits>,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.credits.let_go(self.of_link);
    }
}

/// Bytes that count as held until nobody has any of them.
struct Counted {
    bytes: Bytes,
    held: Arc<Held>,
}

impl Counted {
    fn new(bytes: Bytes, held: &Arc<Held>) -> Self {
        held.add(bytes.len());
        Self { bytes, held: Arc::clone(held) }
    }
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.held.sub(self.bytes.len());
    }
}

/// gRPC over HTTP/2, "Length-Prefixed-Message": not compressed, four bytes of length.
fn grpc_prefix(length: u64) -> Bytes {
    let mut prefix = BytesMut::with_capacity(5);
    prefix.put_u8(0);
    // message_bytes_max keeps messages below 2^30 bytes.
    prefix.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    prefix.freeze()
}

pub(super) fn malformed(rule: &str) -> RpcError {
    RpcError::new(RpcErrorKind::Malformed, Execution::MayHaveRun, rule)
}
