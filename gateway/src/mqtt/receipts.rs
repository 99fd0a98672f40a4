//! Answers in the order of what they answer (MQTT 5, section 4.6), each when what it says is durable.

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use towline_protocols::mqtt::{PacketId, QoS, ReasonCode};

use super::subscribe::Subscribed;
use crate::store::StoreError;

type Written = Pin<Box<dyn Future<Output = Result<(), StoreError>> + Send>>;

/// What a client is to be told.
#[derive(Debug)]
pub(super) enum Receipt {
    /// PUBACK or PUBREC.
    Published {
        packet_id: PacketId,
        qos: QoS,
        reason: ReasonCode,
    },
    /// PUBREC of a publish that is taken already.
    Repeated(PacketId),
    /// PUBREL: once it is out, the client forgets that it has the message, so the gateway must not.
    Received(PacketId, ReasonCode),
    /// PUBCOMP: once it is out, the client may use the identifier for another message.
    Released(PacketId, ReasonCode),
    Subscribed(Subscribed),
    Unsubscribed(PacketId, Vec<ReasonCode>),
}

/// Receipts that wait for the store, and those behind them. Bounded: its owner stops reading when there are
/// too many. Holds no memory while nobody waits.
#[derive(Default)]
pub(super) struct Receipts {
    waiting: VecDeque<(Receipt, Option<Written>)>,
}

impl Receipts {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Takes a receipt, to be handed out after `written`.
    pub(super) fn push<F>(&mut self, receipt: Receipt, written: Option<F>)
    where
        F: Future<Output = Result<(), StoreError>> + Send + 'static,
    {
        self.waiting.push_back((receipt, written.map(|written| -> Written { Box::pin(written) })));
    }

    /// The next receipt that the client may have, or that has lost what it stood on. Pending with nothing inside is
    /// not woken.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<(Receipt, Result<(), StoreError>)> {
        let Some((_, written)) = self.waiting.front_mut() else { return Poll::Pending };
        let result = match written {
            Some(written) => ready!(written.as_mut().poll(cx)),
            None => Ok(()),
        };
        let Some((receipt, _)) = self.waiting.pop_front() else { return Poll::Pending };
        if self.waiting.is_empty() {
            self.waiting = VecDeque::new();
        }
        Poll::Ready((receipt, result))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::{Bytes, BytesMut};
    use futures_util::FutureExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
    use towline_protocols::mqtt::{
        Connect, ConnectProperties, Limits, Packet, Publish, PublishProperties, Text, Version, decode, encode,
    };

    use super::*;
    use crate::{
        gateway::Gateway,
        hub::{Delivered, Delivery, Mailbox, Message, SubscribeOptions},
        mqtt,
        request::{Origin, Protocol},
        settings::{Authentication, Listener, Settings},
        store::{Store, Table, Write},
    };

    /// A client whose messages the store keeps.
    struct Kept(Store);

    impl Mailbox for Kept {
        fn deliver(&self, _: &Arc<Message>, _: &Delivery<'_>) -> Delivered {
            self.0.write(Write::Put { table: Table::Pushes, key: vec![1], value: vec![1] }).unwrap();
            Delivered::Stored
        }

        fn is_connected(&self) -> bool {
            false
        }

        fn is_durable(&self) -> bool {
            true
        }
    }

    fn text(text: &str) -> Text {
        Text::try_from(text).unwrap()
    }

    async fn send(stream: &mut DuplexStream, packet: Packet) {
        let mut out = BytesMut::new();
        encode(&packet, Version::V5, &mut out).unwrap();
        stream.write_all(&out).await.unwrap();
    }

    async fn publish(stream: &mut DuplexStream, topic: &str, id: u16) {
        let publish = Publish {
            dup: false,
            qos: QoS::AtLeastOnce,
            retain: false,
            topic: text(topic),
            packet_id: PacketId::new(id),
            properties: PublishProperties::default(),
            payload: Bytes::from_static(b"x"),
        };
        send(stream, Packet::Publish(Box::new(publish))).await;
    }

    async fn receive(stream: &mut DuplexStream, input: &mut BytesMut) -> Packet {
        loop {
            if let Some(packet) = decode(input, Version::V5, &Limits::default()).unwrap() {
                return packet;
            }
            assert!(stream.read_buf(input).await.unwrap() > 0, "the connection has ended");
        }
    }

    async fn acked(stream: &mut DuplexStream, input: &mut BytesMut) -> u16 {
        match receive(stream, input).await {
            Packet::Puback(ack) => ack.packet_id.get(),
            other => panic!("{other:?} instead of PUBACK"),
        }
    }

    /// A gateway with a client `app` that the store keeps messages for, and a device that is connected.
    async fn connected() -> (Arc<Gateway>, DuplexStream, BytesMut) {
        let mut settings = Settings::default();
        settings.listeners.push(Listener {
            authentication: Authentication::None,
            ..Listener::plain("test", ([127, 0, 0, 1], 0).into())
        });
        let gateway = Gateway::build(settings).unwrap();
        gateway.hub.register(&"app".into(), None, Arc::new(Kept(gateway.store.clone()))).unwrap();
        let options = SubscribeOptions { qos: 1, ..SubscribeOptions::default() };
        gateway.hub.subscribe("app", "kept", options).unwrap();
        let (mut near, far) = tokio::io::duplex(64 * 1024);
        let origin = Origin::new("test".into(), ([127, 0, 0, 1], 9).into(), Protocol::Mqtt, false);
        tokio::spawn(mqtt::serve(gateway.clone(), Arc::new(origin), far, Bytes::new()));
        let connect = Connect {
            version: Version::V5,
            is_bridge: false,
            clean_start: true,
            keep_alive: 0,
            client_id: text("device"),
            will: None,
            user_name: None,
            password: None,
            properties: ConnectProperties::default(),
        };
        send(&mut near, Packet::Connect(Box::new(connect))).await;
        let mut input = BytesMut::new();
        assert!(matches!(receive(&mut near, &mut input).await, Packet::Connack(_)));
        (gateway, near, input)
    }

    #[tokio::test]
    async fn a_publish_that_the_store_keeps_is_acknowledged_after_it_is_written() {
        let (gateway, mut device, mut input) = connected().await;
        publish(&mut device, "other", 1).await;
        assert_eq!(acked(&mut device, &mut input).await, 1);
        let stalled = gateway.store.stall();
        publish(&mut device, "kept", 2).await;
        publish(&mut device, "kept", 3).await;
        publish(&mut device, "other", 4).await;
        // The connection is served meanwhile, and what came later is not acknowledged earlier.
        send(&mut device, Packet::Pingreq).await;
        assert_eq!(receive(&mut device, &mut input).await, Packet::Pingresp);
        drop(stalled);
        for id in 2..=4 {
            assert_eq!(acked(&mut device, &mut input).await, id);
        }
    }

    #[tokio::test]
    async fn receipts_that_wait_are_bounded_like_publishes() {
        let (gateway, mut device, mut input) = connected().await;
        let stalled = gateway.store.stall();
        let window = gateway.snapshot().settings.mqtt.receive_maximum;
        for id in 1..=window {
            publish(&mut device, "kept", id).await;
        }
        send(&mut device, Packet::Pingreq).await;
        // Every other task has its turn, again and again.
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        let early = device.read_buf(&mut input).now_or_never();
        assert!(early.is_none(), "nothing more is read: {input:?}");
        drop(stalled);
        let mut ids = Vec::new();
        for _ in 0..=window {
            match receive(&mut device, &mut input).await {
                Packet::Puback(ack) => ids.push(ack.packet_id.get()),
                other => assert_eq!(other, Packet::Pingresp),
            }
        }
        assert!(ids.into_iter().eq(1..=window), "in the order in which they came");
    }
}
