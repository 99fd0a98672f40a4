//! The one task that waits for all parked connections.

use std::{collections::BTreeSet, io, os::fd::OwnedFd, sync::Arc, time::Duration};

use parking_lot::Mutex;
use prometheus::{IntCounter, IntGauge};
use rustix::event::{Timespec, epoll};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::Notify,
    time::{Instant, sleep_until},
};

use super::{
    Idle,
    place::{Arrival, Place, Ticket},
};
use crate::{drain::DrainWatch, metrics::Metrics};

/// Sockets taken from epoll at a time; between two such batches the lot's other callers have their turn.
const BATCH: usize = 256;
/// A look at the clock where nothing is due.
const NOTHING_DUE: Duration = Duration::from_secs(600);

pub(super) struct Inner<T: Idle> {
    epoll: AsyncFd<OwnedFd>,
    begun: Instant,
    table: Mutex<Table<T>>,
    /// Woken, to be made tasks of.
    called: Mutex<Vec<Arc<Place<T>>>>,
    /// Somebody was called, or something is due earlier than before.
    news: Notify,
    drain: DrainWatch,
    parked: IntGauge,
    parkings: IntCounter,
}

struct Table<T: Idle> {
    /// The lot's task has ended: nobody is taken in any more.
    is_closed: bool,
    places: Vec<Option<Arc<Place<T>>>>,
    free: Vec<u32>,
    /// Those with a deadline.
    due: BTreeSet<Ticket>,
}

impl<T: Idle> Inner<T> {
    pub(super) fn new(drain: DrainWatch, metrics: &Metrics) -> io::Result<Self> {
        let epoll = watched(epoll::create(epoll::CreateFlags::CLOEXEC)?)?;
        Ok(Self {
            epoll,
            begun: Instant::now(),
            table: Mutex::default(),
            called: Mutex::default(),
            news: Notify::new(),
            drain,
            parked: metrics.connections_parked.clone(),
            parkings: metrics.parkings.clone(),
        })
    }

    /// Watches a connection from now on.
    pub(super) fn admit(&self, place: &Arc<Place<T>>, connection: &T) -> io::Result<Ticket> {
        let due_ms = connection.deadline().map_or(0, |at| self.ms(at));
        let mut table = self.table.lock();
        let first = table.due.first().copied();
        let ticket = table.insert(place, due_ms)?;
        let is_first = due_ms > 0 && first.is_none_or(|first| ticket < first);
        drop(table);
        if let Err(error) = self.watch(connection, ticket) {
            self.table.lock().remove(ticket);
            return Err(error);
        }
        self.parked.inc();
        self.parkings.inc();
        if is_first {
            self.news.notify_one();
        }
        Ok(ticket)
    }

    fn watch(&self, connection: &T, ticket: Ticket) -> io::Result<()> {
        // The lot's task tells those whom it finds in the table; a drain that began before is seen here.
        if connection.hears_drain() && self.drain.is_draining() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        // What the socket has already is reported, too: it is a level that is watched, not a change.
        let flags = epoll::EventFlags::IN | epoll::EventFlags::RDHUP;
        let data = epoll::EventData::new_u64(ticket.index() as u64);
        epoll::add(self.epoll.get_ref(), connection.socket(), data, flags)?;
        Ok(())
    }

    /// Leaves a woken place to the lot's task.
    pub(super) fn call(&self, place: Arc<Place<T>>) {
        self.called.lock().push(place);
        self.news.notify_one();
    }

    /// Stops to watch a connection, and returns it if it was still parked.
    fn release(&self, place: &Place<T>) -> Option<(T, Arrival)> {
        let (connection, ticket, arrival) = place.take()?;
        // The socket is open, so it is there to be removed.
        _ = epoll::delete(self.epoll.get_ref(), connection.socket());
        self.table.lock().remove(ticket);
        self.parked.dec();
        Some((connection, arrival))
    }

    /// In a circle of 49 days.
    pub(super) fn now_ms(&self) -> u32 {
        self.begun.elapsed().as_millis() as u32
    }

    fn resume(&self, place: &Place<T>) {
        if let Some((connection, arrival)) = self.release(place) {
            let stay_ms = self.now_ms().wrapping_sub(arrival.since_ms);
            tokio::spawn(connection.resume(arrival.patience, Duration::from_millis(stay_ms.into())));
        }
    }

    fn resume_called(&self) {
        let called = std::mem::take(&mut *self.called.lock());
        called.iter().for_each(|place| self.resume(place));
    }

    /// Makes tasks of those whose sockets are ready; false when there were none.
    fn resume_ready(&self) -> bool {
        let mut events = Vec::with_capacity(BATCH);
        let spare = rustix::buffer::spare_capacity(&mut events);
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        // EINTR at the worst, and then it is asked again.
        _ = epoll::wait(self.epoll.get_ref(), spare, Some(&at_once));
        for event in &events {
            let place = self.table.lock().get(event.data.u64() as usize);
            place.iter().for_each(|place| self.resume(place));
        }
        !events.is_empty()
    }

    fn resume_due(&self) {
        let now_ms = self.begun.elapsed().as_millis() as u64;
        loop {
            let place = {
                let table = self.table.lock();
                let first = table.due.first().filter(|first| first.due_ms() <= now_ms);
                first.and_then(|first| table.get(first.index()))
            };
            let Some(place) = place else { return };
            self.resume(&place);
        }
    }

    fn next_due(&self) -> Instant {
        let first = self.table.lock().due.first().copied();
        first.map_or_else(
            || Instant::now() + NOTHING_DUE,
            |first| self.begun + Duration::from_millis(first.due_ms()),
        )
    }

    /// Rounded up, so that nobody is called too early; at least 1.
    fn ms(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.begun);
        since.as_nanos().div_ceil(1_000_000).max(1) as u64
    }

    fn all(&self) -> Vec<Arc<Place<T>>> {
        self.table.lock().places.iter().flatten().cloned().collect()
    }

    /// Closes whatever is parked, and the lot.
    fn clear(&self) {
        self.table.lock().is_closed = true;
        for place in self.all() {
            drop(self.release(&place));
        }
    }
}

#[allow(unsafe_code, reason = "tokio has no safe constructor for a file that it does not know")]
fn watched(epoll: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` names the same open file until it is dropped, and the `AsyncFd` owns it.
    Ok(unsafe { AsyncFd::register_with_interest(epoll, Interest::READABLE) }?)
}

#[cfg(test)]
impl<T: Idle> Inner<T> {
    /// How many wait to be made tasks of.
    pub(super) fn calls(&self) -> usize {
        self.called.lock().len()
    }
}

/// Waits for all parked connections, until the drain is over.
pub(super) async fn attend<T: Idle>(attended: Attended<T>) {
    let inner = &*attended.0;
    let (mut drain, mut end) = (inner.drain.clone(), inner.drain.clone());
    let mut is_draining = false;
    loop {
        tokio::select! {
            ready = inner.epoll.readable() => {
                // An error is the reactor's end, which is the runtime's.
                let Ok(mut ready) = ready else { return };
                if !inner.resume_ready() {
                    ready.clear_ready();
                }
            }
            () = inner.news.notified() => inner.resume_called(),
            () = sleep_until(inner.next_due()) => inner.resume_due(),
            _ = drain.draining(), if !is_draining => {
                is_draining = true;
                inner.all().iter().filter(|place| place.hears_drain()).for_each(|place| inner.resume(place));
            }
            () = end.over() => return,
        }
    }
}

/// Sessions hold wakers, wakers hold places, and parked connections hold sessions: whichever way the task
/// ends, and if it never begins, the circle is cut.
pub(super) struct Attended<T: Idle>(pub(super) Arc<Inner<T>>);

impl<T: Idle> Drop for Attended<T> {
    fn drop(&mut self) {
        self.0.clear();
    }
}

impl<T: Idle> Default for Table<T> {
    fn default() -> Self {
        Self { is_closed: false, places: Vec::new(), free: Vec::new(), due: BTreeSet::new() }
    }
}

impl<T: Idle> Table<T> {
    fn insert(&mut self, place: &Arc<Place<T>>, due_ms: u64) -> io::Result<Ticket> {
        let index = match self.free.pop() {
            _ if self.is_closed => return Err(io::ErrorKind::NotConnected.into()),
            Some(index) => index as usize,
            None if self.places.len() < Ticket::PLACES_MAX => {
                self.places.push(None);
                self.places.len() - 1
            }
            None => return Err(io::ErrorKind::OutOfMemory.into()),
        };
        self.places[index] = Some(place.clone());
        let ticket = Ticket::new(index, due_ms);
        if due_ms > 0 {
            self.due.insert(ticket);
        }
        Ok(ticket)
    }

    fn get(&self, index: usize) -> Option<Arc<Place<T>>> {
        self.places.get(index)?.clone()
    }

    fn remove(&mut self, ticket: Ticket) {
        self.due.remove(&ticket);
        self.places[ticket.index()] = None;
        self.free.push(ticket.index() as u32);
    }
}
