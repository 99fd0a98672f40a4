//! What the peer's control frames do.

use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};

use super::{
    CLIENT_ID_BYTES_MAX, CONTROL_BYTES_MAX, Control, PUSH_EXPANSION_MAX, Phase, SECRET_BYTES, whole_seconds,
};
use crate::{
    link::{
        CloseCode, Event, Hello, LinkError, Publish, Push, Role, SESSION_HEADERS_HASH_BYTES, Welcome,
        field_tables::FieldTables,
        frame::{self, Frame, PREFACE, PublishFrame, PushFrame},
        message, report,
    },
    varint,
};

impl Control {
    /// Notes a sign of life. Nothing is read behind a CLOSE.
    pub(in crate::link) fn on_received(&mut self, now: Instant, input: &mut BytesMut) {
        if self.phase == Phase::Closed {
            input.clear();
        } else if !input.is_empty() {
            self.heartbeat.on_received(now);
        }
    }

    /// The next whole frame of `input`, behind the preface.
    pub(in crate::link) fn next_frame(&mut self, input: &mut BytesMut) -> Result<Option<Frame>, LinkError> {
        if self.phase == Phase::Closed {
            input.clear();
            return Ok(None);
        }
        if self.phase == Phase::Preface {
            let start = &input[..input.len().min(PREFACE.len())];
            if !PREFACE.starts_with(start) {
                return Err(self.fail(LinkError::protocol("the connection does not begin with the preface")));
            }
            if start.len() < PREFACE.len() {
                return Ok(None);
            }
            input.advance(PREFACE.len());
            self.phase = Phase::Introduction;
        }
        if self.out.len() > CONTROL_BYTES_MAX {
            let rule = "the peer asks for more answers than it takes";
            return Err(self.fail(LinkError::new(CloseCode::Overload, rule)));
        }
        let frame_bytes_max = self.config.limits.clamped().frame_bytes_max as usize;
        frame::decode(input, frame_bytes_max).map_err(|error| self.fail(error))
    }

    /// Whether `frame` may come now: nothing comes before the introduction.
    pub(in crate::link) fn check_order(&self, frame: &Frame) -> Result<(), LinkError> {
        self.check_kind(frame)?;
        let is_introduction = matches!(frame, Frame::Hello(_) | Frame::Welcome(_));
        let may_come_any_time = matches!(frame, Frame::Close { .. } | Frame::Extension(_));
        match self.phase {
            Phase::Introduction if !is_introduction && !may_come_any_time => {
                Err(LinkError::protocol("the first frame must be HELLO or WELCOME"))
            }
            Phase::Open if is_introduction => Err(LinkError::protocol("HELLO or WELCOME came a second time")),
            _ => Ok(()),
        }
    }

    /// Takes a frame that belongs to no request.
    pub(in crate::link) fn handle_frame(&mut self, now: Instant, frame: Frame) -> Result<(), LinkError> {
        self.check_order(&frame)?;
        match (self.role, frame) {
            (_, Frame::Ping { id, next_beat_s }) => {
                self.take_promise(next_beat_s);
                self.send(&Frame::Pong { id });
            }
            (_, Frame::Pong { id }) => {
                if let Some(rtt) = self.heartbeat.on_pong(id, now) {
                    self.emit(Event::Rtt(rtt));
                }
            }
            (_, Frame::Close { code, text }) => {
                self.phase = Phase::Closed;
                self.emit(Event::Close { code, text });
            }
            (_, Frame::Extension(_)) => {}
            (_, Frame::QpackEncoder(instructions)) => {
                self.field_tables()?.on_encoder_stream(&instructions)?
            }
            (_, Frame::QpackDecoder(instructions)) => {
                self.field_tables()?.on_decoder_stream(&instructions)?
            }
            (Role::Server, frame) => self.handle_from_client(frame)?,
            (Role::Client, frame) => self.handle_from_server(frame)?,
        }
        Ok(())
    }

    fn handle_from_client(&mut self, frame: Frame) -> Result<(), LinkError> {
        let event = match frame {
            Frame::Hello(hello) => self.on_hello(hello)?,
            Frame::Ack(ack) => Event::Ack(ack),
            Frame::PushAck { priority, id } => Event::PushAck { priority, id },
            Frame::PolicyAck { revision, accepted, text } => Event::PolicyAck { revision, accepted, text },
            Frame::Subscribe(subscribe) => Event::Subscribe(subscribe),
            Frame::Publish(publish) => self.on_publish(publish)?,
            Frame::Fetch(fetch) => self.on_fetch(fetch)?,
            Frame::Report(report) => {
                report::check(&report)?;
                Event::Report(report)
            }
            _ => return Err(LinkError::protocol("a frame that clients do not send, or not here")),
        };
        self.emit(event);
        Ok(())
    }

    fn handle_from_server(&mut self, frame: Frame) -> Result<(), LinkError> {
        let event = match frame {
            Frame::Welcome(welcome) => self.on_welcome(welcome)?,
            Frame::Push(push) => self.on_push(push)?,
            Frame::GoAway(goaway) => Event::GoAway(goaway),
            Frame::Policy(policy) => Event::Policy(policy),
            Frame::Subscribed(subscribed) => Event::Subscribed(subscribed),
            Frame::Offer(offer) => self.on_offer(offer)?,
            Frame::Piece(piece) => Event::Piece(piece),
            Frame::Moved => Event::Moved,
            Frame::Published { id, error } => {
                Event::Published { id, error: (!error.is_empty()).then_some(error) }
            }
            _ => return Err(LinkError::protocol("a frame that servers do not send, or not here")),
        };
        self.emit(event);
        Ok(())
    }

    fn field_tables(&self) -> Result<&FieldTables, LinkError> {
        let tables = self.tables.as_deref();
        tables.ok_or_else(|| LinkError::protocol("QPACK_ENCODER and QPACK_DECODER belong on QUIC"))
    }

    /// The peer's limits are known, on QUIC also to the tables.
    fn on_peer(&mut self) {
        if let Some(tables) = &self.tables {
            tables.on_peer(self.config.limits.clamped(), self.peer.limits, &self.known_fields());
        }
    }

    fn on_hello(&mut self, hello: Box<Hello>) -> Result<Event, LinkError> {
        check_hello(&hello)?;
        self.stand_behind(hello.header_dictionary)?;
        self.peer = self.config.peer(hello.limits.as_ref())?;
        self.choose_dictionary();
        self.on_peer();
        self.phase = Phase::Open;
        self.is_waited_for = !hello.waiting.is_empty();
        // Without a promise, the server's own maximum holds.
        self.take_promise(match hello.next_beat_s {
            0 => whole_seconds(self.config.heartbeat_max).into(),
            promised => promised.into(),
        });
        Ok(Event::Hello(hello))
    }

    /// Server: HELLO names a header dictionary. Blocks that follow cannot be read without it.
    fn stand_behind(&mut self, id: u64) -> Result<(), LinkError> {
        if id == 0 {
            return Ok(());
        }
        match self.config.header_dictionaries.get(id) {
            Some(dictionary) => {
                dictionary.count_connection();
                self.set_header_dictionary(Some(dictionary));
                Ok(())
            }
            None => {
                let rule = "the header dictionary that HELLO names is not known here: say it without";
                Err(LinkError::new(CloseCode::UnknownReference, rule))
            }
        }
    }

    fn on_welcome(&mut self, welcome: Box<Welcome>) -> Result<Event, LinkError> {
        if welcome.seq_min > varint::MAX {
            return Err(LinkError::protocol("WELCOME: sequence numbers are below 2^62"));
        }
        self.peer = self.config.peer(welcome.limits.as_ref())?;
        self.choose_dictionary();
        self.on_peer();
        self.phase = Phase::Open;
        let demanded = match welcome.heartbeat_max_s {
            0 => None,
            seconds => Some(Duration::from_secs(seconds.into())),
        };
        self.heartbeat.limit_interval(demanded);
        Ok(Event::Welcome(welcome))
    }

    /// The server holds the client to its promise, however late the network is within the grace.
    fn take_promise(&mut self, seconds: u64) {
        if self.role == Role::Server && seconds > 0 {
            let promised = Duration::from_secs(seconds.min(u32::MAX.into())).min(self.config.heartbeat_max);
            self.heartbeat.set_silence_max(promised + self.config.heartbeat_grace);
        }
    }

    fn on_push(&mut self, push: PushFrame) -> Result<Event, LinkError> {
        let PushFrame { id, priority, topic, content_type, content_bytes, payload } = push;
        let payload = self.inflate(payload, content_bytes)?;
        Ok(Event::Push(Push { id, priority, topic, content_type, payload }))
    }

    fn on_publish(&mut self, publish: PublishFrame) -> Result<Event, LinkError> {
        let PublishFrame { id, qos, topic, payload, content_bytes } = publish;
        let payload = self.inflate(payload, content_bytes)?;
        Ok(Event::Publish(Publish { id, qos, topic, payload }))
    }

    fn inflate(&self, payload: Bytes, content_bytes: Option<u64>) -> Result<Bytes, LinkError> {
        let Some(content_bytes) = content_bytes else { return Ok(payload) };
        let limits = self.config.limits.clamped();
        let content_bytes_max = (payload.len() * PUSH_EXPANSION_MAX) as u64;
        if content_bytes > content_bytes_max.min(limits.frame_bytes_max.into()) {
            return Err(LinkError::protocol(
                "a compressed PUSH or PUBLISH is larger than a frame, or than 64 times its wire length",
            ));
        }
        message::inflate(&payload, content_bytes, &self.config.dictionaries.load(), limits.frame_bytes_max)
            .map_err(|error| LinkError::protocol(format!("PUSH or PUBLISH: {}", error.message)))
    }
}

fn check_hello(hello: &Hello) -> Result<(), LinkError> {
    let id = hello.client_id.as_bytes();
    let id_is_valid = (1..=CLIENT_ID_BYTES_MAX).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic);
    if !id_is_valid {
        return Err(LinkError::protocol("HELLO: client_id must be 1 to 64 printable ASCII characters"));
    }
    if hello.session_secret.len() != SECRET_BYTES {
        return Err(LinkError::protocol("HELLO: session_secret must have 16 bytes"));
    }
    if hello.epoch == 0 {
        return Err(LinkError::protocol("HELLO: epochs start at 1"));
    }
    if !matches!(hello.session_headers_hash.len(), 0 | SESSION_HEADERS_HASH_BYTES) {
        return Err(LinkError::protocol("HELLO: session_headers_hash must have 16 bytes"));
    }
    if !hello.session_headers_hash.is_empty() && !hello.session_headers.is_empty() {
        return Err(LinkError::protocol("HELLO: session_headers_hash stands in place of session_headers"));
    }
    if let Some(facts) = &hello.facts {
        report::check_facts(facts)?;
    }
    let mut numbers =
        hello.waiting.iter().map(|waiting| waiting.seq).chain([hello.epoch, hello.outcome_floor]);
    if numbers.any(|number| number > varint::MAX) {
        return Err(LinkError::protocol("HELLO: epochs and sequence numbers are below 2^62"));
    }
    if hello.waiting.iter().any(|waiting| waiting.seq == 0) {
        return Err(LinkError::protocol("HELLO: sequence numbers start at 1"));
    }
    Ok(())
}
