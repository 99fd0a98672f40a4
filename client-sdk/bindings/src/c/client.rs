//! The client handle: what is neither a call, a stream nor a listener.

use std::{
    ffi::{CString, c_char, c_void},
    future::Future,
    mem::MaybeUninit,
    sync::Arc,
};

use super::{
    TowlineError, TowlineStatus,
    callbacks::Callbacks,
    emptied, given, guard, guarded,
    options::TowlineOptions,
    put,
    raw::{self, TowlineBytes, UserData, c_text},
};
use crate::{Client, Network, NetworkKind, engine::Engine, error::TowlineError as Error};

/// A session with a gateway that outlives connections. Any thread may use it.
pub struct TowlineClient {
    client: Arc<Client>,
    client_id: CString,
}

/// Told once that something was done: error is NULL; or else why it was not.
pub type TowlineOnDone = Option<extern "C" fn(user_data: *mut c_void, error: Option<&TowlineError>)>;

/// Version of the library.
#[unsafe(no_mangle)]
pub extern "C" fn towline_version() -> *const c_char {
    const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
    VERSION.as_ptr().cast()
}

/// Checks the options and begins to connect in the background. Calls may be made at once: they wait for the line.
/// Free the client with towline_client_free.
#[unsafe(no_mangle)]
pub extern "C" fn towline_client_new(
    options: Option<&TowlineOptions>,
    client: Option<&mut MaybeUninit<*mut TowlineClient>>,
    error: Option<&mut MaybeUninit<*mut TowlineError>>,
) -> TowlineStatus {
    let client = emptied(client);
    guard(error, || {
        let out = client.ok_or_else(|| Error::argument("client", "is NULL"))?;
        let client = Client::new(given(options, "options")?.0.clone())?;
        let client_id = c_text(&client.client_id());
        put(Some(out), Some(TowlineClient { client, client_id }));
        Ok(())
    })
}

/// The name of this client, to which backends push. It lives as long as the handle.
#[unsafe(no_mangle)]
pub extern "C" fn towline_client_id(client: Option<&TowlineClient>) -> *const c_char {
    guarded(c"".as_ptr(), || client.map_or(c"", |it| it.client_id.as_c_str()).as_ptr())
}

/// Ends the session's connection and fails what waits. on_done, which may be NULL, is told when the connection is
/// closed; what is asked of the client after this call fails with TOWLINE_STATUS_CLOSED.
#[unsafe(no_mangle)]
pub extern "C" fn towline_client_shutdown(
    client: Option<&TowlineClient>,
    on_done: TowlineOnDone,
    user_data: *mut c_void,
    error: Option<&mut MaybeUninit<*mut TowlineError>>,
) -> TowlineStatus {
    guard(error, || {
        let client = given(client, "client")?.client();
        client.begin_shutdown();
        done(async move { client.shutdown().await }, on_done, user_data)
    })
}

/// Frees the handle; NULL is nothing. The client is closed, once the calls that are under way have been answered, unless
/// towline_client_shutdown did that before.
#[unsafe(no_mangle)]
pub extern "C" fn towline_client_free(client: Option<Box<TowlineClient>>) {
    guarded((), || drop(client));
}

/// Subscribes to a topic filter, now and on every later connection. on_done may be NULL.
#[unsafe(no_mangle)]
pub extern "C" fn towline_subscribe(
    client: Option<&TowlineClient>,
    filter: *const c_char,
    on_done: TowlineOnDone,
    user_data: *mut c_void,
    error: Option<&mut MaybeUninit<*mut TowlineError>>,
) -> TowlineStatus {
    guard(error, || {
        let (client, filter) = (given(client, "client")?.client(), raw::text(filter, "filter")?);
        client.open()?;
        done(async move { client.subscribe(filter).await }, on_done, user_data)
    })
}

/// Takes a subscription back. on_done may be NULL.
#[unsafe(no_mangle)]
pub extern "C" fn towline_unsubscribe(
    client: Option<&TowlineClient>,
    filter: *const c_char,
    on_done: TowlineOnDone,
    user_data: *mut c_void,
    error: Option<&mut MaybeUninit<*mut TowlineError>>,
) -> TowlineStatus {
    guard(error, || {
        let (client, filter) = (given(client, "client")?.client(), raw::text(filter, "filter")?);
        client.open()?;
        done(async move { client.unsubscribe(filter).await }, on_done, user_data)
    })
}

/// Publishes a message; on_done is told when the gateway has accepted it, and it may arrive twice. Without on_done it is
/// sent once and may get lost.
#[unsafe(no_mangle)]
pub extern "C" fn towline_publish(
    client: Option<&TowlineClient>,
    topic: *const c_char,
    payload: TowlineBytes,
    on_done: TowlineOnDone,
    user_data: *mut c_void,
    error: Option<&mut MaybeUninit<*mut TowlineError>>,
) -> TowlineStatus {
    guard(error, || {
        let (client, topic) = (given(client, "client")?.client(), raw::text(topic, "topic")?);
        let payload = raw::bytes(payload, "payload")?;
        if on_done.is_none() {
            return client.publish_and_forget(topic, payload);
        }
        client.open()?;
        done(async move { client.publish(topic, payload).await }, on_done, user_data)
    })
}

/// Nobody said what network it is.
pub const TOWLINE_NETWORK_UNKNOWN: u32 = 0;
/// There is none.
pub const TOWLINE_NETWORK_OFFLINE: u32 = 1;
/// A cable.
pub const TOWLINE_NETWORK_ETHERNET: u32 = 2;
/// Wi-Fi.
pub const TOWLINE_NETWORK_WIFI: u32 = 3;
/// Cellular of a generation that nobody said.
pub const TOWLINE_NETWORK_CELLULAR: u32 = 4;
/// GPRS, EDGE.
pub const TOWLINE_NETWORK_CELLULAR_2G: u32 = 5;
/// UMTS, HSPA.
pub const TOWLINE_NETWORK_CELLULAR_3G: u32 = 6;
/// LTE.
pub const TOWLINE_NETWORK_CELLULAR_4G: u32 = 7;
/// NR.
pub const TOWLINE_NETWORK_CELLULAR_5G: u32 = 8;

/// The app does not know what the network costs.
pub const TOWLINE_METERED_UNKNOWN: u32 = 0;
/// What is sent costs nothing.
pub const TOWLINE_METERED_NO: u32 = 1;
/// What is sent costs money.
pub const TOWLINE_METERED_YES: u32 = 2;

/// The device's network changed: the line moves to the new one at once. kind is one of TOWLINE_NETWORK_*, metered one of
/// TOWLINE_METERED_*. key is a label that is the same whenever the device is on this network, carrier the numbers MCC and
/// MNC of a cellular one; both may be NULL.
#[unsafe(no_mangle)]
pub extern "C" fn towline_network_changed(
    client: Option<&TowlineClient>,
    kind: u32,
    metered: u32,
    key: *const c_char,
    carrier: *const c_char,
    error: Option<&mut MaybeUninit<*mut TowlineError>>,
) -> TowlineStatus {
    guard(error, || {
        let client = given(client, "client")?.client();
        let metered = match metered {
            TOWLINE_METERED_UNKNOWN => None,
            TOWLINE_METERED_NO => Some(false),
            TOWLINE_METERED_YES => Some(true),
            other => return Err(Error::argument("metered", format!("{other} is no TOWLINE_METERED_*"))),
        };
        client.network_changed(Network {
            kind: network_kind(kind)?,
            key: raw::text_if_any(key, "key")?.unwrap_or_default(),
            metered,
            carrier: raw::text_if_any(carrier, "carrier")?,
        })
    })
}

/// Somebody looks at the app again.
#[unsafe(no_mangle)]
pub extern "C" fn towline_foreground(
    client: Option<&TowlineClient>,
    error: Option<&mut MaybeUninit<*mut TowlineError>>,
) -> TowlineStatus {
    guard(error, || given(client, "client")?.client.foreground())
}

/// Nobody looks at the app.
#[unsafe(no_mangle)]
pub extern "C" fn towline_background(
    client: Option<&TowlineClient>,
    error: Option<&mut MaybeUninit<*mut TowlineError>>,
) -> TowlineStatus {
    guard(error, || given(client, "client")?.client.background())
}

/// The user asked the device to save power, or took that back.
#[unsafe(no_mangle)]
pub extern "C" fn towline_low_power(
    client: Option<&TowlineClient>,
    low_power: bool,
    error: Option<&mut MaybeUninit<*mut TowlineError>>,
) -> TowlineStatus {
    guard(error, || given(client, "client")?.client.low_power(low_power))
}

/// The device dozes, or not any more.
#[unsafe(no_mangle)]
pub extern "C" fn towline_doze(
    client: Option<&TowlineClient>,
    dozing: bool,
    error: Option<&mut MaybeUninit<*mut TowlineError>>,
) -> TowlineStatus {
    guard(error, || given(client, "client")?.client.doze(dozing))
}

impl TowlineClient {
    pub(super) fn client(&self) -> Arc<Client> {
        Arc::clone(&self.client)
    }
}

/// Does `work` and tells `on_done`, if there is one.
pub(super) fn done(
    work: impl Future<Output = Result<(), Error>> + Send + 'static,
    on_done: TowlineOnDone,
    user_data: *mut c_void,
) -> Result<(), Error> {
    let (callbacks, user_data) = (Callbacks::get()?, UserData::new(user_data));
    Engine::get()?.spawn(async move {
        let error = work.await.err();
        let Some(on_done) = on_done else { return };
        let tell = move || on_done(user_data.get(), error.map(TowlineError::new).as_ref());
        callbacks.make(tell).await;
    });
    Ok(())
}

fn network_kind(kind: u32) -> Result<NetworkKind, Error> {
    Ok(match kind {
        TOWLINE_NETWORK_UNKNOWN => NetworkKind::Unknown,
        TOWLINE_NETWORK_OFFLINE => NetworkKind::Offline,
        TOWLINE_NETWORK_ETHERNET => NetworkKind::Ethernet,
        TOWLINE_NETWORK_WIFI => NetworkKind::Wifi,
        TOWLINE_NETWORK_CELLULAR => NetworkKind::Cellular,
        TOWLINE_NETWORK_CELLULAR_2G => NetworkKind::Cellular2g,
        TOWLINE_NETWORK_CELLULAR_3G => NetworkKind::Cellular3g,
        TOWLINE_NETWORK_CELLULAR_4G => NetworkKind::Cellular4g,
        TOWLINE_NETWORK_CELLULAR_5G => NetworkKind::Cellular5g,
        other => return Err(Error::argument("kind", format!("{other} is no TOWLINE_NETWORK_*"))),
    })
}
