//! One request on a TCP connection.

use std::collections::VecDeque;

use crate::{
    hpack::HeaderField,
    link::{
        Priority, RequestHead,
        message::{MessageReader, MessageWriter, OutPart},
    },
};

/// Both halves of a request.
///
/// ```text
///  receiving:  Head --REQUEST or RESPONSE--> Body --END or TRAILERS--> Ended
///  sending:    Open --end queued-----------> Ending --end transmitted-> Ended
/// ```
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) urgency: u8,
    pub(super) receiving: Receiving,
    pub(super) sending: Sending,
    /// Whether the scheduler has it in one of its lists.
    pub(super) is_scheduled: bool,
    /// Its place in the round.
    pub(super) turn: u64,
    /// `send_capacity` said 0: the driver waits for `Writable`.
    pub(super) is_starved: bool,
    pub(super) queue: VecDeque<Item>,
    /// Message bytes in `queue`.
    pub(super) queued_bytes: usize,
    /// Credit that the peer gave.
    pub(super) send_window: i64,
    /// Credit that the peer still has.
    pub(super) receive_window: i64,
    /// Consumed, and not given back yet.
    pub(super) credit_pending: u32,
    /// Delivered as it came, and not consumed yet.
    pub(super) plain_held: usize,
    /// Delivered decompressed, and not consumed yet. Its credit was given back at once; the connection
    /// budgets for it.
    pub(super) inflated_held: usize,
    pub(super) reader: MessageReader,
    pub(super) writer: MessageWriter,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Receiving {
    Head,
    Body,
    Ended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sending {
    Open,
    Ending,
    Ended,
}

/// What waits to be sent. Header blocks are encoded when their turn has come, since HPACK demands that
/// they arrive in the order of their encoding.
#[derive(Debug)]
pub(super) enum Item {
    Request(Box<RequestHead>, bool),
    Response(Vec<HeaderField>, bool),
    Part(OutPart),
    Trailers(Vec<HeaderField>),
    End,
}

impl Stream {
    pub(super) fn new(priority: Priority, send_window: u32, receive_window: u32) -> Self {
        Self {
            urgency: priority.urgency(),
            receiving: Receiving::Head,
            sending: Sending::Open,
            is_scheduled: false,
            turn: 0,
            is_starved: false,
            queue: VecDeque::new(),
            queued_bytes: 0,
            send_window: send_window.into(),
            receive_window: receive_window.into(),
            credit_pending: 0,
            plain_held: 0,
            inflated_held: 0,
            reader: MessageReader::default(),
            writer: MessageWriter::default(),
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.receiving == Receiving::Ended && self.sending == Sending::Ended
    }

    /// Bytes that the connection's budget counts: decompressed and not consumed, or still arriving.
    pub(super) fn budgeted(&self) -> usize {
        self.inflated_held + self.reader.held_bytes()
    }
}
