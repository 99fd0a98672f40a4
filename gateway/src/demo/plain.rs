//! The demo backend's plain HTTP.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{Path, State},
    http::{HeaderMap, HeaderValue, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::Serialize;

use super::{Devices, Orders};
use crate::{
    backend::is_grpc,
    proto::demo::{CreateOrderRequest, DeviceEvent, Order},
};

/// Largest answer of `/bytes/{n}`.
const BYTES_MAX: usize = 64 * 1024 * 1024;
/// Longest wait of `/slow/{ms}`.
const DELAY_MS_MAX: u64 = 60_000;

struct Shared {
    orders: Arc<Orders>,
    devices: Arc<Devices>,
}

/// An order as JSON.
#[derive(Serialize)]
struct OrderJson {
    order_id: String,
    customer_id: String,
    total: u64,
    executions: u32,
}

pub(super) fn router(orders: Arc<Orders>, devices: Arc<Devices>) -> Router {
    Router::new()
        .route("/hello", get(hello))
        .route("/echo", post(echo))
        .route("/headers", get(headers))
        .route("/bytes/{count}", get(bytes))
        .route("/slow/{ms}", get(slow).post(slow))
        .route("/orders/{id}", get(order).post(create_order))
        .route("/events", post(event))
        .with_state(Arc::new(Shared { orders, devices }))
}

/// Each client is told in its own language.
pub(super) async fn nothing_there(headers: HeaderMap) -> Response {
    if is_grpc(&headers) {
        return tonic::Status::unimplemented("the demo backend has no such method").into_http();
    }
    (StatusCode::NOT_FOUND, "nothing there\n").into_response()
}

async fn hello() -> &'static str {
    "hello from the demo backend\n"
}

/// The body streams back as it comes.
async fn echo(headers: HeaderMap, body: Body) -> Response {
    let mut response = body.into_response();
    if let Some(content_type) = headers.get("content-type") {
        response.headers_mut().insert("content-type", content_type.clone());
    }
    response
}

/// What the gateway sent, one `name: value` a line.
async fn headers(headers: HeaderMap) -> String {
    let line =
        |(name, value): (_, &HeaderValue)| format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes()));
    headers.iter().map(line).collect()
}

async fn bytes(Path(count): Path<usize>) -> Vec<u8> {
    vec![b'x'; count.min(BYTES_MAX)]
}

async fn slow(Path(ms): Path<u64>) -> &'static str {
    tokio::time::sleep(Duration::from_millis(ms.min(DELAY_MS_MAX))).await;
    "at last\n"
}

async fn order(State(shared): State<Arc<Shared>>, Path(id): Path<String>) -> Response {
    match shared.orders.get(&id) {
        Some(order) => Json(OrderJson::from(order)).into_response(),
        None => (StatusCode::NOT_FOUND, "no such order\n").into_response(),
    }
}

async fn create_order(State(shared): State<Arc<Shared>>, Path(order_id): Path<String>) -> Json<OrderJson> {
    let request = CreateOrderRequest { order_id, ..CreateOrderRequest::default() };
    Json(shared.orders.create(request).into())
}

/// The webhook of topic routes to an HTTP backend.
async fn event(State(shared): State<Arc<Shared>>, headers: HeaderMap, payload: Bytes) -> StatusCode {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    shared.devices.push(DeviceEvent {
        topic: text("x-towline-topic"),
        payload,
        client_id: text("x-towline-client"),
        user: text("x-towline-user"),
        qos: text("x-towline-qos").parse().unwrap_or_default(),
    });
    StatusCode::NO_CONTENT
}

impl From<Order> for OrderJson {
    fn from(order: Order) -> Self {
        let Order { order_id, customer_id, total, executions, .. } = order;
        Self { order_id, customer_id, total, executions }
    }
}
