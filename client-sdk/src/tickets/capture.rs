//! What rustls keeps to itself of a session: the ticket's message, and the key that goes with it.
//!
//! ```text
//!  TCP:  record -- decrypter here --> NewSessionTicket --+
//!  QUIC: CRYPTO frames -- session here --> the same -----+--> rustls: HKDF here: the key --> the store: both
//! ```
//!
//! All of that is one call into rustls, on one thread, so what was seen last is what the store is given. Several messages
//! of one record are handled in order, each with its key; the nonce, which both have, says whether they belong together.

use std::{
    cell::RefCell,
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use rustls::{
    CipherSuiteCommon, ConnectionTrafficSecrets, ContentType, Error, SupportedCipherSuite, Tls13CipherSuite,
    crypto::{
        CryptoProvider,
        cipher::{
            AeadKey, InboundOpaqueMessage, InboundPlainMessage, Iv, MessageDecrypter, MessageEncrypter,
            Tls13AeadAlgorithm, UnsupportedOperationError,
        },
        hmac::Tag,
        tls13::{Hkdf, HkdfExpander, OkmBlock, OutputLengthError},
    },
};
use zeroize::Zeroizing;

use super::{message, mint};

/// Suites that are prepared; each process has a few, and those beyond keep their tickets in memory.
const SUITES_MAX: usize = 32;

thread_local! {
    static SEEN: RefCell<Seen> = RefCell::default();
}

/// Of the call into rustls that is under way.
#[derive(Default)]
struct Seen {
    messages: VecDeque<Vec<u8>>,
    key: Option<Key>,
}

struct Key {
    nonce: Vec<u8>,
    psk: Zeroizing<Vec<u8>>,
}

/// A session as it came: the body of NewSessionTicket (RFC 8446, section 4.6.1), and the key that was derived for it.
pub(super) struct Captured {
    pub(super) message: Vec<u8>,
    pub(super) psk: Zeroizing<Vec<u8>>,
}

/// What the store may keep of the ticket that it is given now; `None` where message and key do not belong together.
pub(super) fn take() -> Option<Captured> {
    let (message, key) = SEEN.with_borrow_mut(|seen| (seen.messages.pop_front(), seen.key.take()));
    let (message, key) = (message?, key?);
    let ticket = message::NewTicket::parse(&message)?;
    (ticket.nonce == key.nonce).then_some(Captured { message, psk: key.psk })
}

/// Reads bytes of handshake messages that rustls is about to handle.
pub(super) fn handles(messages: &mut message::Messages, bytes: &[u8]) {
    SEEN.with_borrow_mut(|seen| {
        *seen = Seen::default();
        messages.read(bytes, &mut seen.messages);
    });
}

/// The same cryptography, of whose sessions [`take`] learns.
pub(super) fn seen_through(mut crypto: CryptoProvider) -> CryptoProvider {
    for suite in &mut crypto.cipher_suites {
        if let Some(inner) = suite.tls13() {
            *suite = SupportedCipherSuite::Tls13(seen(inner));
        }
    }
    crypto
}

/// The suite around `inner`; rustls wants one for the life of the process.
fn seen(inner: &'static Tls13CipherSuite) -> &'static Tls13CipherSuite {
    type Pair = (&'static Tls13CipherSuite, &'static Tls13CipherSuite);
    static KNOWN: Mutex<Vec<Pair>> = Mutex::new(Vec::new());
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let same = known.iter().find(|(one, outer)| std::ptr::eq(*one, inner) || std::ptr::eq(*outer, inner));
    if let Some((_, outer)) = same {
        return outer;
    }
    if known.len() >= SUITES_MAX {
        return inner;
    }
    let through: &'static Through = Box::leak(Box::new(Through(inner)));
    let outer: &'static Tls13CipherSuite = Box::leak(Box::new(Tls13CipherSuite {
        common: CipherSuiteCommon {
            suite: inner.common.suite,
            hash_provider: inner.common.hash_provider,
            confidentiality_limit: inner.common.confidentiality_limit,
        },
        hkdf_provider: through,
        aead_alg: through,
        quic: inner.quic,
    }));
    known.push((inner, outer));
    outer
}

/// A suite's key derivation and encryption; while a session is minted on this thread, what [`mint`] says instead.
struct Through(&'static Tls13CipherSuite);

impl Hkdf for Through {
    fn extract_from_zero_ikm(&self, salt: Option<&[u8]>) -> Box<dyn HkdfExpander> {
        self.0.hkdf_provider.extract_from_zero_ikm(salt)
    }

    fn extract_from_secret(&self, salt: Option<&[u8]>, secret: &[u8]) -> Box<dyn HkdfExpander> {
        self.0.hkdf_provider.extract_from_secret(salt, secret)
    }

    /// What tickets' keys are derived with, the resumption master secret, is a block.
    fn expander_for_okm(&self, okm: &OkmBlock) -> Box<dyn HkdfExpander> {
        Box::new(Expander(self.0.hkdf_provider.expander_for_okm(okm)))
    }

    fn hmac_sign(&self, key: &OkmBlock, message: &[u8]) -> Tag {
        match mint::finished(self.0.common.hash_provider.output_len()) {
            Some(tag) => tag,
            None => self.0.hkdf_provider.hmac_sign(key, message),
        }
    }

    fn fips(&self) -> bool {
        self.0.hkdf_provider.fips()
    }
}

struct Expander(Box<dyn HkdfExpander>);

impl HkdfExpander for Expander {
    fn expand_slice(&self, info: &[&[u8]], output: &mut [u8]) -> Result<(), OutputLengthError> {
        self.0.expand_slice(info, output)
    }

    fn expand_block(&self, info: &[&[u8]]) -> OkmBlock {
        let Some(nonce) = ticket_nonce(&info.concat()).map(<[u8]>::to_vec) else {
            return self.0.expand_block(info);
        };
        if let Some(psk) = mint::psk(self.0.hash_len()) {
            return psk;
        }
        let psk = self.0.expand_block(info);
        let key = Key { nonce, psk: Zeroizing::new(psk.as_ref().to_vec()) };
        SEEN.with_borrow_mut(|seen| seen.key = Some(key));
        psk
    }

    fn hash_len(&self) -> usize {
        self.0.hash_len()
    }
}

/// The context of a ticket's key: HKDF-Expand-Label(resumption_master_secret, "resumption", ticket_nonce, Hash.length)
/// (RFC 8446, section 4.6.1). `info` is length, 2 | label, 1+ | context, 1+ (section 7.1).
fn ticket_nonce(info: &[u8]) -> Option<&[u8]> {
    const LABEL: &[u8] = b"\x10tls13 resumption";
    let (_nonce_bytes, nonce) = info.get(2..)?.strip_prefix(LABEL)?.split_first()?;
    Some(nonce)
}

impl Tls13AeadAlgorithm for Through {
    fn encrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageEncrypter> {
        self.0.aead_alg.encrypter(key, iv)
    }

    fn decrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageDecrypter> {
        match mint::is_minting() {
            true => Box::new(mint::Plain),
            false => Box::new(Decrypter {
                inner: self.0.aead_alg.decrypter(key, iv),
                messages: message::Messages::default(),
            }),
        }
    }

    fn key_len(&self) -> usize {
        self.0.aead_alg.key_len()
    }

    fn extract_keys(
        &self,
        key: AeadKey,
        iv: Iv,
    ) -> Result<ConnectionTrafficSecrets, UnsupportedOperationError> {
        match mint::is_minting() {
            // Nobody looks at them, and rustls has no name for other suites' keys.
            true => Ok(ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv }),
            false => self.0.aead_alg.extract_keys(key, iv),
        }
    }

    fn fips(&self) -> bool {
        self.0.aead_alg.fips()
    }
}

/// One direction of one connection, under one key.
struct Decrypter {
    inner: Box<dyn MessageDecrypter>,
    messages: message::Messages,
}

impl MessageDecrypter for Decrypter {
    fn decrypt<'a>(
        &mut self,
        message: InboundOpaqueMessage<'a>,
        sequence: u64,
    ) -> Result<InboundPlainMessage<'a>, Error> {
        let plain = self.inner.decrypt(message, sequence)?;
        if plain.typ == ContentType::Handshake {
            handles(&mut self.messages, plain.payload);
        }
        Ok(plain)
    }
}
