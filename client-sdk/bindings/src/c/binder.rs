//! Sockets that the app binds to networks.

use std::{
    ffi::{CString, c_char, c_void},
    mem::MaybeUninit,
    sync::Arc,
};

use super::{
    TowlineError, TowlineStatus,
    callbacks::Callbacks,
    client::{TOWLINE_METERED_NO, TOWLINE_METERED_UNKNOWN, TOWLINE_METERED_YES},
    given, guard,
    options::TowlineOptions,
    raw::{UserData, c_text},
};
use crate::{BinderError, Network, SocketBinder};

/// A network, as the app has told of it.
#[repr(C)]
pub struct TowlineNetwork {
    /// One of TOWLINE_NETWORK_*; TOWLINE_NETWORK_UNKNOWN where the app has told of none.
    pub kind: u32,
    /// One of TOWLINE_METERED_*.
    pub metered: u32,
    /// The label, may be empty.
    pub key: *const c_char,
    /// MCC and MNC, may be empty.
    pub carrier: *const c_char,
}

/// Binds a socket to the network that it is for, before it connects: by setsockopt, with SO_BINDTODEVICE or IP_BOUND_IF. fd
/// stays the client's: it is not to be closed, and not to be kept. peer is the address that it is for, as 192.0.2.7 or
/// 2001:db8::7. Answers 0, or the errno that says why not: then the socket is closed and its attempt fails, the state of the
/// line says why, and another attempt is made as ever.
///
/// Unlike callbacks it is called by several threads of the library's, at one time too; each may block for up to five
/// seconds.
pub type TowlineBindSocket = Option<
    extern "C" fn(
        user_data: *mut c_void,
        fd: i32,
        peer: *const c_char,
        network: Option<&TowlineNetwork>,
    ) -> i32,
>;

/// Told once that user_data is not used any more.
pub type TowlineOnReleased = Option<extern "C" fn(user_data: *mut c_void)>;

/// Has each socket of clients that are made with these options bound to the network that it is for. Without it sockets
/// follow the system's routes, and a network that was told by towline_network_joined is not used until they lead there.
/// on_released, which may be NULL, is told when the options and those clients are gone, or something else was set here.
#[unsafe(no_mangle)]
pub extern "C" fn towline_options_set_binder(
    options: Option<&mut TowlineOptions>,
    bind: TowlineBindSocket,
    user_data: *mut c_void,
    on_released: TowlineOnReleased,
    error: Option<&mut MaybeUninit<*mut TowlineError>>,
) -> TowlineStatus {
    guard(error, || {
        let (options, bind) = (given(options, "options")?, given(bind, "bind")?);
        // What is told then is told where callbacks are made.
        let callbacks = Callbacks::get()?;
        let user_data = UserData::new(user_data);
        options.binder = Some(Arc::new(Binder { bind, user_data, on_released, callbacks }));
        Ok(())
    })
}

type Bind = extern "C" fn(*mut c_void, i32, *const c_char, Option<&TowlineNetwork>) -> i32;

struct Binder {
    bind: Bind,
    user_data: UserData,
    on_released: TowlineOnReleased,
    callbacks: &'static Callbacks,
}

impl SocketBinder for Binder {
    fn bind(&self, fd: i32, peer: String, network: Network) -> Result<(), BinderError> {
        let (peer, network) = (c_text(&peer), CNetwork::new(&network));
        match (self.bind)(self.user_data.get(), fd, peer.as_ptr(), Some(&network.shown())) {
            0 => Ok(()),
            errno => {
                let reason = std::io::Error::from_raw_os_error(errno).to_string();
                Err(BinderError::Refused { reason })
            }
        }
    }
}

impl Drop for Binder {
    fn drop(&mut self) {
        let (on_released, user_data) = (self.on_released, self.user_data);
        if let Some(on_released) = on_released {
            self.callbacks.tell(move || on_released(user_data.get()));
        }
    }
}

/// The texts of a network.
pub(super) struct CNetwork {
    kind: u32,
    metered: u32,
    key: CString,
    carrier: CString,
}

impl CNetwork {
    pub(super) fn new(network: &Network) -> Self {
        let metered = match network.metered {
            None => TOWLINE_METERED_UNKNOWN,
            Some(false) => TOWLINE_METERED_NO,
            Some(true) => TOWLINE_METERED_YES,
        };
        let carrier = c_text(network.carrier.as_deref().unwrap_or_default());
        Self { kind: network.kind as u32, metered, key: c_text(&network.key), carrier }
    }

    /// What C sees, while this lives.
    pub(super) fn shown(&self) -> TowlineNetwork {
        let (key, carrier) = (self.key.as_ptr(), self.carrier.as_ptr());
        TowlineNetwork { kind: self.kind, metered: self.metered, key, carrier }
    }
}
