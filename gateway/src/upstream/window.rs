//! Messages on their way over one connection, and what the broker admits.

use std::{collections::VecDeque, fmt::Display};

use rumqttc::v5::mqttbytes::{
    QoS,
    v5::{ConnAck, Packet, PubAck, Publish},
};

use super::{Shared, direct::Job, wire::PACKET_IDS};
use crate::{
    error::{Execution, RpcError, RpcErrorKind},
    outbox::Letter,
    settings,
};

/// Messages sent and not acknowledged: what a broker with default settings takes at one time is more.
const IN_FLIGHT_MAX: usize = 256;

/// Who is to hear of a message.
pub(super) enum Sent {
    /// Its queue.
    Letter(Letter),
    /// Its publisher.
    Job(Job),
}

/// In the order in which they were sent.
pub(super) struct Window {
    in_flight: VecDeque<(u16, Sent)>,
    /// QoS 0, which is done when it is written.
    unwritten: Vec<Sent>,
    id_last: u16,
    admitted: Admitted,
}

impl Window {
    pub(super) fn new(admitted: Admitted) -> Self {
        Self { in_flight: VecDeque::new(), unwritten: Vec::new(), id_last: 0, admitted }
    }

    pub(super) fn has_room(&self) -> bool {
        let waiting = self.in_flight.len() + self.unwritten.len();
        waiting < IN_FLIGHT_MAX.min(self.admitted.receive_maximum)
    }

    /// Whether the broker takes it; fits it to what the broker can.
    pub(super) fn check(&self, publish: &mut Publish, backend: &settings::Backend) -> Result<(), RpcError> {
        // A broker that retains nothing still has subscribers.
        publish.retain &= self.admitted.retain;
        self.admitted.check(publish, backend)
    }

    /// Notes a message that goes out, and gives it its identifier.
    pub(super) fn add(&mut self, publish: &mut Publish, sent: Sent) {
        if publish.qos == QoS::AtMostOnce {
            self.unwritten.push(sent);
            return;
        }
        publish.pkid = self.next_id();
        self.in_flight.push_back((publish.pkid, sent));
    }

    /// One that no message on its way has.
    pub(super) fn next_id(&mut self) -> u16 {
        loop {
            self.id_last = self.id_last % PACKET_IDS + 1;
            if self.in_flight.iter().all(|(id, _)| *id != self.id_last) {
                return self.id_last;
            }
        }
    }

    pub(super) fn written(&mut self, shared: &Shared) {
        for sent in self.unwritten.drain(..) {
            shared.taken(sent);
        }
    }

    /// Whose acknowledgement it is.
    pub(super) fn acknowledged(&mut self, ack: &PubAck) -> Option<Sent> {
        let at = self.in_flight.iter().position(|(id, _)| *id == ack.pkid)?;
        self.in_flight.remove(at).map(|(_, sent)| sent)
    }

    /// Whether any of a queue's letters is on its way.
    pub(super) fn has_letters(&self) -> bool {
        let in_flight = self.in_flight.iter().map(|(_, sent)| sent);
        self.unwritten.iter().chain(in_flight).any(|sent| matches!(sent, Sent::Letter(_)))
    }

    /// The connection is gone: letters stay in their queue.
    pub(super) fn fail(self, backend: &settings::Backend, why: &dyn Display) {
        let in_flight = self.in_flight.into_iter().map(|(_, sent)| sent);
        for sent in self.unwritten.into_iter().chain(in_flight) {
            if let Sent::Job(job) = sent {
                job.fail(backend, why);
            }
        }
    }
}

/// What a broker says of itself in CONNACK. To go beyond it would end the connection, and with it what others have
/// on their way.
pub(super) struct Admitted {
    packet_bytes_max: usize,
    retain: bool,
    qos_max: u8,
    receive_maximum: usize,
}

impl Admitted {
    pub(super) fn new(connack: &ConnAck) -> Self {
        let properties = connack.properties.as_ref();
        let packet_bytes_max = properties.and_then(|properties| properties.max_packet_size);
        Self {
            packet_bytes_max: packet_bytes_max.map_or(usize::MAX, |max| max as usize),
            retain: properties.and_then(|properties| properties.retain_available) != Some(0),
            qos_max: properties.and_then(|properties| properties.max_qos).unwrap_or(2),
            receive_maximum: properties
                .and_then(|properties| properties.receive_max)
                .map_or(usize::from(u16::MAX), |max| usize::from(max.max(1))),
        }
    }

    fn check(&self, publish: &Publish, backend: &settings::Backend) -> Result<(), RpcError> {
        let refused = |kind, what: String| {
            let message = format!("backend {}: the broker {what}", backend.name);
            Err(RpcError::new(kind, Execution::NotRun, message))
        };
        if Packet::Publish(publish.clone()).size() > self.packet_bytes_max {
            let what = format!("takes packets of at most {} bytes", self.packet_bytes_max);
            return refused(RpcErrorKind::LimitExceeded, what);
        }
        if publish.qos != QoS::AtMostOnce && self.qos_max == 0 {
            return refused(RpcErrorKind::PermissionDenied, "takes QoS 0 only".to_owned());
        }
        Ok(())
    }
}
