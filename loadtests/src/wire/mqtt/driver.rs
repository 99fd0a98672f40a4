//! The task of one MQTT connection.

use std::{collections::HashMap, io, num::NonZeroU16, rc::Rc, time::Duration};

use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncReadExt, ReadHalf, WriteHalf},
    sync::mpsc,
    time::Instant,
};
use towline_protocols::mqtt::{
    Ack, Limits, Packet, PacketId, Publish, PublishHead, QoS, ReasonCode, decode, encode,
};

use super::{
    Identity, KEEP_ALIVE_S, PublishOrder, VERSION, qos,
    windows::{LANE_BYTES, Lane},
};
use crate::{
    clock,
    fault::{Fault, FaultKind},
    tally::Recorder,
    wire::stream::{Stream, write_some},
};

/// Publishes stop while so much waits for the socket: more would only age in memory.
const OUTPUT_MAX: usize = 16 << 10;
/// What is read at a time.
const READ_BYTES: usize = 8 << 10;
/// Of a payload: when it was due, or sent.
const SENT_BYTES: usize = size_of::<u64>();
/// How often a publisher looks at the time although nothing happens.
const TICK: Duration = Duration::from_millis(100);

pub(super) struct Driver {
    reader: ReadHalf<Stream>,
    writer: WriteHalf<Stream>,
    input: BytesMut,
    output: BytesMut,
    /// Bytes wait in `output` or inside TLS.
    unflushed: bool,
    identity: Identity,
    qos: QoS,
    payload: Vec<u8>,
    recorder: Rc<Recorder>,
    /// What has to arrive before a closed loop goes on, and in how many copies.
    lane: Option<(Rc<Lane>, u64)>,
    orders: mpsc::UnboundedReceiver<PublishOrder>,
    order: Option<PublishOrder>,
    /// When each unacknowledged publish was due and sent.
    unacknowledged: HashMap<PacketId, (u64, u64)>,
    packet_id: PacketId,
    ping_at: Instant,
}

/// What happened first.
enum Turn {
    Read(io::Result<usize>),
    Wrote(io::Result<()>),
    Due(Option<u64>),
    Order(Option<PublishOrder>),
    Arrived,
    Tick,
}

impl Driver {
    pub(super) fn new(
        stream: Stream,
        input: BytesMut,
        identity: Identity,
        recorder: Rc<Recorder>,
        orders: mpsc::UnboundedReceiver<PublishOrder>,
    ) -> Self {
        let (reader, writer) = tokio::io::split(stream);
        let mut payload = vec![b'.'; identity.payload_bytes];
        let lane = identity.lane.filter(|_| identity.topic.is_some()).map(|(index, copies)| {
            payload[SENT_BYTES..SENT_BYTES + LANE_BYTES].copy_from_slice(&index.to_be_bytes());
            (recorder.windows.lane(index), copies)
        });
        Self {
            reader,
            writer,
            input,
            output: BytesMut::new(),
            unflushed: false,
            qos: qos(identity.qos),
            payload,
            identity,
            recorder,
            lane,
            orders,
            order: None,
            unacknowledged: HashMap::new(),
            packet_id: PacketId::MIN,
            ping_at: next_ping(),
        }
    }

    /// Until the connection ends or its owner is gone.
    pub(super) async fn run(mut self) {
        if let Err(fault) = self.serve().await {
            // Silent otherwise: an idle connection that breaks is seen by its absence.
            if self.order.is_some() {
                self.recorder.fault(fault);
            }
        }
    }

    async fn serve(&mut self) -> Result<(), Fault> {
        self.handle_input()?;
        loop {
            match self.turn().await {
                Turn::Read(read) => {
                    if read.map_err(|error| Fault::io(&error))? == 0 {
                        return Err(Fault::new(FaultKind::Closed, "the server closed the connection"));
                    }
                    self.handle_input()?;
                    if self.unflushed && !self.publishes() {
                        // Other connections' messages are looked at first: they have arrived as well, and writing
                        // acknowledgements meanwhile would count as the broker's time.
                        tokio::task::yield_now().await;
                    }
                }
                Turn::Wrote(result) => {
                    result.map_err(|error| Fault::io(&error))?;
                    self.unflushed = !self.output.is_empty();
                }
                Turn::Due(Some(due)) => self.publish(due)?,
                Turn::Due(None) => self.end_open_loop(),
                Turn::Order(None) => return Ok(()),
                Turn::Order(order) => self.order = order,
                Turn::Arrived => {}
                Turn::Tick => {
                    if let Some((lane, _)) = &self.lane {
                        lane.give_up(clock::now());
                    }
                    self.ping_if_quiet()?;
                }
            }
            self.go_on_with_order()?;
        }
    }

    async fn turn(&mut self) -> Turn {
        self.input.reserve(READ_BYTES);
        let room = self.may_publish();
        let busy = self.order.is_some();
        let wake = if busy { Instant::now() + TICK } else { self.ping_at };
        let waits = busy && !room;
        let due = self.order.as_mut().and_then(|order| order.due.as_mut());
        tokio::select! {
            read = self.reader.read_buf(&mut self.input) => Turn::Read(read),
            wrote = write_some(&mut self.writer, &mut self.output), if self.unflushed => Turn::Wrote(wrote),
            due = receive(due), if room => Turn::Due(due),
            order = self.orders.recv(), if !busy => Turn::Order(order),
            () = arrived(self.lane.as_ref()), if waits => Turn::Arrived,
            () = tokio::time::sleep_until(wake) => Turn::Tick,
        }
    }

    fn publishes(&self) -> bool {
        self.identity.topic.is_some()
    }

    /// The schedule is over; nothing follows but acknowledgements.
    fn end_open_loop(&mut self) {
        if let Some(order) = &mut self.order {
            (order.due, order.until) = (None, 0);
        }
    }

    fn may_publish(&self) -> bool {
        let window = self.order.as_ref().map_or(0, |order| order.in_flight);
        let has_room = self.lane.as_ref().is_none_or(|(lane, _)| lane.has_room(window));
        has_room && self.output.len() < OUTPUT_MAX && self.unacknowledged.len() < window
    }

    /// A closed loop sends what it may, and an order that is carried out is let go.
    fn go_on_with_order(&mut self) -> Result<(), Fault> {
        let Some(order) = &self.order else { return Ok(()) };
        if order.due.is_some() {
            return Ok(());
        }
        let (until, give_up) = (order.until, order.give_up);
        let mut now = clock::now();
        while now < until && self.may_publish() {
            self.publish(now)?;
            now = clock::now();
        }
        if now < until || self.unflushed && now < give_up {
            return Ok(());
        }
        if self.unacknowledged.is_empty() || now >= give_up {
            for (_, (due, sent)) in self.unacknowledged.drain() {
                let fault = Fault::new(FaultKind::Timeout, "no PUBACK or PUBCOMP in time");
                self.recorder.operation(due, sent, Err(fault));
            }
            self.order = None;
        }
        Ok(())
    }

    fn publish(&mut self, due: u64) -> Result<(), Fault> {
        let stamp = if self.identity.from_sent { clock::now() } else { due };
        self.payload[..SENT_BYTES].copy_from_slice(&stamp.to_be_bytes());
        if let Some((lane, copies)) = &self.lane {
            lane.sent(due, *copies);
        }
        let packet_id = (self.qos != QoS::AtMostOnce).then(|| self.next_packet_id());
        let head = PublishHead::<&str> {
            dup: false,
            qos: self.qos,
            retain: false,
            topic: self.identity.topic.as_deref().unwrap_or_default(),
            packet_id,
            topic_alias: None,
            payload_utf8: None,
            expiry: None,
            response_topic: None,
            correlation_data: None,
            user_properties: &[],
            subscription_ids: &[],
            content_type: None,
            payload_bytes: self.payload.len(),
        };
        head.encode(VERSION, &mut self.output).map_err(|error| Fault::new(FaultKind::Other, error))?;
        self.output.extend_from_slice(&self.payload);
        self.unflushed = true;
        match packet_id {
            Some(id) => _ = self.unacknowledged.insert(id, (due, clock::now())),
            None => self.recorder.sent(due),
        }
        Ok(())
    }

    /// The next one that no unacknowledged publish has; the window is far below their number.
    fn next_packet_id(&mut self) -> PacketId {
        loop {
            self.packet_id = self.packet_id.checked_add(1).unwrap_or(NonZeroU16::MIN);
            if !self.unacknowledged.contains_key(&self.packet_id) {
                return self.packet_id;
            }
        }
    }

    fn handle_input(&mut self) -> Result<(), Fault> {
        while let Some(packet) = decode(&mut self.input, VERSION, &Limits::default())
            .map_err(|error| Fault::new(FaultKind::Protocol, error))?
        {
            match packet {
                Packet::Publish(publish) => self.handle_publish(&publish)?,
                Packet::Puback(ack) | Packet::Pubcomp(ack) => self.handle_ack(&ack),
                Packet::Pubrec(ack) => self.handle_pubrec(&ack)?,
                Packet::Pubrel(ack) => {
                    self.send(&Packet::Pubcomp(Ack::new(ack.packet_id, ReasonCode::Success)))?
                }
                Packet::Pingresp => {}
                other => return Err(super::unexpected(&other)),
            }
        }
        Ok(())
    }

    fn handle_publish(&mut self, publish: &Publish) -> Result<(), Fault> {
        if publish.payload.len() >= SENT_BYTES {
            self.recorder.delivered(publish.payload.clone().get_u64());
        }
        if self.identity.lane.is_some() {
            self.recorder.windows.arrived(&publish.payload);
        }
        let Some(id) = publish.packet_id else { return Ok(()) };
        let ack = Ack::new(id, ReasonCode::Success);
        match publish.qos {
            QoS::AtMostOnce => Ok(()),
            QoS::AtLeastOnce => self.send(&Packet::Puback(ack)),
            QoS::ExactlyOnce => self.send(&Packet::Pubrec(ack)),
        }
    }

    /// The broker has a QoS 2 publish, or refuses it.
    fn handle_pubrec(&mut self, ack: &Ack) -> Result<(), Fault> {
        if ack.reason.is_error() {
            self.handle_ack(ack);
            return Ok(());
        }
        self.send(&Packet::Pubrel(Ack::new(ack.packet_id, ReasonCode::Success)))
    }

    /// The last that a publisher hears of a publish.
    fn handle_ack(&mut self, ack: &Ack) {
        let Some((due, sent)) = self.unacknowledged.remove(&ack.packet_id) else { return };
        let fault = || Fault::new(FaultKind::Status, format!("a publish was answered {:?}", ack.reason));
        self.recorder.operation(due, sent, if ack.reason.is_error() { Err(fault()) } else { Ok(()) });
    }

    fn ping_if_quiet(&mut self) -> Result<(), Fault> {
        if Instant::now() < self.ping_at {
            return Ok(());
        }
        self.ping_at = next_ping();
        self.send(&Packet::Pingreq)
    }

    fn send(&mut self, packet: &Packet) -> Result<(), Fault> {
        self.unflushed = true;
        encode(packet, VERSION, &mut self.output).map_err(|error| Fault::new(FaultKind::Other, error))
    }
}

fn next_ping() -> Instant {
    Instant::now() + Duration::from_secs(u64::from(KEEP_ALIVE_S) / 2)
}

/// Waits until something of a lane's has arrived; for ever without one.
async fn arrived(lane: Option<&(Rc<Lane>, u64)>) {
    match lane {
        Some((lane, _)) => lane.changed().await,
        None => std::future::pending().await,
    }
}

async fn receive(due: Option<&mut mpsc::Receiver<u64>>) -> Option<u64> {
    match due {
        Some(due) => due.recv().await,
        None => std::future::pending().await,
    }
}
