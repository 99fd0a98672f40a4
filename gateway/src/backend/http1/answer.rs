//! An HTTP/1.1 answer's body; its end gives the connection back.

use std::{
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use http::Response;
use http_body::{Frame, SizeHint};
use http_body_util::{BodyExt as _, Empty, Full};
use towline_protocols::http1::Piece;

use super::{
    Place,
    connection::{Answering, Line},
    head::{self, Framing, Head},
};
use crate::{
    backend::headers,
    error::{Execution, RpcError, RpcErrorKind},
    request::Body,
};

/// The answer for its client.
pub(super) fn of(answering: Answering, place: Place) -> Response<Body> {
    let Answering { head, rest, line } = answering;
    let Head { status, headers, framing, keeps_alive } = head;
    let body = match framing {
        Framing::Length(length) if length <= rest.len() as u64 => {
            // What stands behind it is no answer to anything.
            let is_clean = length == rest.len() as u64;
            Open { line, place, keeps_alive }.end(is_clean);
            whole(rest.slice(..usize::try_from(length).unwrap_or_default()))
        }
        framing => {
            let input = BytesMut::from(rest);
            let open = Some(Open { line, place, keeps_alive });
            Body::new(Streamed { framing, input, ahead: None, open })
        }
    };
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    *answer.headers_mut() = headers;
    headers::incoming(answer.headers_mut());
    answer
}

fn whole(body: Bytes) -> Body {
    match body.is_empty() {
        true => Body::new(Empty::new().map_err(|never| match never {})),
        false => Body::new(Full::new(body).map_err(|never| match never {})),
    }
}

/// A body that arrives while it is taken.
struct Streamed {
    framing: Framing,
    /// Arrived and not handed out.
    input: BytesMut,
    /// What follows the last piece of a body in chunks, where that is known.
    ahead: Option<Piece>,
    /// `None` behind the end. Dropped before, it closes the connection.
    open: Option<Open>,
}

struct Open {
    line: Line,
    place: Place,
    keeps_alive: bool,
}

impl Open {
    /// The answer is whole; `is_clean` says that nothing followed it.
    fn end(self, is_clean: bool) {
        match self.line {
            Line::Whole(connection) if self.keeps_alive && is_clean => self.place.keep(connection),
            // A backend that answers early may take the rest all the same.
            Line::Last(_, Some(pump)) => pump.go_on(),
            _ => {}
        }
    }
}

impl Streamed {
    /// The next part of what has arrived; the inner `None` is the end.
    fn next(&mut self) -> Result<Option<Option<Frame<Bytes>>>, String> {
        let data = match &mut self.framing {
            Framing::Length(0) => return Ok(Some(None)),
            _ if self.input.is_empty() && self.ahead.is_none() => return Ok(None),
            Framing::Length(left) => {
                let here = usize::try_from(*left).unwrap_or(usize::MAX).min(self.input.len());
                *left -= here as u64;
                self.input.split_to(here)
            }
            Framing::UntilClose => mem::take(&mut self.input),
            Framing::Chunked(_) => return self.next_piece(),
        };
        Ok(Some(Some(Frame::data(data.freeze()))))
    }

    fn next_piece(&mut self) -> Result<Option<Option<Frame<Bytes>>>, String> {
        let Framing::Chunked(chunked) = &mut self.framing else { return Ok(None) };
        let piece = match self.ahead.take() {
            Some(piece) => Some(piece),
            None => chunked.next(&mut self.input).map_err(|error| error.to_string())?,
        };
        let data = match piece {
            None => return Ok(None),
            Some(Piece::Data(data)) => data,
            Some(Piece::End(lines)) => return trailers(&lines).map(Some),
        };
        // Where the end is here, whoever takes the data is to know that it is the last.
        self.ahead = chunked.next(&mut self.input).map_err(|error| error.to_string())?;
        Ok(Some(Some(Frame::data(data))))
    }

    fn is_at_end(&self) -> bool {
        match (&self.framing, &self.ahead) {
            (Framing::Length(left), _) => *left == 0,
            (Framing::Chunked(_), Some(Piece::End(lines))) => lines.is_empty(),
            _ => false,
        }
    }

    /// The answer is whole: another request may follow.
    fn finish(&mut self) {
        if let Some(open) = self.open.take() {
            open.end(self.input.is_empty());
        }
    }

    fn broken(&mut self, why: &str) -> RpcError {
        let name: Option<Arc<str>> = self.open.take().map(|open| open.place.pool.settings.name.clone());
        let message = format!("backend {}: the answer broke off: {why}", name.as_deref().unwrap_or_default());
        RpcError::new(RpcErrorKind::BackendFailed, Execution::MayHaveRun, message)
    }
}

impl http_body::Body for Streamed {
    type Data = Bytes;
    type Error = RpcError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RpcError>>> {
        let this = self.get_mut();
        loop {
            if this.open.is_none() {
                return Poll::Ready(None);
            }
            match this.next() {
                Err(why) => return Poll::Ready(Some(Err(this.broken(&why)))),
                Ok(Some(frame)) => {
                    let is_last = frame.as_ref().is_none_or(Frame::is_trailers) || this.is_at_end();
                    if is_last {
                        this.finish();
                    }
                    return Poll::Ready(frame.map(Ok));
                }
                Ok(None) => {}
            }
            let Some(open) = &mut this.open else { return Poll::Ready(None) };
            if let Poll::Ready(error) = open.line.poll_client(cx) {
                this.open = None;
                return Poll::Ready(Some(Err(error)));
            }
            match ready!(open.line.poll_fill(&mut this.input, cx)) {
                Ok(0) if matches!(this.framing, Framing::UntilClose) => {
                    this.open = None;
                    return Poll::Ready(None);
                }
                Ok(0) => return Poll::Ready(Some(Err(this.broken("the connection was closed")))),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Some(Err(this.broken(&error.to_string())))),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.open.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.framing {
            Framing::Length(left) => SizeHint::with_exact(*left),
            _ => SizeHint::default(),
        }
    }
}

/// The frame that ends a body in chunks.
fn trailers(lines: &Bytes) -> Result<Option<Frame<Bytes>>, String> {
    if lines.is_empty() {
        return Ok(None);
    }
    let trailers = head::trailers(lines).map_err(|error| error.to_string())?;
    Ok(Some(Frame::trailers(trailers)))
}
