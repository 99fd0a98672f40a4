//! The client handle: what is neither a call, a stream nor a listener.

use std::{
    ffi::{CString, c_char, c_void},
    future::Future,
    mem::MaybeUninit,
    sync::Arc,
    time::SystemTime,
};

use super::{
    Out, TowlineError, TowlineStatus,
    callbacks::Callbacks,
    emptied, given, guard, guarded,
    options::TowlineOptions,
    put,
    raw::{self, TowlineBytes, UserData, c_text},
};
use crate::{Client, Network, NetworkKind, TicketCounts, engine::Engine, error::TowlineError as Error};

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
        let out = given(client, "client")?;
        let TowlineOptions { options, binder } = given(options, "options")?;
        let client = Client::new(options.clone(), binder.clone())?;
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

/// The operator's list of further gateways that a client holds.
#[repr(C)]
pub struct TowlineEndpointList {
    /// The serial that its operator gave it; 0: there is no list.
    pub serial: u64,
    /// When it was signed, seconds since 1970.
    pub issued_s: u64,
    /// When it is not used any more, seconds since 1970.
    pub expires_s: u64,
    /// Whether it is used, by the device's clock.
    pub is_current: bool,
    /// How many gateways it names that the client may go to.
    pub endpoints: u32,
    /// How many more it names, whose certificates would name what the app does not allow.
    pub left_out: u32,
}

/// Says what list of further gateways is held: see the option endpoint_list_key.
#[unsafe(no_mangle)]
pub extern "C" fn towline_endpoint_list(
    client: Option<&TowlineClient>,
    list: Option<&mut MaybeUninit<TowlineEndpointList>>,
    error: Option<&mut MaybeUninit<*mut TowlineError>>,
) -> TowlineStatus {
    guard(error, || {
        let list = given(list, "list")?;
        list.write(given(client, "client").map(|it| endpoint_list(&it.client))?);
        Ok(())
    })
}

/// What became of TLS sessions that are kept for the next run of the app, since this client was made.
#[repr(C)]
pub struct TowlineTicketCounts {
    /// Given to the disk, for the next run.
    pub kept: u64,
    /// Of earlier runs, taken away from there to be used.
    pub restored: u64,
    /// That could not be read or opened: the handshake was a whole one, or used another.
    pub damaged: u64,
    /// That went before they were used, since there were too many.
    pub dropped: u64,
}

/// Says how many TLS sessions were kept and restored, beside the option identity_file. Whether early data was taken is
/// in the state of the line.
#[unsafe(no_mangle)]
pub extern "C" fn towline_ticket_counts(
    client: Option<&TowlineClient>,
    counts: Option<&mut MaybeUninit<TowlineTicketCounts>>,
    error: Option<&mut MaybeUninit<*mut TowlineError>>,
) -> TowlineStatus {
    guard(error, || {
        let counts = given(counts, "counts")?;
        let TicketCounts { kept, restored, damaged, dropped } =
            given(client, "client")?.client.ticket_counts();
        counts.write(TowlineTicketCounts { kept, restored, damaged, dropped });
        Ok(())
    })
}

/// The revision of the operator's policy that the client follows; 0 where it has been sent none.
#[unsafe(no_mangle)]
pub extern "C" fn towline_policy_revision(client: Option<&TowlineClient>) -> u64 {
    guarded(0, || client.map_or(0, |it| it.client.policy_revision()))
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
    let work = |client: Arc<Client>, filter| async move { client.subscribe(filter).await };
    done_with(client, ("filter", filter), work, (on_done, user_data), error)
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
    let work = |client: Arc<Client>, filter| async move { client.unsubscribe(filter).await };
    done_with(client, ("filter", filter), work, (on_done, user_data), error)
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
    guard(error, || given(client, "client")?.client.network_changed(network_of(kind, metered, key, carrier)?))
}

/// Another network has joined the one in use, which still works: Wi-Fi came, and cellular is there yet. The line moves there,
/// with the requests that it has, once some connections over it have come through in a row; if they do not, it stays where
/// it is. The arguments are those of towline_network_changed.
#[unsafe(no_mangle)]
pub extern "C" fn towline_network_joined(
    client: Option<&TowlineClient>,
    kind: u32,
    metered: u32,
    key: *const c_char,
    carrier: *const c_char,
    error: Option<&mut MaybeUninit<*mut TowlineError>>,
) -> TowlineStatus {
    guard(error, || given(client, "client")?.client.network_joined(network_of(kind, metered, key, carrier)?))
}

/// What is sent on the network in use costs money, or not: metered is one of TOWLINE_METERED_*. For a device that tells that
/// apart from changes of the network.
#[unsafe(no_mangle)]
pub extern "C" fn towline_set_metered(
    client: Option<&TowlineClient>,
    metered: u32,
    error: Option<&mut MaybeUninit<*mut TowlineError>>,
) -> TowlineStatus {
    guard(error, || given(client, "client")?.client.set_metered(metered_of(metered)?))
}

/// The line is made anew at once, whatever the network did.
#[unsafe(no_mangle)]
pub extern "C" fn towline_reconnect(
    client: Option<&TowlineClient>,
    error: Option<&mut MaybeUninit<*mut TowlineError>>,
) -> TowlineStatus {
    guard(error, || given(client, "client")?.client.reconnect())
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

/// An entry that does `work` on a client that is open, with a text that has a name, and tells whom it names.
pub(super) fn done_with<W>(
    client: Option<&TowlineClient>,
    (argument, text): (&str, *const c_char),
    work: impl FnOnce(Arc<Client>, String) -> W,
    (on_done, user_data): (TowlineOnDone, *mut c_void),
    error: Out<'_, TowlineError>,
) -> TowlineStatus
where
    W: Future<Output = Result<(), Error>> + Send + 'static,
{
    guard(error, || {
        let (client, text) = (given(client, "client")?.client(), raw::text(text, argument)?);
        client.open()?;
        done(work(client, text), on_done, user_data)
    })
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

fn endpoint_list(client: &Client) -> TowlineEndpointList {
    let Some(list) = client.endpoint_list() else {
        let (serial, issued_s, expires_s, is_current) = (0, 0, 0, false);
        return TowlineEndpointList { serial, issued_s, expires_s, is_current, endpoints: 0, left_out: 0 };
    };
    let seconds = |at: SystemTime| at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    TowlineEndpointList {
        serial: list.serial,
        issued_s: seconds(list.issued),
        expires_s: seconds(list.expires),
        is_current: list.is_current,
        endpoints: u32::try_from(list.endpoints.len()).unwrap_or(u32::MAX),
        left_out: list.left_out,
    }
}

fn network_of(kind: u32, metered: u32, key: *const c_char, carrier: *const c_char) -> Result<Network, Error> {
    Ok(Network {
        kind: network_kind(kind)?,
        key: raw::text_if_any(key, "key")?.unwrap_or_default(),
        metered: metered_of(metered)?,
        carrier: raw::text_if_any(carrier, "carrier")?,
    })
}

fn metered_of(metered: u32) -> Result<Option<bool>, Error> {
    match metered {
        TOWLINE_METERED_UNKNOWN => Ok(None),
        TOWLINE_METERED_NO => Ok(Some(false)),
        TOWLINE_METERED_YES => Ok(Some(true)),
        other => Err(Error::argument("metered", format!("{other} is no TOWLINE_METERED_*"))),
    }
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
