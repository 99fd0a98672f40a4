//! SM4 with the vectors of x86: a word of many blocks per register, the S-box computed, never looked up in memory,
//! so that time depends on the number of blocks alone.
//!
//! | engine  | S-box                          | blocks per register | registers of blocks in flight |
//! |---------|--------------------------------|---------------------|-------------------------------|
//! | gfni512 | two GFNI instructions          | 16                  | 4                             |
//! | gfni256 | two GFNI instructions          | 8                   | 2                             |
//! | aesni   | AESENCLAST between two affines | 4                   | 2                             |

#![allow(
    unsafe_code,
    reason = "loads and stores of vectors; SM4-GCM at 16 KiB: 2.6 GB/s on AVX-512, 0.2 portable (one thread)"
)]

use std::arch::x86_64::*;

use super::Block;

/// SM4's S-box is `SECOND * inverse(FIRST * x + 0x3e) + 0xd3` with the inverse in AES' field, in the form that
/// GF2P8AFFINEQB takes a matrix.
const FIRST: u64 = 0x4c28_7db9_1a22_505d;
const FIRST_CONSTANT: i32 = 0x3e;
const SECOND: u64 = 0xf3ab_34a9_74a6_b589;
const SECOND_CONSTANT: i32 = 0xd3;

/// An engine on vectors of one width. `$ops` has, for its vector `V`: `splat`, `load`, `store`, `xor`, `sbox`,
/// `diffuse` (L, see GB/T 32907, section 6.2), `swap_bytes` in each word, and `unpack_*`.
macro_rules! engine {
    ($name:ident, $features:literal, $ops:ident, lanes $lanes:literal, groups $groups:literal) => {
        pub(in super::super) mod $name {
            use super::{Block, words, $ops::*};

            /// Blocks per register.
            const LANES: usize = $lanes;
            /// Blocks in flight.
            const WIDE: usize = LANES * $groups;

            /// Encrypts each block.
            /// The machine must have the features of this engine.
            #[target_feature(enable = $features)]
            pub(in super::super) fn encrypt(round_keys: &[u32; 32], blocks: &mut [Block]) {
                let (wide, rest) = blocks.as_chunks_mut::<WIDE>();
                wide.iter_mut().for_each(|blocks| groups::<$groups>(round_keys, blocks.as_flattened_mut()));
                let (narrow, rest) = rest.as_chunks_mut::<LANES>();
                narrow.iter_mut().for_each(|blocks| groups::<1>(round_keys, blocks.as_flattened_mut()));
                if !rest.is_empty() {
                    let mut padded = [[0; 16]; LANES];
                    padded[..rest.len()].copy_from_slice(rest);
                    groups::<1>(round_keys, padded.as_flattened_mut());
                    rest.copy_from_slice(&padded[..rest.len()]);
                }
            }

            /// Encrypts one block, in all lanes alike: what CBC-MAC and header protection wait for.
            ///
            /// The machine must have the features of this engine.
            #[target_feature(enable = $features)]
            pub(in super::super) fn encrypt_one(round_keys: &[u32; 32], block: &Block) -> Block {
                let mut x = words(u128::from_be_bytes(*block)).map(|word| splat(word));
                for keys in round_keys.as_chunks::<4>().0 {
                    for (at, key) in keys.iter().enumerate() {
                        let (b, c, d) = (x[(at + 1) % 4], x[(at + 2) % 4], x[(at + 3) % 4]);
                        x[at] = diffuse(x[at], sbox(xor(xor3(b, c, d), splat(*key))));
                    }
                }
                let mut out = [0; 16];
                for (bytes, word) in out.as_chunks_mut().0.iter_mut().zip(x.into_iter().rev()) {
                    *bytes = low(word).to_be_bytes();
                }
                out
            }

            /// Adds the keystream of counter mode to `data`, in whole groups. Its first block is `counter`, of which the
            /// last 32 bits count.
            ///
            /// The machine must have the features of this engine.
            #[target_feature(enable = $features)]
            pub(in super::super) fn count(round_keys: &[u32; 32], counter: u128, data: &mut [u8]) {
                let mut next = counter as u32;
                let (wide, rest) = data.as_chunks_mut::<{ WIDE * 16 }>();
                for bytes in wide {
                    count_groups::<$groups>(round_keys, counter, next, bytes);
                    next = next.wrapping_add(WIDE as u32);
                }
                let (pairs, rest) = rest.as_chunks_mut::<{ 2 * LANES * 16 }>();
                for bytes in pairs {
                    count_groups::<2>(round_keys, counter, next, bytes);
                    next = next.wrapping_add(2 * LANES as u32);
                }
                for bytes in rest.as_chunks_mut::<{ LANES * 16 }>().0 {
                    count_groups::<1>(round_keys, counter, next, bytes);
                    next = next.wrapping_add(LANES as u32);
                }
            }

            /// `tau`: the S-box on each byte of a word.
            ///
            /// The machine must have the features of this engine.
            #[target_feature(enable = $features)]
            pub(in super::super) fn substitute(word: u32) -> u32 {
                low(sbox(splat(word)))
            }

            /// `G * LANES` blocks. Groups do not wait for each other, which hides the latency of the S-box.
            #[inline]
            #[target_feature(enable = $features)]
            fn groups<const G: usize>(round_keys: &[u32; 32], bytes: &mut [u8]) {
                let mut x = [[splat(0); G]; 4];
                for (group, bytes) in bytes.chunks_exact(LANES * 16).enumerate().take(G) {
                    let words = transpose(load_swapped(bytes));
                    for word in 0..4 {
                        x[word][group] = words[word];
                    }
                }
                let out = rounds(round_keys, x);
                for (group, bytes) in bytes.chunks_exact_mut(LANES * 16).enumerate().take(G) {
                    for (register, bytes) in out[group].into_iter().zip(bytes.chunks_exact_mut(LANES * 4)) {
                        store(register, bytes);
                    }
                }
            }

            /// The same with counters that stand in registers from the beginning.
            #[inline]
            #[target_feature(enable = $features)]
            fn count_groups<const G: usize>(
                round_keys: &[u32; 32],
                counter: u128,
                next: u32,
                bytes: &mut [u8],
            ) {
                let [a, b, c, _] = words(counter).map(|word| [splat(word); G]);
                let mut x = [a, b, c, [splat(0); G]];
                for group in 0..G {
                    x[3][group] = add(
                        load(LANE_BLOCKS.as_flattened()),
                        splat(next.wrapping_add((group * LANES) as u32)),
                    );
                }
                let out = rounds(round_keys, x);
                for (group, bytes) in bytes.chunks_exact_mut(LANES * 16).enumerate().take(G) {
                    for (register, bytes) in out[group].into_iter().zip(bytes.chunks_exact_mut(LANES * 4)) {
                        store(xor(register, load(bytes)), bytes);
                    }
                }
            }

            /// From registers of words to registers of encrypted blocks.
            #[inline]
            #[target_feature(enable = $features)]
            fn rounds<const G: usize>(round_keys: &[u32; 32], mut x: [[V; G]; 4]) -> [[V; 4]; G] {
                for keys in round_keys.as_chunks::<4>().0 {
                    for (at, key) in keys.iter().enumerate() {
                        let key = splat(*key);
                        for group in 0..G {
                            let (b, c, d) =
                                (x[(at + 1) % 4][group], x[(at + 2) % 4][group], x[(at + 3) % 4][group]);
                            x[at][group] = diffuse(x[at][group], sbox(xor(xor3(b, c, d), key)));
                        }
                    }
                }
                let mut out = [[splat(0); 4]; G];
                for group in 0..G {
                    // Words go out in reverse order (GB/T 32907, section 6.3).
                    let words = transpose([x[3][group], x[2][group], x[1][group], x[0][group]]);
                    for word in 0..4 {
                        out[group][word] = swap_bytes(words[word]);
                    }
                }
                out
            }

            /// Registers of blocks to registers of words, and back: 4 by 4 words in each 128 bits.
            #[inline]
            #[target_feature(enable = $features)]
            fn transpose([a, b, c, d]: [V; 4]) -> [V; 4] {
                let (ab_low, ab_high) = (unpack_low_32(a, b), unpack_high_32(a, b));
                let (cd_low, cd_high) = (unpack_low_32(c, d), unpack_high_32(c, d));
                [
                    unpack_low_64(ab_low, cd_low),
                    unpack_high_64(ab_low, cd_low),
                    unpack_low_64(ab_high, cd_high),
                    unpack_high_64(ab_high, cd_high),
                ]
            }

            /// Four registers of big-endian words.
            #[inline]
            #[target_feature(enable = $features)]
            fn load_swapped(bytes: &[u8]) -> [V; 4] {
                let mut out = [splat(0); 4];
                for (register, bytes) in out.iter_mut().zip(bytes.chunks_exact(LANES * 4)) {
                    *register = swap_bytes(load(bytes));
                }
                out
            }

            /// Which block of a group each lane holds after [`transpose`].
            const LANE_BLOCKS: [[u8; 4]; LANES] = {
                let mut blocks = [[0; 4]; LANES];
                let mut lane = 0;
                while lane < LANES {
                    blocks[lane] = ((lane % 4 * LANES / 4 + lane / 4) as u32).to_le_bytes();
                    lane += 1;
                }
                blocks
            };
        }
    };
}

engine!(gfni512, "avx512f,avx512bw,gfni", ops512, lanes 16, groups 4);
engine!(gfni256, "avx2,gfni", ops256, lanes 8, groups 2);
engine!(aesni, "aes,ssse3", ops128, lanes 4, groups 2);

/// Bytes of each word in reverse, for shuffles by byte.
const SWAP: [u8; 16] = [3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8, 15, 14, 13, 12];

/// Wraps intrinsics under the names that `engine!` uses.
macro_rules! ops {
    ($features:literal, $($name:ident($($arg:ident: $type:ty),*) -> $out:ty $body:block)*) => {
        $(
            #[inline]
            #[target_feature(enable = $features)]
            pub(super) fn $name($($arg: $type),*) -> $out $body
        )*
    };
}

mod ops512 {
    use super::*;

    pub(super) type V = __m512i;

    ops! { "avx512f,avx512bw,gfni",
        splat(word: u32) -> V { _mm512_set1_epi32(word.cast_signed()) }
        low(a: V) -> u32 { _mm512_cvtsi512_si32(a).cast_unsigned() }
        load(bytes: &[u8]) -> V {
            let bytes: &[u8; 64] = &bytes.as_chunks().0[0];
            // SAFETY: 64 bytes are there to read, aligned or not.
            unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
        }
        store(a: V, bytes: &mut [u8]) -> () {
            let bytes: &mut [u8; 64] = &mut bytes.as_chunks_mut().0[0];
            // SAFETY: 64 bytes are there to write, aligned or not.
            unsafe { _mm512_storeu_si512(bytes.as_mut_ptr().cast(), a) }
        }
        add(a: V, b: V) -> V { _mm512_add_epi32(a, b) }
        xor(a: V, b: V) -> V { _mm512_xor_si512(a, b) }
        xor3(a: V, b: V, c: V) -> V { _mm512_ternarylogic_epi32::<0x96>(a, b, c) }
        sbox(a: V) -> V {
            let first = _mm512_set1_epi64(FIRST.cast_signed());
            let second = _mm512_set1_epi64(SECOND.cast_signed());
            let a = _mm512_gf2p8affine_epi64_epi8::<FIRST_CONSTANT>(a, first);
            _mm512_gf2p8affineinv_epi64_epi8::<SECOND_CONSTANT>(a, second)
        }
        diffuse(x: V, t: V) -> V {
            let (t2, t10) = (_mm512_rol_epi32::<2>(t), _mm512_rol_epi32::<10>(t));
            let (t18, t24) = (_mm512_rol_epi32::<18>(t), _mm512_rol_epi32::<24>(t));
            xor3(xor3(x, t, t2), t10, xor(t18, t24))
        }
        swap_bytes(a: V) -> V {
            _mm512_shuffle_epi8(a, _mm512_broadcast_i32x4(load128(&SWAP)))
        }
        unpack_low_32(a: V, b: V) -> V { _mm512_unpacklo_epi32(a, b) }
        unpack_high_32(a: V, b: V) -> V { _mm512_unpackhi_epi32(a, b) }
        unpack_low_64(a: V, b: V) -> V { _mm512_unpacklo_epi64(a, b) }
        unpack_high_64(a: V, b: V) -> V { _mm512_unpackhi_epi64(a, b) }
    }
}

mod ops256 {
    use super::*;

    pub(super) type V = __m256i;

    ops! { "avx2,gfni",
        splat(word: u32) -> V { _mm256_set1_epi32(word.cast_signed()) }
        low(a: V) -> u32 { _mm256_cvtsi256_si32(a).cast_unsigned() }
        load(bytes: &[u8]) -> V {
            let bytes: &[u8; 32] = &bytes.as_chunks().0[0];
            // SAFETY: 32 bytes are there to read, aligned or not.
            unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
        }
        store(a: V, bytes: &mut [u8]) -> () {
            let bytes: &mut [u8; 32] = &mut bytes.as_chunks_mut().0[0];
            // SAFETY: 32 bytes are there to write, aligned or not.
            unsafe { _mm256_storeu_si256(bytes.as_mut_ptr().cast(), a) }
        }
        add(a: V, b: V) -> V { _mm256_add_epi32(a, b) }
        xor(a: V, b: V) -> V { _mm256_xor_si256(a, b) }
        xor3(a: V, b: V, c: V) -> V { xor(xor(a, b), c) }
        sbox(a: V) -> V {
            let first = _mm256_set1_epi64x(FIRST.cast_signed());
            let second = _mm256_set1_epi64x(SECOND.cast_signed());
            let a = _mm256_gf2p8affine_epi64_epi8::<FIRST_CONSTANT>(a, first);
            _mm256_gf2p8affineinv_epi64_epi8::<SECOND_CONSTANT>(a, second)
        }
        diffuse(x: V, t: V) -> V {
            // t <<< 2, 10 and 18 are (t ^ t <<< 8 ^ t <<< 16) <<< 2, and shuffles turn by whole bytes.
            let turned = |by: &[u8; 16]| _mm256_shuffle_epi8(t, _mm256_broadcastsi128_si256(load128(by)));
            let u = xor3(t, turned(&TURN_8), turned(&TURN_16));
            let u = _mm256_or_si256(_mm256_slli_epi32::<2>(u), _mm256_srli_epi32::<30>(u));
            xor(xor3(x, t, turned(&TURN_24)), u)
        }
        swap_bytes(a: V) -> V {
            _mm256_shuffle_epi8(a, _mm256_broadcastsi128_si256(load128(&SWAP)))
        }
        unpack_low_32(a: V, b: V) -> V { _mm256_unpacklo_epi32(a, b) }
        unpack_high_32(a: V, b: V) -> V { _mm256_unpackhi_epi32(a, b) }
        unpack_low_64(a: V, b: V) -> V { _mm256_unpacklo_epi64(a, b) }
        unpack_high_64(a: V, b: V) -> V { _mm256_unpackhi_epi64(a, b) }
    }
}

mod ops128 {
    use super::*;

    pub(super) type V = __m128i;

    ops! { "aes,ssse3",
        splat(word: u32) -> V { _mm_set1_epi32(word.cast_signed()) }
        low(a: V) -> u32 { _mm_cvtsi128_si32(a).cast_unsigned() }
        load(bytes: &[u8]) -> V { load128(&bytes.as_chunks().0[0]) }
        store(a: V, bytes: &mut [u8]) -> () {
            let bytes: &mut [u8; 16] = &mut bytes.as_chunks_mut().0[0];
            // SAFETY: 16 bytes are there to write, aligned or not.
            unsafe { _mm_storeu_si128(bytes.as_mut_ptr().cast(), a) }
        }
        add(a: V, b: V) -> V { _mm_add_epi32(a, b) }
        xor(a: V, b: V) -> V { _mm_xor_si128(a, b) }
        xor3(a: V, b: V, c: V) -> V { xor(xor(a, b), c) }
        sbox(a: V) -> V {
            // AESENCLAST shifts rows before it substitutes: the shuffle makes up for that.
            let a = _mm_shuffle_epi8(affine(a, &BEFORE_LOW, &BEFORE_HIGH), load128(&UNSHIFT_ROWS));
            affine(_mm_aesenclast_si128(a, _mm_setzero_si128()), &AFTER_LOW, &AFTER_HIGH)
        }
        affine(a: V, low: &[u8; 16], high: &[u8; 16]) -> V {
            let nibble = _mm_set1_epi8(0x0f);
            let (low_half, high_half) = (_mm_and_si128(a, nibble), _mm_and_si128(_mm_srli_epi16::<4>(a), nibble));
            // Sixteen entries in a register: no memory is looked up by what is secret.
            xor(_mm_shuffle_epi8(load128(low), low_half), _mm_shuffle_epi8(load128(high), high_half))
        }
        diffuse(x: V, t: V) -> V {
            let turned = |by: &[u8; 16]| _mm_shuffle_epi8(t, load128(by));
            let u = xor3(t, turned(&TURN_8), turned(&TURN_16));
            let u = _mm_or_si128(_mm_slli_epi32::<2>(u), _mm_srli_epi32::<30>(u));
            xor(xor3(x, t, turned(&TURN_24)), u)
        }
        swap_bytes(a: V) -> V { _mm_shuffle_epi8(a, load128(&SWAP)) }
        unpack_low_32(a: V, b: V) -> V { _mm_unpacklo_epi32(a, b) }
        unpack_high_32(a: V, b: V) -> V { _mm_unpackhi_epi32(a, b) }
        unpack_low_64(a: V, b: V) -> V { _mm_unpacklo_epi64(a, b) }
        unpack_high_64(a: V, b: V) -> V { _mm_unpackhi_epi64(a, b) }
    }
}

/// The words of a counter block.
fn words(block: u128) -> [u32; 4] {
    [96, 64, 32, 0].map(|shift| (block >> shift) as u32)
}

/// SSE2, which every x86-64 has.
#[inline]
fn load128(bytes: &[u8; 16]) -> __m128i {
    // SAFETY: 16 bytes are there to read, aligned or not.
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}

/// Words turned left by bytes, for shuffles: byte `i` of the result comes from byte `i - n` of its word.
const TURN_8: [u8; 16] = turn(1);
const TURN_16: [u8; 16] = turn(2);
const TURN_24: [u8; 16] = turn(3);

const fn turn(bytes: usize) -> [u8; 16] {
    let mut out = [0; 16];
    let mut at = 0;
    while at < 16 {
        out[at] = (at / 4 * 4 + (at + 4 - bytes) % 4) as u8;
        at += 1;
    }
    out
}

/// The inverse of AES' ShiftRows (FIPS 197, section 5.3.1).
const UNSHIFT_ROWS: [u8; 16] = [0, 13, 10, 7, 4, 1, 14, 11, 8, 5, 2, 15, 12, 9, 6, 3];

/// Affine maps by nibble: `map(x) = LOW[x & 15] ^ HIGH[x >> 4]`, with the constant in LOW.
const BEFORE_LOW: [u8; 16] = nibbles(0, false);
const BEFORE_HIGH: [u8; 16] = nibbles(4, false);
const AFTER_LOW: [u8; 16] = nibbles(0, true);
const AFTER_HIGH: [u8; 16] = nibbles(4, true);

const fn nibbles(shift: u32, after: bool) -> [u8; 16] {
    let mut out = [0; 16];
    let mut at = 0;
    while at < 16 {
        let byte = (at as u8) << shift;
        let constant = if after { after_aes(0) } else { before_aes(0) };
        let value = if after { after_aes(byte) } else { before_aes(byte) };
        out[at] = if shift == 0 { value } else { value ^ constant };
        at += 1;
    }
    out
}

/// What SM4's S-box does before the inverse.
const fn before_aes(byte: u8) -> u8 {
    multiply(FIRST, byte) ^ FIRST_CONSTANT as u8
}

/// What it does after the inverse, and before that AES' own affine map undone (FIPS 197, section 5.3.2).
const fn after_aes(byte: u8) -> u8 {
    let inverse = byte.rotate_left(1) ^ byte.rotate_left(3) ^ byte.rotate_left(6) ^ 0x05;
    multiply(SECOND, inverse) ^ SECOND_CONSTANT as u8
}

/// GF2P8AFFINEQB without its constant: bit `i` is the parity of `x` and byte `7 - i` of the matrix.
const fn multiply(matrix: u64, x: u8) -> u8 {
    let rows = matrix.to_be_bytes();
    let mut out = 0;
    let mut bit = 0;
    while bit < 8 {
        out |= ((rows[bit] & x).count_ones() as u8 & 1) << bit;
        bit += 1;
    }
    out
}
