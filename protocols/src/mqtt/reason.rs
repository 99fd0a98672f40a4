//! Reason codes (2.4) and the packets that may carry each of them.

use super::{PacketKind, PacketKind::*};

/// Declares the codes with their values and packets, so that the standard's table stands in one place.
macro_rules! reason_codes {
    ($($(#[$doc:meta])* $name:ident = $value:literal in [$($kind:ident)*],)*) => {
        /// Why, in one byte. MQTT 3 return codes are mapped onto these.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum ReasonCode { $($(#[$doc])* $name = $value,)* }

        impl ReasonCode {
            /// Every code.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The code of a byte, if there is one.
            pub const fn from_byte(byte: u8) -> Option<Self> {
                match byte { $($value => Some(Self::$name),)* _ => None }
            }

            /// Whether a packet of this kind may carry it.
            pub const fn is_allowed_in(self, kind: PacketKind) -> bool {
                let kinds: u16 = match self { $(Self::$name => 0 $(| 1 << $kind as u8)*,)* };
                kinds & 1 << kind as u8 != 0
            }
        }
    };
}

reason_codes! {
    /// Success, Normal disconnection, Granted QoS 0.
    Success = 0x00 in [Connack Puback Pubrec Pubrel Pubcomp Suback Unsuback Disconnect Auth],
    /// Granted QoS 1.
    GrantedQos1 = 0x01 in [Suback],
    /// Granted QoS 2.
    GrantedQos2 = 0x02 in [Suback],
    /// The client leaves and its will is to be published.
    DisconnectWithWill = 0x04 in [Disconnect],
    /// Taken, and nobody was subscribed.
    NoMatchingSubscribers = 0x10 in [Puback Pubrec],
    /// There was no such subscription.
    NoSubscriptionExisted = 0x11 in [Unsuback],
    /// The authentication goes on.
    ContinueAuthentication = 0x18 in [Auth],
    /// Start authenticating again.
    ReAuthenticate = 0x19 in [Auth],
    /// The sender does not say.
    UnspecifiedError = 0x80 in [Connack Puback Pubrec Suback Unsuback Disconnect],
    /// The bytes do not parse.
    MalformedPacket = 0x81 in [Connack Disconnect],
    /// A rule of the protocol was broken.
    ProtocolError = 0x82 in [Connack Disconnect],
    /// Valid, and not accepted by this implementation.
    ImplementationSpecificError = 0x83 in [Connack Puback Pubrec Suback Unsuback Disconnect],
    /// The server does not speak this version.
    UnsupportedProtocolVersion = 0x84 in [Connack],
    /// The client identifier is well-formed and not allowed.
    ClientIdentifierNotValid = 0x85 in [Connack],
    /// The server does not accept user name or password.
    BadUserNameOrPassword = 0x86 in [Connack],
    /// The client is not allowed to do this.
    NotAuthorized = 0x87 in [Connack Puback Pubrec Suback Unsuback Disconnect],
    /// The server is not available.
    ServerUnavailable = 0x88 in [Connack],
    /// Try again later.
    ServerBusy = 0x89 in [Connack Disconnect],
    /// The client is barred by an operator.
    Banned = 0x8a in [Connack],
    /// The server goes away.
    ServerShuttingDown = 0x8b in [Disconnect],
    /// The authentication method is not supported.
    BadAuthenticationMethod = 0x8c in [Connack Disconnect],
    /// Nothing came for one and a half keep-alive periods.
    KeepAliveTimeout = 0x8d in [Disconnect],
    /// Another connection uses the client identifier.
    SessionTakenOver = 0x8e in [Disconnect],
    /// The topic filter is well-formed and not accepted.
    TopicFilterInvalid = 0x8f in [Suback Unsuback Disconnect],
    /// The topic name is well-formed and not accepted.
    TopicNameInvalid = 0x90 in [Connack Puback Pubrec Disconnect],
    /// The packet identifier is in use.
    PacketIdentifierInUse = 0x91 in [Puback Pubrec Suback Unsuback],
    /// The packet identifier is not known.
    PacketIdentifierNotFound = 0x92 in [Pubrel Pubcomp],
    /// More unacknowledged publishes than Receive Maximum.
    ReceiveMaximumExceeded = 0x93 in [Disconnect],
    /// The topic alias is zero, unknown or above the maximum.
    TopicAliasInvalid = 0x94 in [Disconnect],
    /// The packet is larger than the receiver takes.
    PacketTooLarge = 0x95 in [Connack Disconnect],
    /// Messages come too fast.
    MessageRateTooHigh = 0x96 in [Disconnect],
    /// A bound of the implementation or an operator was met.
    QuotaExceeded = 0x97 in [Connack Puback Pubrec Suback Disconnect],
    /// An operator closed the connection.
    AdministrativeAction = 0x98 in [Disconnect],
    /// The payload is not what its format indicator says.
    PayloadFormatInvalid = 0x99 in [Connack Puback Pubrec Disconnect],
    /// The server does not retain messages.
    RetainNotSupported = 0x9a in [Connack Disconnect],
    /// The server does not take this QoS.
    QosNotSupported = 0x9b in [Connack Disconnect],
    /// Use another server for now.
    UseAnotherServer = 0x9c in [Connack Disconnect],
    /// Use another server from now on.
    ServerMoved = 0x9d in [Connack Disconnect],
    /// The server has no shared subscriptions.
    SharedSubscriptionsNotSupported = 0x9e in [Suback Disconnect],
    /// Connections come too fast.
    ConnectionRateExceeded = 0x9f in [Connack Disconnect],
    /// The connection's time is over.
    MaximumConnectTime = 0xa0 in [Disconnect],
    /// The server has no subscription identifiers.
    SubscriptionIdentifiersNotSupported = 0xa1 in [Suback Disconnect],
    /// The server has no wildcard subscriptions.
    WildcardSubscriptionsNotSupported = 0xa2 in [Suback Disconnect],
}

impl ReasonCode {
    /// Whether it reports a failure (0x80 and above).
    pub const fn is_error(self) -> bool {
        self as u8 >= 0x80
    }

    /// The return code of an MQTT 3 CONNACK (3.1.1 table 3.1) that comes closest.
    pub const fn connect_return_code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::UnsupportedProtocolVersion => 1,
            Self::ClientIdentifierNotValid => 2,
            Self::BadUserNameOrPassword => 4,
            Self::NotAuthorized | Self::Banned | Self::BadAuthenticationMethod => 5,
            _ => 3,
        }
    }

    /// The reason that an MQTT 3 CONNACK return code stands for.
    pub const fn from_connect_return_code(code: u8) -> Option<Self> {
        Some(match code {
            0 => Self::Success,
            1 => Self::UnsupportedProtocolVersion,
            2 => Self::ClientIdentifierNotValid,
            3 => Self::ServerUnavailable,
            4 => Self::BadUserNameOrPassword,
            5 => Self::NotAuthorized,
            _ => return None,
        })
    }
}
