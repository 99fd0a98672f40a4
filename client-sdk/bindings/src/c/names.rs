//! Names that the app looks up itself.

use std::{
    ffi::{CString, c_char, c_void},
    mem::MaybeUninit,
    sync::Arc,
};

use super::{
    TowlineError, TowlineStatus,
    binder::{CNetwork, TowlineNetwork},
    client::TowlineClient,
    given, guard, guarded,
    listen::{TowlineListener, listen},
    raw::{self, UserData, c_text},
};
use crate::NameQuestion;

/// A name whose addresses the client wants to know. The app owns it, and frees it with towline_name_free once it has
/// answered it, in the callback or later, by any thread.
pub struct TowlineName {
    question: Arc<NameQuestion>,
    host: CString,
    network: CNetwork,
}

/// Told each name to look up, which is the app's from then on. The last call has NULL.
pub type TowlineOnName = Option<extern "C" fn(user_data: *mut c_void, name: Option<Box<TowlineName>>)>;

/// Listens for names to look up, where the option own_resolver is set: until somebody listens no name is looked up.
/// Each name goes to one listener.
#[unsafe(no_mangle)]
pub extern "C" fn towline_on_name(
    client: Option<&TowlineClient>,
    on_name: TowlineOnName,
    user_data: *mut c_void,
    listener: Option<&mut MaybeUninit<*mut TowlineListener>>,
    error: Option<&mut MaybeUninit<*mut TowlineError>>,
) -> TowlineStatus {
    listen(listener, error, || {
        let names = given(client, "client")?.client().names()?;
        let on_name = given(on_name, "on_name")?;
        let user_data = UserData::new(user_data);
        let tell = move |question: Option<Arc<NameQuestion>>| {
            on_name(user_data.get(), question.map(|question| Box::new(TowlineName::new(question))));
        };
        Ok((names, tell))
    })
}

/// The name. It lives as long as the handle.
#[unsafe(no_mangle)]
pub extern "C" fn towline_name_host(name: Option<&TowlineName>) -> *const c_char {
    guarded(c"".as_ptr(), || name.map_or(c"", |it| it.host.as_c_str()).as_ptr())
}

/// Says which network connections to it are for, as the app has told of it. Its texts live as long as the handle.
#[unsafe(no_mangle)]
pub extern "C" fn towline_name_network(
    name: Option<&TowlineName>,
    network: Option<&mut MaybeUninit<TowlineNetwork>>,
    error: Option<&mut MaybeUninit<*mut TowlineError>>,
) -> TowlineStatus {
    guard(error, || {
        let network = given(network, "network")?;
        network.write(given(name, "name")?.network.shown());
        Ok(())
    })
}

/// Its addresses, the preferred first: 1 to 16 of IPv4 and IPv6, as 192.0.2.7,2001:db8::7. A second answer is none.
#[unsafe(no_mangle)]
pub extern "C" fn towline_name_answer(
    name: Option<&TowlineName>,
    addresses: *const c_char,
    error: Option<&mut MaybeUninit<*mut TowlineError>>,
) -> TowlineStatus {
    guard(error, || {
        let (name, addresses) = (given(name, "name")?, raw::text(addresses, "addresses")?);
        name.question.answer(addresses.split(',').map(|address| address.trim().to_owned()).collect())
    })
}

/// There is no answer; reason is what the state of the line says of it.
#[unsafe(no_mangle)]
pub extern "C" fn towline_name_fail(
    name: Option<&TowlineName>,
    reason: *const c_char,
    error: Option<&mut MaybeUninit<*mut TowlineError>>,
) -> TowlineStatus {
    guard(error, || {
        let (name, reason) = (given(name, "name")?, raw::text(reason, "reason")?);
        name.question.fail(reason);
        Ok(())
    })
}

/// Frees the handle; NULL is nothing. The lookup fails if it was not answered.
#[unsafe(no_mangle)]
pub extern "C" fn towline_name_free(name: Option<Box<TowlineName>>) {
    guarded((), || drop(name));
}

impl TowlineName {
    fn new(question: Arc<NameQuestion>) -> Self {
        let (host, network) = (c_text(&question.host()), CNetwork::new(&question.network()));
        Self { question, host, network }
    }
}
