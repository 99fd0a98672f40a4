//! Takes a request to its backend and records the answer in the request's exchange, whether or not a
//! connection is there to carry it.

use std::sync::Arc;

use bytes::{Buf as _, Bytes, BytesMut};
use http::Response;
use http_body_util::BodyExt as _;
use towline_protocols::link::{Execution, RpcError, RpcErrorKind};

use super::head;
use crate::{
    dictionaries::{sample_list, sample_request},
    gateway::Gateway,
    request::{Body, Request},
    router,
    session::{Ended, Producer},
};

/// gRPC over HTTP/2, "Length-Prefixed-Message": a flag and four bytes of length.
const GRPC_PREFIX_BYTES: usize = 5;

/// Runs one request from its head to the end of its answer. Ends early, and so cancels the backend's
/// work, when nobody wants the answer any more.
pub(super) async fn run(gateway: Arc<Gateway>, request: Box<Request>, producer: Producer) {
    let deadline = request.deadline.map(tokio::time::Instant::from_std);
    let asking = ask(&gateway, request, &producer);
    let ended = tokio::select! {
        ended = asking => ended,
        Ended = producer.ended() => return,
        () = at(deadline) => Ok(End::Error(deadline_exceeded())),
    };
    let settling = match ended {
        Ok(End::Plain) => producer.end(),
        Ok(End::Trailers(fields)) => producer.trailers(head::fields(&fields)),
        Ok(End::Error(error)) => producer.error(error),
        Err(Ended) => return,
    };
    if let Some(settling) = settling {
        settling.settled().await;
    }
}

enum End {
    Plain,
    Trailers(http::HeaderMap),
    Error(RpcError),
}

async fn ask(gateway: &Arc<Gateway>, mut request: Box<Request>, producer: &Producer) -> Result<End, Ended> {
    let message_bytes_max = gateway.snapshot().settings.limits.message_bytes_max;
    let route = match router::find(gateway, &request) {
        Ok(route) => route,
        Err(error) => return Ok(End::Error(error)),
    };
    let sampled_for = sample_request(gateway, &route, &mut request).then(|| Arc::clone(&request.origin));
    // From here on it may have run; where it certainly did not, the router's error says so.
    if let Err(error) = producer.forward(route.durable).await? {
        return Ok(End::Error(error));
    }
    let answer = match router::carry(gateway, &route, request).await {
        Ok(answer) => answer,
        Err(error) => return Ok(End::Error(error)),
    };
    let (parts, body) = Response::into_parts(answer);
    let grpc = head::is_grpc(&parts.headers);
    let fields = head::response_fields(&parts);
    if let Some(origin) = sampled_for {
        sample_list(gateway, &origin, &fields);
    }
    producer.head(fields)?;
    let mut messages = Messages { grpc, message_bytes_max, gathered: BytesMut::new() };
    relay(body, &mut messages, producer).await
}

/// Carries the body over, message by message, as fast as the client takes them.
async fn relay(mut body: Body, messages: &mut Messages, producer: &Producer) -> Result<End, Ended> {
    while let Some(frame) = body.frame().await {
        let frame = match frame {
            Ok(frame) => frame,
            Err(error) => return Ok(End::Error(error)),
        };
        match frame.into_data() {
            Ok(data) => {
                if let Err(error) = messages.split(data, producer).await? {
                    return Ok(End::Error(error));
                }
            }
            Err(frame) => {
                if let Ok(fields) = frame.into_trailers() {
                    return Ok(messages.cut().map_or(End::Trailers(fields), End::Error));
                }
            }
        }
    }
    Ok(messages.cut().map_or(End::Plain, End::Error))
}

/// Finds the messages in a body.
struct Messages {
    grpc: bool,
    message_bytes_max: usize,
    /// A gRPC message that has not arrived whole, with its prefix.
    gathered: BytesMut,
}

impl Messages {
    async fn split(&mut self, mut data: Bytes, producer: &Producer) -> Result<Result<(), RpcError>, Ended> {
        if !self.grpc {
            while data.has_remaining() {
                let length = data.len().min(self.message_bytes_max);
                producer.message(data.split_to(length)).await?;
            }
            return Ok(Ok(()));
        }
        if self.gathered.is_empty() {
            // Whole messages are passed on as slices of what arrived.
            loop {
                match self.whole(&data) {
                    Ok(Some(length)) => {
                        data.advance(GRPC_PREFIX_BYTES);
                        producer.message(data.split_to(length)).await?;
                    }
                    Ok(None) => break,
                    Err(error) => return Ok(Err(error)),
                }
            }
        }
        self.gathered.extend_from_slice(&data);
        loop {
            match self.whole(&self.gathered) {
                Ok(Some(length)) => {
                    self.gathered.advance(GRPC_PREFIX_BYTES);
                    let message = self.gathered.split_to(length).freeze();
                    producer.message(message).await?;
                }
                Ok(None) => return Ok(Ok(())),
                Err(error) => return Ok(Err(error)),
            }
        }
    }

    /// The length of the message that `bytes` begin with, if it is there whole.
    fn whole(&self, bytes: &[u8]) -> Result<Option<usize>, RpcError> {
        let Some((prefix, rest)) = bytes.split_first_chunk::<GRPC_PREFIX_BYTES>() else { return Ok(None) };
        let [flag, length @ ..] = *prefix;
        let length = u32::from_be_bytes(length) as usize;
        if flag != 0 {
            return Err(failed("the backend compressed a gRPC message though nobody asked it to"));
        }
        if length > self.message_bytes_max {
            let text = format!(
                "the backend's message has {length} bytes, message_bytes_max is {}",
                self.message_bytes_max
            );
            return Err(RpcError::new(RpcErrorKind::LimitExceeded, Execution::Ran, text));
        }
        Ok((rest.len() >= length).then_some(length))
    }

    /// The error of a body that ended inside a message.
    fn cut(&self) -> Option<RpcError> {
        (!self.gathered.is_empty()).then(|| failed("the backend's answer ended inside a gRPC message"))
    }
}

fn failed(text: &str) -> RpcError {
    RpcError::new(RpcErrorKind::BackendFailed, Execution::MayHaveRun, text)
}

fn deadline_exceeded() -> RpcError {
    let text = "the deadline passed before the backend's answer was complete";
    RpcError::new(RpcErrorKind::DeadlineExceeded, Execution::MayHaveRun, text)
}

/// Resolves at `instant`; never without one.
async fn at(instant: Option<tokio::time::Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_running_request_takes_is_small() {
        fn bytes_of_result<A, B, C, R>(_: impl Fn(A, B, C) -> R) -> usize {
            size_of::<R>()
        }
        // Times the requests that wait for slow backends this is the memory that they hold.
        assert!(bytes_of_result(run) <= 2048, "{} bytes", bytes_of_result(run));
    }
}
