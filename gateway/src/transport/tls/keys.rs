//! AEAD keys of TLS 1.3 connections, expanded from traffic secrets (RFC 8446, section 7.3).
//!
//! An expanded key takes half a kilobyte and some microseconds to make, so it is worth keeping while records
//! flow and too much to keep while none do. All of them stand here; a connection holds the number of its own.
//! Once in [`QUIET_PERIOD`] those that nobody asked for since the last time are dropped, and a connection that
//! finds its key gone expands it anew.

use std::{
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ::aws_lc_rs::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use parking_lot::Mutex;
use rustls::{
    CipherSuite, SupportedCipherSuite, Tls13CipherSuite,
    crypto::{
        aws_lc_rs::{self, cipher_suite},
        tls13::OkmBlock,
    },
};
use towline_crypto::shangmi::RecordKey;
use zeroize::Zeroizing;

/// A key that nobody asked for in so long is dropped, at the latest after twice as long.
const QUIET_PERIOD: Duration = Duration::from_secs(1);
/// Locks are held for some dozens of nanoseconds, except by the sweep, which holds one of so many.
const SHARDS: usize = 16;
/// Octets of a nonce, and so of its per-direction mask (RFC 8446, section 5.3).
const NONCE_BYTES: usize = aead::NONCE_LEN;
/// The longest key of a suite.
const KEY_BYTES_MAX: usize = 32;
/// Every AEAD of TLS 1.3 that Towline speaks has a tag of this length.
pub(super) const TAG_BYTES: usize = 16;
/// The longest traffic secret: that of SHA-384.
pub(super) const SECRET_BYTES_MAX: usize = 48;

/// How to seal and open the records of one direction, until its secret changes.
pub(super) struct Key {
    aead: Aead,
    mask: Zeroizing<[u8; NONCE_BYTES]>,
}

/// An expanded key.
enum Aead {
    Aws(LessSafeKey),
    /// Boxed: its round keys are ten times an AES key's handle.
    Sm4(Box<RecordKey>),
}

/// A suite's AEAD, if the record layer has it.
#[derive(Clone, Copy)]
enum Algorithm {
    Aws(&'static aead::Algorithm),
    Sm4,
}

/// Whether the record layer can take over. Connections with another suite stay with their provider.
pub(super) fn serves(suite: &'static Tls13CipherSuite) -> bool {
    algorithm(suite).is_some()
}

fn algorithm(suite: &'static Tls13CipherSuite) -> Option<Algorithm> {
    if RecordKey::serves(suite) {
        return Some(Algorithm::Sm4);
    }
    let ours = AWS_SUITES.iter().any(|known| known.tls13().is_some_and(|known| std::ptr::eq(known, suite)));
    match suite.common.suite {
        _ if !ours => None,
        CipherSuite::TLS13_AES_128_GCM_SHA256 => Some(Algorithm::Aws(&aead::AES_128_GCM)),
        CipherSuite::TLS13_AES_256_GCM_SHA384 => Some(Algorithm::Aws(&aead::AES_256_GCM)),
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => Some(Algorithm::Aws(&aead::CHACHA20_POLY1305)),
        _ => None,
    }
}

/// aws-lc-rs' suites, by address: another provider's suite of the same name may keep its keys in a module of its
/// own. The compiler may have copied what rustls' constants refer to, so they are asked for in both ways.
static AWS_SUITES: LazyLock<Vec<SupportedCipherSuite>> = LazyLock::new(|| {
    let mut suites = aws_lc_rs::default_provider().cipher_suites;
    suites.push(cipher_suite::TLS13_AES_128_GCM_SHA256);
    suites.push(cipher_suite::TLS13_AES_256_GCM_SHA384);
    suites.push(cipher_suite::TLS13_CHACHA20_POLY1305_SHA256);
    suites
});

impl Algorithm {
    fn key_bytes(self) -> usize {
        match self {
            Self::Aws(algorithm) => algorithm.key_len(),
            Self::Sm4 => RecordKey::KEY_BYTES,
        }
    }

    fn expand(self, suite: &'static Tls13CipherSuite, key: &[u8]) -> Option<Aead> {
        match self {
            Self::Aws(algorithm) => Some(Aead::Aws(LessSafeKey::new(UnboundKey::new(algorithm, key).ok()?))),
            Self::Sm4 => RecordKey::new(suite, key.try_into().ok()?).map(|key| Aead::Sm4(Box::new(key))),
        }
    }
}

impl Key {
    /// `None` if the record layer does not serve the suite.
    fn expand(suite: &'static Tls13CipherSuite, secret: &[u8]) -> Option<Self> {
        let algorithm = algorithm(suite)?;
        let mut key = Zeroizing::new([0; KEY_BYTES_MAX]);
        let key = key.get_mut(..algorithm.key_bytes())?;
        let mut mask = Zeroizing::new([0; NONCE_BYTES]);
        expand_label(suite, secret, b"key", key)?;
        expand_label(suite, secret, b"iv", mask.as_mut())?;
        Some(Self { aead: algorithm.expand(suite, key)?, mask })
    }

    /// Opens what is sealed in `sealed`, tag included, in place; `None` if it was not sealed like this.
    pub(super) fn open<'a>(&self, sequence: u64, aad: &[u8], sealed: &'a mut [u8]) -> Option<&'a [u8]> {
        let nonce = self.nonce(sequence);
        match &self.aead {
            Aead::Aws(key) => {
                let nonce = Nonce::assume_unique_for_key(nonce);
                key.open_in_place(nonce, Aad::from(aad), sealed).ok().map(|opened| &*opened)
            }
            Aead::Sm4(key) => {
                let (content, tag) = sealed.split_last_chunk_mut()?;
                key.open(&nonce, aad, content, tag).ok().map(|()| &*content)
            }
        }
    }

    /// Fills `sealed` with content, `end` and the tag. The content is `plain`, or stands in `sealed` already. `None`
    /// if a length is wrong.
    pub(super) fn seal(
        &self,
        sequence: u64,
        aad: &[u8],
        plain: Option<&[u8]>,
        sealed: &mut [u8],
        end: u8,
    ) -> Option<()> {
        let length = sealed.len().checked_sub(1 + TAG_BYTES)?;
        let nonce = self.nonce(sequence);
        match &self.aead {
            Aead::Aws(key) => {
                let (nonce, aad) = (Nonce::assume_unique_for_key(nonce), Aad::from(aad));
                let (inside, tail) = sealed.split_at_mut(length);
                match plain {
                    Some(plain) => key.seal_out_of_place_scatter(nonce, aad, plain, inside, &[end], tail),
                    None => key.seal_in_place_scatter(nonce, aad, inside, &[end], tail),
                }
                .ok()
            }
            Aead::Sm4(key) => {
                if let Some(plain) = plain {
                    sealed.get_mut(..plain.len())?.copy_from_slice(plain);
                }
                let (content, tag) = sealed.split_at_mut(length + 1);
                content[length] = end;
                tag.copy_from_slice(&key.seal(&nonce, aad, content).ok()?);
                Some(())
            }
        }
    }

    /// RFC 8446, section 5.3.
    fn nonce(&self, sequence: u64) -> [u8; NONCE_BYTES] {
        let mut nonce = *self.mask;
        for (octet, sequence) in nonce[NONCE_BYTES - 8..].iter_mut().zip(sequence.to_be_bytes()) {
            *octet ^= sequence;
        }
        nonce
    }
}

/// HKDF-Expand-Label with an empty context (RFC 8446, section 7.1). `None` for an output that the hash cannot
/// make, which no caller asks for.
pub(super) fn expand_label(
    suite: &'static Tls13CipherSuite,
    secret: &[u8],
    label: &[u8],
    output: &mut [u8],
) -> Option<()> {
    const PREFIX: &[u8] = b"tls13 ";
    let output_bytes = u16::try_from(output.len()).ok()?.to_be_bytes();
    let label_bytes = [u8::try_from(PREFIX.len() + label.len()).ok()?];
    let info: [&[u8]; 5] = [&output_bytes, &label_bytes, PREFIX, label, &[0]];
    suite.hkdf_provider.expander_for_okm(&OkmBlock::new(secret)).expand_slice(&info, output).ok()
}

/// Names a key that stands here; it may be gone.
///
/// ```text
/// | generation, 40 bits | slot, 20 bits | shard, 4 bits |
/// ```
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct KeyId(u64);

const SHARD_BITS: u32 = SHARDS.trailing_zeros();
const SLOT_BITS: u32 = 20;
/// Beyond it keys are expanded for every use: sixteen million directions that all move within a second.
const SLOTS_MAX: usize = 1 << SLOT_BITS;

#[derive(Default)]
struct Shard {
    slots: Vec<Slot>,
    free: Vec<usize>,
    /// Never repeats, so that an old id does not name another connection's key.
    generation: u64,
}

struct Slot {
    id: KeyId,
    key: Option<Arc<Key>>,
    asked_for: bool,
}

static KEYS: [Mutex<Shard>; SHARDS] =
    [const { Mutex::new(Shard { slots: Vec::new(), free: Vec::new(), generation: 0 }) }; SHARDS];
/// Whether a task sweeps.
static SWEEPING: AtomicBool = AtomicBool::new(false);

/// The key called `id`, or else the one of `secret`, which is called `id` from then on.
pub(super) fn key(id: &mut KeyId, suite: &'static Tls13CipherSuite, secret: &[u8]) -> Option<Arc<Key>> {
    if let Some(key) = find(*id) {
        return Some(key);
    }
    let key = Arc::new(Key::expand(suite, secret)?);
    *id = keep(Arc::clone(&key));
    sweep_while_there_are_some();
    Some(key)
}

/// Drops a key whose connection or secret is gone.
pub(super) fn forget(id: &mut KeyId) {
    let id = std::mem::take(id);
    if id != KeyId::default() {
        KEYS[id.shard()].lock().drop_key(id);
    }
}

fn find(id: KeyId) -> Option<Arc<Key>> {
    if id == KeyId::default() {
        return None;
    }
    let mut shard = KEYS[id.shard()].lock();
    let slot = shard.slots.get_mut(id.slot()).filter(|slot| slot.id == id)?;
    slot.asked_for = true;
    slot.key.clone()
}

fn keep(key: Arc<Key>) -> KeyId {
    // Any spread will do; the address of a fresh allocation is at hand.
    let shard = (Arc::as_ptr(&key).addr() >> 6) % SHARDS;
    KEYS[shard].lock().keep(shard, key)
}

impl KeyId {
    fn shard(self) -> usize {
        self.0 as usize % SHARDS
    }

    fn slot(self) -> usize {
        (self.0 >> SHARD_BITS) as usize % SLOTS_MAX
    }
}

impl Shard {
    fn keep(&mut self, shard: usize, key: Arc<Key>) -> KeyId {
        let slot = self.free.pop().unwrap_or(self.slots.len());
        if slot >= SLOTS_MAX {
            return KeyId::default();
        }
        self.generation += 1;
        let id = KeyId(self.generation << (SLOT_BITS + SHARD_BITS) | (slot << SHARD_BITS | shard) as u64);
        let filled = Slot { id, key: Some(key), asked_for: true };
        match self.slots.get_mut(slot) {
            Some(free) => *free = filled,
            None => self.slots.push(filled),
        }
        id
    }

    fn drop_key(&mut self, id: KeyId) {
        if let Some(slot) = self.slots.get_mut(id.slot()).filter(|slot| slot.id == id) {
            slot.id = KeyId::default();
            if slot.key.take().is_some() {
                self.free.push(id.slot());
            }
        }
    }

    /// Returns how many are left.
    fn sweep(&mut self) -> usize {
        for position in 0..self.slots.len() {
            let slot = &mut self.slots[position];
            if !std::mem::take(&mut slot.asked_for) {
                let id = slot.id;
                self.drop_key(id);
            }
        }
        let left = self.slots.len() - self.free.len();
        if left == 0 {
            self.slots = Vec::new();
            self.free = Vec::new();
        }
        left
    }
}

/// Drops what nobody asked for since the last time, and returns how many keys are left.
fn sweep() -> usize {
    KEYS.iter().map(|shard| shard.lock().sweep()).sum()
}

/// One task for all connections, while there are keys.
fn sweep_while_there_are_some() {
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
    if SWEEPING.load(Ordering::Relaxed) || SWEEPING.swap(true, Ordering::AcqRel) {
        return;
    }
    // Another runtime's task takes over when this one's is dropped before its end.
    struct Stopped;
    impl Drop for Stopped {
        fn drop(&mut self) {
            SWEEPING.store(false, Ordering::Release);
        }
    }
    runtime.spawn(async {
        let _stopped = Stopped;
        loop {
            tokio::time::sleep(QUIET_PERIOD).await;
            if sweep() == 0 {
                return;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn suite() -> &'static Tls13CipherSuite {
        cipher_suite::TLS13_AES_128_GCM_SHA256.tls13().unwrap()
    }

    #[test]
    fn keys_are_those_of_rfc_8448() {
        // Section 3, "derive write traffic keys for application data" of the server.
        let secret: [u8; 32] = [
            0xa1, 0x1a, 0xf9, 0xf0, 0x55, 0x31, 0xf8, 0x56, 0xad, 0x47, 0x11, 0x6b, 0x45, 0xa9, 0x50, 0x32,
            0x82, 0x04, 0xb4, 0xf4, 0x4b, 0xfb, 0x6b, 0x3a, 0x4b, 0x4f, 0x1f, 0x3f, 0xcb, 0x63, 0x16, 0x43,
        ];
        let mut key = [0; 16];
        let mut iv = [0; 12];
        expand_label(suite(), &secret, b"key", &mut key).unwrap();
        expand_label(suite(), &secret, b"iv", &mut iv).unwrap();
        assert_eq!(
            key,
            [0x9f, 0x02, 0x28, 0x3b, 0x6c, 0x9c, 0x07, 0xef, 0xc2, 0x6b, 0xb9, 0xf2, 0xac, 0x92, 0xe3, 0x56]
        );
        assert_eq!(iv, [0xcf, 0x78, 0x2b, 0x88, 0xdd, 0x83, 0x54, 0x9a, 0xad, 0xf1, 0xe9, 0x84]);
    }

    #[test]
    fn a_key_that_nobody_asks_for_is_dropped_and_its_id_names_no_other() {
        let mut shard = Shard::default();
        let key = || Arc::new(Key::expand(suite(), &[7; 32]).unwrap());
        let first = shard.keep(3, key());
        assert_eq!((first.shard(), first.slot()), (3, 0));
        assert_eq!(shard.sweep(), 1, "it was asked for when it was made");
        let second = shard.keep(3, key());
        assert_eq!(shard.sweep(), 1, "the first was quiet");
        let third = shard.keep(3, key());
        assert_eq!((third.slot(), third == first), (0, false));
        shard.drop_key(first);
        assert!(shard.slots[third.slot()].key.is_some());
        shard.drop_key(third);
        shard.drop_key(second);
        assert_eq!((shard.sweep(), shard.slots.capacity()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_quiet_connection_keeps_no_key_and_finds_it_again() {
        let mut id = KeyId::default();
        let expanded = key(&mut id, suite(), &[1; 32]).unwrap();
        assert!(find(id).is_some_and(|found| Arc::ptr_eq(&found, &expanded)));
        tokio::time::sleep(QUIET_PERIOD * 3).await;
        assert!(find(id).is_none());
        let before = id;
        assert!(key(&mut id, suite(), &[1; 32]).is_some() && id != before);
        forget(&mut id);
        assert!(id == KeyId::default());
    }
}
