//! `towline.demo.v1.Echo`.

use std::{pin::Pin, time::Duration};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use tonic::{Code, Request, Response, Status, Streaming, metadata::MetadataMap};

use crate::proto::demo::{EchoReply, EchoRequest, echo_server::Echo};

/// Longest time that a call may ask to wait.
const DELAY_MAX: Duration = Duration::from_secs(60);
/// Largest reply that a call may ask for.
const REPLY_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Most replies that a call may ask for.
const REPEAT_MAX: u32 = 100_000;

pub(super) struct EchoService;

pub(super) type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Echo for EchoService {
    async fn unary(&self, request: Request<EchoRequest>) -> Result<Response<EchoReply>, Status> {
        let caller = Caller::of(request.metadata());
        answer(request.into_inner(), &caller, 0).await.map(Response::new)
    }

    type BidiEchoStream = Replies<EchoReply>;

    async fn bidi_echo(
        &self,
        request: Request<Streaming<EchoRequest>>,
    ) -> Result<Response<Self::BidiEchoStream>, Status> {
        let caller = Caller::of(request.metadata());
        let replies = request.into_inner().enumerate().then(move |(index, request)| {
            let caller = caller.clone();
            async move { answer(request?, &caller, index as u64).await }
        });
        Ok(Response::new(Box::pin(replies)))
    }

    type ServerStreamStream = Replies<EchoReply>;

    async fn server_stream(
        &self,
        request: Request<EchoRequest>,
    ) -> Result<Response<Self::ServerStreamStream>, Status> {
        let caller = Caller::of(request.metadata());
        let request = request.into_inner();
        let repeat = u64::from(request.repeat.clamp(1, REPEAT_MAX));
        let replies = stream::iter(0..repeat).then(move |index| {
            let (request, caller) = (request.clone(), caller.clone());
            async move { answer(request, &caller, index).await }
        });
        Ok(Response::new(Box::pin(replies)))
    }
}

async fn answer(request: EchoRequest, caller: &Caller, index: u64) -> Result<EchoReply, Status> {
    pause(request.delay_ms).await;
    if request.fail_with_code != 0 {
        let code = i32::try_from(request.fail_with_code).unwrap_or_default();
        return Err(Status::new(Code::from_i32(code), request.text));
    }
    let payload = match request.reply_bytes as usize {
        0 => request.payload,
        bytes => Bytes::from(vec![b'x'; bytes.min(REPLY_BYTES_MAX)]),
    };
    let Caller { user, client_id } = caller.clone();
    Ok(EchoReply { text: request.text, payload, index, user, client_id })
}

/// Waits as long as a call asked for.
pub(super) async fn pause(delay_ms: u32) {
    if delay_ms > 0 {
        let delay = Duration::from_millis(u64::from(delay_ms));
        tokio::time::sleep(delay.min(DELAY_MAX)).await;
    }
}

/// Who called, as the gateway says.
#[derive(Clone)]
struct Caller {
    user: String,
    client_id: String,
}

impl Caller {
    fn of(metadata: &MetadataMap) -> Self {
        let text =
            |name| metadata.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
        Self { user: text("x-towline-user"), client_id: text("x-towline-client") }
    }
}
