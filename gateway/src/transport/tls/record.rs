//! Protected records of an established TLS 1.3 connection (RFC 8446, section 5.2):
//!
//! ```text
//! 17 03 03 | length, 2 | content ... | its type, 1 | zeros (padding) | tag, 16
//!  outside, authenticated | sealed                                   |
//! ```
//!
//! What an idle connection keeps is here: a suite, two secrets and two sequence numbers.

use std::{io::IoSlice, sync::Arc};

use rustls::Tls13CipherSuite;
use towline_protocols::tls::{
    Alert,
    record::{APPLICATION_DATA, CONTENT_BYTES_MAX, HEADER_BYTES, Header, PROTECTED_BYTES_MAX},
};
use zeroize::Zeroize;

use super::keys::{self, Key, KeyId, SECRET_BYTES_MAX, TAG_BYTES};

/// What a record is longer than its content, if it has no padding.
pub(super) const OVERHEAD_BYTES: usize = HEADER_BYTES + 1 + TAG_BYTES;
/// Records that a direction may still seal when its key is changed: those that stand in one buffer.
const UPDATE_MARGIN: u64 = 64;

/// Both directions of one connection.
pub(super) struct Records {
    suite: &'static Tls13CipherSuite,
    pub(super) read: Direction,
    pub(super) write: Direction,
}

/// A traffic secret and how many records it has protected.
pub(super) struct Direction {
    secret: [u8; SECRET_BYTES_MAX],
    sequence: u64,
    key: KeyId,
}

/// What a record held: its content type, and how many octets of content stand behind the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Opened {
    pub(super) content_type: u8,
    pub(super) length: usize,
}

impl Records {
    pub(super) fn new(suite: &'static Tls13CipherSuite, read: Direction, write: Direction) -> Self {
        Self { suite, read, write }
    }

    /// Drops the expanded keys; the next record expands them again.
    pub(super) fn forget_keys(&mut self) {
        keys::forget(&mut self.read.key);
        keys::forget(&mut self.write.key);
    }

    /// Opens a whole record in place.
    ///
    /// # Errors
    /// The alert that the record deserves.
    pub(super) fn open(&mut self, record: &mut [u8]) -> Result<Opened, Alert> {
        self.read.open(self.suite, record)
    }

    /// Seals `length` octets, which `content` yields, as one record into the beginning of `out`.
    ///
    /// # Errors
    /// `out` is too short, or the cryptography failed; neither is the peer's doing.
    pub(super) fn seal(
        &mut self,
        content_type: u8,
        content: &mut Gather<'_>,
        length: usize,
        out: &mut [u8],
    ) -> Result<usize, Alert> {
        self.write.seal(self.suite, content_type, content, length, out)
    }

    /// Seals one message that is not application data.
    ///
    /// # Errors
    /// As [`Records::seal`].
    pub(super) fn seal_message(
        &mut self,
        content_type: u8,
        message: &[u8],
        out: &mut [u8],
    ) -> Result<usize, Alert> {
        self.seal(content_type, &mut Gather::new(&[IoSlice::new(message)]), message.len(), out)
    }

    /// Whether so many records were sealed under the key that the next must be a KeyUpdate (RFC 8446,
    /// section 5.5).
    pub(super) fn must_update(&self) -> bool {
        self.write.sequence >= self.suite.common.confidentiality_limit.saturating_sub(UPDATE_MARGIN)
    }

    /// The peer sent a KeyUpdate: what follows is under the next secret.
    pub(super) fn update_read(&mut self) -> Result<(), Alert> {
        self.read.update(self.suite)
    }

    /// A KeyUpdate was sealed: what follows is under the next secret.
    pub(super) fn update_write(&mut self) -> Result<(), Alert> {
        self.write.update(self.suite)
    }
}

impl Direction {
    /// One that begins; `None` for a secret that no hash of TLS makes.
    pub(super) fn new(secret: &[u8]) -> Option<Self> {
        let mut direction = Self { secret: [0; SECRET_BYTES_MAX], sequence: 0, key: KeyId::default() };
        direction.secret.get_mut(..secret.len())?.copy_from_slice(secret);
        Some(direction)
    }

    fn key(&mut self, suite: &'static Tls13CipherSuite) -> Result<Arc<Key>, Alert> {
        let secret = &self.secret[..secret_bytes(suite)];
        keys::key(&mut self.key, suite, secret).ok_or(Alert::InternalError)
    }

    /// Opens a whole record in place.
    pub(super) fn open(
        &mut self,
        suite: &'static Tls13CipherSuite,
        record: &mut [u8],
    ) -> Result<Opened, Alert> {
        let opened = self.reopen(suite, self.sequence, record)?;
        self.sequence += 1;
        Ok(opened)
    }

    /// Opens a record that was sealed under this secret as its number `sequence`, which is not counted here.
    pub(super) fn reopen(
        &mut self,
        suite: &'static Tls13CipherSuite,
        sequence: u64,
        record: &mut [u8],
    ) -> Result<Opened, Alert> {
        let key = self.key(suite)?;
        open_as(&key, sequence, record)
    }

    /// As [`Records::seal`].
    pub(super) fn seal(
        &mut self,
        suite: &'static Tls13CipherSuite,
        content_type: u8,
        content: &mut Gather<'_>,
        length: usize,
        out: &mut [u8],
    ) -> Result<usize, Alert> {
        let key = self.key(suite)?;
        let total = length + OVERHEAD_BYTES;
        let record = out.get_mut(..total).ok_or(Alert::InternalError)?;
        let header = Header { content_type: APPLICATION_DATA, length: total - HEADER_BYTES }.encode();
        let (front, sealed) = record.split_at_mut(HEADER_BYTES);
        front.copy_from_slice(&header);
        let plain = content.whole(length);
        if plain.is_none() {
            content.copy_to(&mut sealed[..length]);
        }
        key.seal(self.sequence, &header, plain, sealed, content_type).ok_or(Alert::InternalError)?;
        self.sequence += 1;
        Ok(total)
    }

    /// application_traffic_secret_N+1 (RFC 8446, section 7.2).
    fn update(&mut self, suite: &'static Tls13CipherSuite) -> Result<(), Alert> {
        let mut next = [0; SECRET_BYTES_MAX];
        let length = secret_bytes(suite);
        keys::expand_label(suite, &self.secret[..length], b"traffic upd", &mut next[..length])
            .ok_or(Alert::InternalError)?;
        self.secret.copy_from_slice(&next);
        next.zeroize();
        self.sequence = 0;
        keys::forget(&mut self.key);
        Ok(())
    }
}

impl Drop for Direction {
    fn drop(&mut self) {
        self.secret.zeroize();
        keys::forget(&mut self.key);
    }
}

fn open_as(key: &Key, sequence: u64, record: &mut [u8]) -> Result<Opened, Alert> {
    let (header, sealed) = split(record)?;
    without_padding(key.open(sequence, &header, sealed).ok_or(Alert::BadRecordMac)?)
}

fn secret_bytes(suite: &'static Tls13CipherSuite) -> usize {
    suite.common.hash_provider.output_len().min(SECRET_BYTES_MAX)
}

/// The header and what is sealed, if a record has the right form for the connection's state.
fn split(record: &mut [u8]) -> Result<([u8; HEADER_BYTES], &mut [u8]), Alert> {
    let (header, sealed) = record.split_first_chunk_mut().ok_or(Alert::DecodeError)?;
    let length = sealed.len();
    match header[0] {
        // Whatever comes unprotected now is out of place, be it an alert or a ChangeCipherSpec (RFC 8446,
        // section 5).
        content_type if content_type != APPLICATION_DATA => Err(Alert::UnexpectedMessage),
        _ if length > PROTECTED_BYTES_MAX => Err(Alert::RecordOverflow),
        _ => Ok((*header, sealed)),
    }
}

/// RFC 8446, section 5.4: the last octet that is not zero is the content's type.
fn without_padding(inner: &[u8]) -> Result<Opened, Alert> {
    let position = inner.iter().rposition(|octet| *octet != 0).ok_or(Alert::UnexpectedMessage)?;
    // The content and its padding together have a bound, too (section 5.4).
    if inner.len() > CONTENT_BYTES_MAX + 1 {
        return Err(Alert::RecordOverflow);
    }
    Ok(Opened { content_type: inner[position], length: position })
}

/// Slices, read as if they were one.
pub(super) struct Gather<'a> {
    slices: &'a [IoSlice<'a>],
    /// Of the first slice.
    offset: usize,
    /// Of all that is left.
    remaining: usize,
}

impl<'a> Gather<'a> {
    pub(super) fn new(slices: &'a [IoSlice<'a>]) -> Self {
        Self { slices, offset: 0, remaining: slices.iter().map(|slice| slice.len()).sum() }
    }

    pub(super) fn remaining(&self) -> usize {
        self.remaining
    }

    /// The next `length` octets, if they stand in one slice. They are taken then.
    fn whole(&mut self, length: usize) -> Option<&'a [u8]> {
        self.skip_empty();
        let Some(slice) = self.slices.first() else { return (length == 0).then_some(&[][..]) };
        let slices: &'a [IoSlice<'a>] = self.slices;
        let whole = slices[0].get(self.offset..self.offset + length)?;
        debug_assert!(self.offset + length <= slice.len());
        self.advance(length);
        Some(whole)
    }

    fn copy_to(&mut self, mut out: &mut [u8]) {
        while !out.is_empty() {
            self.skip_empty();
            let Some(slice) = self.slices.first() else { return };
            let count = out.len().min(slice.len() - self.offset);
            let (front, rest) = out.split_at_mut(count);
            front.copy_from_slice(&slice[self.offset..self.offset + count]);
            self.advance(count);
            out = rest;
        }
    }

    fn advance(&mut self, count: usize) {
        self.offset += count;
        self.remaining -= count;
    }

    fn skip_empty(&mut self) {
        while self.slices.first().is_some_and(|slice| self.offset == slice.len()) {
            self.slices = &self.slices[1..];
            self.offset = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rustls::crypto::aws_lc_rs::cipher_suite;
    use towline_crypto::shangmi::{SM4_CCM_SM3, SM4_GCM_SM3};
    use towline_protocols::tls::record::{ALERT, HANDSHAKE};

    use super::*;

    /// Two ends of one connection.
    fn pair(suite: rustls::SupportedCipherSuite) -> (Records, Records) {
        let suite = suite.tls13().unwrap();
        let secret = |octet: u8| Direction::new(&vec![octet; secret_bytes(suite)]).unwrap();
        (Records::new(suite, secret(1), secret(2)), Records::new(suite, secret(2), secret(1)))
    }

    fn seal(records: &mut Records, content_type: u8, content: &[u8]) -> Vec<u8> {
        let mut record = vec![0; content.len() + OVERHEAD_BYTES];
        let count = records.seal_message(content_type, content, &mut record).unwrap();
        assert_eq!(count, record.len());
        record
    }

    #[track_caller]
    fn check(record: &mut [u8], to: &mut Records, expected: Result<(u8, &[u8]), Alert>) {
        let opened = to.open(record);
        let opened = opened.map(|it| (it.content_type, &record[HEADER_BYTES..HEADER_BYTES + it.length]));
        assert_eq!(opened, expected);
    }

    #[test]
    fn what_one_end_seals_the_other_opens_across_key_updates() {
        for suite in [
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
            SM4_GCM_SM3,
            SM4_CCM_SM3,
        ] {
            let (mut near, mut far) = pair(suite);
            for content in [&b"first"[..], b"", &[7; CONTENT_BYTES_MAX]] {
                check(&mut seal(&mut near, 23, content), &mut far, Ok((23, content)));
            }
            near.update_write().unwrap();
            far.update_read().unwrap();
            check(&mut seal(&mut near, ALERT, b"\x01\0"), &mut far, Ok((ALERT, b"\x01\0")));
            check(&mut seal(&mut far, HANDSHAKE, b"back"), &mut near, Ok((HANDSHAKE, b"back")));
        }
    }

    #[test]
    fn records_of_a_wrong_form_get_their_alert() {
        let refused = |make: &dyn Fn(&mut Records) -> Vec<u8>, expected| {
            let (mut near, mut far) = pair(cipher_suite::TLS13_AES_128_GCM_SHA256);
            check(&mut make(&mut near), &mut far, Err(expected));
        };
        for position in 5..29 {
            let touched = |near: &mut Records| {
                let mut record = seal(near, 23, b"content");
                record[position] ^= 1;
                record
            };
            refused(&touched, Alert::BadRecordMac);
        }
        refused(&|near| seal(near, 23, b"content")[..20].to_vec(), Alert::BadRecordMac);
        refused(&|_| vec![23, 3, 3, 0, 1, 1], Alert::BadRecordMac);
        refused(&|_| vec![20, 3, 3, 0, 1, 1], Alert::UnexpectedMessage);
        refused(&|_| vec![21, 3, 3, 0, 2, 2, 0], Alert::UnexpectedMessage);
        refused(&|_| vec![23; HEADER_BYTES + PROTECTED_BYTES_MAX + 1], Alert::RecordOverflow);
        // Too long inside, although the record outside is not.
        refused(&|near| seal(near, 23, &[7; CONTENT_BYTES_MAX + 1]), Alert::RecordOverflow);
        refused(&|near| seal(near, 0, &[0; 9]), Alert::UnexpectedMessage);
    }

    #[test]
    fn padding_is_taken_off_and_a_record_opens_once() {
        let (mut near, mut far) = pair(cipher_suite::TLS13_AES_128_GCM_SHA256);
        let mut padded = seal(&mut near, 0, b"\x05\x17\0\0");
        check(&mut padded.clone(), &mut far, Ok((23, b"\x05")));
        check(&mut padded, &mut far, Err(Alert::BadRecordMac));
    }

    #[test]
    fn a_key_is_changed_before_its_limit() {
        let (mut near, _) = pair(cipher_suite::TLS13_AES_128_GCM_SHA256);
        near.write.sequence = (1 << 24) - UPDATE_MARGIN - 1;
        assert!(!near.must_update());
        seal(&mut near, 23, b"");
        assert!(near.must_update());
        near.update_write().unwrap();
        assert!(!near.must_update());
    }

    proptest! {
        #[test]
        fn slices_are_read_as_one(
            slices in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..6),
            lengths in prop::collection::vec(0usize..50, 0..12),
        ) {
            let borrowed: Vec<_> = slices.iter().map(|slice| IoSlice::new(slice)).collect();
            let mut gather = Gather::new(&borrowed);
            let whole = slices.concat();
            let mut position = 0;
            for length in lengths {
                let length = length.min(gather.remaining());
                let read = match gather.whole(length) {
                    Some(whole) => whole.to_vec(),
                    None => {
                        let mut out = vec![0; length];
                        gather.copy_to(&mut out);
                        out
                    }
                };
                prop_assert_eq!(&read, &whole[position..position + length]);
                position += length;
                prop_assert_eq!(gather.remaining(), whole.len() - position);
            }
        }
    }
}
