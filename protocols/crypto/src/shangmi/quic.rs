//! The suites of RFC 8998 in QUIC: RFC 9001 with SM4 where it has AES-128. No RFC says so; header protection follows
//! section 5.4.3 with SM4 as the block cipher. Initial packets stay AES-128-GCM.

use rustls::{
    Error,
    crypto::cipher::{AeadKey, Iv, Nonce},
    quic::{Algorithm, HeaderProtectionKey, PacketKey, Tag},
};

use super::{
    aead::{Aead, KEY, Mode, NONCE, TAG},
    sm4::{Block, Sm4},
    tls,
};

pub(super) struct Packets(pub(super) Mode);

impl Algorithm for Packets {
    fn packet_key(&self, key: AeadKey, iv: Iv) -> Box<dyn PacketKey> {
        Box::new(Protection { mode: self.0, aead: tls::aead(self.0, &key), iv })
    }

    fn header_protection_key(&self, key: AeadKey) -> Box<dyn HeaderProtectionKey> {
        Box::new(Headers(tls::aead(Mode::Ccm, &key).cipher().clone()))
    }

    fn aead_key_len(&self) -> usize {
        KEY
    }
}

struct Protection {
    mode: Mode,
    aead: Aead,
    iv: Iv,
}

impl Protection {
    fn seal(&self, nonce: [u8; NONCE], header: &[u8], payload: &mut [u8]) -> Result<Tag, Error> {
        let tag = self.aead.seal(&nonce, header, payload).map_err(|_| Error::EncryptError)?;
        Ok(Tag::from(tag.as_slice()))
    }

    fn open<'a>(&self, nonce: [u8; NONCE], header: &[u8], payload: &'a mut [u8]) -> Result<&'a [u8], Error> {
        let (data, tag) = payload.split_last_chunk_mut::<TAG>().ok_or(Error::DecryptError)?;
        self.aead.open(&nonce, header, data, tag).map_err(|_| Error::DecryptError)?;
        Ok(data)
    }
}

impl PacketKey for Protection {
    fn encrypt_in_place(&self, number: u64, header: &[u8], payload: &mut [u8]) -> Result<Tag, Error> {
        self.seal(Nonce::new(&self.iv, number).0, header, payload)
    }

    fn encrypt_in_place_for_path(
        &self,
        path: u32,
        number: u64,
        header: &[u8],
        payload: &mut [u8],
    ) -> Result<Tag, Error> {
        self.seal(Nonce::for_path(path, &self.iv, number).0, header, payload)
    }

    fn decrypt_in_place<'a>(
        &self,
        number: u64,
        header: &[u8],
        payload: &'a mut [u8],
    ) -> Result<&'a [u8], Error> {
        self.open(Nonce::new(&self.iv, number).0, header, payload)
    }

    fn decrypt_in_place_for_path<'a>(
        &self,
        path: u32,
        number: u64,
        header: &[u8],
        payload: &'a mut [u8],
    ) -> Result<&'a [u8], Error> {
        self.open(Nonce::for_path(path, &self.iv, number).0, header, payload)
    }

    fn tag_len(&self) -> usize {
        TAG
    }

    /// Those of AES-128 in the same mode (RFC 9001, section 6.6).
    fn confidentiality_limit(&self) -> u64 {
        match self.mode {
            Mode::Gcm => 1 << 23,
            Mode::Ccm => CCM_LIMIT,
        }
    }

    fn integrity_limit(&self) -> u64 {
        match self.mode {
            Mode::Gcm => 1 << 52,
            Mode::Ccm => CCM_LIMIT,
        }
    }
}

/// 2^21.5, rounded down (RFC 9001, section 6.6).
const CCM_LIMIT: u64 = 2_965_820;

/// Masks of headers (RFC 9001, sections 5.4.1 and 5.4.3).
struct Headers(Sm4);

const SAMPLE: usize = 16;

impl Headers {
    /// `plain` picks out the first byte before it was masked, of those before and after this mask.
    fn apply(
        &self,
        sample: &[u8],
        first: &mut u8,
        number: &mut [u8],
        plain: fn(before: u8, after: u8) -> u8,
    ) -> Result<(), Error> {
        let sample: &Block =
            sample.try_into().map_err(|_| Error::General("QUIC sample of another length".into()))?;
        let [first_mask, number_mask @ ..] = self.0.encrypt_block(sample);
        if number.len() > NUMBER_MAX {
            return Err(Error::General("QUIC packet number too long".into()));
        }
        let before = *first;
        *first ^= first_mask & masked_bits(before);
        let length = usize::from(plain(before, *first) & 0x03) + 1;
        number.iter_mut().zip(number_mask).take(length).for_each(|(byte, mask)| *byte ^= mask);
        Ok(())
    }
}

/// Bytes of the longest packet number (RFC 9000, section 17.1).
const NUMBER_MAX: usize = 4;

/// Four bits of a long header, five of a short one.
fn masked_bits(first: u8) -> u8 {
    if first & 0x80 == 0x80 { 0x0f } else { 0x1f }
}

impl HeaderProtectionKey for Headers {
    fn encrypt_in_place(&self, sample: &[u8], first: &mut u8, number: &mut [u8]) -> Result<(), Error> {
        self.apply(sample, first, number, |before, _| before)
    }

    fn decrypt_in_place(&self, sample: &[u8], first: &mut u8, number: &mut [u8]) -> Result<(), Error> {
        self.apply(sample, first, number, |_, after| after)
    }

    fn sample_len(&self) -> usize {
        SAMPLE
    }
}
