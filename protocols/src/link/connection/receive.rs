//! What the peer's frames do to requests.

use std::time::{Duration, Instant};

use super::{
    Connection,
    stream::{Inbound, Receiving, Sending, Stream},
};
use crate::{
    hpack::{Decoder, HeaderField, HpackError, KnownFields},
    link::{
        CloseCode, Config, Event, Execution, Limits, LinkError, RequestHead, Role, RpcError, RpcErrorKind,
        Welcome, answer,
        frame::{DataFrame, Frame, Part, RequestFrame, ResponseFrame},
        message::{self, Arrival, malformed},
    },
};

impl Connection {
    pub(super) fn handle_frame(&mut self, now: Instant, frame: Frame) -> Result<(), LinkError> {
        self.control.check_order(&frame)?;
        match frame {
            Frame::Request(request) if self.control.role() == Role::Server => self.on_request(request),
            Frame::Response(response) if self.control.role() == Role::Client => self.on_response(response),
            Frame::Answer { seq, part } if self.control.role() == Role::Client => self.on_answer(seq, part),
            Frame::Data(data) => self.on_data(data),
            Frame::Trailers { seq, header_block } => self.on_trailers(seq, &header_block),
            Frame::Reset { seq, error } => {
                if error.kind == RpcErrorKind::UnknownDictionary {
                    self.control.forget_dictionary();
                }
                self.on_reset(seq, error);
                Ok(())
            }
            Frame::Window { seq, credit } => self.on_window(seq, credit),
            Frame::Welcome(welcome) => {
                let before = self.control.peer().limits;
                self.control.handle_frame(now, Frame::Welcome(welcome.clone()))?;
                self.after_welcome(before, &welcome);
                Ok(())
            }
            Frame::Hello(hello) => {
                self.control.handle_frame(now, Frame::Hello(hello))?;
                if !self.control.is_short() {
                    self.send_window = self.control.peer().limits.connection_window.into();
                }
                Ok(())
            }
            frame => self.control.handle_frame(now, frame),
        }
    }

    /// The server's windows replace the defaults under which requests may have been sent already.
    fn after_welcome(&mut self, before: Limits, welcome: &Welcome) {
        let after = self.control.peer().limits;
        self.send_window += i64::from(after.connection_window) - i64::from(before.connection_window);
        self.resume_waiting(welcome);
        for stream in self.streams.values_mut() {
            stream.send_window += i64::from(after.stream_window) - i64::from(before.stream_window);
        }
        self.unblock();
        let seqs: Vec<u64> = self.streams.keys().copied().collect();
        for seq in seqs {
            self.schedule(seq);
        }
    }

    /// A client that lost interest is heard at once. What an answer brought before it broke off is handed
    /// on first.
    fn on_reset(&mut self, seq: u64, error: RpcError) {
        let reset = Event::Reset { seq, error };
        let Some(stream) = self.streams.get_mut(&seq) else {
            // The request may be one of HELLO.waiting that is not open here. In a POST it may be of another one.
            if self.control.role() == Role::Server && self.control.is_short() {
                self.control.emit(Event::GivenUp { seq });
            }
            return;
        };
        if self.control.role() == Role::Server || stream.inbox.is_empty() {
            self.remove(seq);
            return self.control.emit(reset);
        }
        stream.sending = Sending::Ended;
        stream.queue.clear();
        stream.queued_bytes = 0;
        stream.receiving = Receiving::Ended;
        self.backlog.reserved -= std::mem::take(&mut stream.reserved);
        stream.inbox.push_back(Inbound::Last(Box::new(reset)));
    }

    fn on_request(&mut self, request: RequestFrame) -> Result<(), LinkError> {
        let RequestFrame {
            seq,
            priority,
            idempotent,
            acknowledges,
            heard,
            deadline_ms,
            header_block,
            part,
            end,
        } = request;
        if self.streams.contains_key(&seq) {
            return Err(LinkError::protocol(format!("REQUEST {seq} is open already")));
        }
        // The block must be decoded even for a request that is refused: the tables stay in step.
        let fields = self.decode_block(&header_block)?;
        self.seq_highest = self.seq_highest.max(seq);
        let part_bytes = part.as_ref().map_or(0, |part| part.bytes.len());
        self.count_received(part_bytes)?;
        let streams_max = self.control.config().limits.streams_max.max(1) as usize;
        let fields = match fields {
            Ok(_) if self.streams_open() >= streams_max => Err(RpcError::new(
                RpcErrorKind::LimitExceeded,
                Execution::NotRun,
                format!("{streams_max} requests are open, the limit streams_max"),
            )),
            fields => fields,
        };
        let (send_window, receive_window) = self.stream_windows();
        let mut stream = Stream::new(priority, send_window, receive_window);
        let outcome = fields.and_then(|fields| {
            let config = self.control.config();
            let arrival = part.map(|part| read_part(&mut stream, part, end, config)).transpose()?;
            Ok((fields, arrival))
        });
        let (fields, arrival) = match outcome {
            Ok(outcome) => outcome,
            Err(mut error) => {
                // Nothing of it has been handed on.
                error.execution = Execution::NotRun;
                self.grant_connection(part_bytes);
                self.control.send(&Frame::Reset { seq, error });
                return Ok(());
            }
        };
        stream.receive_window -= part_bytes as i64;
        if stream.receive_window < 0 {
            let rule = format!("request {seq} was sent more than its window");
            return Err(LinkError::new(CloseCode::FlowControl, rule));
        }
        stream.receiving = Receiving::Body;
        stream.writer.belongs_to(&fields);
        self.streams.insert(seq, Box::new(stream));
        let deadline = deadline_ms.map(Duration::from_millis);
        let head = RequestHead { priority, idempotent, acknowledges, heard, deadline, fields };
        self.control.emit(Event::Request { seq, head, end: end && arrival.is_none() });
        match arrival {
            Some(arrival) => self.deliver(seq, arrival, part_bytes, end),
            None if end => self.end_receiving(seq),
            None => {}
        }
        Ok(())
    }

    fn on_response(&mut self, response: ResponseFrame) -> Result<(), LinkError> {
        let ResponseFrame { seq, header_block, part, end } = response;
        let fields = self.decode_block(&header_block)?;
        self.check_seq(seq)?;
        let Some(stream) = self.streams.get_mut(&seq) else {
            return self.ignore(part.map_or(0, |part| part.bytes.len()));
        };
        let is_first = stream.receiving == Receiving::Head;
        stream.receiving = Receiving::Body;
        let fields = match fields {
            Ok(_) if !is_first => Err(malformed("a second RESPONSE")),
            fields => fields,
        };
        match fields {
            Ok(fields) => {
                self.control.emit(Event::Response { seq, fields, end: end && part.is_none() });
                match part {
                    Some(part) => self.take_part(seq, part, end),
                    None if end => {
                        self.end_receiving(seq);
                        Ok(())
                    }
                    None => Ok(()),
                }
            }
            Err(error) => {
                self.fail_request(seq, error);
                self.ignore(part.map_or(0, |part| part.bytes.len()))
            }
        }
    }

    /// A whole answer in one frame.
    fn on_answer(&mut self, seq: u64, part: Part) -> Result<(), LinkError> {
        self.check_seq(seq)?;
        let Some(stream) = self.streams.get_mut(&seq) else { return self.ignore(part.bytes.len()) };
        if stream.receiving != Receiving::Head {
            self.fail_request(seq, malformed("ANSWER behind the beginning of an answer"));
            return self.ignore(part.bytes.len());
        }
        stream.receiving = Receiving::Body;
        self.control.emit(Event::Response { seq, fields: answer::head(), end: false });
        self.take_part(seq, part, false)?;
        // Unless its message broke a rule.
        if self.streams.contains_key(&seq) {
            self.tell_last(seq, Event::Trailers { seq, fields: answer::trailers() });
        }
        Ok(())
    }

    fn on_data(&mut self, data: DataFrame) -> Result<(), LinkError> {
        let DataFrame { seq, part, end } = data;
        self.check_seq(seq)?;
        let Some(stream) = self.streams.get_mut(&seq) else { return self.ignore(part.bytes.len()) };
        if stream.receiving != Receiving::Body {
            self.fail_request(seq, malformed("DATA before the head or behind the end"));
            return self.ignore(part.bytes.len());
        }
        let is_bare_end =
            end && part.bytes.is_empty() && !part.more && !part.compressed && stream.reader.is_between();
        if is_bare_end {
            self.tell_last(seq, Event::End { seq });
            return Ok(());
        }
        self.take_part(seq, part, end)
    }

    fn on_trailers(&mut self, seq: u64, header_block: &[u8]) -> Result<(), LinkError> {
        let fields = self.decode_block(header_block)?;
        self.check_seq(seq)?;
        let Some(stream) = self.streams.get(&seq) else { return Ok(()) };
        let in_order = stream.receiving == Receiving::Body && stream.reader.is_between();
        match fields {
            Ok(fields) if in_order => {
                self.tell_last(seq, Event::Trailers { seq, fields });
            }
            Ok(_) => self
                .fail_request(seq, malformed("TRAILERS before the head, inside a message or behind the end")),
            Err(error) => self.fail_request(seq, error),
        }
        Ok(())
    }

    fn on_window(&mut self, seq: u64, credit: u64) -> Result<(), LinkError> {
        let window = match seq {
            0 => &mut self.send_window,
            _ => match self.streams.get_mut(&seq) {
                Some(stream) => &mut stream.send_window,
                None => return Ok(()),
            },
        };
        *window = window.saturating_add(i64::try_from(credit).unwrap_or(i64::MAX));
        if *window > i64::from(i32::MAX) {
            return Err(LinkError::new(CloseCode::FlowControl, "WINDOW raises a window beyond 2^31 - 1"));
        }
        if seq == 0 {
            self.unblock()
        } else {
            self.schedule(seq)
        }
        Ok(())
    }

    /// Takes a message part of an open stream.
    fn take_part(&mut self, seq: u64, part: Part, end: bool) -> Result<(), LinkError> {
        let part_bytes = part.bytes.len();
        self.count_received(part_bytes)?;
        let config = self.control.config().clone();
        let Some(stream) = self.streams.get_mut(&seq) else { return Ok(()) };
        stream.receive_window -= part_bytes as i64;
        // A part without bytes needs no credit, also where an earlier connection has used more than a window.
        if part_bytes > 0 && stream.receive_window < 0 {
            let rule = format!("request {seq} was sent more than its window");
            return Err(LinkError::new(CloseCode::FlowControl, rule));
        }
        match read_part(stream, part, end, &config) {
            Ok(arrival) => self.deliver(seq, arrival, part_bytes, end),
            Err(error) => {
                self.fail_request(seq, error);
                self.grant_connection(part_bytes);
            }
        }
        Ok(())
    }

    pub(super) fn end_receiving(&mut self, seq: u64) {
        if let Some(stream) = self.streams.get_mut(&seq) {
            stream.receiving = Receiving::Ended;
        }
        self.remove_if_over(seq);
    }

    /// Resets a request that broke a limit of its own; its neighbours live on.
    fn fail_request(&mut self, seq: u64, error: RpcError) {
        let reset = self.refuse(seq, error);
        self.control.emit(reset);
    }

    pub(super) fn refuse(&mut self, seq: u64, mut error: RpcError) -> Event {
        if self.control.role() == Role::Client {
            error.execution = Execution::Ran;
        }
        self.remove(seq);
        self.control.send(&Frame::Reset { seq, error: error.clone() });
        Event::Reset { seq, error }
    }

    /// Gives `bytes` of credit back, to the stream and the connection.
    pub(super) fn grant(&mut self, seq: u64, bytes: usize) {
        self.grant_connection(bytes);
        self.grant_stream(seq, bytes);
    }

    pub(super) fn grant_stream(&mut self, seq: u64, bytes: usize) {
        let window = self.control.config().limits.clamped().stream_window;
        let is_short = self.control.is_short();
        let Some(stream) = self.streams.get_mut(&seq) else { return };
        if stream.receiving == Receiving::Ended || is_short {
            return;
        }
        stream.credit_pending += bytes as i64;
        // Small grants would cost a frame each; a sender with half a window never stands still.
        if stream.credit_pending >= i64::from(window / 2) {
            let credit = std::mem::take(&mut stream.credit_pending);
            stream.receive_window += credit;
            self.control.send(&Frame::Window { seq, credit: credit.unsigned_abs() });
        }
    }

    pub(super) fn grant_connection(&mut self, bytes: usize) {
        if self.control.is_short() {
            return;
        }
        self.credit_pending += bytes as i64;
        let window = self.control.config().limits.clamped().connection_window;
        if self.credit_pending >= i64::from(window / 2) {
            let credit = std::mem::take(&mut self.credit_pending);
            self.receive_window += credit;
            self.control.send(&Frame::Window { seq: 0, credit: credit.unsigned_abs() });
        }
    }

    /// Message bytes for a request that is over were sent before the peer knew.
    fn ignore(&mut self, part_bytes: usize) -> Result<(), LinkError> {
        self.count_received(part_bytes)?;
        self.grant_connection(part_bytes);
        Ok(())
    }

    fn count_received(&mut self, part_bytes: usize) -> Result<(), LinkError> {
        self.receive_window -= part_bytes as i64;
        if self.receive_window < 0 {
            return Err(LinkError::new(
                CloseCode::FlowControl,
                "the connection was sent more than its window",
            ));
        }
        Ok(())
    }

    /// Frames may come late for a request that is over, but not early for one that was never opened.
    fn check_seq(&self, seq: u64) -> Result<(), LinkError> {
        if seq <= self.seq_highest {
            return Ok(());
        }
        Err(LinkError::protocol(format!("a frame names request {seq}, which was not opened")))
    }

    /// Decodes a header block. The outer error ends the connection, the inner one only the request.
    fn decode_block(&mut self, block: &[u8]) -> Result<Result<Vec<HeaderField>, RpcError>, LinkError> {
        let role = self.control.role();
        let limits = self.control.config().limits.clamped();
        let known = || self.control.known_fields();
        let decoder = self.decoder.get_or_insert_with(|| Box::new(new_decoder(role, limits, known())));
        match decoder.decode(block) {
            Ok(fields) => Ok(Ok(fields)),
            Err(error @ HpackError::HeaderListTooLarge { .. }) => {
                Ok(Err(RpcError::new(RpcErrorKind::LimitExceeded, Execution::MayHaveRun, error.to_string())))
            }
            Err(error) => Err(LinkError::new(CloseCode::HeaderCompression, error.to_string())),
        }
    }
}

/// Reads one part; a compressed message is looked at, and decompressed when it is asked for.
fn read_part(stream: &mut Stream, part: Part, end: bool, config: &Config) -> Result<Arrival, RpcError> {
    if end && part.more {
        return Err(malformed("END stands on a part with MORE"));
    }
    let message_bytes_max = config.limits.clamped().message_bytes_max;
    let arrival = stream.reader.accept(part, message_bytes_max)?;
    if let Arrival::Compressed { frame, content_bytes } = &arrival {
        message::check_compressed(frame, *content_bytes, &config.dictionaries.load(), message_bytes_max)?;
    }
    Ok(arrival)
}

/// The client's first blocks come under the default table size, before it knows the server's; the
/// client's own size is known from HELLO.
fn new_decoder(role: Role, limits: Limits, known: KnownFields) -> Decoder {
    let default = Limits::default().header_table_bytes;
    let own = limits.header_table_bytes;
    let header_list_bytes_max = limits.header_list_bytes_max as usize;
    match role {
        Role::Client => Decoder::new(known, own as usize, header_list_bytes_max),
        Role::Server => {
            let mut decoder = Decoder::new(known, default as usize, header_list_bytes_max);
            decoder.set_table_size_max(own.max(default) as usize);
            decoder
        }
    }
}
