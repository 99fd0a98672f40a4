//! One request on a TCP connection.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;

use crate::{
    hpack::HeaderField,
    link::{
        Event, Priority, RequestHead,
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
    /// Consumed, and not given back yet. Below 0 when more was lent than is owed.
    pub(super) credit_pending: i64,
    /// Delivered by an earlier connection, and not consumed yet: in use of this stream's window, and of no
    /// connection's. Consumed before all that arrives here.
    pub(super) carried: usize,
    /// Delivered as it came, and not consumed yet.
    pub(super) plain_held: usize,
    /// Delivered decompressed, and not consumed yet.
    pub(super) inflated_held: usize,
    /// The credit of what `inflated_held` was on the wire.
    pub(super) inflated_wire: usize,
    /// Waits to be delivered; begins with a compressed message.
    pub(super) inbox: VecDeque<Inbound>,
    /// Whether the connection looks after the inbox and the loan.
    pub(super) is_tended: bool,
    /// Wire bytes of the compressed message that is arriving.
    pub(super) arriving: usize,
    /// Those of them whose credit was not lent.
    pub(super) unlent: usize,
    /// Room that the connection reserved for the message that is arriving; 0 is none.
    pub(super) reserved: usize,
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
    Response(Arc<[HeaderField]>, bool),
    Part(OutPart),
    Trailers(Arc<[HeaderField]>),
    End,
}

/// What waits for the application, in the order of its arrival.
#[derive(Debug)]
pub(super) enum Inbound {
    /// A whole message as it came; its credit is given when what becomes of it is consumed.
    Compressed { frame: Bytes, content_bytes: u64, wire: usize, reserved: usize, end: bool },
    /// Bytes behind a compressed message.
    Part { message_bytes: Option<u64>, bytes: Bytes, end_of_message: bool, end: bool },
    /// So many messages without bytes. They cost no credit, so they must not cost memory each.
    Empty(u64),
    /// END, TRAILERS or RESET.
    Last(Box<Event>),
}

impl Inbound {
    pub(super) fn wire_bytes(&self) -> usize {
        match self {
            Self::Compressed { wire, .. } => *wire,
            Self::Part { bytes, .. } => bytes.len(),
            Self::Empty(_) | Self::Last(_) => 0,
        }
    }

    fn reserved(&self) -> usize {
        match self {
            Self::Compressed { reserved, .. } => *reserved,
            _ => 0,
        }
    }
}

impl Stream {
    pub(super) fn new(priority: Priority, send_window: i64, receive_window: i64) -> Self {
        Self {
            urgency: priority.urgency(),
            receiving: Receiving::Head,
            sending: Sending::Open,
            is_scheduled: false,
            turn: 0,
            is_starved: false,
            queue: VecDeque::new(),
            queued_bytes: 0,
            send_window,
            receive_window,
            credit_pending: 0,
            carried: 0,
            plain_held: 0,
            inflated_held: 0,
            inflated_wire: 0,
            inbox: VecDeque::new(),
            is_tended: false,
            arriving: 0,
            unlent: 0,
            reserved: 0,
            reader: MessageReader::default(),
            writer: MessageWriter::default(),
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.receiving == Receiving::Ended && self.sending == Sending::Ended
    }

    /// Message bytes that the application has and did not consume.
    pub(super) fn delivered(&self) -> usize {
        self.carried + self.plain_held + self.inflated_held
    }

    /// What of the connection's window this stream takes up.
    pub(super) fn wire_held(&self) -> usize {
        self.plain_held + self.inflated_wire + self.inbox.iter().map(Inbound::wire_bytes).sum::<usize>()
    }

    /// What this stream has reserved of the connection's room for arriving messages.
    pub(super) fn reserved_all(&self) -> usize {
        self.reserved + self.inbox.iter().map(Inbound::reserved).sum::<usize>()
    }
}
