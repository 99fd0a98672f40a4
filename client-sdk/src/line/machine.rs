//! The protocol's machine of either binding, and what the core has for it.

use std::{future::poll_fn, time::Instant};

use bytes::BytesMut;
use towline_protocols::{
    link::{self, Connection, Event, LinkError, RequestHead, RpcError, RpcErrorKind},
    policy::Network,
};

#[cfg(not(feature = "quic"))]
use super::quic::Streams;
#[cfg(feature = "quic")]
use super::streams::Streams;
use crate::{
    connect::{Moves, PathCounts},
    core::{Core, Kept, RequestSink},
};

/// A connection of TCP, or QUIC's control stream and the streams of requests.
pub(super) enum Machine {
    Tcp(Box<Connection>),
    #[cfg_attr(not(feature = "quic"), expect(dead_code, reason = "nobody makes one"))]
    Quic(Box<link::Control>, Box<Streams>),
}

impl Machine {
    pub(super) fn control(&mut self) -> &mut link::Control {
        match self {
            Self::Tcp(connection) => connection.control(),
            Self::Quic(control, _) => control,
        }
    }

    pub(super) fn handle_bytes(&mut self, now: Instant, input: &mut BytesMut) -> Result<(), LinkError> {
        match self {
            Self::Tcp(connection) => connection.handle_bytes(now, input),
            Self::Quic(control, _) => control.handle_bytes(now, input),
        }
    }

    pub(super) fn poll_event(&mut self) -> Option<Event> {
        match self {
            Self::Tcp(connection) => connection.poll_event(),
            Self::Quic(control, _) => control.poll_event(),
        }
    }

    pub(super) fn poll_transmit(&mut self, now: Instant, out: &mut BytesMut, bytes_max: usize) -> usize {
        match self {
            Self::Tcp(connection) => connection.poll_transmit(now, out, bytes_max),
            Self::Quic(control, _) => control.poll_transmit(now, out, bytes_max),
        }
    }

    /// Datagrams of QUIC that have come.
    pub(super) fn datagrams(&self) -> Option<u64> {
        match self {
            Self::Tcp(_) => None,
            Self::Quic(_, streams) => Some(streams.path.heard()),
        }
    }

    /// What QUIC counts of its packets.
    pub(super) fn counts(&self) -> Option<PathCounts> {
        match self {
            Self::Tcp(_) => None,
            Self::Quic(_, streams) => Some(streams.path.counts()),
        }
    }

    /// Gives the machine everything that waits for it. Whether something is said beside its own stream.
    pub(super) fn tell(&mut self, core: &mut Core, online: bool, may_open: bool, now: Instant) -> bool {
        if core.take_dictionary_unknown() {
            self.control().forget_dictionary();
        }
        if online {
            tell_control(self.control(), core);
        }
        let (resets, forgets) = (core.take_resets(), core.take_forgets());
        match self {
            Self::Tcp(connection) => {
                let cancelled = RpcError::new(
                    RpcErrorKind::Cancelled,
                    link::Execution::MayHaveRun,
                    "the client lost interest",
                );
                resets.iter().for_each(|&seq| connection.reset(seq, &cancelled));
                forgets.iter().for_each(|&seq| connection.forget(seq));
                tell_connection(connection, core, may_open, now);
                false
            }
            Self::Quic(control, streams) => {
                let spoke = streams.tell(control, core, may_open, online);
                if spoke {
                    control.spoke(now);
                }
                spoke
            }
        }
    }

    /// Continues a request of an earlier connection on this one; on TCP, HELLO has done so.
    pub(super) fn attach(&mut self, core: &mut Core, kept: &Kept) {
        match self {
            Self::Quic(control, streams) => streams.attach(control, core, kept),
            Self::Tcp(connection) => {
                if let (true, Some(call)) = (kept.continues, core.call(kept.key)) {
                    connection.go_on(call.seq, call.asked());
                }
            }
        }
    }

    /// Goes on from a socket of that network; `None` where only a new connection can.
    pub(super) fn move_on(&self, network: &Network) -> Option<Moves> {
        match self {
            Self::Tcp(_) => None,
            Self::Quic(_, streams) => Some(streams.path.move_on(network)),
        }
    }

    /// It goes on from there.
    pub(super) fn moved(&mut self, now: Instant) {
        if let Self::Quic(_, streams) = self {
            streams.path.moved(now);
        }
    }

    /// The gateway has what was said first.
    pub(super) fn welcomed(&self) {
        if let Self::Quic(_, streams) = self {
            streams.path.welcomed();
        }
    }

    pub(super) fn moved_due(&self) -> Option<Instant> {
        match self {
            Self::Tcp(_) => None,
            Self::Quic(_, streams) => streams.path.due(),
        }
    }

    /// Whether the gateway was not heard since the network changed.
    pub(super) fn is_lost(&mut self, now: Instant) -> bool {
        match self {
            Self::Tcp(_) => false,
            Self::Quic(_, streams) => streams.path.is_lost(now),
        }
    }

    /// Waits until a task of a QUIC stream has ended, or leaves something to the control stream.
    pub(super) async fn streams_moved(&mut self) {
        match self {
            Self::Tcp(_) => std::future::pending().await,
            Self::Quic(control, streams) => tokio::select! {
                () = streams.ended() => {}
                () = poll_fn(|cx| control.poll_instructions(cx)) => {}
            },
        }
    }
}

/// Publishes wait here while more than this is queued in the machine.
const PUBLISH_QUEUE_BYTES: usize = 64 << 10;

fn tell_control(control: &mut link::Control, core: &mut Core) {
    while let Some((priority, id)) = core.session.take_push_ack() {
        control.push_ack(priority, id);
    }
    core.dictionaries.take_held().into_iter().for_each(|held| control.fetch(held));
    if let Some(subscribe) = core.take_subscribe() {
        control.subscribe(subscribe);
    }
    if control.queued_bytes() < PUBLISH_QUEUE_BYTES {
        for publish in core.take_publishes() {
            if let Err(error) = control.publish(&publish) {
                core.publish_failed(publish.id, error);
            }
        }
    }
}

fn tell_connection(connection: &mut Connection, core: &mut Core, may_open: bool, now: Instant) {
    let mut waiting = Vec::new();
    while let Some(key) = core.next_dirty() {
        let streams_max = connection.control().peer().limits.streams_max as usize;
        let may_open = may_open && connection.streams_open() < streams_max;
        if !core.pump(key, connection, may_open, now) {
            waiting.push(key);
        }
    }
    core.put_back(waiting);
}

impl RequestSink for Connection {
    fn request(&mut self, seq: u64, head: RequestHead, end: bool) -> Result<(), RpcError> {
        self.send_request(seq, head, end)
    }

    fn message(&mut self, seq: u64, message: bytes::Bytes, end: bool) -> Result<usize, RpcError> {
        self.send_message(seq, message, end)
    }

    fn end(&mut self, seq: u64) -> Result<(), RpcError> {
        self.send_end(seq)
    }

    fn capacity(&mut self, seq: u64) -> usize {
        self.send_capacity(seq)
    }

    fn credit(&mut self, seq: u64, bytes: usize) {
        Connection::credit(self, seq, bytes);
    }
}
