//! What a connection's end is called where clients' comings and goings are told.

use towline_protocols::mqtt::ReasonCode;

use super::End;

impl End {
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Left { with_will: false } => "client_left",
            Self::Left { with_will: true } => "client_left_with_will",
            Self::Lost => "connection_lost",
            Self::Broken(error) => name(error.reason),
            Self::Closed(closing) => name(closing.reason),
        }
    }
}

/// The names of MQTT 5, section 2.4.
const fn name(reason: ReasonCode) -> &'static str {
    match reason {
        ReasonCode::MalformedPacket => "malformed_packet",
        ReasonCode::ProtocolError => "protocol_error",
        ReasonCode::NotAuthorized => "not_authorized",
        ReasonCode::ServerBusy => "server_busy",
        ReasonCode::ServerShuttingDown => "server_shutting_down",
        ReasonCode::KeepAliveTimeout => "keep_alive_timeout",
        ReasonCode::SessionTakenOver => "session_taken_over",
        ReasonCode::TopicFilterInvalid => "topic_filter_invalid",
        ReasonCode::TopicNameInvalid => "topic_name_invalid",
        ReasonCode::ReceiveMaximumExceeded => "receive_maximum_exceeded",
        ReasonCode::TopicAliasInvalid => "topic_alias_invalid",
        ReasonCode::PacketTooLarge => "packet_too_large",
        ReasonCode::MessageRateTooHigh => "message_rate_too_high",
        ReasonCode::QuotaExceeded => "quota_exceeded",
        ReasonCode::AdministrativeAction => "administrative_action",
        ReasonCode::UseAnotherServer => "use_another_server",
        _ => "server_error",
    }
}
