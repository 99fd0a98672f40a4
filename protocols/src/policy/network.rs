//! What the app's operating system says: the network that the device is on, and how much the app is wanted.

use std::fmt;

use sha2::{Digest as _, Sha256};

/// The network in use, as far as the app knows; [`Network::default`] is one of which it knows nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Network {
    /// A label that is the same whenever the device is on this network: of Wi-Fi a hash of its name, best not the
    /// name. Empty: networks are told apart by kind and carrier alone. It does not leave the device.
    pub key: String,
    /// What kind of network it is.
    pub kind: NetworkKind,
    /// Whether what is sent costs money; `None` where the app does not know.
    pub metered: Option<bool>,
    /// Who runs a cellular network: best the numbers MCC and MNC, as in `46001`.
    pub carrier: Option<String>,
}

impl Network {
    /// A network of that kind and label.
    pub fn new(kind: NetworkKind, key: impl Into<String>) -> Self {
        Self { key: key.into(), kind, ..Self::default() }
    }

    /// What is learnt of a network is filed under this.
    pub fn place(&self) -> NetworkKey {
        let mut hash = Sha256::new();
        hash.update([self.kind as u8]);
        hash.update(self.key.as_bytes());
        // No label and no carrier holds this octet: it is no UTF-8.
        hash.update([0xff]);
        hash.update(self.carrier.as_deref().unwrap_or_default().as_bytes());
        let mut key = [0; 8];
        key.copy_from_slice(&hash.finalize()[..8]);
        NetworkKey(u64::from_be_bytes(key))
    }

    /// Whether this is the same network, of which more or less is known than before.
    pub fn is_same_as(&self, other: &Self) -> bool {
        !self.key.is_empty() && self.place() == other.place()
    }
}

/// Names a network in tables and on disk, and does not tell its label.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetworkKey(pub u64);

impl fmt::Display for NetworkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Kinds of networks. The numbers are those of the wire and of files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum NetworkKind {
    /// Nobody said.
    #[default]
    Unknown = 0,
    /// There is none.
    None = 1,
    /// A cable.
    Ethernet = 2,
    /// Wi-Fi.
    Wifi = 3,
    /// Cellular of a generation that nobody said.
    Cellular = 4,
    /// GPRS, EDGE.
    Cellular2g = 5,
    /// UMTS, HSPA.
    Cellular3g = 6,
    /// LTE.
    Cellular4g = 7,
    /// NR.
    Cellular5g = 8,
}

impl NetworkKind {
    const ALL: [Self; 9] = [
        Self::Unknown,
        Self::None,
        Self::Ethernet,
        Self::Wifi,
        Self::Cellular,
        Self::Cellular2g,
        Self::Cellular3g,
        Self::Cellular4g,
        Self::Cellular5g,
    ];

    /// The kind of that number; `Unknown` for numbers of later versions.
    pub fn from_number(number: u8) -> Self {
        Self::ALL.into_iter().find(|kind| *kind as u8 == number).unwrap_or_default()
    }

    /// The kind of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// As it stands in policies and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::None => "none",
            Self::Ethernet => "ethernet",
            Self::Wifi => "wifi",
            Self::Cellular => "cellular",
            Self::Cellular2g => "2g",
            Self::Cellular3g => "3g",
            Self::Cellular4g => "4g",
            Self::Cellular5g => "5g",
        }
    }

    /// Whether its radio sleeps soon and takes a second or two to wake.
    pub fn wakes_slowly(self) -> bool {
        matches!(self, Self::Cellular2g | Self::Cellular3g)
    }

    /// Whether a carrier's radio carries it.
    pub fn is_cellular(self) -> bool {
        self >= Self::Cellular
    }
}

impl fmt::Display for NetworkKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// By what a link's bytes travel, as far as networks treat them in different ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Transport {
    /// TCP.
    Tcp = 0,
    /// QUIC, which is UDP to the network.
    Quic = 1,
}

impl Transport {
    /// As it stands in policies and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Quic => "quic",
        }
    }
}

/// How much the app is wanted, as the operating system says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct AppState {
    /// Somebody looks at the app, or not.
    pub mode: AppMode,
    /// The user asked the device to save power.
    pub low_power: bool,
    /// The device sleeps, and wakes now and then for a moment (Android's Doze).
    pub dozing: bool,
}

/// Whether somebody looks at the app.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AppMode {
    /// The app did not say: a program without a screen, perhaps.
    #[default]
    Unknown,
    /// Somebody does.
    Foreground,
    /// Nobody does.
    Background,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_known_by_its_label_kind_and_carrier_and_not_by_its_price() {
        let home = Network::new(NetworkKind::Wifi, "5f1c");
        let priced = Network { metered: Some(true), ..home.clone() };
        assert!(home.is_same_as(&priced) && home.place() == priced.place());
        let others = [
            Network::new(NetworkKind::Wifi, "5f1d"),
            Network::new(NetworkKind::Ethernet, "5f1c"),
            Network { carrier: Some("46001".into()), ..home.clone() },
            Network { key: "5f".into(), carrier: Some("1c".into()), ..home.clone() },
        ];
        for other in others {
            assert!(!home.is_same_as(&other) && home.place() != other.place(), "{other:?}");
        }
        assert!(!Network::default().is_same_as(&Network::default()), "nobody knows");
    }

    #[test]
    fn kinds_go_by_name_and_number() {
        for kind in NetworkKind::ALL {
            assert_eq!(NetworkKind::from_number(kind as u8), kind);
            assert_eq!(NetworkKind::from_name(kind.name()), Some(kind));
        }
        assert_eq!(NetworkKind::from_number(200), NetworkKind::Unknown);
        assert!(NetworkKind::Cellular2g.is_cellular() && !NetworkKind::Wifi.is_cellular());
    }
}
