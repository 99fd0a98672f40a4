//! A connection that waits without a task.

use std::{
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
    task::Waker,
};

use bytes::BytesMut;
use tokio::time::Instant;
use towline_protocols::link::Dormant;

use super::{
    attendance::{Attendance, Told},
    door::Door,
    driver::{Binding, Driver, Rest},
    requests::TcpRequests,
};
use crate::{
    gateway::Gateway,
    parking::Patience,
    transport::{Meter, ParkedStream, Stream},
};

/// What is kept of a quiet connection.
pub struct Parked {
    door: Door,
    told: Told,
    machine: Dormant,
    stream: ParkedStream,
}

/// Drives a connection until it ends, or has been quiet for a while.
pub(super) async fn run(mut driver: Driver<Stream>) -> Option<Box<Parked>> {
    loop {
        match driver.drive().await {
            Rest::Ended => return None,
            Rest::Quiet if driver.stream().is_idle() => break,
            Rest::Quiet => {}
        }
    }
    park(driver)
}

/// An idle driver has all of these parts, and its machine is at rest.
fn park(driver: Driver<Stream>) -> Option<Box<Parked>> {
    let (stream, binding, attendance) = driver.into_parts()?;
    let Binding::Tcp(requests) = binding else { return None };
    let machine = requests.machine.rest()?;
    let told = attendance.told();
    let stream = stream.park().ok()?;
    // Requests and publishes are over, so nobody else is at the door.
    let door = Arc::into_inner(attendance.door)?;
    Some(Box::new(Parked { door, told, machine, stream }))
}

impl Parked {
    /// The gateway that it is connected to.
    pub fn gateway(&self) -> &Arc<Gateway> {
        &self.door.gateway
    }

    /// The socket.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// When the client's promise of a beat is broken, or it has to prove itself anew.
    pub fn deadline(&self) -> Option<Instant> {
        self.machine.poll_timeout().into_iter().chain(self.door.expires).min().map(Instant::from)
    }

    /// Makes `waker` the one that the session wakes; false when it has something for the client already.
    pub fn settle(&self, waker: &Waker) -> bool {
        self.door.lease.settle(waker)
    }

    /// Serves the connection again.
    pub async fn resume(self: Box<Self>, patience: Patience) -> Option<Box<Self>> {
        let Self { door, told, machine, stream } = *self;
        let (gateway, origin) = (door.gateway.clone(), door.origin.clone());
        let mut stream = stream.unpark().ok()?;
        stream.set_meter(Meter::new(&gateway.metrics, origin.protocol));
        let park_after = patience.wait(gateway.snapshot().settings.limits.park_after);
        let binding = Binding::Tcp(Box::new(TcpRequests::new(machine.wake(Instant::now().into_std()))));
        let driver = Driver::new(gateway, origin, stream, binding, BytesMut::new(), park_after);
        run(driver.resume(Attendance::new(Arc::new(door), told))).await
    }
}
