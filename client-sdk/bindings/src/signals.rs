//! What the operating system tells an app, and the app passes on.

use crate::{client::Client, error::TowlineError};

/// Kinds of networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, uniffi::Enum)]
#[repr(u8)]
pub enum NetworkKind {
    /// Nobody said.
    Unknown = 0,
    /// There is none.
    Offline = 1,
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

/// The network in use, as far as the app knows.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct Network {
    /// What kind of network it is.
    pub kind: NetworkKind,
    /// A label that is the same whenever the device is on this network: of Wi-Fi a hash of its name, best not the name.
    /// Empty: networks are told apart by kind and carrier alone. It does not leave the device.
    #[uniffi(default = "")]
    pub key: String,
    /// Whether what is sent costs money; `None` where the app does not know.
    #[uniffi(default = None)]
    pub metered: Option<bool>,
    /// Who runs a cellular network: best the numbers MCC and MNC, as in `46001`.
    #[uniffi(default = None)]
    pub carrier: Option<String>,
}

#[uniffi::export]
impl Client {
    /// The device's network changed: the line moves to the new one at once, and requests move over with it. With
    /// `Offline` what there is is kept, and attempts become rare, until another call says that there is a network.
    ///
    /// # Errors
    /// The client is closed.
    pub fn network_changed(&self, network: Network) -> Result<(), TowlineError> {
        self.open()?.network_changed(network.into());
        Ok(())
    }

    /// Another network has joined the one in use, which still works: Wi-Fi came, and cellular is there yet. The line moves
    /// there, with the requests that it has, once some connections over it have come through in a row; if they do not, it
    /// stays where it is.
    ///
    /// # Errors
    /// The client is closed.
    pub fn network_joined(&self, network: Network) -> Result<(), TowlineError> {
        self.open()?.network_joined(network.into());
        Ok(())
    }

    /// What is sent on the network in use costs money, or not, or nobody knows: for a device that tells that apart from
    /// changes of the network. `network_changed` says it too.
    ///
    /// # Errors
    /// The client is closed.
    pub fn set_metered(&self, metered: Option<bool>) -> Result<(), TowlineError> {
        self.open()?.set_metered(metered);
        Ok(())
    }

    /// Somebody looks at the app again: the gateway is asked at once for a sign of life, and an attempt that waits is
    /// made now.
    ///
    /// # Errors
    /// The client is closed.
    pub fn foreground(&self) -> Result<(), TowlineError> {
        self.open()?.foreground();
        Ok(())
    }

    /// Nobody looks at the app.
    ///
    /// # Errors
    /// The client is closed.
    pub fn background(&self) -> Result<(), TowlineError> {
        self.open()?.background();
        Ok(())
    }

    /// The user asked the device to save power, or took that back.
    ///
    /// # Errors
    /// The client is closed.
    pub fn low_power(&self, low_power: bool) -> Result<(), TowlineError> {
        self.open()?.low_power(low_power);
        Ok(())
    }

    /// The device dozes (Android's Doze), or not any more.
    ///
    /// # Errors
    /// The client is closed.
    pub fn doze(&self, dozing: bool) -> Result<(), TowlineError> {
        self.open()?.doze(dozing);
        Ok(())
    }

    /// The line is made anew at once, whatever the network did.
    ///
    /// # Errors
    /// The client is closed.
    pub fn reconnect(&self) -> Result<(), TowlineError> {
        self.open()?.reconnect();
        Ok(())
    }
}

impl From<Network> for towline_client::Network {
    fn from(network: Network) -> Self {
        Self {
            key: network.key,
            kind: network.kind.into(),
            metered: network.metered,
            carrier: network.carrier,
        }
    }
}

impl From<&towline_client::Network> for Network {
    fn from(network: &towline_client::Network) -> Self {
        Self {
            kind: network.kind.into(),
            key: network.key.clone(),
            metered: network.metered,
            carrier: network.carrier.clone(),
        }
    }
}

impl From<towline_client::NetworkKind> for NetworkKind {
    fn from(kind: towline_client::NetworkKind) -> Self {
        use towline_client::NetworkKind as Kind;
        match kind {
            Kind::Unknown => Self::Unknown,
            Kind::None => Self::Offline,
            Kind::Ethernet => Self::Ethernet,
            Kind::Wifi => Self::Wifi,
            Kind::Cellular => Self::Cellular,
            Kind::Cellular2g => Self::Cellular2g,
            Kind::Cellular3g => Self::Cellular3g,
            Kind::Cellular4g => Self::Cellular4g,
            Kind::Cellular5g => Self::Cellular5g,
        }
    }
}

impl From<NetworkKind> for towline_client::NetworkKind {
    fn from(kind: NetworkKind) -> Self {
        match kind {
            NetworkKind::Unknown => Self::Unknown,
            NetworkKind::Offline => Self::None,
            NetworkKind::Ethernet => Self::Ethernet,
            NetworkKind::Wifi => Self::Wifi,
            NetworkKind::Cellular => Self::Cellular,
            NetworkKind::Cellular2g => Self::Cellular2g,
            NetworkKind::Cellular3g => Self::Cellular3g,
            NetworkKind::Cellular4g => Self::Cellular4g,
            NetworkKind::Cellular5g => Self::Cellular5g,
        }
    }
}
