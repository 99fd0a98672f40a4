//! The link on TCP: both machines of the protocol, and every frame between them counted.

use std::{sync::Arc, time::Instant};

use bytes::{Buf, Bytes, BytesMut};
use towline_protocols::{
    compress::{Compressor, DictionarySet, MESSAGE_BYTES_MIN_DEFAULT},
    hpack::HeaderShelf,
    link::{
        Config, Connection, Header, Hello, RequestHead, SessionHeaders, Welcome,
        client::{CallOptions, Session},
        frame::{self, Frame, PREFACE},
    },
};

use super::{Dictionaries, Sizes, Wire};
use crate::corpus::{Client, Exchange, Half};

/// What a request carries beside what the corpus's link form has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dress {
    Plain,
    /// The request id and the trace of the other protocols' requests.
    Traced,
}

/// What a connection can build on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Past {
    /// The session's first connection.
    None,
    /// The server has the session's headers, and both sides the dictionaries.
    Known,
}

/// A client's and a server's machine.
pub(super) struct Link {
    now: Instant,
    dress: Dress,
    session: Session,
    client: Connection,
    server: Connection,
    opening_bytes: usize,
}

/// Header and body bytes of one direction.
#[derive(Clone, Copy, Debug, Default)]
struct Flow {
    header: usize,
    body: usize,
}

impl Link {
    pub(super) fn open(
        client: &Client,
        dress: Dress,
        past: Past,
        dictionaries: Option<&Dictionaries>,
        level: i32,
    ) -> Result<Self, String> {
        let mut session = Session::new("app-3f8c1d2e", [7; 16], 0);
        let header = |field: &towline_protocols::hpack::HeaderField| Header {
            name: field.name.clone(),
            value: field.value.clone(),
        };
        let session_headers: Vec<Header> = client.session_fields.iter().map(header).collect();
        // Of the length that random numbers have.
        let welcome = Welcome { session_id: u64::MAX / 3, push_line: u64::MAX / 5, ..Welcome::default() };
        let mut base = Hello::default();
        match past {
            Past::None => base.session_headers = session_headers,
            Past::Known => {
                let first = session.hello(Hello::default());
                session.on_welcome(&first, &welcome);
                base.session_headers_hash = SessionHeaders::of(&session_headers).hash().to_vec().into();
                base.header_dictionary = dictionaries.map_or(0, |both| both.headers.id());
            }
        }
        let config = Arc::new(config(dictionaries, level)?);
        let hello = session.hello(base);
        let now = now();
        let mut link = Self {
            now,
            dress,
            session,
            client: Connection::client(Arc::clone(&config), hello.clone(), now),
            server: Connection::server(config, now),
            opening_bytes: 0,
        };
        let flow = link.carry_up()?;
        link.opening_bytes = PREFACE.len() + flow.header + flow.body;
        link.session.on_welcome(&hello, &welcome);
        link.server.control().welcome(welcome);
        link.carry_down()?;
        Ok(link)
    }

    /// Carries what the client has to send, and takes what comes of it at the server.
    fn carry_up(&mut self) -> Result<Flow, String> {
        carry(self.now, &mut self.client, &mut self.server)
    }

    fn carry_down(&mut self) -> Result<Flow, String> {
        carry(self.now, &mut self.server, &mut self.client)
    }

    fn ask(&mut self, exchange: &Exchange) -> Result<u64, String> {
        let Half { mut fields, body, .. } = exchange.link.request.clone();
        if self.dress == Dress::Traced {
            fields.extend_from_slice(&exchange.tracing);
        }
        let seq = self.session.open(CallOptions::default());
        self.session.on_request_sent(seq);
        let acknowledges = self.session.acknowledge_with(seq);
        let head = RequestHead { acknowledges, fields, ..RequestHead::default() };
        let sent = self.client.send_request(seq, head, false);
        sent.and_then(|()| self.client.send_message(seq, body, true)).map_err(|error| error.to_string())?;
        Ok(seq)
    }

    fn answer(&mut self, seq: u64, half: &Half) -> Result<(), String> {
        let Half { fields, body, trailers } = half.clone();
        let sent = self.server.send_response(seq, fields, false);
        let sent = sent.and_then(|()| self.server.send_message(seq, body, false).map(drop));
        sent.and_then(|()| self.server.send_trailers(seq, trailers)).map_err(|error| error.to_string())
    }
}

impl Wire for Link {
    fn opening_bytes(&self) -> usize {
        self.opening_bytes
    }

    fn exchange(&mut self, exchange: &Exchange) -> Result<Sizes, String> {
        let seq = self.ask(exchange)?;
        let request = self.carry_up()?;
        self.answer(seq, &exchange.link.response)?;
        let response = self.carry_down()?;
        // The next request tells that it was taken; what else goes up is credit.
        self.session.taken(seq);
        let credit = self.carry_up()?;
        Ok(Sizes {
            request_header: request.header,
            request_body: request.body,
            response_header: response.header + credit.header,
            response_body: response.body,
        })
    }
}

fn config(dictionaries: Option<&Dictionaries>, level: i32) -> Result<Config, String> {
    let (mut set, header_dictionaries) = (DictionarySet::new(), HeaderShelf::default());
    if let Some(both) = dictionaries {
        header_dictionaries.replace(vec![Arc::clone(&both.headers)]);
        let prepared = both.payload.prepare(level).map_err(|error| error.to_string())?;
        set.insert(prepared).map_err(|error| error.to_string())?;
    }
    Ok(Config {
        dictionaries: set.into(),
        header_dictionaries,
        compressor: Some(Compressor::new(level, MESSAGE_BYTES_MIN_DEFAULT)),
        ..Config::default()
    })
}

fn now() -> Instant {
    Instant::now()
}

/// Sends, counts, receives and consumes; credit for what was consumed goes with the next flight, and counts.
fn carry(now: Instant, from: &mut Connection, to: &mut Connection) -> Result<Flow, String> {
    let mut bytes = BytesMut::new();
    from.poll_transmit(now, &mut bytes, usize::MAX);
    let flow = count(bytes.clone())?;
    to.handle_bytes(now, &mut bytes).map_err(|error| error.to_string())?;
    while let Some(event) = to.poll_event() {
        if let towline_protocols::link::Event::MessagePart { seq, bytes, .. } = event {
            to.credit(seq, bytes.len());
        }
    }
    while from.poll_event().is_some() {}
    Ok(flow)
}

fn count(mut bytes: BytesMut) -> Result<Flow, String> {
    if bytes.starts_with(&PREFACE) {
        bytes.advance(PREFACE.len());
    }
    let mut flow = Flow::default();
    loop {
        let before = bytes.len();
        let frame = frame::decode(&mut bytes, usize::MAX).map_err(|error| error.to_string())?;
        let Some(frame) = frame else { return Ok(flow) };
        let size = before - bytes.len();
        let body = match &frame {
            Frame::Data(_) => size,
            Frame::Answer { part, .. } => part.bytes.len(),
            Frame::Request(request) => part_bytes(request.part.as_ref().map(|part| &part.bytes)),
            Frame::Response(response) => part_bytes(response.part.as_ref().map(|part| &part.bytes)),
            _ => 0,
        };
        flow.body += body;
        flow.header += size - body;
    }
}

fn part_bytes(part: Option<&Bytes>) -> usize {
    part.map_or(0, Bytes::len)
}
