//! Calls that outlive the app.

use std::{
    ffi::{c_char, c_void},
    mem::MaybeUninit,
    ptr,
    sync::Arc,
};

use super::{
    TowlineError, TowlineStatus,
    call::{TowlineRequest, TowlineResponse, read},
    callbacks::Callbacks,
    client::{TowlineClient, TowlineOnDone, done, done_with},
    given, guard,
    listen::{TowlineListener, listen},
    raw::{self, TowlineBytes, UserData, c_text},
};
use crate::{Client, DurableOutcome, engine::Engine};

/// How a call ended that towline_submit took in.
#[repr(C)]
pub struct TowlineOutcome {
    /// Names the call.
    pub key: *const c_char,
    /// What the app put beside it.
    pub tag: TowlineBytes,
    /// The answer; or NULL.
    pub response: *const TowlineResponse,
    /// Why there is none; or NULL.
    pub error: *const TowlineError,
}

/// Told each outcome, which is handed out again, in the next run of the app too, until towline_acknowledge. The last call
/// has NULL.
pub type TowlineOnOutcome = Option<extern "C" fn(user_data: *mut c_void, outcome: Option<&TowlineOutcome>)>;

/// A record of a durable call that cannot be read: the call may have run, and its outcome is lost. An app that knows the
/// call's key may acknowledge that; otherwise towline_discard_damaged takes it away.
#[repr(C)]
pub struct TowlineDamaged {
    /// The file.
    pub name: *const c_char,
    /// What is wrong with it.
    pub reason: *const c_char,
}

/// Told each record that cannot be read. The last call has NULL.
pub type TowlineOnDamaged = Option<extern "C" fn(user_data: *mut c_void, record: Option<&TowlineDamaged>)>;

/// Tells on_damaged of the records that could not be read when the client was made. They stay until
/// towline_discard_damaged.
#[unsafe(no_mangle)]
pub extern "C" fn towline_damaged_records(
    client: Option<&TowlineClient>,
    on_damaged: TowlineOnDamaged,
    user_data: *mut c_void,
    error: Option<&mut MaybeUninit<*mut TowlineError>>,
) -> TowlineStatus {
    guard(error, || {
        let records = given(client, "client")?.client().damaged_records();
        let on_damaged = given(on_damaged, "on_damaged")?;
        let (callbacks, user_data) = (Callbacks::get()?, UserData::new(user_data));
        let tell = move || {
            for record in &records {
                let (name, reason) = (c_text(&record.name), c_text(&record.reason));
                let record = TowlineDamaged { name: name.as_ptr(), reason: reason.as_ptr() };
                on_damaged(user_data.get(), Some(&record));
            }
            on_damaged(user_data.get(), None);
        };
        Engine::get()?.spawn(async move {
            callbacks.make(tell).await;
        });
        Ok(())
    })
}

/// Gives a record up that cannot be read: its file is removed. on_done, which may be NULL, is told when it is, or why it
/// stays.
#[unsafe(no_mangle)]
pub extern "C" fn towline_discard_damaged(
    client: Option<&TowlineClient>,
    name: *const c_char,
    on_done: TowlineOnDone,
    user_data: *mut c_void,
    error: Option<&mut MaybeUninit<*mut TowlineError>>,
) -> TowlineStatus {
    let work = |client: Arc<Client>, name| async move { client.discard_damaged(name).await };
    done_with(client, ("name", name), work, (on_done, user_data), error)
}

/// Takes a call in that outlives the app. It needs the option identity_file, beside which it is kept; it runs once, in this
/// run of the app or a later one; and towline_on_outcome tells how it ended. on_done, which may be NULL, is told when the
/// call is on disk, or why it was not taken in: it may run all the same where that error says that it may have run.
///
/// key names the call, 1 to 256 bytes, and is free again once its outcome is acknowledged. tag is what the app wants to
/// find beside the outcome, up to 4096 bytes.
#[unsafe(no_mangle)]
pub extern "C" fn towline_submit(
    client: Option<&TowlineClient>,
    request: Option<&TowlineRequest>,
    key: *const c_char,
    tag: TowlineBytes,
    on_done: TowlineOnDone,
    user_data: *mut c_void,
    error: Option<&mut MaybeUninit<*mut TowlineError>>,
) -> TowlineStatus {
    guard(error, || {
        let client = given(client, "client")?.client();
        let request = read(given(request, "request")?)?;
        let (key, tag) = (raw::text(key, "key")?, raw::bytes(tag, "tag")?);
        client.open()?;
        done(async move { client.submit(request, key, Some(tag)).await }, on_done, user_data)
    })
}

/// Listens for outcomes of calls that were submitted, in earlier runs of the app too. Each goes to one listener.
#[unsafe(no_mangle)]
pub extern "C" fn towline_on_outcome(
    client: Option<&TowlineClient>,
    on_outcome: TowlineOnOutcome,
    user_data: *mut c_void,
    listener: Option<&mut MaybeUninit<*mut TowlineListener>>,
    error: Option<&mut MaybeUninit<*mut TowlineError>>,
) -> TowlineStatus {
    listen(listener, error, || {
        let outcomes = given(client, "client")?.client().outcomes()?;
        let on_outcome = given(on_outcome, "on_outcome")?;
        let user_data = UserData::new(user_data);
        let tell = move |outcome: Option<Arc<DurableOutcome>>| match outcome {
            Some(outcome) => with_outcome(&outcome, |outcome| on_outcome(user_data.get(), Some(outcome))),
            None => on_outcome(user_data.get(), None),
        };
        Ok((outcomes, tell))
    })
}

/// The app is done with the outcome of that key: it is not handed out again, and the key is free. on_done, which may be
/// NULL, is told when that is on disk, or why the outcome stays.
#[unsafe(no_mangle)]
pub extern "C" fn towline_acknowledge(
    client: Option<&TowlineClient>,
    key: *const c_char,
    on_done: TowlineOnDone,
    user_data: *mut c_void,
    error: Option<&mut MaybeUninit<*mut TowlineError>>,
) -> TowlineStatus {
    let work = |client: Arc<Client>, key| async move { client.acknowledge(key).await };
    done_with(client, ("key", key), work, (on_done, user_data), error)
}

fn with_outcome(outcome: &DurableOutcome, tell: impl FnOnce(&TowlineOutcome)) {
    let (key, tag) = (c_text(&outcome.key()), outcome.tag());
    let ended = outcome.response().map(TowlineResponse::new).map_err(TowlineError::new);
    tell(&TowlineOutcome {
        key: key.as_ptr(),
        tag: TowlineBytes::of(&tag),
        response: ended.as_ref().map_or(ptr::null(), ptr::from_ref),
        error: ended.as_ref().err().map_or(ptr::null(), ptr::from_ref),
    });
}
