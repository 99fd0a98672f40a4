//! A published message on its way to a backend: as a gRPC call, an HTTP call, or to an MQTT broker.

use std::{sync::Arc, time::Instant};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, header};
use http_body_util::{BodyExt, Full, Limited};
use prost::Message as _;

use super::{Connections, headers::text};
use crate::{
    error::{Execution, RpcError, RpcErrorKind},
    gateway::Gateway,
    hub::Message,
    proto::device::{PublishReply, PublishRequest, UserProperty},
    request::{Body, Origin, Request},
    router::{self, Route},
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

/// What a backend wants published to the message's response topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Payload, opaque.
    pub payload: Bytes,
    /// MQTT's content type, or the link's.
    pub content_type: Option<Arc<str>>,
}

/// Takes a message to the backend of the first route whose topic filter matches; `Ok(None)` without a
/// reply, and at once if no route matches. `Ok` only after the backend accepted the message, so that
/// QoS 1 can be acknowledged then.
///
/// # Errors
/// Says why the backend did not take it; leave the message unacknowledged.
pub async fn publish(
    gateway: &Arc<Gateway>,
    origin: &Arc<Origin>,
    message: &Message,
) -> Result<Option<Reply>, RpcError> {
    let started = Instant::now();
    let (route, captures) =
        match gateway.snapshot().routes.match_topic(&message.topic, origin.identity.as_deref()) {
            None => return Ok(None),
            Some((route, captures)) => (route.clone(), captures),
        };
    let outcome = match router::admit(&route, origin) {
        Ok(()) => forward(gateway, &route, captures, origin, message).await,
        Err(error) => Err(error),
    };
    router::observe(gateway, &route, started, outcome.as_ref().err());
    outcome
}

async fn forward(
    gateway: &Arc<Gateway>,
    route: &Route,
    captures: Vec<&str>,
    origin: &Arc<Origin>,
    message: &Message,
) -> Result<Option<Reply>, RpcError> {
    let backend = &route.backend;
    if matches!(backend.connections, Connections::Mqtt) {
        let (upstreams, settings) = (&gateway.upstreams, &backend.settings);
        return upstreams.publish(gateway, settings, origin, message, route.timeout()).await.map(|()| None);
    }
    let grpc = backend.settings.kind == BackendKind::Grpc;
    let (headers, body) = match grpc {
        true => grpc_call(captures, origin, message),
        false => webhook(&captures, message),
    };
    let deadline = Instant::now() + route.timeout();
    let http = http::Request::new(Body::new(Full::new(body).map_err(|never| match never {})));
    let mut request = Request {
        origin: origin.clone(),
        deadline: Some(deadline),
        priority: message.priority,
        idempotent: route.idempotent,
        http,
    };
    *request.http.method_mut() = Method::POST;
    *request.http.uri_mut() = route.call.clone().map(Into::into).unwrap_or_default();
    let answer = backend.call_with(route, Box::new(request), headers).await?;
    match grpc {
        true => grpc_reply(route, answer).await,
        false => webhook_reply(route, answer).await,
    }
}

/// `towline.device.v1.PublishRequest`, framed.
fn grpc_call(captures: Vec<&str>, origin: &Origin, message: &Message) -> (HeaderMap, Bytes) {
    let string = |value: &Option<Arc<str>>| value.as_deref().unwrap_or_default().to_owned();
    let property = |(name, value): &(Arc<str>, Arc<str>)| UserProperty {
        name: name.to_string(),
        value: value.to_string(),
    };
    let call = PublishRequest {
        topic: message.topic.to_string(),
        topic_captures: captures.into_iter().map(str::to_owned).collect(),
        payload: message.payload.clone(),
        qos: message.qos.into(),
        client_id: string(&origin.client_id),
        user: string(&origin.user),
        content_type: string(&message.content_type),
        user_properties: message.user_properties.iter().map(property).collect(),
        response_topic: string(&message.response_topic),
        correlation_data: message.correlation_data.clone().unwrap_or_default(),
        retain: message.retain,
    };
    let length = call.encoded_len();
    let mut body = BytesMut::with_capacity(GRPC_PREFIX_BYTES + length);
    body.put_u8(0);
    // A packet is far below 4 GiB: MQTT's own length has 28 bits.
    body.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    call.encode_raw(&mut body);
    let grpc = (header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    (HeaderMap::from_iter([grpc]), body.freeze())
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

async fn grpc_reply(route: &Route, answer: Response<Body>) -> Result<Option<Reply>, RpcError> {
    let (head, body) = answer.into_parts();
    if head.headers.contains_key("grpc-status") {
        check_status(route, &head.headers)?;
    }
    let collected = collect(route, body).await?;
    let trailers = collected.trailers().cloned().unwrap_or_default();
    if !head.headers.contains_key("grpc-status") {
        check_status(route, &trailers)?;
    }
    let framed = collected.to_bytes();
    let reply = framed.get(GRPC_PREFIX_BYTES..).filter(|_| framed.first() == Some(&0));
    let reply = reply.and_then(|reply| PublishReply::decode(reply).ok());
    let reply = reply.ok_or_else(|| not_understood(route, "not one PublishReply"))?;
    let content_type = Some(reply.content_type).filter(|text| !text.is_empty()).map(Into::into);
    Ok(reply.payload.map(|payload| Reply { payload, content_type }))
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
