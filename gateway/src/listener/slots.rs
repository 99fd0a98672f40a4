//! How many connections there are, and how many there may be.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use dashmap::DashMap;
use prometheus::IntGauge;

use super::Refusal;
use crate::{gateway::Gateway, mqtt, request::Protocol};

/// Connections open, all together and by listener.
#[derive(Default)]
pub struct ConnectionSlots {
    total: Arc<AtomicUsize>,
    by_listener: DashMap<Arc<str>, Arc<AtomicUsize>>,
}

/// One connection's place; given back when it is dropped.
pub struct Slot {
    _total: Place,
    _listener: Place,
    detecting: Open,
}

impl ConnectionSlots {
    fn listener(&self, name: &Arc<str>) -> Arc<AtomicUsize> {
        match self.by_listener.get(name) {
            Some(count) => Arc::clone(&count),
            None => Arc::clone(&self.by_listener.entry(Arc::clone(name)).or_default()),
        }
    }

    /// Connections open on all listeners.
    pub fn open(&self) -> usize {
        self.total.load(Ordering::Relaxed)
    }
}

/// Waits until the listener's rate admits one more connection: those beyond it stay in the kernel's backlog.
pub(super) async fn connect_due(gateway: &Gateway, listener: &Arc<str>) {
    let mut is_counted = false;
    loop {
        let rates = gateway.rates.of(&gateway.snapshot(), listener);
        let due = rates.and_then(|rates| rates.connect_due(mqtt::now()));
        let Some(at) = due else { return };
        if !std::mem::replace(&mut is_counted, true) {
            gateway.metrics.limit_hit("listeners.rate.connects");
        }
        tokio::time::sleep_until(at.into()).await;
    }
}

/// One more connection was accepted.
pub(super) fn note_connect(gateway: &Gateway, listener: &Arc<str>) {
    if let Some(rates) = gateway.rates.of(&gateway.snapshot(), listener) {
        rates.note_connect(mqtt::now());
    }
}

/// Stage one: a place within the listener's and the gateway's bound.
pub(crate) fn admit(gateway: &Gateway, listener: &Arc<str>) -> Result<Slot, Refusal> {
    let snapshot = gateway.snapshot();
    let settings = &snapshot.listener(listener).ok_or(Refusal::NoListener)?.settings;
    gateway.metrics.connections_accepted.with_label_values(&[listener]).inc();
    let full = |limit: &'static str| {
        gateway.metrics.limit_hit(limit);
        Refusal::Full(limit)
    };
    let total = Place::take(&gateway.slots.total, snapshot.settings.limits.connections_max);
    let total = total.ok_or_else(|| full("limits.connections_max"))?;
    let place = Place::take(&gateway.slots.listener(listener), settings.connections_max);
    let place = place.ok_or_else(|| full("listeners.connections_max"))?;
    let detecting = gateway.metrics.connections_open.with_label_values(&[&**listener, "detecting"]);
    Ok(Slot { _total: total, _listener: place, detecting: Open::new(detecting) })
}

/// Whether the client's address may have one more connection by the listener's rate. Asked once it is known whose
/// address it is.
pub(crate) fn admit_address(gateway: &Gateway, listener: &Arc<str>, client: IpAddr) -> Result<(), Refusal> {
    const LIMIT: &str = "listeners.rate.address_connects";
    let rates = gateway.rates.of(&gateway.snapshot(), listener);
    if rates.is_some_and(|rates| !rates.admits(client, mqtt::now())) {
        gateway.metrics.limit_hit(LIMIT);
        return Err(Refusal::Full(LIMIT));
    }
    Ok(())
}

impl Slot {
    /// The connection's protocol is known: it counts under its name from now on.
    pub(crate) fn serving(mut self, gateway: &Gateway, listener: &str, protocol: Protocol) -> Self {
        let gauge = gateway.metrics.connections_open.with_label_values(&[listener, protocol.label()]);
        self.detecting = Open::new(gauge);
        self
    }
}

/// One of a counted number.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(count: &Arc<AtomicUsize>, max: usize) -> Option<Self> {
        let took = count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < max).then_some(n + 1));
        took.is_ok().then(|| Self(Arc::clone(count)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

struct Open(IntGauge);

impl Open {
    fn new(gauge: IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}
