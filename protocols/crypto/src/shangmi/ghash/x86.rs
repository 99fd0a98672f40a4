//! GHASH with VPCLMULQDQ on AVX-512: sixteen blocks against sixteen powers of the key, one reduction for all.
//!
//! Blocks are taken byte-reversed, which makes GHASH into POLYVAL with the key times x (RFC 8452, appendix A): then
//! a product needs no shift, and the reduction folds from below.

#![allow(
    unsafe_code,
    reason = "loads of vectors; 12 GB/s where the crate `ghash` has 5, at 16 KiB (one thread)"
)]

use std::arch::x86_64::*;

use zeroize::Zeroize as _;

use super::Block;

/// Blocks per reduction.
const WIDE: usize = 16;
/// Loads of powers start at any of them and take four.
const SLACK: usize = 3;

/// Powers of the key, highest first, then nothing: the one before `SLACK` is the key.
#[derive(Clone)]
pub(super) struct Powers([u128; WIDE + SLACK]);

impl Drop for Powers {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl Powers {
    /// The machine must have AVX-512 (F, BW) and VPCLMULQDQ.
    #[target_feature(enable = "avx512f,avx512bw,vpclmulqdq,pclmulqdq,sse4.1")]
    pub(super) fn new(h: &Block) -> Self {
        let key = vector(times_x(u128::from_be_bytes(*h)));
        let mut powers = [0; WIDE + SLACK];
        let mut power = key;
        for slot in powers[..WIDE].iter_mut().rev() {
            *slot = number(power);
            power = multiply(power, key);
        }
        Self(powers)
    }

    /// The hash of additional data and ciphertext, each padded, and their lengths.
    #[target_feature(enable = "avx512f,avx512bw,vpclmulqdq,pclmulqdq,sse4.1")]
    pub(super) fn hash(&self, aad: &[u8], ciphertext: &[u8], lengths: Block) -> Block {
        let mut hash = Hash { powers: self, state: vector(0), waiting: [[0; 16]; WIDE], count: 0 };
        hash.update(aad);
        hash.update(ciphertext);
        hash.push(&lengths);
        hash.flush();
        number(hash.state).to_be_bytes()
    }
}

/// Blocks wait here until there are enough for one reduction.
struct Hash<'a> {
    powers: &'a Powers,
    state: __m128i,
    /// Zeros from `count` on.
    waiting: [Block; WIDE],
    count: usize,
}

impl Hash<'_> {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,vpclmulqdq,pclmulqdq,sse4.1")]
    fn update(&mut self, data: &[u8]) {
        let lead = (WIDE - self.count) % WIDE * 16;
        let (lead, data) = data.split_at(lead.min(data.len()));
        lead.chunks(16).for_each(|block| self.push(block));
        let (wide, rest) = data.as_chunks::<{ WIDE * 16 }>();
        for bytes in wide {
            self.state = absorb(self.powers, self.state, bytes, WIDE);
        }
        rest.chunks(16).for_each(|block| self.push(block));
    }

    /// A block, padded if it is short.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,vpclmulqdq,pclmulqdq,sse4.1")]
    fn push(&mut self, block: &[u8]) {
        self.waiting[self.count][..block.len()].copy_from_slice(block);
        self.count += 1;
        if self.count == WIDE {
            self.flush();
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,vpclmulqdq,pclmulqdq,sse4.1")]
    fn flush(&mut self) {
        let Some(bytes) = self.waiting.as_flattened().first_chunk().filter(|_| self.count > 0) else {
            return;
        };
        self.state = absorb(self.powers, self.state, bytes, self.count);
        self.waiting = [[0; 16]; WIDE];
        self.count = 0;
    }
}

/// The state after the first `count` blocks; those that follow up to a multiple of four must be zero:
/// `(state + b[0]) h^count + b[1] h^(count - 1) + ... + b[count - 1] h`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,vpclmulqdq,pclmulqdq,sse4.1")]
fn absorb(powers: &Powers, state: __m128i, bytes: &[u8; WIDE * 16], count: usize) -> __m128i {
    let mut sums = [_mm512_setzero_si512(); 3];
    let mut state = _mm512_zextsi128_si512(state);
    let powers = &powers.0[WIDE - count..];
    for (four, bytes) in bytes.as_chunks::<64>().0.iter().take(count.div_ceil(4)).enumerate() {
        let Some(powers) = powers[four * 4..].first_chunk() else { break };
        let blocks = _mm512_xor_si512(reversed(load_bytes(bytes)), state);
        state = _mm512_setzero_si512();
        add_products(&mut sums, blocks, load_powers(powers));
    }
    let [low, middle, high] = sums;
    reduce(fold(low), fold(middle), fold(high))
}

/// Adds what four products of 128 bits give: low, both in the middle, high.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,vpclmulqdq,pclmulqdq,sse4.1")]
fn add_products([low, middle, high]: &mut [__m512i; 3], a: __m512i, b: __m512i) {
    *low = _mm512_xor_si512(*low, _mm512_clmulepi64_epi128::<0x00>(a, b));
    let (ab, ba) = (_mm512_clmulepi64_epi128::<0x01>(a, b), _mm512_clmulepi64_epi128::<0x10>(a, b));
    *middle = _mm512_ternarylogic_epi32::<0x96>(*middle, ab, ba);
    *high = _mm512_xor_si512(*high, _mm512_clmulepi64_epi128::<0x11>(a, b));
}

/// The sum of four lanes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,vpclmulqdq,pclmulqdq,sse4.1")]
fn fold(sum: __m512i) -> __m128i {
    let half = _mm256_xor_si256(_mm512_castsi512_si256(sum), _mm512_extracti64x4_epi64::<1>(sum));
    _mm_xor_si128(_mm256_castsi256_si128(half), _mm256_extracti128_si256::<1>(half))
}

/// Divides a product by x^128 in POLYVAL's field, folding its low half up twice by 64 bits.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,vpclmulqdq,pclmulqdq,sse4.1")]
fn reduce(low: __m128i, middle: __m128i, high: __m128i) -> __m128i {
    /// x^127 + x^126 + x^121, shifted down by 64.
    const FIELD: i64 = 0xc200_0000_0000_0000_u64.cast_signed();
    let low = _mm_xor_si128(low, _mm_slli_si128::<8>(middle));
    let high = _mm_xor_si128(high, _mm_srli_si128::<8>(middle));
    let fold = |low: __m128i| {
        let product = _mm_clmulepi64_si128::<0x00>(low, _mm_set1_epi64x(FIELD));
        _mm_xor_si128(_mm_shuffle_epi32::<0b01_00_11_10>(low), product)
    };
    _mm_xor_si128(high, fold(fold(low)))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,vpclmulqdq,pclmulqdq,sse4.1")]
fn multiply(a: __m128i, b: __m128i) -> __m128i {
    let middle = _mm_xor_si128(_mm_clmulepi64_si128::<0x01>(a, b), _mm_clmulepi64_si128::<0x10>(a, b));
    reduce(_mm_clmulepi64_si128::<0x00>(a, b), middle, _mm_clmulepi64_si128::<0x11>(a, b))
}

/// `mulX_POLYVAL` (RFC 8452, appendix A), without a branch on the key.
fn times_x(a: u128) -> u128 {
    /// x^128 = x^127 + x^126 + x^121 + 1
    const FIELD: u128 = 1 << 127 | 1 << 126 | 1 << 121 | 1;
    a << 1 ^ FIELD & 0_u128.wrapping_sub(a >> 127)
}

/// Each block's bytes in reverse.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,vpclmulqdq,pclmulqdq,sse4.1")]
fn reversed(blocks: __m512i) -> __m512i {
    let order = _mm_set_epi64x(0x0001_0203_0405_0607, 0x0809_0a0b_0c0d_0e0f);
    _mm512_shuffle_epi8(blocks, _mm512_broadcast_i32x4(order))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,vpclmulqdq,pclmulqdq,sse4.1")]
fn load_bytes(bytes: &[u8; 64]) -> __m512i {
    // SAFETY: 64 bytes are there to read, aligned or not.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,vpclmulqdq,pclmulqdq,sse4.1")]
fn load_powers(powers: &[u128; 4]) -> __m512i {
    // SAFETY: 64 bytes are there to read, aligned or not.
    unsafe { _mm512_loadu_si512(powers.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,vpclmulqdq,pclmulqdq,sse4.1")]
fn vector(number: u128) -> __m128i {
    _mm_set_epi64x((number >> 64) as i64, number as i64)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,vpclmulqdq,pclmulqdq,sse4.1")]
fn number(vector: __m128i) -> u128 {
    let (low, high) = (_mm_cvtsi128_si64(vector), _mm_extract_epi64::<1>(vector));
    u128::from(high.cast_unsigned()) << 64 | u128::from(low.cast_unsigned())
}
