//! SM3 (GB/T 32905-2016) as rustls' hash, HMAC (RFC 2104) and, by them, HKDF.

use rustls::crypto::{
    hash::{self, HashAlgorithm},
    hmac,
    tls13::HkdfUsingHmac,
};
use sm3::{Digest as _, Sm3 as State};
use zeroize::Zeroize as _;

const BLOCK: usize = 64;
const OUTPUT: usize = 32;
const INNER_PAD: u8 = 0x36;
const OUTER_PAD: u8 = 0x5c;

/// The hash of RFC 8998's suites.
pub(super) static SM3: Sm3 = Sm3;
/// HKDF (RFC 5869) of RFC 8998's suites.
pub(super) static HKDF_SM3: HkdfUsingHmac<'static> = HkdfUsingHmac(&HMAC_SM3);
pub(super) static HMAC_SM3: HmacSm3 = HmacSm3;

#[derive(Debug)]
pub(super) struct Sm3;

impl hash::Hash for Sm3 {
    fn start(&self) -> Box<dyn hash::Context> {
        Box::new(Context(State::new()))
    }

    fn hash(&self, data: &[u8]) -> hash::Output {
        hash::Output::new(&State::digest(data))
    }

    fn output_len(&self) -> usize {
        OUTPUT
    }

    /// IANA gives SM3 no number among TLS 1.2's hashes, and TLS 1.3 never sends one.
    fn algorithm(&self) -> HashAlgorithm {
        HashAlgorithm::Unknown(7)
    }
}

struct Context(State);

impl hash::Context for Context {
    fn fork_finish(&self) -> hash::Output {
        hash::Output::new(&self.0.clone().finalize())
    }

    fn fork(&self) -> Box<dyn hash::Context> {
        Box::new(Self(self.0.clone()))
    }

    fn finish(self: Box<Self>) -> hash::Output {
        hash::Output::new(&self.0.finalize())
    }

    fn update(&mut self, data: &[u8]) {
        self.0.update(data);
    }
}

pub(super) struct HmacSm3;

impl hmac::Hmac for HmacSm3 {
    fn with_key(&self, key: &[u8]) -> Box<dyn hmac::Key> {
        Box::new(HmacKey::new(key))
    }

    fn hash_output_len(&self) -> usize {
        OUTPUT
    }
}

/// Both hashes with the padded key already in them, so that a tag costs two blocks less.
struct HmacKey {
    inner: State,
    outer: State,
}

impl HmacKey {
    fn new(key: &[u8]) -> Self {
        let mut block = [0; BLOCK];
        if key.len() > BLOCK {
            block[..OUTPUT].copy_from_slice(&State::digest(key));
        } else {
            block[..key.len()].copy_from_slice(key);
        }
        let padded = |pad: u8| State::new().chain_update(block.map(|byte| byte ^ pad));
        let key = Self { inner: padded(INNER_PAD), outer: padded(OUTER_PAD) };
        block.zeroize();
        key
    }
}

impl hmac::Key for HmacKey {
    fn sign_concat(&self, first: &[u8], middle: &[&[u8]], last: &[u8]) -> hmac::Tag {
        let mut inner = self.inner.clone().chain_update(first);
        middle.iter().for_each(|part| inner.update(part));
        let inner = inner.chain_update(last).finalize();
        hmac::Tag::new(&self.outer.clone().chain_update(inner).finalize())
    }

    fn tag_len(&self) -> usize {
        OUTPUT
    }
}

#[cfg(test)]
mod tests {
    use rustls::crypto::{hash::Hash as _, hmac::Hmac as _};

    use super::*;
    use crate::testing::hex;

    #[track_caller]
    fn check(message: &[u8], expected: &str) {
        assert_eq!(SM3.hash(message).as_ref(), hex(expected));
        let mut context = SM3.start();
        for piece in message.chunks(7) {
            context.update(piece);
        }
        assert_eq!(context.fork_finish().as_ref(), hex(expected));
        assert_eq!(context.fork().finish().as_ref(), hex(expected));
    }

    /// GB/T 32905-2016, appendix A (draft-sca-cfrg-sm3-02, section 9).
    #[test]
    fn the_standards_examples() {
        check(b"abc", "66c7f0f462eeedd9d1f2d46bdc10e4e24167c4875cf2f7a2297da02b8f4ba8e0");
        check(&b"abcd".repeat(16), "debe9ff92275b8a138604889c18e5a4d6fdb70e5387e5765293dcba39c0c5732");
    }

    #[track_caller]
    fn check_hmac(key: &[u8], message: &[u8], expected: &str) {
        let (first, last) = message.split_at(message.len() / 2);
        assert_eq!(HMAC_SM3.with_key(key).sign_concat(first, &[], last).as_ref(), hex(expected));
    }

    /// Computed with OpenSSL 3.0.19, `openssl dgst -sm3 -mac hmac -macopt hexkey:...`.
    #[test]
    fn hmac_as_openssl_computes_it() {
        check_hmac(
            &[0x0b; 20],
            b"Hi There",
            "51b00d1fb49832bfb01c3ce27848e59f871d9ba938dc563b338ca964755cce70",
        );
        check_hmac(
            &[0xaa; 131],
            b"a key longer than a block",
            "4800508cba2e13397ec0c2bc1d470beb3997a88e4c16b2be51bd8972b827432b",
        );
    }
}
