//! What the peer's frames do to requests.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{
    Connection,
    stream::{Receiving, Stream},
};
use crate::{
    hpack::{Decoder, HeaderField, HpackError, StaticTable},
    link::{
        CloseCode, Config, Event, Execution, Limits, LinkError, RequestHead, Role, RpcError, RpcErrorKind,
        Welcome,
        frame::{DataFrame, Frame, Part, RequestFrame, ResponseFrame},
        message::{self, Arrival, malformed},
    },
};

/// What decompressed and half-arrived messages of one connection may take beside `message_bytes_max`, in
/// connection windows: usual traffic compresses to a quarter and is consumed at once.
const BUDGET_WINDOWS: usize = 4;

impl Connection {
    pub(super) fn handle_frame(&mut self, now: Instant, frame: Frame) -> Result<(), LinkError> {
        self.control.check_order(&frame)?;
        match frame {
            Frame::Request(request) if self.control.role() == Role::Server => self.on_request(request),
            Frame::Response(response) if self.control.role() == Role::Client => self.on_response(response),
            Frame::Data(data) => self.on_data(data),
            Frame::Trailers { seq, header_block } => self.on_trailers(seq, &header_block),
            Frame::Reset { seq, error } => {
                if error.kind == RpcErrorKind::UnknownDictionary {
                    self.control.forget_dictionary();
                }
                // The request may be one of HELLO.waiting that is not open here.
                if self.remove(seq).is_some() {
                    self.control.emit(Event::Reset { seq, error });
                }
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
                self.send_window = self.control.peer().limits.connection_window.into();
                Ok(())
            }
            frame => self.control.handle_frame(now, frame),
        }
    }

    /// The server's windows replace the defaults under which requests may have been sent already.
    fn after_welcome(&mut self, before: Limits, welcome: &Welcome) {
        let after = self.control.peer().limits;
        self.send_window += i64::from(after.connection_window) - i64::from(before.connection_window);
        // What HELLO waited for and the server does not have gets no answer here.
        for seq in std::mem::take(&mut self.waiting) {
            if !welcome.resumed || welcome.unknown.contains(&seq) {
                self.remove(seq);
            }
        }
        for stream in self.streams.values_mut() {
            stream.send_window += i64::from(after.stream_window) - i64::from(before.stream_window);
        }
        self.unblock();
        let seqs: Vec<u64> = self.streams.keys().copied().collect();
        for seq in seqs {
            self.schedule(seq);
        }
    }

    fn on_request(&mut self, request: RequestFrame) -> Result<(), LinkError> {
        let RequestFrame { seq, priority, idempotent, deadline_ms, header_block, part, end } = request;
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
            Ok(_) if self.streams.len() >= streams_max => Err(RpcError::new(
                RpcErrorKind::LimitExceeded,
                Execution::NotRun,
                format!("{streams_max} requests are open, the limit streams_max"),
            )),
            fields => fields,
        };
        let limits = self.control.config().limits.clamped();
        let mut stream =
            Stream::new(priority, self.control.peer().limits.stream_window, limits.stream_window);
        let outcome = fields.and_then(|fields| {
            let arrival = self.first_arrival(&mut stream, part, end)?;
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
        self.streams.insert(seq, Box::new(stream));
        let deadline = deadline_ms.map(Duration::from_millis);
        let head = RequestHead { priority, idempotent, deadline, fields };
        self.control.emit(Event::Request { seq, head, end: end && arrival.is_none() });
        self.deliver(seq, arrival, part_bytes, end);
        if end {
            self.end_receiving(seq);
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
            self.control.emit(Event::End { seq });
            self.end_receiving(seq);
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
                self.control.emit(Event::Trailers { seq, fields });
                self.end_receiving(seq);
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
        if stream.receive_window < 0 {
            let rule = format!("request {seq} was sent more than its window");
            return Err(LinkError::new(CloseCode::FlowControl, rule));
        }
        let held_before = stream.reader.held_bytes();
        let outcome = read_part(stream, part, end, &config);
        self.budgeted = self.budgeted + stream.reader.held_bytes() - held_before;
        match outcome.and_then(|arrival| self.check_budget(arrival)) {
            Ok(arrival) => self.deliver(seq, arrival, part_bytes, end),
            Err(error) => {
                self.fail_request(seq, error);
                self.grant_connection(part_bytes);
            }
        }
        Ok(())
    }

    /// The part that came in REQUEST, read before anybody is told of the request.
    fn first_arrival(
        &mut self,
        stream: &mut Stream,
        part: Option<Part>,
        end: bool,
    ) -> Result<Option<Delivered>, RpcError> {
        let Some(part) = part else { return Ok(None) };
        let config = self.control.config().clone();
        let arrival = read_part(stream, part, end, &config)?;
        let arrival = self.check_budget(arrival)?;
        self.budgeted += stream.reader.held_bytes();
        Ok(arrival)
    }

    /// Decompressed messages that nobody consumes must not pile up.
    fn check_budget(&self, arrival: Option<Delivered>) -> Result<Option<Delivered>, RpcError> {
        let limits = self.control.config().limits.clamped();
        let budget = limits.message_bytes_max as usize + BUDGET_WINDOWS * limits.connection_window as usize;
        let more = match &arrival {
            Some(Delivered { bytes, inflated: true, .. }) => bytes.len(),
            _ => 0,
        };
        if self.budgeted + more <= budget {
            return Ok(arrival);
        }
        Err(RpcError::new(
            RpcErrorKind::LimitExceeded,
            Execution::MayHaveRun,
            format!("compressed messages that wait to be consumed exceed {budget} bytes"),
        ))
    }

    /// Hands a part on and sees to its credit: what the application gets raw is credited when it is
    /// consumed; lengths and compressed bytes at once, since what they became is budgeted instead.
    fn deliver(&mut self, seq: u64, arrival: Option<Delivered>, part_bytes: usize, end: bool) {
        let Some(stream) = self.streams.get_mut(&seq) else { return };
        let Some(Delivered { message_bytes, bytes, end_of_message, inflated }) = arrival else {
            return self.grant(seq, part_bytes);
        };
        let plain = if inflated { 0 } else { bytes.len() };
        stream.plain_held += plain;
        if inflated {
            stream.inflated_held += bytes.len();
            self.budgeted += bytes.len();
        }
        let end = end && end_of_message;
        self.control.emit(Event::MessagePart { seq, message_bytes, bytes, end_of_message, end });
        self.grant(seq, part_bytes - plain);
        if end {
            self.end_receiving(seq);
        }
    }

    fn end_receiving(&mut self, seq: u64) {
        if let Some(stream) = self.streams.get_mut(&seq) {
            stream.receiving = Receiving::Ended;
        }
        self.remove_if_over(seq);
    }

    /// Resets a request that broke a limit of its own; its neighbours live on.
    fn fail_request(&mut self, seq: u64, mut error: RpcError) {
        if self.control.role() == Role::Client {
            error.execution = Execution::Ran;
        }
        self.remove(seq);
        self.control.send(&Frame::Reset { seq, error: error.clone() });
        self.control.emit(Event::Reset { seq, error });
    }

    /// Gives `bytes` of credit back, to the stream and the connection.
    pub(super) fn grant(&mut self, seq: u64, bytes: usize) {
        self.grant_connection(bytes);
        let window = self.control.config().limits.clamped().stream_window;
        let Some(stream) = self.streams.get_mut(&seq) else { return };
        if stream.receiving == Receiving::Ended {
            return;
        }
        stream.credit_pending += bytes as u32;
        // Small grants would cost a frame each; a sender with half a window never stands still.
        if stream.credit_pending >= window / 2 {
            let credit = std::mem::take(&mut stream.credit_pending);
            stream.receive_window += i64::from(credit);
            self.control.send(&Frame::Window { seq, credit: credit.into() });
        }
    }

    pub(super) fn grant_connection(&mut self, bytes: usize) {
        self.credit_pending += bytes as u32;
        if self.credit_pending >= self.control.config().limits.clamped().connection_window / 2 {
            let credit = std::mem::take(&mut self.credit_pending);
            self.receive_window += i64::from(credit);
            self.control.send(&Frame::Window { seq: 0, credit: credit.into() });
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
        let decoder = self.decoder.get_or_insert_with(|| Box::new(new_decoder(role, limits)));
        match decoder.decode(block) {
            Ok(fields) => Ok(Ok(fields)),
            Err(error @ HpackError::HeaderListTooLarge { .. }) => {
                Ok(Err(RpcError::new(RpcErrorKind::LimitExceeded, Execution::MayHaveRun, error.to_string())))
            }
            Err(error) => Err(LinkError::new(CloseCode::HeaderCompression, error.to_string())),
        }
    }
}

/// A message part as the application gets it.
pub(super) struct Delivered {
    message_bytes: Option<u64>,
    bytes: Bytes,
    end_of_message: bool,
    inflated: bool,
}

fn read_part(
    stream: &mut Stream,
    part: Part,
    end: bool,
    config: &Config,
) -> Result<Option<Delivered>, RpcError> {
    if end && part.more {
        return Err(malformed("END stands on a part with MORE"));
    }
    let message_bytes_max = config.limits.clamped().message_bytes_max;
    match stream.reader.accept(part, message_bytes_max)? {
        Arrival::Nothing => Ok(None),
        Arrival::Part { message_bytes, bytes, end_of_message } => {
            Ok(Some(Delivered { message_bytes, bytes, end_of_message, inflated: false }))
        }
        Arrival::Compressed { frame, content_bytes } => {
            let bytes = message::inflate(&frame, content_bytes, &config.dictionaries, message_bytes_max)?;
            let message_bytes = Some(content_bytes);
            Ok(Some(Delivered { message_bytes, bytes, end_of_message: true, inflated: true }))
        }
    }
}

/// The client's first blocks come under the default table size, before it knows the server's; the
/// client's own size is known from HELLO.
fn new_decoder(role: Role, limits: Limits) -> Decoder {
    let default = Limits::default().header_table_bytes;
    let own = limits.header_table_bytes;
    let header_list_bytes_max = limits.header_list_bytes_max as usize;
    match role {
        Role::Client => Decoder::new(StaticTable::link(), own as usize, header_list_bytes_max),
        Role::Server => {
            let mut decoder = Decoder::new(StaticTable::link(), default as usize, header_list_bytes_max);
            decoder.set_table_size_max(own.max(default) as usize);
            decoder
        }
    }
}
