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
    client::{TowlineClient, TowlineOnDone, done},
    emptied, given, guard,
    listen::{TowlineListener, listen},
    raw::{self, TowlineBytes, UserData, c_text},
};
use crate::{DurableOutcome, error::TowlineError as Error};

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
    let listener = emptied(listener);
    guard(error, || {
        let outcomes = given(client, "client")?.client().outcomes()?;
        let on_outcome = on_outcome.ok_or_else(|| Error::argument("on_outcome", "is NULL"))?;
        let user_data = UserData::new(user_data);
        let tell = move |outcome: Option<Arc<DurableOutcome>>| match outcome {
            Some(outcome) => with_outcome(&outcome, |outcome| on_outcome(user_data.get(), Some(outcome))),
            None => on_outcome(user_data.get(), None),
        };
        listen(
            listener,
            move || {
                let outcomes = Arc::clone(&outcomes);
                async move { outcomes.next().await }
            },
            tell,
            || {},
        )
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
    guard(error, || {
        let (client, key) = (given(client, "client")?.client(), raw::text(key, "key")?);
        client.open()?;
        done(async move { client.acknowledge(key).await }, on_done, user_data)
    })
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
