//! The protobuf messages that some frames carry; generated from `proto/towline/link/v1/link.proto`,
//! whose comments are their documentation.

use std::fmt;

#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated code")]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/towline.link.v1.rs"));
}

pub use generated::{
    Arm, ClientFacts, Fetch, Filter, GoAway, Header, Hello, Latencies, LearntBeat, Limits as LimitsMessage,
    Offer, OfferedDictionary, Outcome, Parameter, Partial, Piece, Policy, PushesTaken, QualitySnapshot,
    Report, Subscribe, Subscribed, Waiting, Welcome, go_away::Reason,
    offered_dictionary::Kind as DictionaryKind, parameter::Value as ParameterValue,
    quality_snapshot::Level as LevelReported, subscribed,
};

impl Hello {
    /// Whether the server must hold something to understand it: if not, it answers UNKNOWN_REFERENCE.
    pub fn refers(&self) -> bool {
        !self.session_headers_hash.is_empty() || self.header_dictionary != 0
    }
}

impl Policy {
    /// As POLICY carries it, for a client that keeps it.
    pub fn to_bytes(&self) -> Vec<u8> {
        prost::Message::encode_to_vec(self)
    }

    /// Reads what [`Policy::to_bytes`] wrote; `None` for anything that cannot be that.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        prost::Message::decode(bytes).ok()
    }
}

impl fmt::Debug for Hello {
    /// Leaves out the secret, the password, the token, and the session headers, which may hold credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hello")
            .field("client_id", &self.client_id)
            .field("epoch", &self.epoch)
            .field("limits", &self.limits)
            .field("waiting", &self.waiting)
            .field("outcome_floor", &self.outcome_floor)
            .field("pushes_taken", &self.pushes_taken)
            .field("next_beat_s", &self.next_beat_s)
            .field("user", &self.user)
            .field("topics", &self.topics)
            .field("agent", &self.agent)
            .field("policy_revision", &self.policy_revision)
            .field("short", &self.short)
            .field("facts", &self.facts)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Welcome {
    /// Leaves out the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Welcome")
            .field("resumed", &self.resumed)
            .field("session_id", &self.session_id)
            .field("limits", &self.limits)
            .field("unknown", &self.unknown)
            .field("visiting", &self.visiting)
            .field("heartbeat_max_s", &self.heartbeat_max_s)
            .field("server_time_ms", &self.server_time_ms)
            .field("agent", &self.agent)
            .field("token_life_s", &self.token_life_s)
            .field("push_line", &self.push_line)
            .field("seq_min", &self.seq_min)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Header {
    /// The value may be a token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Header({})", self.name.escape_ascii())
    }
}
