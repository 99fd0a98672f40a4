//! What a machine tells its driver.

use std::time::Duration;

use bytes::Bytes;

use super::{
    Ack, CloseCode, Fetch, GoAway, Hello, Offer, Piece, Place, Policy, Priority, Report, RpcError, Subscribe,
    Subscribed, Welcome,
};
use crate::hpack::HeaderField;

/// Something that arrived, in the order of arrival within a request and within the connection's control.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The client introduced itself. The server answers with [`super::Control::welcome`] or a close.
    Hello(Box<Hello>),
    /// The server took the client in.
    Welcome(Box<Welcome>),
    /// A request begins.
    Request {
        /// Its sequence number.
        seq: u64,
        /// What it asks.
        head: RequestHead,
        /// No message follows.
        end: bool,
    },
    /// The client wants the outcome of a request that an earlier connection carried (QUIC; on TCP
    /// HELLO.waiting says it).
    Attach {
        /// Its sequence number.
        seq: u64,
        /// What of the answer need not be sent again.
        received: Place,
        /// The client's half goes on, where WELCOME.partial has said.
        continues: bool,
    },
    /// The answer begins.
    Response {
        /// The request's sequence number.
        seq: u64,
        /// Header list, `:status` first.
        fields: Vec<HeaderField>,
        /// Nothing follows.
        end: bool,
    },
    /// A part of a message; `bytes.len()` is to be given back by `credit` once it is consumed.
    MessagePart {
        /// The request's sequence number.
        seq: u64,
        /// On a message's first part: the length of the whole message.
        message_bytes: Option<u64>,
        /// The part. A compressed message arrives decompressed, as one part.
        bytes: Bytes,
        /// Bytes of message that carried the part: as many, or fewer where it was compressed.
        wire_bytes: usize,
        /// The message is whole.
        end_of_message: bool,
        /// The sender's half ends behind this message.
        end: bool,
    },
    /// The sender's half ends without a further message.
    End {
        /// The request's sequence number.
        seq: u64,
    },
    /// The sender's half ends with these fields.
    Trailers {
        /// The request's sequence number.
        seq: u64,
        /// Header list.
        fields: Vec<HeaderField>,
    },
    /// The request is over: reset by the peer, or by this machine because the peer broke a limit that
    /// concerns this request only.
    Reset {
        /// The request's sequence number.
        seq: u64,
        /// Why, and whether it ran.
        error: RpcError,
    },
    /// The client of a short connection wants nothing more of a request that its POST has not begun: RESET.
    GivenUp {
        /// The request's sequence number.
        seq: u64,
    },
    /// The send queue of this stream has room again after [`super::Connection::send_capacity`] said 0.
    Writable {
        /// The request's sequence number.
        seq: u64,
    },
    /// The client has taken these outcomes.
    Ack(Ack),
    /// A message that nobody asked for. Duplicates are possible after a reconnect; ids tell.
    Push(Push),
    /// The client has taken the pushes of this urgency up to this id.
    PushAck {
        /// Their urgency.
        priority: Priority,
        /// Cumulative.
        id: u64,
    },
    /// The client changes its subscriptions.
    Subscribe(Subscribe),
    /// The answer to SUBSCRIBE.
    Subscribed(Subscribed),
    /// The client publishes.
    Publish(Publish),
    /// The answer to a publish of quality 1.
    Published {
        /// The publish's id.
        id: u64,
        /// Why it was refused.
        error: Option<String>,
    },
    /// The server wants the client to go elsewhere; what runs may finish, new requests are refused.
    GoAway(Box<GoAway>),
    /// How the client should behave.
    Policy(Policy),
    /// Whether the client does.
    PolicyAck {
        /// The policy's revision.
        revision: u64,
        /// Whether it is in use.
        accepted: bool,
        /// Why not.
        text: String,
    },
    /// The server sees the client at another address than before.
    Moved,
    /// What the client says of itself.
    Report(Box<Report>),
    /// Dictionaries that the client may fetch and use, in place of all before.
    Offer(Offer),
    /// The client asks for a piece of a dictionary, to be answered with [`super::Control::piece`], or holds
    /// one now.
    Fetch(Fetch),
    /// A piece of a dictionary.
    Piece(Piece),
    /// A PING was answered after this time.
    Rtt(Duration),
    /// The peer closes the connection; nothing follows.
    Close {
        /// Why.
        code: CloseCode,
        /// For people.
        text: String,
    },
}

/// What a request asks, apart from its messages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestHead {
    /// Urgency of what is sent for it, both ways.
    pub priority: Priority,
    /// Running it twice does no harm.
    pub idempotent: bool,
    /// The client has taken the outcomes of all requests before this one: an ACK that costs no byte.
    pub acknowledges: bool,
    /// The client had read WELCOME of this connection: it knows which session it speaks to. Filled in by the machines.
    pub heard: bool,
    /// How long the caller still waits.
    pub deadline: Option<Duration>,
    /// Header list; pseudo-header fields first.
    pub fields: Vec<HeaderField>,
}

/// A pushed message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Push {
    /// Counts from 1 within the session; orders pushes.
    pub id: u64,
    /// Urgency.
    pub priority: Priority,
    /// Topic name; UTF-8.
    pub topic: Bytes,
    /// Media type, may be empty; UTF-8.
    pub content_type: Bytes,
    /// Payload.
    pub payload: Bytes,
}

/// A published message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Publish {
    /// Named by the answer; meaningless with quality 0.
    pub id: u64,
    /// 0: no answer. 1: answered once the message is accepted.
    pub qos: u8,
    /// Topic name; UTF-8.
    pub topic: Bytes,
    /// Payload.
    pub payload: Bytes,
}
