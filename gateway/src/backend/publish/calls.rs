//! Messages as calls: one, or a batch of them, by gRPC and by HTTP; and what the answer says.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, header};
use http_body_util::{BodyExt, Full, Limited};
use serde::Serialize;

use super::{super::now, Reply, batch::Item};
use crate::{
    backend::headers::text,
    error::{Execution, RpcError, RpcErrorKind},
    hub::Message,
    proto::device::{PublishBatchReply, PublishBatchRequest, PublishReply, PublishRequest, UserProperty},
    request::{Body, Origin, Request},
    router::Route,
    settings::BackendKind,
};

/// A reply becomes one message: more is cut off with an error.
const REPLY_BYTES_MAX: usize = 1024 * 1024;
/// A flag and a length before every gRPC message.
const GRPC_PREFIX_BYTES: usize = 5;
const TOPIC: HeaderName = HeaderName::from_static("x-towline-topic");
const CAPTURE: HeaderName = HeaderName::from_static("x-towline-topic-capture");
const QOS: HeaderName = HeaderName::from_static("x-towline-qos");
const RETAIN: HeaderName = HeaderName::from_static("x-towline-retain");
const RESPONSE_TOPIC: HeaderName = HeaderName::from_static("x-towline-response-topic");
const CORRELATION: HeaderName = HeaderName::from_static("x-towline-correlation");
const PROPERTY: HeaderName = HeaderName::from_static("x-towline-property");

/// One message as one call.
pub(super) async fn call_one(
    route: &Route,
    captures: &[&str],
    origin: &Arc<Origin>,
    message: &Message,
) -> Result<Option<Reply>, RpcError> {
    if route.backend.settings.kind == BackendKind::Grpc {
        let request = request(captures.iter().copied(), origin, message);
        let answer = call(route, origin, grpc_headers(), framed(&request), message).await?;
        return grpc_reply::<PublishReply>(route, answer).await.map(reply);
    }
    let (headers, body) = webhook(captures, message);
    let answer = call(route, origin, headers, body, message).await?;
    webhook_reply(route, answer).await
}

/// Several messages as one call; an answer for each, in their order.
pub(super) async fn call_batch(
    route: &Route,
    origin: &Arc<Origin>,
    items: &[Item],
) -> Result<Vec<Option<Reply>>, RpcError> {
    let Some(first) = items.first() else { return Ok(Vec::new()) };
    if route.backend.settings.kind == BackendKind::Grpc {
        let messages = items
            .iter()
            .map(|item| request(item.captures.iter().map(String::as_str), &item.origin, &item.message));
        let batch = PublishBatchRequest { messages: messages.collect() };
        let answer = call(route, origin, grpc_headers(), framed(&batch), &first.message).await?;
        let replies = grpc_reply::<PublishBatchReply>(route, answer).await?.replies;
        return match replies.len() {
            0 => Ok(items.iter().map(|_| None).collect()),
            count if count == items.len() => Ok(replies.into_iter().map(reply).collect()),
            _ => Err(not_understood(route, "another number of replies than of messages")),
        };
    }
    let shown: Vec<_> = items.iter().map(Shown::of).collect();
    let body = serde_json::to_vec(&shown).map_err(|error| {
        RpcError::new(RpcErrorKind::Internal, Execution::NotRun, format!("a batch is no JSON: {error}"))
    })?;
    let json = (header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let answer = call(route, origin, HeaderMap::from_iter([json]), body.into(), &first.message).await?;
    webhook_reply(route, answer).await?;
    Ok(items.iter().map(|_| None).collect())
}

async fn call(
    route: &Route,
    origin: &Arc<Origin>,
    headers: HeaderMap,
    body: Bytes,
    message: &Message,
) -> Result<Response<Body>, RpcError> {
    let http = http::Request::new(Body::new(Full::new(body).map_err(|never| match never {})));
    let mut request = Request {
        origin: origin.clone(),
        deadline: Some(now() + route.timeout()),
        priority: message.priority,
        idempotent: route.idempotent,
        http,
    };
    *request.http.method_mut() = Method::POST;
    *request.http.uri_mut() = route.call.clone().map(Into::into).unwrap_or_default();
    route.backend.call_with(route, Box::new(request), headers).await
}

/// A message of a batch, as HTTP backends get it.
#[derive(Serialize)]
struct Shown<'i> {
    topic: &'i str,
    captures: &'i [String],
    qos: u8,
    retain: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_id: Option<&'i str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'i str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<&'i str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_topic: Option<&'i str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    correlation_data: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    user_properties: Vec<(&'i str, &'i str)>,
    /// Base64.
    payload: String,
}

impl<'i> Shown<'i> {
    fn of(item: &'i Item) -> Self {
        let Item { origin, captures, message, .. } = item;
        Self {
            topic: &message.topic,
            captures,
            qos: message.qos,
            retain: message.retain,
            client_id: origin.client_id.as_deref(),
            user: origin.user.as_deref(),
            content_type: message.content_type.as_deref(),
            response_topic: message.response_topic.as_deref(),
            correlation_data: message.correlation_data.as_ref().map(|data| BASE64.encode(data)),
            user_properties: message
                .user_properties
                .iter()
                .map(|(name, value)| (&**name, &**value))
                .collect(),
            payload: BASE64.encode(&message.payload),
        }
    }
}

fn request<'c>(
    captures: impl Iterator<Item = &'c str>,
    origin: &Origin,
    message: &Message,
) -> PublishRequest {
    let string = |value: &Option<Arc<str>>| value.as_deref().unwrap_or_default().to_owned();
    let property = |(name, value): &(Arc<str>, Arc<str>)| UserProperty {
        name: name.to_string(),
        value: value.to_string(),
    };
    PublishRequest {
        topic: message.topic.to_string(),
        topic_captures: captures.map(str::to_owned).collect(),
        payload: message.payload.clone(),
        qos: message.qos.into(),
        client_id: string(&origin.client_id),
        user: string(&origin.user),
        content_type: string(&message.content_type),
        user_properties: message.user_properties.iter().map(property).collect(),
        response_topic: string(&message.response_topic),
        correlation_data: message.correlation_data.clone().unwrap_or_default(),
        retain: message.retain,
    }
}

pub(crate) fn grpc_headers() -> HeaderMap {
    HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"))])
}

pub(crate) fn framed(message: &impl prost::Message) -> Bytes {
    let length = message.encoded_len();
    let mut body = BytesMut::with_capacity(GRPC_PREFIX_BYTES + length);
    body.put_u8(0);
    // A packet is far below 4 GiB, as MQTT's own length has 28 bits, and a batch has a bound in bytes.
    body.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    message.encode_raw(&mut body);
    body.freeze()
}

/// The one message of a body; `None` if there is something else.
pub(crate) fn unframed<M: prost::Message + Default>(framed: &Bytes) -> Option<M> {
    let message = framed.get(GRPC_PREFIX_BYTES..).filter(|_| framed.first() == Some(&0))?;
    M::decode(message).ok()
}

fn reply(reply: PublishReply) -> Option<Reply> {
    let content_type = Some(reply.content_type).filter(|text| !text.is_empty()).map(Into::into);
    reply.payload.map(|payload| Reply { payload, content_type })
}

/// The payload as the body, everything else in headers.
fn webhook(captures: &[&str], message: &Message) -> (HeaderMap, Bytes) {
    let mut headers = HeaderMap::new();
    let content_type = message.content_type.as_deref().unwrap_or("application/octet-stream");
    headers.insert(header::CONTENT_TYPE, text(content_type));
    headers.insert(TOPIC, text(&message.topic));
    for capture in captures {
        headers.append(CAPTURE, text(capture));
    }
    headers.insert(QOS, HeaderValue::from(u16::from(message.qos)));
    if message.retain {
        headers.insert(RETAIN, HeaderValue::from_static("1"));
    }
    if let Some(topic) = &message.response_topic {
        headers.insert(RESPONSE_TOPIC, text(topic));
    }
    if let Some(data) = &message.correlation_data {
        headers.insert(CORRELATION, text(&BASE64.encode(data)));
    }
    for (name, value) in &message.user_properties {
        headers.append(PROPERTY, text(&format!("{name}={value}")));
    }
    (headers, message.payload.clone())
}

async fn grpc_reply<M: prost::Message + Default>(
    route: &Route,
    answer: Response<Body>,
) -> Result<M, RpcError> {
    let (head, body) = answer.into_parts();
    if head.headers.contains_key("grpc-status") {
        check_status(route, &head.headers)?;
    }
    let collected = collect(route, body).await?;
    let trailers = collected.trailers().cloned().unwrap_or_default();
    if !head.headers.contains_key("grpc-status") {
        check_status(route, &trailers)?;
    }
    let reply = unframed(&collected.to_bytes());
    reply.ok_or_else(|| not_understood(route, "something else than one reply"))
}

async fn webhook_reply(route: &Route, answer: Response<Body>) -> Result<Option<Reply>, RpcError> {
    let (head, body) = answer.into_parts();
    if !head.status.is_success() {
        let temporary = head.status.is_server_error() || matches!(head.status.as_u16(), 408 | 425 | 429);
        return Err(refused(route, temporary, &format!("HTTP status {}", head.status.as_u16())));
    }
    let payload = collect(route, body).await?.to_bytes();
    let content_type = head.headers.get(header::CONTENT_TYPE);
    let content_type = content_type.and_then(|value| value.to_str().ok()).map(Into::into);
    Ok((!payload.is_empty()).then_some(Reply { payload, content_type }))
}

async fn collect(route: &Route, body: Body) -> Result<http_body_util::Collected<Bytes>, RpcError> {
    Limited::new(body, REPLY_BYTES_MAX).collect().await.map_err(|error| match error.downcast::<RpcError>() {
        Ok(error) => *error,
        Err(_over) => not_understood(route, "a reply of more than 1 MiB"),
    })
}

fn check_status(route: &Route, headers: &HeaderMap) -> Result<(), RpcError> {
    let status = headers.get("grpc-status").and_then(|value| value.to_str().ok()?.parse().ok());
    let status: u16 = status.ok_or_else(|| not_understood(route, "no grpc-status"))?;
    if status == 0 {
        return Ok(());
    }
    let text = headers.get("grpc-message").and_then(|value| value.to_str().ok()).unwrap_or_default();
    // The codes that gRPC's documentation calls worth another attempt, and those that name no cause.
    let temporary = matches!(status, 1 | 2 | 4 | 8 | 10 | 13 | 14);
    Err(refused(route, temporary, &format!("gRPC status {status}: {text}")))
}

/// The backend answered, and the answer is no.
fn refused(route: &Route, temporary: bool, what: &str) -> RpcError {
    let message = format!("backend {} did not take the message: {what}", route.backend.settings.name);
    match temporary {
        true => RpcError::new(RpcErrorKind::BackendFailed, Execution::MayHaveRun, message),
        false => RpcError::new(RpcErrorKind::PermissionDenied, Execution::Ran, message),
    }
}

fn not_understood(route: &Route, what: &str) -> RpcError {
    let message = format!("backend {} answered a message with {what}", route.backend.settings.name);
    RpcError::new(RpcErrorKind::BackendFailed, Execution::MayHaveRun, message)
}
