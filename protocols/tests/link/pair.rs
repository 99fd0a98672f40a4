//! A client's and a server's connection driven against each other in simulated time.

#![allow(clippy::unwrap_used, reason = "test support: a failure here is the test's")]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use towline_protocols::{
    hpack::HeaderField,
    link::{Config, Connection, Event, Hello, LinkError, Priority, RequestHead, Welcome},
};

/// Both ends of one connection and the bytes between them.
pub(crate) struct Pair {
    pub(crate) now: Instant,
    pub(crate) client: Connection,
    pub(crate) server: Connection,
    pub(crate) to_server: BytesMut,
    pub(crate) to_client: BytesMut,
    pub(crate) client_events: Vec<Event>,
    pub(crate) server_events: Vec<Event>,
}

/// A moment to count from: machines never look at a clock themselves.
#[allow(clippy::disallowed_methods, reason = "any origin will do; only differences count")]
pub(crate) fn origin() -> Instant {
    Instant::now()
}

pub(crate) fn hello() -> Hello {
    Hello { client_id: "phone-7".into(), session_secret: vec![7; 16].into(), epoch: 1, ..Hello::default() }
}

pub(crate) fn field(name: &'static str, value: &str) -> HeaderField {
    HeaderField::new(name, value.to_owned())
}

pub(crate) fn head(priority: Priority) -> RequestHead {
    RequestHead {
        priority,
        fields: vec![field(":method", "POST"), field(":path", "/orders.Orders/Place")],
        ..RequestHead::default()
    }
}

pub(crate) fn status_200() -> Vec<HeaderField> {
    vec![field(":status", "200"), field("content-type", "application/grpc")]
}

/// Bytes that do not compress.
pub(crate) fn noise(bytes: usize, seed: u64) -> Bytes {
    let mut noise = vec![0; bytes];
    fastrand::Rng::with_seed(seed).fill(&mut noise);
    noise.into()
}

impl Pair {
    pub(crate) fn new(config: Config) -> Self {
        Self::with(config.clone(), config, hello())
    }

    pub(crate) fn with(client: Config, server: Config, hello: Hello) -> Self {
        let now = origin();
        Self {
            now,
            client: Connection::client(Arc::new(client), hello, now),
            server: Connection::server(Arc::new(server), now),
            to_server: BytesMut::new(),
            to_client: BytesMut::new(),
            client_events: Vec::new(),
            server_events: Vec::new(),
        }
    }

    /// A pair whose introduction is over.
    pub(crate) fn introduced(config: Config) -> Self {
        let mut pair = Self::new(config);
        pair.run().unwrap();
        assert!(matches!(pair.server_events.remove(0), Event::Hello(_)));
        pair.server.control().welcome(Welcome { resumed: true, ..Welcome::default() });
        pair.run().unwrap();
        assert!(matches!(pair.client_events.remove(0), Event::Welcome(_)));
        pair
    }

    pub(crate) fn advance(&mut self, time: Duration) {
        self.now += time;
    }

    /// Carries bytes both ways until neither side has any.
    pub(crate) fn run(&mut self) -> Result<(), LinkError> {
        // Events leave frames to be sent.
        self.collect();
        loop {
            let sent = self.client.poll_transmit(self.now, &mut self.to_server, usize::MAX)
                + self.server.poll_transmit(self.now, &mut self.to_client, usize::MAX);
            self.server.handle_bytes(self.now, &mut self.to_server)?;
            self.client.handle_bytes(self.now, &mut self.to_client)?;
            self.collect();
            if sent == 0 {
                return Ok(());
            }
        }
    }

    pub(crate) fn collect(&mut self) {
        self.client_events.extend(std::iter::from_fn(|| self.client.poll_event()));
        self.server_events.extend(std::iter::from_fn(|| self.server.poll_event()));
    }

    /// Message bytes of `seq` that the server was given.
    pub(crate) fn server_bytes(&self, seq: u64) -> usize {
        message_bytes(&self.server_events, seq)
    }

    /// Message bytes of `seq` that the client was given.
    pub(crate) fn client_bytes(&self, seq: u64) -> usize {
        message_bytes(&self.client_events, seq)
    }
}

fn message_bytes(events: &[Event], seq: u64) -> usize {
    events
        .iter()
        .map(|event| match event {
            Event::MessagePart { seq: of, bytes, .. } if *of == seq => bytes.len(),
            _ => 0,
        })
        .sum()
}
