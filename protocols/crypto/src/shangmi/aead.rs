//! SM4-GCM and SM4-CCM with 96-bit nonces and 128-bit tags (RFC 8998, section 2), in place.

use subtle::ConstantTimeEq as _;
use zeroize::Zeroize as _;

use super::{
    ghash,
    sm4::{Block, CHUNK, Engine, Sm4},
};

pub(super) const KEY: usize = 16;
pub(super) const NONCE: usize = 12;
pub(super) const TAG: usize = 16;

/// SM4 in GCM (NIST SP 800-38D) or CCM (SP 800-38C).
#[allow(
    clippy::large_enum_variant,
    reason = "GCM is the usual one, and a box would be one more miss per record"
)]
#[derive(Clone)]
pub(super) enum Aead {
    Gcm(Sm4, ghash::Key),
    Ccm(Sm4),
}

/// The mode, for whoever makes keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Gcm,
    Ccm,
}

/// A message too long for its mode, or not what was sealed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refused;

impl Aead {
    pub(super) fn new(mode: Mode, key: &[u8; KEY]) -> Self {
        Self::with_engine(mode, key, Engine::detect())
    }

    pub(super) fn with_engine(mode: Mode, key: &[u8; KEY], engine: Engine) -> Self {
        let cipher = Sm4::new(key, engine);
        match mode {
            Mode::Gcm => {
                let h = cipher.encrypt_block(&[0; 16]);
                Self::Gcm(cipher, ghash::Key::new(&h, engine))
            }
            Mode::Ccm => Self::Ccm(cipher),
        }
    }

    /// Encrypts `data` and returns its tag.
    pub(super) fn seal(
        &self,
        nonce: &[u8; NONCE],
        aad: &[u8],
        data: &mut [u8],
    ) -> Result<[u8; TAG], Refused> {
        match self {
            Self::Gcm(cipher, hash) => {
                gcm_bound(data)?;
                let stream = Stream::new(cipher, gcm_start(nonce), data.len());
                stream.apply(data);
                Ok(xor(hash.hash(aad, data), stream.mask()))
            }
            Self::Ccm(cipher) => {
                let tag = ccm_mac(cipher, nonce, aad, data)?;
                let stream = Stream::new(cipher, ccm_start(nonce), data.len());
                stream.apply(data);
                Ok(xor(tag, stream.mask()))
            }
        }
    }

    /// Decrypts `data` if the tag is its own. Otherwise what is in `data` is not to be used.
    pub(super) fn open(
        &self,
        nonce: &[u8; NONCE],
        aad: &[u8],
        data: &mut [u8],
        tag: &[u8; TAG],
    ) -> Result<(), Refused> {
        match self {
            Self::Gcm(cipher, hash) => {
                gcm_bound(data)?;
                let stream = Stream::new(cipher, gcm_start(nonce), data.len());
                equal(xor(hash.hash(aad, data), stream.mask()), tag)?;
                stream.apply(data);
                Ok(())
            }
            Self::Ccm(cipher) => {
                let stream = Stream::new(cipher, ccm_start(nonce), data.len());
                stream.apply(data);
                // CCM authenticates the plaintext: a forgery is known only now, and erased.
                let expected = ccm_mac(cipher, nonce, aad, data)?;
                equal(xor(expected, stream.mask()), tag).inspect_err(|_| data.zeroize())
            }
        }
    }

    /// One block, for QUIC's header protection.
    pub(super) fn cipher(&self) -> &Sm4 {
        match self {
            Self::Gcm(cipher, _) | Self::Ccm(cipher) => cipher,
        }
    }
}

/// Counter mode over data of a known length. The counter is the last 32 bits in GCM and 24 in CCM, where the bound on
/// lengths keeps it from running over.
struct Stream<'a> {
    cipher: &'a Sm4,
    start: u128,
    /// Bytes in whole chunks, whose keystream is made where it is used.
    bulk: usize,
    /// The first block, then those for what follows the chunks: made together, since one costs as much as many.
    blocks: [Block; 1 + CHUNK / 16],
}

impl<'a> Stream<'a> {
    fn new(cipher: &'a Sm4, start: Block, length: usize) -> Self {
        let start = u128::from_be_bytes(start);
        let bulk = length / CHUNK * CHUNK;
        let mut blocks = [[0; 16]; 1 + CHUNK / 16];
        let count = 1 + (length - bulk).div_ceil(16);
        blocks[0] = start.to_be_bytes();
        for (block, number) in blocks[1..count].iter_mut().zip(1 + bulk as u128 / 16..) {
            *block = (start + number).to_be_bytes();
        }
        cipher.encrypt(&mut blocks[..count]);
        Self { cipher, start, bulk, blocks }
    }

    /// What hides the tag.
    fn mask(&self) -> Block {
        self.blocks[0]
    }

    fn apply(&self, data: &mut [u8]) {
        let (bulk, rest) = data.split_at_mut(self.bulk);
        self.cipher.count(self.start + 1, bulk);
        rest.iter_mut().zip(self.blocks[1..].as_flattened()).for_each(|(byte, key)| *byte ^= key);
    }
}

/// Keystream that was not used would decrypt something.
impl Drop for Stream<'_> {
    fn drop(&mut self) {
        self.blocks.as_flattened_mut().zeroize();
    }
}

/// `J0` (SP 800-38D, section 7.1, step 2).
fn gcm_start(nonce: &[u8; NONCE]) -> Block {
    let mut block = [0; 16];
    block[..NONCE].copy_from_slice(nonce);
    block[15] = 1;
    block
}

/// 2^32 - 2 blocks (SP 800-38D, section 5.2.1.1).
fn gcm_bound(data: &[u8]) -> Result<(), Refused> {
    const BYTES_MAX: u64 = (1 << 36) - 32;
    if data.len() as u64 > BYTES_MAX { Err(Refused) } else { Ok(()) }
}

/// Bytes of CCM's length field: what a nonce of 12 leaves (SP 800-38C, appendix A.1).
const CCM_LENGTH: usize = 15 - NONCE;

/// The first counter block (SP 800-38C, appendix A.3).
fn ccm_start(nonce: &[u8; NONCE]) -> Block {
    let mut block = [0; 16];
    block[0] = CCM_LENGTH as u8 - 1;
    block[1..=NONCE].copy_from_slice(nonce);
    block
}

/// CBC-MAC of nonce, additional data and plaintext (SP 800-38C, section 6.1 and appendix A.2).
fn ccm_mac(cipher: &Sm4, nonce: &[u8; NONCE], aad: &[u8], data: &[u8]) -> Result<Block, Refused> {
    const BYTES_MAX: usize = (1 << (8 * CCM_LENGTH)) - 1;
    if data.len() > BYTES_MAX || aad.len() > u32::MAX as usize {
        return Err(Refused);
    }
    let mut first = ccm_start(nonce);
    first[0] |= ((TAG as u8 - 2) / 2) << 3 | u8::from(!aad.is_empty()) << 6;
    first[13..].copy_from_slice(&(data.len() as u32).to_be_bytes()[1..]);
    let mut mac = CbcMac { cipher, state: [0; 16], at: 0 };
    mac.update(&first);
    if !aad.is_empty() {
        mac.update_length(aad.len());
        mac.update(aad);
        mac.pad();
    }
    mac.update(data);
    mac.pad();
    Ok(mac.state)
}

struct CbcMac<'a> {
    cipher: &'a Sm4,
    state: Block,
    /// Bytes of an unfinished block that are in `state` already.
    at: usize,
}

impl CbcMac<'_> {
    fn update(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            let (now, later) = data.split_at(data.len().min(16 - self.at));
            self.state[self.at..].iter_mut().zip(now).for_each(|(state, byte)| *state ^= byte);
            self.at += now.len();
            if self.at == 16 {
                self.pad();
            }
            data = later;
        }
    }

    /// Lengths of additional data come in two sizes (SP 800-38C, appendix A.2.2).
    fn update_length(&mut self, length: usize) {
        const SHORT_MAX: usize = 0xfeff;
        if length <= SHORT_MAX {
            self.update(&(length as u16).to_be_bytes());
        } else {
            self.update(&[0xff, 0xfe]);
            self.update(&(length as u32).to_be_bytes());
        }
    }

    /// Ends a block, with zeros if it is not full.
    fn pad(&mut self) {
        if self.at > 0 {
            self.state = self.cipher.encrypt_block(&self.state);
            self.at = 0;
        }
    }
}

fn xor(a: Block, b: Block) -> Block {
    (u128::from_ne_bytes(a) ^ u128::from_ne_bytes(b)).to_ne_bytes()
}

fn equal(expected: Block, tag: &[u8; TAG]) -> Result<(), Refused> {
    if bool::from(expected.ct_eq(tag)) { Ok(()) } else { Err(Refused) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::hex;

    /// RFC 8998, appendix A: key, nonce, additional data and plaintext of both examples.
    const RFC_KEY: &str = "0123456789abcdeffedcba9876543210";
    const RFC_NONCE: &str = "00001234567800000000abcd";
    const RFC_AAD: &str = "feedfacedeadbeeffeedfacedeadbeefabaddad2";
    const RFC_PLAIN: &str = "
        aaaaaaaaaaaaaaaabbbbbbbbbbbbbbbbccccccccccccccccdddddddddddddddd
        eeeeeeeeeeeeeeeeffffffffffffffffeeeeeeeeeeeeeeeeaaaaaaaaaaaaaaaa";

    #[track_caller]
    fn check_vector(mode: Mode, ciphertext: &str, tag: &str) {
        let (key, nonce) = (hex(RFC_KEY).try_into().unwrap(), hex(RFC_NONCE).try_into().unwrap());
        for engine in Engine::available() {
            let aead = Aead::with_engine(mode, &key, engine);
            let mut data = hex(RFC_PLAIN);
            let sealed = aead.seal(&nonce, &hex(RFC_AAD), &mut data).unwrap();
            assert_eq!((data.as_slice(), sealed.as_slice()), (&*hex(ciphertext), &*hex(tag)), "{engine:?}");
            aead.open(&nonce, &hex(RFC_AAD), &mut data, &sealed).unwrap();
            assert_eq!(data, hex(RFC_PLAIN), "{engine:?}");
        }
    }

    /// RFC 8998, appendix A.1.
    #[test]
    fn the_rfcs_example_of_gcm() {
        let ciphertext = "
            17f399f08c67d5ee19d0dc9969c4bb7d5fd46fd3756489069157b282bb200735
            d82710ca5c22f0ccfa7cbf93d496ac15a56834cbcf98c397b4024a2691233b8d";
        check_vector(Mode::Gcm, ciphertext, "83de3541e4c2b58177e065a9bf7b62ec");
    }

    /// RFC 8998, appendix A.2.
    #[test]
    fn the_rfcs_example_of_ccm() {
        let ciphertext = "
            48af93501fa62adbcd414cce6034d895dda1bf8f132f042098661572e7483094
            fd12e518ce062c98acee28d95df4416bed31a2f04476c18bb40c84a74b97dc5b";
        check_vector(Mode::Ccm, ciphertext, "16842d4fa186f56ab33256971fa110f4");
    }

    #[test]
    fn ccm_knows_the_long_form_of_additional_data_lengths() {
        let aead = Aead::new(Mode::Ccm, &[7; KEY]);
        let tags: Vec<_> =
            [0xfeff, 0xff00].map(|length| aead.seal(&[1; NONCE], &vec![0; length], &mut []).unwrap()).into();
        assert_ne!(tags[0], tags[1]);
    }

    #[test]
    fn ccm_refuses_what_its_length_field_cannot_say() {
        let aead = Aead::new(Mode::Ccm, &[7; KEY]);
        assert_eq!(aead.seal(&[1; NONCE], &[], &mut vec![0; 1 << 24]), Err(Refused));
    }

    proptest! {
        #[test]
        fn every_engine_seals_alike_and_opens_what_another_sealed(
            key: [u8; KEY], nonce: [u8; NONCE],
            aad in proptest::collection::vec(any::<u8>(), 0..80),
            plain in proptest::collection::vec(any::<u8>(), 0..3000),
        ) {
            for mode in [Mode::Gcm, Mode::Ccm] {
                let mut reference = plain.clone();
                let tag = Aead::with_engine(mode, &key, Engine::Portable).seal(&nonce, &aad, &mut reference).unwrap();
                for engine in Engine::available() {
                    let aead = Aead::with_engine(mode, &key, engine);
                    let mut data = plain.clone();
                    prop_assert_eq!(aead.seal(&nonce, &aad, &mut data), Ok(tag));
                    prop_assert_eq!(&data, &reference);
                    prop_assert_eq!(aead.open(&nonce, &aad, &mut data, &tag), Ok(()));
                    prop_assert_eq!(&data, &plain);
                }
            }
        }

        #[test]
        fn a_changed_bit_anywhere_is_refused(bit in 0..8 * (5 + 40 + TAG), fill: u8) {
            for mode in [Mode::Gcm, Mode::Ccm] {
                let aead = Aead::new(mode, &[fill; KEY]);
                let mut message = [fill; 5 + 40 + TAG];
                let (aad, rest) = message.split_at_mut(5);
                let (data, tag) = rest.split_at_mut(40);
                tag.copy_from_slice(&aead.seal(&[fill; NONCE], aad, data).unwrap());
                message[bit / 8] ^= 1 << (bit % 8);
                let (aad, rest) = message.split_at_mut(5);
                let (data, tag) = rest.split_at_mut(40);
                let tag: &[u8; TAG] = (&*tag).try_into().unwrap();
                prop_assert_eq!(aead.open(&[fill; NONCE], aad, data, tag), Err(Refused));
            }
        }
    }
}
