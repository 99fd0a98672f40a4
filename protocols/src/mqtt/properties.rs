//! The 27 properties of MQTT 5 (2.2.2), one struct for each packet, so that a property where it does not
//! belong or twice where it may stand once cannot be expressed.

use std::num::{NonZeroU16, NonZeroU32};

use bytes::{BufMut, BytesMut};

use super::{
    Binary, MqttError, QoS, Secret, Text,
    wire::{Reader, VARINT_MAX, Wire, put_with_length},
};

/// Subscription Identifier: 1 to 268435455.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SubscriptionId(NonZeroU32);

impl SubscriptionId {
    /// `None` outside of its range.
    pub fn new(id: u32) -> Option<Self> {
        NonZeroU32::new(id).filter(|id| id.get() as usize <= VARINT_MAX).map(Self)
    }

    /// The number.
    pub fn get(self) -> u32 {
        self.0.get()
    }
}

/// Declares the property set of a packet: each field with its identifier. `Option` may stand once, `Vec` any
/// number of times.
macro_rules! property_set {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty = $id:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct $name { $($(#[$field_doc])* pub $field: $type,)* }

        impl $name {
            pub(super) fn read(input: &mut Reader) -> Result<Self, MqttError> {
                let length = input.varint()?;
                input.within(length, |block| {
                    let mut set = Self::default();
                    while !block.is_empty() {
                        match block.varint()? {
                            $($id => set.$field.read_one(block)?,)*
                            id => return Err(misplaced(id)),
                        }
                    }
                    Ok(set)
                })
            }

            #[allow(dead_code, reason = "PUBLISH is written from borrowed parts, see PublishHead")]
            pub(super) fn write(&self, out: &mut BytesMut) -> Result<(), MqttError> {
                put_with_length(out, 0, |out| {
                    $(self.$field.write_all($id, out);)*
                    Ok(())
                })
            }

            /// Whether no property is set.
            pub fn is_empty(&self) -> bool {
                *self == Self::default()
            }
        }
    };
}

property_set! {
    /// CONNECT (3.1.2.11).
    ConnectProperties {
        /// Session Expiry Interval, seconds; 0xFFFFFFFF never ends.
        session_expiry: Option<u32> = 0x11,
        /// QoS 1 and 2 publishes that the client takes at one time.
        receive_maximum: Option<NonZeroU16> = 0x21,
        /// Largest packet that the client takes.
        packet_bytes_max: Option<NonZeroU32> = 0x27,
        /// Topic aliases that the client takes.
        topic_alias_maximum: Option<u16> = 0x22,
        /// Whether CONNACK may carry Response Information.
        request_response_information: Option<bool> = 0x19,
        /// Whether any packet may carry Reason String and User Properties.
        request_problem_information: Option<bool> = 0x17,
        /// Name/value pairs.
        user_properties: Vec<(Text, Text)> = 0x26,
        /// Name of the method of extended authentication.
        authentication_method: Option<Text> = 0x15,
        /// Data of that method.
        authentication_data: Option<Secret> = 0x16,
    }
}

property_set! {
    /// The will in CONNECT (3.1.3.2).
    WillProperties {
        /// Seconds before the will is published.
        delay: Option<u32> = 0x18,
        /// Payload Format Indicator: UTF-8.
        payload_utf8: Option<bool> = 0x01,
        /// Message Expiry Interval, seconds.
        expiry: Option<u32> = 0x02,
        /// Content type.
        content_type: Option<Text> = 0x03,
        /// Topic name for a response.
        response_topic: Option<Text> = 0x08,
        /// What a response refers to.
        correlation_data: Option<Binary> = 0x09,
        /// Name/value pairs.
        user_properties: Vec<(Text, Text)> = 0x26,
    }
}

property_set! {
    /// CONNACK (3.2.2.3).
    ConnackProperties {
        /// The interval that the server uses instead of the client's.
        session_expiry: Option<u32> = 0x11,
        /// QoS 1 and 2 publishes that the server takes at one time.
        receive_maximum: Option<NonZeroU16> = 0x21,
        /// The highest QoS that the server takes, if not 2.
        qos_max: Option<QoS> = 0x24,
        /// Whether messages can be retained.
        retain_available: Option<bool> = 0x25,
        /// Largest packet that the server takes.
        packet_bytes_max: Option<NonZeroU32> = 0x27,
        /// The identifier that the server chose.
        assigned_client_id: Option<Text> = 0x12,
        /// Topic aliases that the server takes.
        topic_alias_maximum: Option<u16> = 0x22,
        /// For a person to read.
        reason_string: Option<Text> = 0x1f,
        /// Name/value pairs.
        user_properties: Vec<(Text, Text)> = 0x26,
        /// Whether filters may hold wildcards.
        wildcard_available: Option<bool> = 0x28,
        /// Whether subscriptions may carry an identifier.
        subscription_id_available: Option<bool> = 0x29,
        /// Whether `$share` filters work.
        shared_available: Option<bool> = 0x2a,
        /// The keep-alive, seconds, that the client must use instead of its own.
        keep_alive: Option<u16> = 0x13,
        /// Basis of response topics.
        response_information: Option<Text> = 0x1a,
        /// Another server.
        server_reference: Option<Text> = 0x1c,
        /// Name of the method of extended authentication.
        authentication_method: Option<Text> = 0x15,
        /// Data of that method.
        authentication_data: Option<Secret> = 0x16,
    }
}

property_set! {
    /// PUBLISH (3.3.2.3).
    PublishProperties {
        /// Payload Format Indicator: UTF-8.
        payload_utf8: Option<bool> = 0x01,
        /// Message Expiry Interval, seconds.
        expiry: Option<u32> = 0x02,
        /// A number that stands for the topic name.
        topic_alias: Option<u16> = 0x23,
        /// Topic name for a response.
        response_topic: Option<Text> = 0x08,
        /// What a response refers to.
        correlation_data: Option<Binary> = 0x09,
        /// Name/value pairs.
        user_properties: Vec<(Text, Text)> = 0x26,
        /// The subscriptions that this message is sent for.
        subscription_ids: Vec<SubscriptionId> = 0x0b,
        /// Content type.
        content_type: Option<Text> = 0x03,
    }
}

property_set! {
    /// PUBACK, PUBREC, PUBREL and PUBCOMP (3.4.2.2).
    AckProperties {
        /// For a person to read.
        reason_string: Option<Text> = 0x1f,
        /// Name/value pairs.
        user_properties: Vec<(Text, Text)> = 0x26,
    }
}

property_set! {
    /// SUBSCRIBE (3.8.2.1).
    SubscribeProperties {
        /// Comes back in each message that is sent for these subscriptions.
        subscription_id: Option<SubscriptionId> = 0x0b,
        /// Name/value pairs.
        user_properties: Vec<(Text, Text)> = 0x26,
    }
}

property_set! {
    /// SUBACK and UNSUBACK (3.9.2.1).
    SubackProperties {
        /// For a person to read.
        reason_string: Option<Text> = 0x1f,
        /// Name/value pairs.
        user_properties: Vec<(Text, Text)> = 0x26,
    }
}

property_set! {
    /// UNSUBSCRIBE (3.10.2.1).
    UnsubscribeProperties {
        /// Name/value pairs.
        user_properties: Vec<(Text, Text)> = 0x26,
    }
}

property_set! {
    /// DISCONNECT (3.14.2.2).
    DisconnectProperties {
        /// A new Session Expiry Interval, seconds.
        session_expiry: Option<u32> = 0x11,
        /// For a person to read.
        reason_string: Option<Text> = 0x1f,
        /// Name/value pairs.
        user_properties: Vec<(Text, Text)> = 0x26,
        /// Another server.
        server_reference: Option<Text> = 0x1c,
    }
}

property_set! {
    /// AUTH (3.15.2.2).
    AuthProperties {
        /// Name of the method of extended authentication.
        authentication_method: Option<Text> = 0x15,
        /// Data of that method.
        authentication_data: Option<Secret> = 0x16,
        /// For a person to read.
        reason_string: Option<Text> = 0x1f,
        /// Name/value pairs.
        user_properties: Vec<(Text, Text)> = 0x26,
    }
}

/// Where the values of one property go.
trait Slot {
    fn read_one(&mut self, input: &mut Reader) -> Result<(), MqttError>;
    fn write_all(&self, id: u8, out: &mut BytesMut);
}

impl<T: Wire> Slot for Option<T> {
    fn read_one(&mut self, input: &mut Reader) -> Result<(), MqttError> {
        if self.is_some() {
            return Err(MqttError::protocol("2.2.2: a property stands twice that may stand once"));
        }
        *self = Some(T::read(input)?);
        Ok(())
    }

    fn write_all(&self, id: u8, out: &mut BytesMut) {
        if let Some(value) = self {
            out.put_u8(id);
            value.write(out);
        }
    }
}

impl<T: Wire> Slot for Vec<T> {
    fn read_one(&mut self, input: &mut Reader) -> Result<(), MqttError> {
        input.count_item()?;
        self.push(T::read(input)?);
        Ok(())
    }

    fn write_all(&self, id: u8, out: &mut BytesMut) {
        for value in self {
            out.put_u8(id);
            value.write(out);
        }
    }
}

/// What is wrong with an identifier that the packet's set does not have.
fn misplaced(id: usize) -> MqttError {
    match id {
        0x01..=0x03 | 0x08 | 0x09 | 0x0b | 0x11..=0x13 | 0x15..=0x1a | 0x1c | 0x1f | 0x21..=0x2a => {
            MqttError::protocol("2.2.2.2: a property that this packet may not carry")
        }
        _ => MqttError::malformed("2.2.2.2: an unknown property identifier"),
    }
}
