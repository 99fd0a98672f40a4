//! What C hands over, read into what Rust can trust; and the one thing that is carried for it unread.

use std::ffi::{CStr, CString, c_char, c_void};

use crate::{TowlineError, request::Header};

/// Bytes that belong to somebody else: to the app when it passes them, for the time of the call; to the library when a
/// callback gets them, for the time of the callback.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct TowlineBytes {
    /// The first one; may be NULL when there are none.
    pub data: *const u8,
    /// How many.
    pub len: usize,
}

/// A header field.
#[repr(C)]
pub struct TowlineHeader {
    /// Name, NUL-terminated.
    pub name: *const c_char,
    /// Value, NUL-terminated UTF-8.
    pub value: *const c_char,
}

/// The app's pointer, which comes back with each callback.
#[derive(Clone, Copy)]
pub(super) struct UserData(*mut c_void);

// SAFETY: it is not read here. The header says that callbacks are made on a thread of the library's, so that what the
// app points to must be fit for that.
unsafe impl Send for UserData {}
// SAFETY: as above.
unsafe impl Sync for UserData {}

impl UserData {
    pub(super) fn new(pointer: *mut c_void) -> Self {
        Self(pointer)
    }

    pub(super) fn get(self) -> *mut c_void {
        self.0
    }
}

impl TowlineBytes {
    pub(super) fn of(bytes: &[u8]) -> Self {
        Self { data: bytes.as_ptr(), len: bytes.len() }
    }

    pub(super) const NONE: Self = Self { data: std::ptr::null(), len: 0 };
}

/// A copy of what the app passed.
pub(super) fn bytes(bytes: TowlineBytes, argument: &str) -> Result<Vec<u8>, TowlineError> {
    if bytes.len == 0 {
        return Ok(Vec::new());
    }
    if bytes.data.is_null() {
        return Err(TowlineError::argument(argument, "data is NULL and len is not 0"));
    }
    // SAFETY: the header demands that `data` points to `len` bytes that nobody changes during the call.
    Ok(unsafe { std::slice::from_raw_parts(bytes.data, bytes.len) }.to_vec())
}

/// A copy of the text that the app passed; `None` for NULL.
pub(super) fn text_if_any(text: *const c_char, argument: &str) -> Result<Option<String>, TowlineError> {
    if text.is_null() {
        return Ok(None);
    }
    // SAFETY: the header demands that texts are NUL-terminated and that nobody changes them during the call.
    let text = unsafe { CStr::from_ptr(text) };
    let text = text.to_str().map_err(|_| TowlineError::argument(argument, "is not UTF-8"))?;
    Ok(Some(text.to_owned()))
}

/// A copy of the text that the app passed.
pub(super) fn text(text: *const c_char, argument: &str) -> Result<String, TowlineError> {
    text_if_any(text, argument)?.ok_or_else(|| TowlineError::argument(argument, "is NULL"))
}

/// Copies of header fields.
pub(super) fn headers(first: *const TowlineHeader, len: usize) -> Result<Vec<Header>, TowlineError> {
    if len == 0 {
        return Ok(Vec::new());
    }
    if first.is_null() {
        return Err(TowlineError::argument("headers", "is NULL and headers_len is not 0"));
    }
    // SAFETY: the header demands that `headers` points to `headers_len` fields that nobody changes during the call.
    let fields = unsafe { std::slice::from_raw_parts(first, len) };
    let header = |(place, field): (usize, &TowlineHeader)| {
        Ok(Header {
            name: text(field.name, &format!("headers[{place}].name"))?,
            value: text(field.value, &format!("headers[{place}].value"))?,
        })
    };
    fields.iter().enumerate().map(header).collect()
}

/// Text for C, which ends at NUL: those inside become spaces.
pub(super) fn c_text(text: &str) -> CString {
    CString::new(text.replace('\0', " ")).unwrap_or_default()
}
