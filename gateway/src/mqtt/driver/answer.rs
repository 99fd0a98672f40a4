//! What a client is told, in turn, and not before the store has made it true.

use tokio::io::{AsyncRead, AsyncWrite};
use towline_protocols::mqtt::{PacketId, QoS, ReasonCode, Version};

use super::{Driver, End};
use crate::{
    access::Leave,
    mqtt::{
        client::Closing,
        inbox::{Incoming, Way},
        publish,
        receipts::Receipt,
        subscribe,
    },
    settings::Mqtt3Denied,
    store::{StoreError, Table, Write},
};

const NOT_STORED: Closing = Closing {
    reason: ReasonCode::ImplementationSpecificError,
    text: "the session cannot be stored; what was not answered has to be sent again",
};

const NOT_ACCEPTED: Closing =
    Closing { reason: ReasonCode::UnspecifiedError, text: "the message was not accepted; send it again" };

const DENIED: Closing = Closing { reason: ReasonCode::NotAuthorized, text: "the topic is not permitted" };

impl<S: AsyncRead + AsyncWrite + Unpin> Driver<S> {
    /// Distributes a publish and acknowledges it, or says why not.
    pub(super) fn finish(&mut self, incoming: &Incoming, result: Result<(), ReasonCode>) -> Result<(), End> {
        let &Incoming { qos, packet_id, way, .. } = incoming;
        if let Way::Nowhere(reason) = way {
            return self.refuse(qos, packet_id, reason, Mqtt3Denied::Acknowledge);
        }
        match incoming.leave {
            Leave::Granted => {}
            Leave::Denied => {
                let mqtt3_denied = self.attachment.gateway.snapshot().settings.acl.mqtt3_denied;
                return self.refuse(qos, packet_id, ReasonCode::NotAuthorized, mqtt3_denied);
            }
            // It may come again.
            Leave::Unknown => return self.put_off(qos, packet_id),
        }
        let (reason, waits) = match result {
            // QoS 0 is not repeated: its subscribers need not miss what the backend did.
            Err(reason) if qos != QoS::AtMostOnce => (reason, false),
            _ => {
                let mark = match packet_id.filter(|_| qos == QoS::ExactlyOnce) {
                    Some(id) => {
                        let Some(mark) = self.mark_received(id) else { return Ok(()) };
                        mark
                    }
                    None => None,
                };
                self.distribute(incoming, mark)
            }
        };
        let Some(packet_id) = packet_id else { return Ok(()) };
        if reason == ReasonCode::QuotaExceeded {
            self.unmark_received(packet_id);
        }
        // Its publisher may forget the message once it is acknowledged.
        self.answer(Receipt::Published { packet_id, qos, reason }, waits)
    }

    /// Retains a message if asked, and hands it to its subscribers. Says what its publisher is told, and whether that
    /// has to wait for the store.
    fn distribute(&mut self, incoming: &Incoming, mark: Option<Write>) -> (ReasonCode, bool) {
        let &Incoming { ref message, qos, way, .. } = incoming;
        let gateway = &self.attachment.gateway;
        if let Way::Later(delay) = way {
            if let Err(reason) = publish::publish_later(gateway, &self.origin, message, delay) {
                return (reason, false);
            }
            mark.into_iter().for_each(|mark| gateway.store.must_write(mark));
            return (ReasonCode::Success, gateway.store.is_lasting());
        }
        if way == Way::Shadow {
            let waits = gateway.shadows.handle(gateway, message) || mark.is_some();
            mark.into_iter().for_each(|mark| gateway.store.must_write(mark));
            return (ReasonCode::Success, waits);
        }
        if gateway.upstreams.came_back(message) {
            // Its subscribers here have had it.
            gateway.upstreams.count_looped();
            let waits = mark.is_some();
            mark.into_iter().for_each(|mark| gateway.store.must_write(mark));
            return (ReasonCode::Success, waits);
        }
        match publish::retain(gateway, message) {
            // It comes again: its subscribers are not to have it twice.
            Err(reason) if qos != QoS::AtMostOnce => return (reason, false),
            _ => {}
        }
        let is_retained = message.retain && gateway.mqtt.retained.is_lasting();
        let waits = is_retained || mark.is_some();
        let fanout = publish::distribute_with(gateway, message, mark, &mut self.last, self.now);
        let is_wanted = way.is_routed() || fanout.total() > 0;
        let reason = match () {
            () if fanout.unkept > 0 => ReasonCode::QuotaExceeded,
            () if is_wanted => ReasonCode::Success,
            () => ReasonCode::NoMatchingSubscribers,
        };
        (reason, waits || fanout.to_write > 0)
    }

    /// The topic is not the client's to publish to, or is none. MQTT 3 has no word for that but the end of the connection, which a
    /// client that repeats itself would not be helped by.
    fn refuse(
        &mut self,
        qos: QoS,
        packet_id: Option<PacketId>,
        reason: ReasonCode,
        mqtt3_denied: Mqtt3Denied,
    ) -> Result<(), End> {
        self.attachment.gateway.mqtt.counters.refused.inc();
        let Some(packet_id) = packet_id else { return Ok(()) };
        let is_told = self.attachment.version == Version::V5;
        if !is_told && mqtt3_denied == Mqtt3Denied::Disconnect {
            return Err(End::Closed(DENIED));
        }
        let reason = if is_told { reason } else { ReasonCode::Success };
        if qos == QoS::ExactlyOnce && !is_told {
            // For its publisher it is taken, until it releases it.
            let mut inner = self.attachment.client.lock();
            if let Some((_, session)) = inner.current(self.attachment.epoch) {
                session.mark_received(packet_id);
            }
        }
        self.answer(Receipt::Published { packet_id, qos, reason }, false)
    }

    /// Nobody can say whether the topic is the client's to publish to. What it does not send again is lost.
    fn put_off(&mut self, qos: QoS, packet_id: Option<PacketId>) -> Result<(), End> {
        self.attachment.gateway.mqtt.counters.refused.inc();
        let Some(packet_id) = packet_id else { return Ok(()) };
        let reason = ReasonCode::ImplementationSpecificError;
        self.answer(Receipt::Published { packet_id, qos, reason }, false)
    }

    /// A QoS 2 publish is being distributed: what comes under its identifier is a repetition, on whatever connection.
    /// Returns what the store has to know of that with the message, if it keeps the session; nothing when the session
    /// is another connection's, or has the message from it.
    #[allow(clippy::option_option, reason = "the session may be gone, and may not be kept")]
    fn mark_received(&self, id: PacketId) -> Option<Option<Write>> {
        let mut inner = self.attachment.client.lock();
        let (_, session) = inner.current(self.attachment.epoch)?;
        session.mark_received(id);
        let key = inner.received_key(id);
        Some(key.map(|key| Write::Put { table: Table::MqttReceived, key, value: Vec::new() }))
    }

    /// It was not taken: it may come again under its identifier.
    fn unmark_received(&self, id: PacketId) {
        let mut inner = self.attachment.client.lock();
        if let Some((_, session)) = inner.current(self.attachment.epoch) {
            session.unmark_received(id);
        }
        drop(inner);
        self.forget_received(id);
    }

    pub(super) fn forget_received(&self, id: PacketId) {
        if let Some(key) = self.attachment.client.lock().received_key(id) {
            let store = &self.attachment.gateway.store;
            store.must_write(Write::Delete { table: Table::MqttReceived, key });
        }
    }

    /// Answers when what the answer says of the session is durable, if it is kept.
    pub(super) fn answer_durably(&mut self, receipt: Receipt) -> Result<(), End> {
        let waits = self.attachment.client.is_kept();
        self.answer(receipt, waits)
    }

    /// Answers in turn, and, if it `waits`, when all that was written before is durable.
    fn answer(&mut self, receipt: Receipt, waits: bool) -> Result<(), End> {
        if !waits && self.receipts.is_empty() {
            return self.hand_out(receipt, Ok(()));
        }
        let written = waits.then(|| self.attachment.gateway.store.begin_barrier());
        self.receipts.push(receipt, written);
        Ok(())
    }

    pub(super) fn hand_out(&mut self, receipt: Receipt, written: Result<(), StoreError>) -> Result<(), End> {
        let is_lost = written.is_err();
        if let Err(error) = written {
            let client_id = &self.attachment.client.id;
            tracing::warn!(%client_id, %error, "what a client sent could not be stored");
        }
        match receipt {
            Receipt::Published { packet_id, qos, reason } => {
                let reason = if is_lost { ReasonCode::UnspecifiedError } else { reason };
                return self.acknowledge(packet_id, qos, reason);
            }
            Receipt::Repeated(packet_id) => {
                let reason = if is_lost { ReasonCode::UnspecifiedError } else { ReasonCode::Success };
                return self.acknowledge_repeated(packet_id, reason);
            }
            _ if is_lost => return Err(End::Closed(NOT_STORED)),
            Receipt::Subscribed(subscribed) => {
                let wanted = subscribe::answer(&self.attachment, subscribed);
                self.want_retained(wanted);
            }
            receipt => {
                let mut inner = self.attachment.client.lock();
                let Some((connection, _)) = inner.current(self.attachment.epoch) else { return Ok(()) };
                match receipt {
                    Receipt::Received(id, reason) => connection.pubrel(id, reason),
                    Receipt::Released(id, reason) => connection.pubcomp(id, reason),
                    Receipt::Unsubscribed(id, reasons) => connection.unsuback(id, reasons),
                    Receipt::Published { .. } | Receipt::Repeated(_) | Receipt::Subscribed(_) => {}
                }
            }
        }
        Ok(())
    }

    fn acknowledge(&mut self, packet_id: PacketId, qos: QoS, reason: ReasonCode) -> Result<(), End> {
        let mut inner = self.attachment.client.lock();
        let Some((connection, session)) = inner.current(self.attachment.epoch) else { return Ok(()) };
        if reason.is_error() && connection.version() != Version::V5 {
            return Err(End::Closed(NOT_ACCEPTED));
        }
        connection.acknowledge(session, packet_id, qos, reason);
        Ok(())
    }

    fn acknowledge_repeated(&mut self, packet_id: PacketId, reason: ReasonCode) -> Result<(), End> {
        let mut inner = self.attachment.client.lock();
        let Some((connection, session)) = inner.current(self.attachment.epoch) else { return Ok(()) };
        if reason.is_error() && connection.version() != Version::V5 {
            return Err(End::Closed(NOT_ACCEPTED));
        }
        connection.acknowledge_repeated(session, packet_id, reason);
        Ok(())
    }
}
