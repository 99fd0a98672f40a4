//! The header fields that requests of a session share. The session keeps them, so that HELLO names them by their
//! hash instead of spelling them out on each connection.
//!
//! ```text
//!            HELLO spells them out                    restart of the gateway
//!   None <------------------------> Open, and sealed in the store --------> Sealed
//!                                    ^                                         |
//!                                    +---- HELLO: the hash, and the secret ----+
//! ```
//!
//! They hold tokens, as a rule. So they lie in the store under a key that is made of the session's secret, of
//! which the gateway has a hash only: who has the file has nothing, and the client brings the key along.

use std::sync::Arc;

use aws_lc_rs::{
    aead::{AES_128_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey},
    digest::{Context as Digest, SHA256},
};
use bytes::Bytes;
use towline_protocols::link::{Hello, SessionHeaders};

use super::{LinkSession, OpenError, link_session::State};
use crate::store::{Table, Write};

/// What a session has of them.
#[derive(Default)]
pub(super) enum Kept {
    /// None, or none that are kept.
    #[default]
    None,
    /// As they are used.
    Open(Arc<SessionHeaders>),
    /// As the store had them when the gateway started.
    #[allow(clippy::box_collection, reason = "a word less for each session")]
    Sealed(Box<Vec<u8>>),
}

/// The fields of one connection's requests, if there are any.
pub(super) type Spoken = Option<Arc<SessionHeaders>>;

impl Kept {
    fn bytes(&self) -> usize {
        match self {
            Self::None => 0,
            Self::Open(headers) => headers.encoded().len(),
            Self::Sealed(sealed) => sealed.len(),
        }
    }

    fn has(&self, headers: &SessionHeaders) -> bool {
        matches!(self, Self::Open(kept) if kept.hash() == headers.hash())
    }

    /// Those that HELLO names, if it is them.
    fn named(&self, hello: &Hello) -> Spoken {
        let headers = match self {
            Self::None => return None,
            Self::Open(headers) => Arc::clone(headers),
            Self::Sealed(sealed) => Arc::new(open(&hello.session_secret, &hello.client_id, sealed)?),
        };
        (headers.hash()[..] == hello.session_headers_hash[..]).then_some(headers)
    }
}

impl LinkSession {
    /// The fields that HELLO spells out or names.
    ///
    /// # Errors
    /// It names others than the session has.
    pub(super) fn headers_in(&self, state: &State, hello: &Hello) -> Result<Spoken, OpenError> {
        if hello.session_headers_hash.is_empty() {
            let spelled = SessionHeaders::of(&hello.session_headers);
            return Ok((!spelled.is_empty()).then(|| Arc::new(spelled)));
        }
        state.headers.named(hello).map(Some).ok_or(OpenError::UnknownHeaders)
    }

    /// Whether these will be kept when their connection holds the session, as far as can be told before.
    pub(super) fn would_keep(&self, headers: &Spoken) -> bool {
        let bytes_max = self.context.settings.load().headers_bytes_max;
        headers.as_ref().is_some_and(|headers| headers.encoded().len() <= bytes_max)
    }

    /// Keeps the fields of the connection that has become the holder, in place of those before. Says whether a
    /// later HELLO may name them.
    pub(super) fn keep_headers(&self, state: &mut State, hello: &Hello, headers: &Spoken) -> bool {
        if headers.as_ref().is_some_and(|headers| state.headers.has(headers)) {
            return true;
        }
        // Only opened now: the store has them.
        let is_stored = matches!(state.headers, Kept::Sealed(_)) && !hello.session_headers_hash.is_empty();
        let kept = headers.as_ref().filter(|headers| self.has_room(headers));
        if !is_stored {
            self.store_headers(state, hello, kept.map(|headers| &**headers));
        }
        self.held.sub(state.headers.bytes());
        state.headers = kept.map_or(Kept::None, |headers| Kept::Open(Arc::clone(headers)));
        self.held.add(state.headers.bytes());
        kept.is_some()
    }

    /// What the store has of them, at the start of the gateway.
    pub(super) fn restore_headers(&self, sealed: Vec<u8>) {
        self.held.add(sealed.len());
        self.lock().headers = Kept::Sealed(Box::new(sealed));
    }

    /// The session has ended.
    pub(super) fn forget_headers(&self, state: &mut State) {
        let headers = std::mem::take(&mut state.headers);
        self.held.sub(headers.bytes());
        if !matches!(headers, Kept::None) {
            self.context.forget(self.delete());
        }
    }

    fn has_room(&self, headers: &SessionHeaders) -> bool {
        let is_long = headers.encoded().len() > self.context.settings.load().headers_bytes_max;
        let bound = is_long.then_some("session.headers_bytes_max").or_else(|| self.full());
        if let Some(bound) = bound {
            self.context.limit_hit(bound);
        }
        bound.is_none()
    }

    /// Where the store cannot follow, a restart forgets them, and the client spells them out.
    fn store_headers(&self, state: &State, hello: &Hello, headers: Option<&SessionHeaders>) {
        let sealed = headers.and_then(|headers| seal(&hello.session_secret, self.client_id(), headers));
        match (sealed, &state.headers) {
            (Some(value), _) => {
                let key = self.client_id().as_bytes().to_vec();
                self.context.forget(Write::Put { table: Table::SessionHeaders, key, value });
            }
            (None, Kept::None) => {}
            (None, _) => self.context.forget(self.delete()),
        }
    }

    fn delete(&self) -> Write {
        Write::Delete { table: Table::SessionHeaders, key: self.client_id().as_bytes().to_vec() }
    }
}

/// First byte of each record. Another layout gets another number.
const VERSION: u8 = 1;

/// The record: version, nonce, and the fields, sealed. `None` if the system gives no random numbers.
fn seal(secret: &[u8], client_id: &str, headers: &SessionHeaders) -> Option<Vec<u8>> {
    let mut sealed = headers.encoded().to_vec();
    let aad = Aad::from(client_id.as_bytes());
    let nonce = key(secret)?.seal_in_place_append_tag(aad, &mut sealed).ok()?;
    Some([&[VERSION][..], nonce.as_ref(), &sealed].concat())
}

/// `None`: the record is of another version, another secret or damaged.
fn open(secret: &[u8], client_id: &str, record: &[u8]) -> Option<SessionHeaders> {
    let (nonce, sealed) = record.strip_prefix(&[VERSION])?.split_at_checked(NONCE_LEN)?;
    let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
    let mut opened = sealed.to_vec();
    let encoded = key(secret)?.open_in_place(nonce, Aad::from(client_id.as_bytes()), &mut opened).ok()?;
    SessionHeaders::decode(Bytes::copy_from_slice(encoded))
}

/// The secret is random, so a hash makes a key of it; another than the one that is kept to know it by.
fn key(secret: &[u8]) -> Option<RandomizedNonceKey> {
    let mut digest = Digest::new(&SHA256);
    digest.update(b"towline session headers\0");
    digest.update(secret);
    RandomizedNonceKey::new(&AES_128_GCM, &digest.finish().as_ref()[..AES_128_GCM.key_len()]).ok()
}

#[cfg(test)]
mod tests {
    use towline_protocols::link::Header;

    use super::*;

    #[test]
    fn what_is_sealed_opens_with_the_secret_only() {
        let header = Header { name: "authorization".into(), value: "Bearer abc".into() };
        let headers = SessionHeaders::of(&[header]);
        let record = seal(&[1; 16], "phone", &headers).unwrap();
        assert!(!record.windows(6).any(|part| part == b"Bearer"));
        assert_eq!(open(&[1; 16], "phone", &record), Some(headers.clone()));
        assert_eq!(open(&[2; 16], "phone", &record), None, "another secret");
        assert_eq!(open(&[1; 16], "other", &record), None, "another client's record");
        for cut in 0..record.len() {
            assert_eq!(open(&[1; 16], "phone", &record[..cut]), None, "cut at {cut}");
        }
        assert_ne!(seal(&[1; 16], "phone", &headers), Some(record), "each with a nonce of its own");
    }
}
