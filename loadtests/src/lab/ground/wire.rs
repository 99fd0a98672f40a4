//! The link's packets: read from one TUN device, given to the model, written to the other when they are due.

use std::{
    net::Ipv4Addr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::{Errno, ioctl_fionbio, read, write},
};
use tun_rs::{DeviceBuilder, SyncDevice};

use super::netns::Namespace;
use crate::{
    clock,
    lab::model::{Counts, EDGE, Link, LinkConfig, Order, PEER, PHONE, PORTAL, RESOLVER, Side},
};

/// The devices, in both namespaces.
const DEVICE: &str = "link0";
/// What mobile networks leave of 1500 bytes.
const MTU: usize = 1420;
/// How soon orders and the end are seen.
const LOOK: Duration = Duration::from_millis(20);
/// Packets read from one device before the other has its turn.
const BATCH: usize = 64;

/// Two namespaces and the link between them.
#[derive(Debug)]
pub(in crate::lab) struct Wire {
    pub(in crate::lab) phone: Arc<Namespace>,
    pub(in crate::lab) edge: Namespace,
    shared: Arc<Shared>,
    thread: Option<thread::JoinHandle<()>>,
    /// Times at which the phone's address has changed.
    moves: mpsc::Receiver<u64>,
}

#[derive(Debug)]
struct Shared {
    link: Mutex<Link>,
    began: Instant,
    ends: AtomicBool,
}

impl Shared {
    fn link(&self) -> MutexGuard<'_, Link> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }
}

impl Wire {
    /// Makes namespaces and devices, and carries packets from then on. `number` tells this process' links apart.
    pub(in crate::lab) fn make(number: usize, config: &LinkConfig, seed: u64) -> Result<Self, String> {
        let phone = Namespace::make(number, "phone")?;
        let edge = Namespace::make(number, "edge")?;
        let devices = [device(&phone)?, device(&edge)?];
        phone.ip(&format!("address add {PHONE}/32 dev {DEVICE}"))?;
        for address in [EDGE, PEER, PORTAL] {
            edge.ip(&format!("address add {address}/32 dev {DEVICE}"))?;
        }
        for namespace in [&phone, &edge] {
            namespace.ip(&format!("link set {DEVICE} mtu {MTU} up"))?;
            namespace.ip(&format!("route add default dev {DEVICE}"))?;
        }
        phone.resolve_by(RESOLVER)?;
        let link = Mutex::new(Link::new(config, seed));
        let shared = Arc::new(Shared { link, began: Instant::now(), ends: AtomicBool::new(false) });
        let (moved, moves) = mpsc::channel();
        let phone = Arc::new(phone);
        let carrier = Carrier { shared: Arc::clone(&shared), devices, phone: Arc::clone(&phone), moved };
        let thread = thread::Builder::new().name("link".to_owned()).spawn(move || carrier.run());
        let thread = Some(thread.map_err(|error| format!("no thread for the link: {error}"))?);
        Ok(Self { phone, edge, shared, thread, moves })
    }

    /// Something happens to the link now.
    pub(in crate::lab) fn order(&self, order: Order) {
        self.shared.link().order(self.shared.now(), order);
    }

    /// What the link has carried so far.
    pub(in crate::lab) fn counts(&self) -> Counts {
        self.shared.link().counts()
    }

    /// When the phone's address changed ([`clock::now`]), for each time since this was asked last.
    pub(in crate::lab) fn moves(&self) -> impl Iterator<Item = u64> {
        self.moves.try_iter()
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::Relaxed);
        // A link that panicked has said so.
        let _ = self.thread.take().map(thread::JoinHandle::join);
    }
}

fn device(namespace: &Namespace) -> Result<SyncDevice, String> {
    let made = namespace.inside(|| {
        let device = DeviceBuilder::new().name(DEVICE).inherit_enable_state().build_sync();
        let device = device.map_err(|error| format!("no TUN device: {error}"))?;
        ioctl_fionbio(&device, true).map_err(|error| format!("the TUN device cannot be polled: {error}"))?;
        Ok(device)
    })?;
    made.join().map_err(|_| "the thread that makes the TUN device ended".to_owned())?
}

/// What the thread owns.
struct Carrier {
    shared: Arc<Shared>,
    /// The phone's and the edge's.
    devices: [SyncDevice; 2],
    phone: Arc<Namespace>,
    moved: mpsc::Sender<u64>,
}

impl Carrier {
    fn run(&self) {
        let mut buffer = [0; 1 << 16];
        let mut address = PHONE;
        while !self.shared.ends.load(Ordering::Relaxed) {
            self.take(Side::Phone, &mut buffer);
            self.take(Side::Edge, &mut buffer);
            self.give();
            let now = self.shared.now();
            let moved = self.shared.link().take_move(now);
            if let Some(next) = moved {
                self.move_phone(std::mem::replace(&mut address, next), next);
            }
            self.wait();
        }
    }

    fn device(&self, side: Side) -> &SyncDevice {
        &self.devices[usize::from(side == Side::Edge)]
    }

    /// Gives the model what has come.
    fn take(&self, side: Side, buffer: &mut [u8]) {
        for _ in 0..BATCH {
            match read(self.device(side), &mut *buffer) {
                Ok(length) => self.shared.link().handle(self.shared.now(), side, buffer[..length].to_vec()),
                Err(Errno::INTR) => {}
                // Nothing more for now, or for good.
                Err(_) => return,
            }
        }
    }

    /// Writes what is due.
    fn give(&self) {
        loop {
            let due = self.shared.link().poll(self.shared.now());
            let Some((side, packet)) = due else { return };
            // A device that does not take a packet loses it, as a link would.
            let _ = write(self.device(side), &packet);
        }
    }

    /// Until something comes or is due, a move included.
    fn wait(&self) {
        let due = {
            let link = self.shared.link();
            link.due().into_iter().chain(link.next_outage_end()).min()
        };
        let wait = due.map_or(LOOK, |due| due.saturating_sub(self.shared.now()).min(LOOK));
        let wait = Timespec { tv_sec: 0, tv_nsec: wait.subsec_nanos().into() };
        let mut devices = self.devices.each_ref().map(|device| PollFd::new(device, PollFlags::IN));
        // Interrupted is as good as over.
        let _ = poll(&mut devices, Some(&wait));
    }

    /// On a thread of its own: packets do not wait for it.
    fn move_phone(&self, from: Ipv4Addr, to: Ipv4Addr) {
        let (phone, moved) = (Arc::clone(&self.phone), self.moved.clone());
        thread::spawn(move || {
            // The new one first: a device without an address loses its routes.
            let done = phone
                .ip(&format!("address add {to}/32 dev {DEVICE}"))
                .and_then(|()| phone.ip(&format!("address delete {from}/32 dev {DEVICE}")));
            match done {
                // Whoever wanted to know may be gone.
                Ok(()) => drop(moved.send(clock::now())),
                Err(error) => eprintln!("the phone keeps its address: {error}"),
            }
        });
    }
}
