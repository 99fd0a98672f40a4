//! How fast clients may be: token buckets for each device, each listener and each address.
//!
//! ```text
//!  first   not read on (TCP slows the client down); not accepted, which leaves it in the kernel's backlog
//!  second  held back for `patience` without a pause: DISCONNECT with 0x96 or 0x97
//! ```

mod bucket;
mod pace;

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
    time::Instant,
};

use dashmap::DashMap;
use parking_lot::Mutex;

pub use self::bucket::Bucket;
pub(crate) use self::pace::{Limit, Pace};
use crate::{mqtt, settings, snapshot::Snapshot};

/// Addresses whose rate is known at one time, of one listener. Beyond it those that were quiet are forgotten, which
/// costs them nothing; when there is none, a newcomer goes by the listener's rate alone.
const ADDRESSES_MAX: usize = 65_536;
/// Of an IPv6 address, the bits that a client cannot choose.
const V6_PREFIX_BITS: u32 = 64;

/// The buckets that clients share, by listener.
#[derive(Default)]
pub struct Rates {
    listeners: DashMap<Arc<str>, Arc<Shared>>,
}

/// The buckets of one listener.
pub struct Shared {
    settings: settings::Rates,
    messages: Option<Mutex<Bucket>>,
    bytes: Option<Mutex<Bucket>>,
    connects: Option<Mutex<Bucket>>,
    addresses: DashMap<IpAddr, Bucket>,
}

impl Rates {
    /// The buckets of a listener as it is configured now; `None` when it limits nothing.
    pub fn of(&self, snapshot: &Snapshot, listener: &Arc<str>) -> Option<Arc<Shared>> {
        let settings = snapshot.listener(listener)?.settings.rate;
        if !settings.limits_anything() {
            return None;
        }
        if let Some(shared) = self.listeners.get(listener)
            && shared.settings == settings
        {
            return Some(shared.clone());
        }
        let shared = Arc::new(Shared::new(settings, mqtt::now()));
        self.listeners.insert(listener.clone(), shared.clone());
        Some(shared)
    }
}

impl Shared {
    fn new(settings: settings::Rates, now: Instant) -> Self {
        let bucket = |rate| Bucket::new(rate, settings.burst, now).map(Mutex::new);
        Self {
            settings,
            messages: bucket(settings.messages),
            bytes: bucket(settings.bytes),
            connects: bucket(settings.connects),
            addresses: DashMap::new(),
        }
    }

    /// When one more connection may be accepted; `None`: now.
    pub fn connect_due(&self, now: Instant) -> Option<Instant> {
        let mut connects = self.connects.as_ref()?.lock();
        // What it has gained since it was last looked at.
        connects.take(0, now);
        connects.has_one_at()
    }

    /// One more connection was accepted.
    pub fn note_connect(&self, now: Instant) {
        if let Some(connects) = &self.connects {
            connects.lock().take(1, now);
        }
    }

    /// Whether one more connection of this address may be served.
    pub fn admits(&self, address: IpAddr, now: Instant) -> bool {
        if self.settings.address_connects == 0 {
            return true;
        }
        let address = network(address);
        if let Some(mut bucket) = self.addresses.get_mut(&address) {
            return bucket.try_take(now);
        }
        if self.addresses.len() >= ADDRESSES_MAX {
            self.addresses.retain(|_, bucket| !bucket.is_full(now));
        }
        if self.addresses.len() >= ADDRESSES_MAX {
            return true;
        }
        let bucket = Bucket::new(self.settings.address_connects, self.settings.burst, now);
        let Some(bucket) = bucket else { return true };
        self.addresses.entry(address).or_insert(bucket).try_take(now)
    }
}

impl settings::Rates {
    fn limits_anything(&self) -> bool {
        let Self { device_messages, device_bytes, messages, bytes, connects, address_connects, .. } = *self;
        [device_messages, device_bytes, messages, bytes, connects, address_connects]
            .iter()
            .any(|rate| *rate > 0)
    }
}

/// One client may have a whole IPv6 network.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let mask = u128::MAX << (128 - V6_PREFIX_BITS);
            Ipv6Addr::from_bits(v6.to_bits() & mask).into()
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn shared(connects: u32, address_connects: u32, now: Instant) -> Shared {
        Shared::new(settings::Rates { connects, address_connects, ..settings::Rates::default() }, now)
    }

    #[test]
    fn connections_are_accepted_at_the_listeners_rate() {
        let now = Instant::now();
        let shared = shared(2, 0, now);
        for _ in 0..2 {
            assert_eq!(shared.connect_due(now), None);
            shared.note_connect(now);
        }
        let later = now + Duration::from_millis(500);
        assert_eq!(shared.connect_due(now), Some(later));
        assert_eq!(shared.connect_due(later), None);
        assert!(shared.admits([192, 0, 2, 1].into(), now), "no limit by address");
    }

    #[test]
    fn an_address_has_its_own_rate_and_a_network_is_one_address() {
        let now = Instant::now();
        let shared = shared(0, 2, now);
        let admitted = |address: &str, now| shared.admits(address.parse().unwrap(), now);
        assert!(admitted("192.0.2.1", now) && admitted("::ffff:192.0.2.1", now));
        assert!(!admitted("192.0.2.1", now) && admitted("192.0.2.2", now));
        assert!(admitted("192.0.2.1", now + Duration::from_millis(500)));
        assert!(admitted("2001:db8::1", now) && admitted("2001:db8::2", now));
        assert!(!admitted("2001:db8::3", now) && admitted("2001:db8:0:1::3", now));
    }
}
