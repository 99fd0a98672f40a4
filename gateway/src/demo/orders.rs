//! `towline.demo.v1.Orders`, kept in memory.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use futures_util::stream;
use parking_lot::Mutex;
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use super::echo::{Replies, pause};
use crate::proto::demo::{
    CreateOrderRequest, GetOrderRequest, ListOrdersRequest, Order, OrderStatus, orders_server,
};

/// Orders kept; the oldest make room.
const ORDERS_MAX: usize = 10_000;

/// The orders of one demo backend.
#[derive(Debug)]
pub struct Orders {
    kept: Mutex<Kept>,
    /// Counts changes, so that watchers look again.
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Kept {
    orders: HashMap<String, Order>,
    /// Oldest first.
    ids: VecDeque<String>,
}

impl Default for Orders {
    fn default() -> Self {
        Self { kept: Mutex::default(), changed: watch::Sender::new(0) }
    }
}

impl Orders {
    /// The order of this id.
    pub fn get(&self, order_id: &str) -> Option<Order> {
        self.kept.lock().orders.get(order_id).cloned()
    }

    /// Places an order, or runs an old one again: `executions` tells.
    pub fn create(&self, request: CreateOrderRequest) -> Order {
        let mut kept = self.kept.lock();
        let order = match kept.orders.get_mut(&request.order_id) {
            Some(order) => {
                order.executions += 1;
                order.clone()
            }
            None => kept.insert(request),
        };
        drop(kept);
        self.changed.send_modify(|changes| *changes += 1);
        order
    }

    fn list(&self, request: &ListOrdersRequest) -> Vec<Order> {
        let kept = self.kept.lock();
        let limit = match request.limit {
            0 => usize::MAX,
            limit => limit as usize,
        };
        let all = kept.ids.iter().filter_map(|id| kept.orders.get(id));
        all.filter(|order| order.customer_id == request.customer_id).take(limit).cloned().collect()
    }
}

impl Kept {
    fn insert(&mut self, request: CreateOrderRequest) -> Order {
        if self.ids.len() >= ORDERS_MAX
            && let Some(oldest) = self.ids.pop_front()
        {
            self.orders.remove(&oldest);
        }
        let price =
            |each: &crate::proto::demo::OrderItem| u64::from(each.quantity).saturating_mul(each.unit_price);
        let total = request.items.iter().map(price).fold(0, u64::saturating_add);
        let order = Order {
            order_id: request.order_id,
            customer_id: request.customer_id,
            currency: request.currency,
            items: request.items,
            note: request.note,
            status: OrderStatus::Placed.into(),
            total,
            created_unix_ms: unix_ms(),
            executions: 1,
        };
        self.ids.push_back(order.order_id.clone());
        self.orders.insert(order.order_id.clone(), order.clone());
        order
    }
}

pub(super) struct OrderService(pub(super) Arc<Orders>);

#[tonic::async_trait]
impl orders_server::Orders for OrderService {
    async fn create_order(&self, request: Request<CreateOrderRequest>) -> Result<Response<Order>, Status> {
        let request = request.into_inner();
        if request.order_id.is_empty() {
            return Err(Status::invalid_argument("order_id: choose one, such as a UUID"));
        }
        // Counted before the wait: work that its caller gives up on was begun all the same.
        let delay_ms = request.delay_ms;
        let order = self.0.create(request);
        pause(delay_ms).await;
        Ok(Response::new(order))
    }

    async fn get_order(&self, request: Request<GetOrderRequest>) -> Result<Response<Order>, Status> {
        let id = request.into_inner().order_id;
        self.0.get(&id).map(Response::new).ok_or_else(|| not_found(&id))
    }

    type ListOrdersStream = Replies<Order>;

    async fn list_orders(
        &self,
        request: Request<ListOrdersRequest>,
    ) -> Result<Response<Self::ListOrdersStream>, Status> {
        let orders = self.0.list(request.get_ref());
        Ok(Response::new(Box::pin(stream::iter(orders.into_iter().map(Ok)))))
    }

    type WatchOrderStream = Replies<Order>;

    async fn watch_order(
        &self,
        request: Request<GetOrderRequest>,
    ) -> Result<Response<Self::WatchOrderStream>, Status> {
        let id = request.into_inner().order_id;
        let first = self.0.get(&id).ok_or_else(|| not_found(&id))?;
        let changes = Changes { orders: self.0.clone(), changed: self.0.changed.subscribe(), last: first };
        let begin = (changes, true);
        let watched = stream::unfold(begin, |(mut changes, first)| async move {
            let order = if first { changes.last.clone() } else { changes.next().await? };
            Some((Ok(order), (changes, false)))
        });
        Ok(Response::new(Box::pin(watched)))
    }
}

/// One watcher of one order.
struct Changes {
    orders: Arc<Orders>,
    changed: watch::Receiver<u64>,
    last: Order,
}

impl Changes {
    /// The order when it differs from what was told last; `None` when it is gone.
    async fn next(&mut self) -> Option<Order> {
        loop {
            self.changed.changed().await.ok()?;
            let now = self.orders.get(&self.last.order_id)?;
            if now != self.last {
                self.last = now.clone();
                return Some(now);
            }
        }
    }
}

fn not_found(id: &str) -> Status {
    Status::not_found(format!("there is no order `{id}`"))
}

fn unix_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}
