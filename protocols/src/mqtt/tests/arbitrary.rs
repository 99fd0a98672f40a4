//! Any valid packet of any version, for the property tests.

use std::num::{NonZeroU16, NonZeroU32};

use bytes::Bytes;
use proptest::{collection::vec, option, prelude::*};

use super::super::*;

pub(super) fn version() -> impl Strategy<Value = Version> {
    prop_oneof![Just(Version::V31), Just(Version::V311), Just(Version::V5)]
}

pub(super) fn packet() -> impl Strategy<Value = (Version, Packet)> {
    version().prop_flat_map(|version| (Just(version), packet_of(version)))
}

fn packet_of(version: Version) -> BoxedStrategy<Packet> {
    let v5 = version == Version::V5;
    let mut kinds = vec![
        connect(version).prop_map(|it| Packet::Connect(Box::new(it))).boxed(),
        connack(v5).prop_map(|it| Packet::Connack(Box::new(it))).boxed(),
        publish(v5).prop_map(|it| Packet::Publish(Box::new(it))).boxed(),
        ack(v5, PacketKind::Puback).prop_map(Packet::Puback).boxed(),
        ack(v5, PacketKind::Pubrec).prop_map(Packet::Pubrec).boxed(),
        ack(v5, PacketKind::Pubrel).prop_map(Packet::Pubrel).boxed(),
        ack(v5, PacketKind::Pubcomp).prop_map(Packet::Pubcomp).boxed(),
        subscribe(v5).prop_map(Packet::Subscribe).boxed(),
        suback(v5).prop_map(Packet::Suback).boxed(),
        unsubscribe(v5).prop_map(Packet::Unsubscribe).boxed(),
        unsuback(v5).prop_map(Packet::Unsuback).boxed(),
        Just(Packet::Pingreq).boxed(),
        Just(Packet::Pingresp).boxed(),
        disconnect(v5).prop_map(Packet::Disconnect).boxed(),
    ];
    if v5 {
        kinds.push(auth().prop_map(Packet::Auth).boxed());
    }
    proptest::strategy::Union::new(kinds).boxed()
}

fn text() -> impl Strategy<Value = Text> {
    "[^\u{0}]{0,12}".prop_map(|value| Text::try_from(value.as_str()).unwrap())
}

fn topic_name() -> impl Strategy<Value = Text> {
    "[^\u{0}#+]{1,12}".prop_map(|value| Text::try_from(value.as_str()).unwrap())
}

fn filter() -> impl Strategy<Value = Text> {
    prop_oneof!["[a-z/]{1,9}", "\\+/[a-z]{0,3}/#", "\\$share/[a-z]{1,3}/[a-z]{1,3}/\\+"]
        .prop_map(|value| Text::try_from(value.as_str()).unwrap())
}

fn binary() -> impl Strategy<Value = Binary> {
    vec(any::<u8>(), 0..200).prop_map(|bytes| Binary::new(bytes).unwrap())
}

fn secret() -> impl Strategy<Value = Secret> {
    binary().prop_map(Secret)
}

fn pairs() -> impl Strategy<Value = Vec<(Text, Text)>> {
    vec((text(), text()), 0..4)
}

fn qos() -> impl Strategy<Value = QoS> {
    prop_oneof![Just(QoS::AtMostOnce), Just(QoS::AtLeastOnce), Just(QoS::ExactlyOnce)]
}

fn packet_id() -> impl Strategy<Value = PacketId> {
    any::<NonZeroU16>()
}

fn subscription_id() -> impl Strategy<Value = SubscriptionId> {
    (1u32..=268_435_455).prop_map(|id| SubscriptionId::new(id).unwrap())
}

fn reason(kind: PacketKind) -> impl Strategy<Value = ReasonCode> {
    let allowed: Vec<_> =
        ReasonCode::ALL.iter().copied().filter(|reason| reason.is_allowed_in(kind)).collect();
    proptest::sample::select(allowed)
}

/// The value where `keep`, its default elsewhere: MQTT 3 has no properties.
fn only<T: Default + std::fmt::Debug + Clone + 'static>(
    keep: bool,
    strategy: impl Strategy<Value = T> + 'static,
) -> BoxedStrategy<T> {
    if keep { strategy.boxed() } else { Just(T::default()).boxed() }
}

fn connect(version: Version) -> impl Strategy<Value = Connect> {
    let v5 = version == Version::V5;
    let identity = (any::<[bool; 2]>(), any::<u16>(), text(), option::of(will(v5)));
    let credentials = (option::of(text()), option::of(secret()));
    (identity, credentials, only(v5, connect_properties())).prop_map(
        move |(
            ([is_bridge, clean_start], keep_alive, client_id, will),
            (user_name, mut password),
            properties,
        )| {
            if !v5 && user_name.is_none() {
                password = None;
            }
            let will = will.map(Box::new);
            Connect {
                version,
                is_bridge,
                clean_start,
                keep_alive,
                client_id,
                will,
                user_name,
                password,
                properties,
            }
        },
    )
}

fn connect_properties() -> impl Strategy<Value = ConnectProperties> {
    let numbers = (
        option::of(any::<u32>()),
        option::of(any::<NonZeroU16>()),
        option::of(any::<NonZeroU32>()),
        option::of(any::<u16>()),
    );
    let flags = (option::of(any::<bool>()), option::of(any::<bool>()));
    (numbers, flags, pairs(), option::of((text(), option::of(secret())))).prop_map(
        |(
            (session_expiry, receive_maximum, packet_bytes_max, topic_alias_maximum),
            flags,
            user_properties,
            auth,
        )| {
            let (authentication_method, authentication_data) = auth.unzip();
            ConnectProperties {
                session_expiry,
                receive_maximum,
                packet_bytes_max,
                topic_alias_maximum,
                request_response_information: flags.0,
                request_problem_information: flags.1,
                user_properties,
                authentication_method,
                authentication_data: authentication_data.flatten(),
            }
        },
    )
}

fn will(v5: bool) -> impl Strategy<Value = LastWill> {
    let properties = (
        option::of(any::<u32>()),
        option::of(any::<bool>()),
        option::of(any::<u32>()),
        option::of(text()),
        option::of(topic_name()),
        option::of(binary()),
        pairs(),
    )
        .prop_map(
            |(
                delay,
                payload_utf8,
                expiry,
                content_type,
                response_topic,
                correlation_data,
                user_properties,
            )| {
                WillProperties {
                    delay,
                    payload_utf8,
                    expiry,
                    content_type,
                    response_topic,
                    correlation_data,
                    user_properties,
                }
            },
        );
    (topic_name(), binary(), qos(), any::<bool>(), only(v5, properties)).prop_map(
        |(topic, payload, qos, retain, properties)| LastWill { topic, payload, qos, retain, properties },
    )
}

fn connack(v5: bool) -> impl Strategy<Value = Connack> {
    let reason = if v5 {
        reason(PacketKind::Connack).boxed()
    } else {
        (0u8..=5).prop_map(|code| ReasonCode::from_connect_return_code(code).unwrap()).boxed()
    };
    (any::<bool>(), reason, only(v5, connack_properties()))
        .prop_map(|(session_present, reason, properties)| Connack { session_present, reason, properties })
}

fn connack_properties() -> impl Strategy<Value = ConnackProperties> {
    let flag = || option::of(any::<bool>());
    let numbers = (
        option::of(any::<u32>()),
        option::of(any::<NonZeroU16>()),
        option::of(any::<NonZeroU32>()),
        option::of(any::<u16>()),
        option::of(any::<u16>()),
        option::of(prop_oneof![Just(QoS::AtMostOnce), Just(QoS::AtLeastOnce)]),
    );
    let texts =
        (option::of(text()), option::of(text()), option::of(text()), option::of(text()), option::of(text()));
    (numbers, (flag(), flag(), flag(), flag()), texts, pairs(), option::of(secret())).prop_map(
        |(numbers, flags, texts, user_properties, authentication_data)| ConnackProperties {
            session_expiry: numbers.0,
            receive_maximum: numbers.1,
            qos_max: numbers.5,
            retain_available: flags.0,
            packet_bytes_max: numbers.2,
            assigned_client_id: texts.0,
            topic_alias_maximum: numbers.3,
            reason_string: texts.1,
            user_properties,
            wildcard_available: flags.1,
            subscription_id_available: flags.2,
            shared_available: flags.3,
            keep_alive: numbers.4,
            response_information: texts.2,
            server_reference: texts.3,
            authentication_method: texts.4,
            authentication_data,
        },
    )
}

fn publish(v5: bool) -> impl Strategy<Value = Publish> {
    let head = (any::<bool>(), qos(), any::<bool>(), topic_name(), packet_id(), any::<bool>());
    (head, only(v5, publish_properties()), vec(any::<u8>(), 0..300)).prop_map(
        |((dup, qos, retain, topic, packet_id, blank), properties, payload)| Publish {
            dup: dup && qos != QoS::AtMostOnce,
            qos,
            retain,
            topic: if blank && properties.topic_alias.is_some() { Text::default() } else { topic },
            packet_id: (qos != QoS::AtMostOnce).then_some(packet_id),
            properties,
            payload: Bytes::from(payload),
        },
    )
}

fn publish_properties() -> impl Strategy<Value = PublishProperties> {
    let numbers = (option::of(any::<bool>()), option::of(any::<u32>()), option::of(1..=u16::MAX));
    let texts = (option::of(topic_name()), option::of(binary()), option::of(text()));
    (numbers, texts, pairs(), vec(subscription_id(), 0..3)).prop_map(
        |(numbers, texts, user_properties, subscription_ids)| PublishProperties {
            payload_utf8: numbers.0,
            expiry: numbers.1,
            topic_alias: numbers.2,
            response_topic: texts.0,
            correlation_data: texts.1,
            user_properties,
            subscription_ids,
            content_type: texts.2,
        },
    )
}

fn ack(v5: bool, kind: PacketKind) -> impl Strategy<Value = Ack> {
    let reason = if v5 { reason(kind).boxed() } else { Just(ReasonCode::Success).boxed() };
    let properties = (option::of(text()), pairs())
        .prop_map(|(reason_string, user_properties)| AckProperties { reason_string, user_properties });
    (packet_id(), reason, only(v5, properties)).prop_map(|(packet_id, reason, properties)| Ack {
        packet_id,
        reason,
        properties,
    })
}

fn suback_properties() -> impl Strategy<Value = SubackProperties> {
    (option::of(text()), pairs())
        .prop_map(|(reason_string, user_properties)| SubackProperties { reason_string, user_properties })
}

fn subscribe(v5: bool) -> impl Strategy<Value = Subscribe> {
    let properties =
        (option::of(subscription_id()), pairs()).prop_map(|(subscription_id, user_properties)| {
            SubscribeProperties { subscription_id, user_properties }
        });
    let handling = prop_oneof![
        Just(RetainHandling::Send),
        Just(RetainHandling::SendIfNew),
        Just(RetainHandling::DoNotSend)
    ];
    let subscription = (filter(), qos(), any::<bool>(), any::<bool>(), handling).prop_map(
        move |(filter, qos, no_local, retain_as_published, retain_handling)| {
            let no_local = no_local && !filter.as_str().starts_with("$share/");
            let options = if v5 {
                SubscriptionOptions { qos, no_local, retain_as_published, retain_handling }
            } else {
                SubscriptionOptions { qos, ..Default::default() }
            };
            Subscription { filter, options }
        },
    );
    (packet_id(), only(v5, properties), vec(subscription, 1..5))
        .prop_map(|(packet_id, properties, subscriptions)| Subscribe { packet_id, properties, subscriptions })
}

fn suback(v5: bool) -> impl Strategy<Value = Suback> {
    let reason = if v5 {
        reason(PacketKind::Suback).boxed()
    } else {
        prop_oneof![qos().prop_map(QoS::granted), Just(ReasonCode::UnspecifiedError)].boxed()
    };
    (packet_id(), only(v5, suback_properties()), vec(reason, 0..5))
        .prop_map(|(packet_id, properties, reasons)| Suback { packet_id, properties, reasons })
}

fn unsubscribe(v5: bool) -> impl Strategy<Value = Unsubscribe> {
    let properties = pairs().prop_map(|user_properties| UnsubscribeProperties { user_properties });
    (packet_id(), only(v5, properties), vec(filter(), 1..5))
        .prop_map(|(packet_id, properties, filters)| Unsubscribe { packet_id, properties, filters })
}

fn unsuback(v5: bool) -> impl Strategy<Value = Unsuback> {
    (packet_id(), only(v5, suback_properties()), only(v5, vec(reason(PacketKind::Unsuback), 0..5)))
        .prop_map(|(packet_id, properties, reasons)| Unsuback { packet_id, properties, reasons })
}

fn disconnect(v5: bool) -> impl Strategy<Value = Disconnect> {
    let reason = if v5 { reason(PacketKind::Disconnect).boxed() } else { Just(ReasonCode::Success).boxed() };
    let properties = (option::of(any::<u32>()), option::of(text()), pairs(), option::of(text())).prop_map(
        |(session_expiry, reason_string, user_properties, server_reference)| DisconnectProperties {
            session_expiry,
            reason_string,
            user_properties,
            server_reference,
        },
    );
    (reason, only(v5, properties)).prop_map(|(reason, properties)| Disconnect { reason, properties })
}

fn auth() -> impl Strategy<Value = Auth> {
    let properties = (option::of(text()), option::of(secret()), option::of(text()), pairs()).prop_map(
        |(authentication_method, authentication_data, reason_string, user_properties)| AuthProperties {
            authentication_method,
            authentication_data,
            reason_string,
            user_properties,
        },
    );
    (reason(PacketKind::Auth), properties).prop_map(|(reason, properties)| Auth { reason, properties })
}
