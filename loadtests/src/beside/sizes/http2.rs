//! HTTP/2 by the h2 crate, client and server over a pipe whose frames are counted.

use std::{
    io::Write as _,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::{Compression, write::GzEncoder};
use h2::{RecvStream, SendStream, client::SendRequest};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Version};
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf},
    runtime::Runtime,
    sync::mpsc,
};
use towline_protocols::hpack::HeaderField;

use super::{Sizes, Wire};
use crate::corpus::{Exchange, Half};

/// Room of the pipe: one answer and more, so that neither side ever waits.
const PIPE_BYTES: usize = 1024 * 1024;
const PREFACE_BYTES: usize = 24;
const FRAME_HEAD_BYTES: usize = 9;

/// What is sent in the bodies, and how they are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    /// JSON; answers by gzip, as browsers and apps ask for.
    JsonGzip,
    /// gRPC, uncompressed.
    Grpc,
    /// gRPC with messages by zstd, level 3.
    GrpcZstd,
}

/// A connection and its two ends.
pub(super) struct Http2 {
    runtime: Runtime,
    coding: Coding,
    client: SendRequest<Bytes>,
    answers: mpsc::UnboundedSender<Half>,
    counts: Counts,
    opening_bytes: usize,
}

impl Http2 {
    pub(super) fn open(coding: Coding) -> Result<Self, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        let (near, far) = tokio::io::duplex(PIPE_BYTES);
        let counts = Counts::default();
        let tap = Tap { pipe: near, counts: counts.clone() };
        let (answers, due) = mpsc::unbounded_channel();
        runtime.spawn(serve(far, due));
        let client = runtime.block_on(async {
            let (client, connection) = h2::client::handshake(tap).await?;
            // It ends with the runtime.
            tokio::spawn(async move {
                let _ = connection.await;
            });
            // What connections send on their own, SETTINGS and the like, is over when both have had their say.
            for _ in 0..SETTLING_TURNS {
                tokio::task::yield_now().await;
            }
            client.ready().await
        });
        let client = client.map_err(|error: h2::Error| error.to_string())?;
        let opening_bytes = counts.read(|counts| counts.sent.other) + PREFACE_BYTES;
        Ok(Self { runtime, coding, client, answers, counts, opening_bytes })
    }
}

const SETTLING_TURNS: usize = 20;

impl Wire for Http2 {
    fn opening_bytes(&self) -> usize {
        self.opening_bytes
    }

    fn exchange(&mut self, exchange: &Exchange) -> Result<Sizes, String> {
        let (request, response) = coded(self.coding, exchange)?;
        self.answers.send(response).map_err(|_| "the server is gone")?;
        let before = self.counts.read(|counts| counts.clone());
        let done = self.runtime.block_on(call(&mut self.client, &request));
        done.map_err(|error| error.to_string())?;
        let after = self.counts.read(|counts| counts.clone());
        Ok(Sizes {
            request_header: after.sent.header - before.sent.header,
            request_body: after.sent.body - before.sent.body,
            response_header: after.received.header - before.received.header,
            response_body: after.received.body - before.received.body,
        })
    }
}

async fn call(client: &mut SendRequest<Bytes>, half: &Half) -> Result<(), h2::Error> {
    let mut request = Request::new(());
    *request.version_mut() = Version::HTTP_2;
    let text = |name: &str| {
        let found = half.fields.iter().find(|field| *field.name == *name.as_bytes());
        found.map_or_else(String::new, |field| String::from_utf8_lossy(&field.value).into_owned())
    };
    *request.method_mut() = text(":method").parse().unwrap_or_default();
    let uri = format!("https://{}{}", text(":authority"), text(":path"));
    *request.uri_mut() = uri.parse().unwrap_or_default();
    *request.headers_mut() = headers(&half.fields);
    let (response, mut stream) = client.send_request(request, half.body.is_empty())?;
    if !half.body.is_empty() {
        send(&mut stream, half)?;
    }
    drain(response.await?.into_body()).await
}

async fn serve(pipe: DuplexStream, mut due: mpsc::UnboundedReceiver<Half>) -> Result<(), h2::Error> {
    let mut connection = h2::server::handshake(pipe).await?;
    while let Some(accepted) = connection.accept().await {
        let (request, mut respond) = accepted?;
        let Some(half) = due.recv().await else { break };
        let mut response = Response::new(());
        *response.headers_mut() = headers(&half.fields);
        tokio::spawn(async move {
            drain(request.into_body()).await?;
            let mut stream = respond.send_response(response, false)?;
            send(&mut stream, &half)
        });
    }
    Ok(())
}

fn send(stream: &mut SendStream<Bytes>, half: &Half) -> Result<(), h2::Error> {
    stream.reserve_capacity(half.body.len());
    stream.send_data(half.body.clone(), half.trailers.is_empty())?;
    if half.trailers.is_empty() { Ok(()) } else { stream.send_trailers(headers(&half.trailers)) }
}

async fn drain(mut body: RecvStream) -> Result<(), h2::Error> {
    while let Some(data) = body.data().await {
        let length = data?.len();
        body.flow_control().release_capacity(length)?;
    }
    body.trailers().await.map(|_| ())
}

fn headers(fields: &[HeaderField]) -> HeaderMap {
    let regular = fields.iter().filter(|field| !field.name.starts_with(b":"));
    let parsed = regular.filter_map(|field| {
        let name = HeaderName::from_bytes(&field.name).ok()?;
        Some((name, HeaderValue::from_bytes(&field.value).ok()?))
    });
    parsed.collect()
}

/// The halves as this coding sends them.
fn coded(coding: Coding, exchange: &Exchange) -> Result<(Half, Half), String> {
    let forms = if coding == Coding::JsonGzip { &exchange.json } else { &exchange.grpc };
    let (mut request, mut response) = (forms.request.clone(), forms.response.clone());
    match coding {
        Coding::JsonGzip => gzip(&mut response).map_err(|error| error.to_string())?,
        Coding::Grpc => [&mut request, &mut response].into_iter().for_each(|half| prefix(half, 0)),
        Coding::GrpcZstd => {
            for half in [&mut request, &mut response] {
                zstd(half).map_err(|error| error.to_string())?;
            }
        }
    }
    Ok((request, response))
}

fn gzip(half: &mut Half) -> std::io::Result<()> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(&half.body)?;
    let packed = encoder.finish()?;
    if packed.len() < half.body.len() {
        half.body = packed.into();
        half.fields.push(HeaderField::from_static("content-encoding", "gzip"));
        let length = half.body.len().to_string();
        half.fields.iter_mut().filter(|field| *field.name == *b"content-length").for_each(|field| {
            field.value = length.clone().into();
        });
    }
    Ok(())
}

fn zstd(half: &mut Half) -> std::io::Result<()> {
    let packed = zstd::bulk::compress(&half.body, 3)?;
    let smaller = packed.len() < half.body.len();
    half.fields.push(HeaderField::from_static("grpc-encoding", "zstd"));
    if smaller {
        half.body = packed.into();
    }
    prefix(half, u8::from(smaller));
    Ok(())
}

/// gRPC's five bytes.
fn prefix(half: &mut Half, compressed: u8) {
    let mut message = BytesMut::with_capacity(5 + half.body.len());
    message.put_u8(compressed);
    message.put_u32(half.body.len() as u32);
    message.put_slice(&half.body);
    half.body = message.freeze();
}

/// Bytes of one direction, by kind of frame.
#[derive(Clone, Debug, Default)]
struct Direction {
    header: usize,
    body: usize,
    other: usize,
    /// What has come of a frame's head, and what is still to come of its payload.
    head: BytesMut,
    payload: usize,
}

impl Direction {
    fn count(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.payload > 0 {
                let part = self.payload.min(bytes.len());
                self.payload -= part;
                bytes.advance(part);
                continue;
            }
            let part = (FRAME_HEAD_BYTES - self.head.len()).min(bytes.len());
            self.head.extend_from_slice(&bytes[..part]);
            bytes.advance(part);
            if self.head.len() == FRAME_HEAD_BYTES {
                self.begin_frame();
            }
        }
    }

    fn begin_frame(&mut self) {
        let length = self.head.get_uint(3) as usize;
        // RFC 9113, section 6: DATA, HEADERS, CONTINUATION.
        let counter = match self.head[0] {
            0 => &mut self.body,
            1 | 9 => &mut self.header,
            _ => &mut self.other,
        };
        *counter += FRAME_HEAD_BYTES + length;
        self.payload = length;
        self.head.clear();
    }
}

#[derive(Clone, Debug, Default)]
struct Both {
    preface_seen: usize,
    sent: Direction,
    received: Direction,
}

#[derive(Clone, Debug, Default)]
struct Counts(Arc<Mutex<Both>>);

impl Counts {
    fn read<T>(&self, take: impl FnOnce(&mut Both) -> T) -> T {
        take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn sent(&self, bytes: &[u8]) {
        self.read(|both| {
            let preface = (PREFACE_BYTES - both.preface_seen).min(bytes.len());
            both.preface_seen += preface;
            both.sent.count(&bytes[preface..]);
        });
    }
}

/// The client's end of the pipe.
struct Tap {
    pipe: DuplexStream,
    counts: Counts,
}

impl AsyncRead for Tap {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.pipe).poll_read(cx, buf);
        self.counts.read(|both| both.received.count(&buf.filled()[before..]));
        read
    }
}

impl AsyncWrite for Tap {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let written = Pin::new(&mut self.pipe).poll_write(cx, bytes);
        if let Poll::Ready(Ok(count)) = written {
            self.counts.sent(&bytes[..count]);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.pipe).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.pipe).poll_shutdown(cx)
    }
}
