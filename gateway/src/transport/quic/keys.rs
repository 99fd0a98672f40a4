//! Keys of a key update that may never come (RFC 9001, section 6).
//!
//! quinn wants the next keys as soon as it has the present ones. Expanded, a pair of AEAD keys takes over a
//! kilobyte of every idle connection; its secrets take a tenth of that.

use std::sync::{Arc, OnceLock};

use bytes::BytesMut;
use quinn::crypto::{CryptoError, KeyPair, PacketKey};
use rustls::quic::{PacketKeySet, Secrets};

/// RFC 9001, section 5.3: every AEAD of QUIC has a tag of this length.
const TAG_BYTES: usize = 16;

/// The next keys; `secrets` become those of the keys behind them.
pub(super) fn next(secrets: &mut Secrets) -> KeyPair<Box<dyn PacketKey>> {
    let pair = Arc::new(Pair { secrets: secrets.clone(), keys: OnceLock::new() });
    // The one way to move them on; the keys themselves are made again if they are ever used.
    drop(secrets.next_packet_keys());
    KeyPair {
        local: Box::new(LaterKey { pair: Arc::clone(&pair), side: |keys| &keys.local }),
        remote: Box::new(LaterKey { pair, side: |keys| &keys.remote }),
    }
}

struct Pair {
    secrets: Secrets,
    keys: OnceLock<PacketKeySet>,
}

struct LaterKey {
    pair: Arc<Pair>,
    side: fn(&PacketKeySet) -> &Box<dyn rustls::quic::PacketKey>,
}

#[allow(clippy::borrowed_box, reason = "quinn implements its trait for the box")]
impl LaterKey {
    fn key(&self) -> &Box<dyn rustls::quic::PacketKey> {
        (self.side)(self.pair.keys.get_or_init(|| self.pair.secrets.clone().next_packet_keys()))
    }
}

impl PacketKey for LaterKey {
    fn encrypt(&self, packet: u64, buf: &mut [u8], header_len: usize) {
        PacketKey::encrypt(self.key(), packet, buf, header_len);
    }

    fn decrypt(&self, packet: u64, header: &[u8], payload: &mut BytesMut) -> Result<(), CryptoError> {
        PacketKey::decrypt(self.key(), packet, header, payload)
    }

    fn tag_len(&self) -> usize {
        TAG_BYTES
    }

    fn confidentiality_limit(&self) -> u64 {
        self.key().confidentiality_limit()
    }

    fn integrity_limit(&self) -> u64 {
        self.key().integrity_limit()
    }
}
