//! What the operating system tells the app, and the app passes on.

use towline_protocols::policy::{AppMode, AppState, Network, NetworkKind};

use crate::{
    client::Client,
    core::{Shared, now},
};

impl Client {
    /// The device's network changed: a QUIC connection moves to a new socket and calls go on; on TCP, or if the
    /// gateway is not heard there, the line is made anew at once, and requests move over to it. So do short
    /// connections. With [`NetworkKind::None`] what there is is kept, and attempts become rare, until another call
    /// says that there is a network again.
    ///
    /// Of the same network with the same label, where only its price is another, this notes that alone. A network
    /// that is the same in all says that the address is another.
    pub fn network_changed(&self, network: Network) {
        let shared = self.shared();
        let is_gone = network.kind == NetworkKind::None;
        let moves = shared.with(|core| {
            let before = std::mem::replace(&mut core.network, network.clone());
            core.dictionaries.set_metered(core.network.metered);
            core.touch_control();
            let moves = !is_gone && (before == core.network || !before.is_same_as(&core.network));
            core.network_changed |= moves;
            if moves || is_gone {
                core.joining = None;
                core.handover.network_changed(now());
                core.wake_supervisor();
            }
            if moves {
                core.liveness.network_changed(core.network.kind.wakes_slowly());
                core.carrier.network_changed(now());
            }
            moves
        });
        if moves {
            shared.quality.arrived(&network);
            shared.connect_anew();
        }
    }

    /// Another network has joined the one in use, which still works: Wi-Fi came, and cellular is there yet. A second
    /// connection is made to the gateway while the first goes on. Once some in a row have come through
    /// ([`HandoverPolicy::checks`](crate::HandoverPolicy)), the line and its requests move over to the last of them, and
    /// `network` is the one in use; what fails leaves the line where it is. Whoever makes or binds sockets
    /// ([`ClientConfig::dialer`](crate::ClientConfig), `udp` and `binder`) is told for each which network it is for.
    ///
    /// Where there is no connection, and where `handover.enabled` is off, this is [`Client::network_changed`], as it is of
    /// the same network.
    pub fn network_joined(&self, network: Network) {
        let shared = self.shared();
        let policy = shared.strategies.borrow().handover.clone();
        let joins = shared.with(|core| {
            let is_none = |network: &Network| network.kind == NetworkKind::None;
            let is_other = core.network != network && !core.network.is_same_as(&network);
            let has_both = core.link.is_up() && !is_none(&core.network) && !is_none(&network);
            let joins = policy.enabled && is_other && has_both;
            if joins {
                core.joining = Some(network.clone());
                core.handover.joined(&policy, now());
                core.wake_supervisor();
            }
            joins
        });
        if !joins {
            self.network_changed(network);
        }
    }

    /// What the network costs, as far as the app knows: `Some(true)` keeps dictionaries from being fetched.
    pub fn set_metered(&self, metered: Option<bool>) {
        self.shared().with(|core| {
            core.network.metered = metered;
            core.dictionaries.set_metered(metered);
            core.touch_control();
        });
    }

    /// Somebody looks at the app again: the gateway is asked at once for a sign of life, since a device that slept
    /// may have lost the connection without a word, and an attempt that waits is made now.
    pub fn foreground(&self) {
        let shared = self.shared();
        shared.with(|core| {
            core.app.mode = AppMode::Foreground;
            core.carrier.set_app(core.app, now());
            core.probe = true;
            core.touch_control();
        });
        shared.supervisor.notify_one();
    }

    /// Nobody looks at the app. Where a network forgets UDP much sooner than TCP, the line moves to TCP after a while, and
    /// back when somebody has looked at the app for some seconds ([`CarrierPolicy`](crate::CarrierPolicy)).
    pub fn background(&self) {
        self.change_app(|app| app.mode = AppMode::Background);
        // An app that nobody looks at may be ended without a word.
        self.shared().quality.keep();
    }

    /// The user asked the device to save power, or took that back.
    pub fn low_power(&self, low_power: bool) {
        self.change_app(|app| app.low_power = low_power);
    }

    /// The device dozes (Android's Doze), or not any more.
    pub fn doze(&self, dozing: bool) {
        self.change_app(|app| app.dozing = dozing);
    }

    /// The network in use, as the app said.
    pub fn network(&self) -> Network {
        self.shared().with(|core| core.network.clone())
    }

    /// The app's state, as it said.
    pub fn app_state(&self) -> AppState {
        self.shared().with(|core| core.app)
    }

    /// The line is made anew at once, whatever the network did, and requests move over to it.
    pub fn reconnect(&self) {
        let shared = self.shared();
        shared.with(|core| {
            core.reconnect = true;
            core.touch_control();
            // At one time: the attempt that follows the end of the line is not to be taken for one of before.
            shared.network.send_modify(|count| *count += 1);
        });
        shared.supervisor.notify_one();
    }

    fn change_app(&self, change: impl FnOnce(&mut AppState)) {
        self.shared().with(|core| {
            change(&mut core.app);
            core.carrier.set_app(core.app, now());
            core.touch_control();
        });
    }
}

impl Shared {
    /// The device is on that network now, and connections of another were left or are lost.
    pub(crate) fn is_on(&self, network: Network) {
        self.listed.on_network_changed();
        self.quality.arrived(&network);
        self.with(|core| {
            core.dictionaries.set_metered(network.metered);
            core.liveness.network_changed(network.kind.wakes_slowly());
            core.carrier.network_changed(now());
            core.network = network;
        });
    }

    fn connect_anew(&self) {
        self.network.send_modify(|count| *count += 1);
        self.supervisor.notify_one();
    }
}
