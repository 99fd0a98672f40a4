//! SM4 on any machine, bitsliced: eight planes hold one bit each of many bytes, and the S-box is a circuit of
//! XOR and AND over planes. No table, no branch and no shift depends on a key or on data, so the time
//! depends on the number of blocks alone.

use std::{
    array,
    ops::{BitAnd, BitXor},
};

use super::Block;

/// Blocks of a group: as many as have 64 bytes in one word each of the four.
const GROUP: usize = 16;
/// Groups side by side where there is enough to do, so that compilers find vectors.
const WIDE: usize = 4;

/// Encrypts each block.
pub(super) fn encrypt(round_keys: &[u32; 32], blocks: &mut [Block]) {
    let (wide, rest) = blocks.as_chunks_mut::<{ GROUP * WIDE }>();
    wide.iter_mut().for_each(|blocks| encrypt_groups::<WIDE>(round_keys, blocks));
    rest.chunks_mut(GROUP).for_each(|blocks| encrypt_groups::<1>(round_keys, blocks));
}

/// `tau`: the S-box on each byte of a word (GB/T 32907, section 6.2).
pub(super) fn substitute(word: u32) -> u32 {
    let mut bytes = [Lanes([0; 1]); 8];
    bytes[0].0[0] = u64::from(word);
    sbox(&mut bytes);
    // The upper four bytes hold what the S-box makes of zeros.
    bytes[0].0[0] as u32
}

/// Up to `16 * N` blocks. A group's words stand in pairs in eight lanes: 64 bytes for the S-box.
fn encrypt_groups<const N: usize>(round_keys: &[u32; 32], blocks: &mut [Block]) {
    let mut x = load::<N>(blocks);
    for keys in round_keys.as_chunks::<4>().0 {
        for (at, key) in keys.iter().enumerate() {
            // X[i+4] = X[i] ^ L(tau(X[i+1] ^ X[i+2] ^ X[i+3] ^ rk[i]))
            let key = Lanes([u64::from(*key) * 0x1_0000_0001; N]);
            let mut t: [Lanes<N>; 8] = array::from_fn(|pair| {
                x[(at + 1) % 4][pair] ^ x[(at + 2) % 4][pair] ^ x[(at + 3) % 4][pair] ^ key
            });
            sbox(&mut t);
            x[at] = array::from_fn(|pair| x[at][pair] ^ t[pair].diffuse());
        }
    }
    store(&x, blocks);
}

/// `x[word][pair]` lane `n` holds that word of two blocks of group `n`.
fn load<const N: usize>(blocks: &[Block]) -> [[Lanes<N>; 8]; 4] {
    let mut x = [[Lanes([0; N]); 8]; 4];
    for (at, block) in blocks.iter().enumerate() {
        for (word, bytes) in block.as_chunks().0.iter().enumerate() {
            let half = (at % 2) * 32;
            x[word][at / 2 % 8].0[at / GROUP] |= u64::from(u32::from_be_bytes(*bytes)) << half;
        }
    }
    x
}

/// Words go out in reverse order (GB/T 32907, section 6.3).
fn store<const N: usize>(x: &[[Lanes<N>; 8]; 4], blocks: &mut [Block]) {
    for (at, block) in blocks.iter_mut().enumerate() {
        for (word, bytes) in block.as_chunks_mut().0.iter_mut().enumerate() {
            let half = (at % 2) * 32;
            let value = (x[3 - word][at / 2 % 8].0[at / GROUP] >> half) as u32;
            *bytes = value.to_be_bytes();
        }
    }
}

/// Words side by side.
#[derive(Clone, Copy)]
struct Lanes<const N: usize>([u64; N]);

impl<const N: usize> Lanes<N> {
    const ONES: Self = Self([u64::MAX; N]);

    /// `L(b) = b ^ (b <<< 2) ^ (b <<< 10) ^ (b <<< 18) ^ (b <<< 24)` on both halves of each word.
    fn diffuse(self) -> Self {
        let turn = |bits: u32| {
            let low = 0x1_0000_0001 * ((1u64 << bits) - 1);
            Self(self.0.map(|word| (word << bits & !low) | (word >> (32 - bits) & low)))
        };
        self ^ turn(2) ^ turn(10) ^ turn(18) ^ turn(24)
    }
}

impl<const N: usize> BitXor for Lanes<N> {
    type Output = Self;
    fn bitxor(self, other: Self) -> Self {
        Self(array::from_fn(|at| self.0[at] ^ other.0[at]))
    }
}

impl<const N: usize> BitAnd for Lanes<N> {
    type Output = Self;
    fn bitand(self, other: Self) -> Self {
        Self(array::from_fn(|at| self.0[at] & other.0[at]))
    }
}

type Planes<const N: usize> = [Lanes<N>; 8];
/// The planes of an element of GF(16).
type Nibbles<const N: usize> = [Lanes<N>; 4];

/// The S-box is `OUT * inverse(IN * x + IN_CONSTANT) + OUT_CONSTANT`, with the inverse in
/// GF(16)[v]/(v^2 + v + w^3), GF(16) = GF(2)[w]/(w^4 + w + 1). The matrices are those of the identity that
/// `gfni.rs` uses, times the isomorphism between AES' field and this one. Row `i` makes bit `i`.
const IN: [u8; 8] = [0x4b, 0x25, 0x7a, 0x9c, 0x93, 0x40, 0xc4, 0x7f];
const IN_CONSTANT: u8 = 0xa6;
const OUT: [u8; 8] = [0xa3, 0x15, 0xa4, 0xc5, 0xba, 0x1a, 0x27, 0x89];
const OUT_CONSTANT: u8 = 0xd3;

/// The S-box on each of the 64 bytes per lane.
fn sbox<const N: usize>(bytes: &mut Planes<N>) {
    transpose(bytes);
    let [b0, b1, b2, b3, a0, a1, a2, a3] = affine(bytes, &IN, IN_CONSTANT);
    let (a, b) = ([a0, a1, a2, a3], [b0, b1, b2, b3]);
    // (a v + b)^-1 = (a v + a + b) / (w^3 a^2 + a b + b^2)
    let inverse = invert(add(add(square_times_w3(a), multiply(a, b)), square(b)));
    let [a0, a1, a2, a3] = multiply(a, inverse);
    let [b0, b1, b2, b3] = multiply(add(a, b), inverse);
    *bytes = affine(&[b0, b1, b2, b3, a0, a1, a2, a3], &OUT, OUT_CONSTANT);
    transpose(bytes);
}

#[inline(always)]
fn affine<const N: usize>(x: &Planes<N>, matrix: &[u8; 8], constant: u8) -> Planes<N> {
    array::from_fn(|row| {
        let start = if constant >> row & 1 == 1 { Lanes::ONES } else { Lanes([0; N]) };
        let columns = (0..8).filter(|column| matrix[row] >> column & 1 == 1);
        columns.fold(start, |sum, column| sum ^ x[column])
    })
}

/// Bytes to planes and back: three rounds of swapping halves turn each 8 by 8 square of bits.
fn transpose<const N: usize>(x: &mut Planes<N>) {
    for (distance, mask) in
        [(1, 0x5555_5555_5555_5555), (2, 0x3333_3333_3333_3333), (4, 0x0f0f_0f0f_0f0f_0f0f)]
    {
        for at in (0..8).filter(|at| at & distance == 0) {
            for lane in 0..N {
                let (low, high) = (x[at].0[lane], x[at + distance].0[lane]);
                let swap = (low >> distance ^ high) & mask;
                x[at].0[lane] = low ^ swap << distance;
                x[at + distance].0[lane] = high ^ swap;
            }
        }
    }
}

#[inline(always)]
fn add<const N: usize>(a: Nibbles<N>, b: Nibbles<N>) -> Nibbles<N> {
    array::from_fn(|bit| a[bit] ^ b[bit])
}

/// Schoolbook, then `w^4 = w + 1`, `w^5 = w^2 + w`, `w^6 = w^3 + w^2`.
#[inline(always)]
fn multiply<const N: usize>(a: Nibbles<N>, b: Nibbles<N>) -> Nibbles<N> {
    let w4 = (a[1] & b[3]) ^ (a[2] & b[2]) ^ (a[3] & b[1]);
    let w5 = (a[2] & b[3]) ^ (a[3] & b[2]);
    let w6 = a[3] & b[3];
    [
        (a[0] & b[0]) ^ w4,
        (a[0] & b[1]) ^ (a[1] & b[0]) ^ w4 ^ w5,
        (a[0] & b[2]) ^ (a[1] & b[1]) ^ (a[2] & b[0]) ^ w5 ^ w6,
        (a[0] & b[3]) ^ (a[1] & b[2]) ^ (a[2] & b[1]) ^ (a[3] & b[0]) ^ w6,
    ]
}

#[inline(always)]
fn square<const N: usize>(x: Nibbles<N>) -> Nibbles<N> {
    [x[0] ^ x[2], x[2], x[1] ^ x[3], x[3]]
}

#[inline(always)]
fn square_times_w3<const N: usize>(x: Nibbles<N>) -> Nibbles<N> {
    [x[2], x[1] ^ x[2] ^ x[3], x[1], x[0] ^ x[2] ^ x[3]]
}

/// `x^14 = x^2 x^4 x^8`, which makes zero of zero.
#[inline(always)]
fn invert<const N: usize>(x: Nibbles<N>) -> Nibbles<N> {
    let x2 = square(x);
    let x4 = square(x2);
    multiply(multiply(x2, x4), square(x4))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// GB/T 32907-2016, section 6.2, table 1.
    #[test]
    fn the_circuit_is_the_standards_table() {
        const TABLE: [u8; 256] = [
            0xd6, 0x90, 0xe9, 0xfe, 0xcc, 0xe1, 0x3d, 0xb7, 0x16, 0xb6, 0x14, 0xc2, 0x28, 0xfb, 0x2c, 0x05,
            0x2b, 0x67, 0x9a, 0x76, 0x2a, 0xbe, 0x04, 0xc3, 0xaa, 0x44, 0x13, 0x26, 0x49, 0x86, 0x06, 0x99,
            0x9c, 0x42, 0x50, 0xf4, 0x91, 0xef, 0x98, 0x7a, 0x33, 0x54, 0x0b, 0x43, 0xed, 0xcf, 0xac, 0x62,
            0xe4, 0xb3, 0x1c, 0xa9, 0xc9, 0x08, 0xe8, 0x95, 0x80, 0xdf, 0x94, 0xfa, 0x75, 0x8f, 0x3f, 0xa6,
            0x47, 0x07, 0xa7, 0xfc, 0xf3, 0x73, 0x17, 0xba, 0x83, 0x59, 0x3c, 0x19, 0xe6, 0x85, 0x4f, 0xa8,
            0x68, 0x6b, 0x81, 0xb2, 0x71, 0x64, 0xda, 0x8b, 0xf8, 0xeb, 0x0f, 0x4b, 0x70, 0x56, 0x9d, 0x35,
            0x1e, 0x24, 0x0e, 0x5e, 0x63, 0x58, 0xd1, 0xa2, 0x25, 0x22, 0x7c, 0x3b, 0x01, 0x21, 0x78, 0x87,
            0xd4, 0x00, 0x46, 0x57, 0x9f, 0xd3, 0x27, 0x52, 0x4c, 0x36, 0x02, 0xe7, 0xa0, 0xc4, 0xc8, 0x9e,
            0xea, 0xbf, 0x8a, 0xd2, 0x40, 0xc7, 0x38, 0xb5, 0xa3, 0xf7, 0xf2, 0xce, 0xf9, 0x61, 0x15, 0xa1,
            0xe0, 0xae, 0x5d, 0xa4, 0x9b, 0x34, 0x1a, 0x55, 0xad, 0x93, 0x32, 0x30, 0xf5, 0x8c, 0xb1, 0xe3,
            0x1d, 0xf6, 0xe2, 0x2e, 0x82, 0x66, 0xca, 0x60, 0xc0, 0x29, 0x23, 0xab, 0x0d, 0x53, 0x4e, 0x6f,
            0xd5, 0xdb, 0x37, 0x45, 0xde, 0xfd, 0x8e, 0x2f, 0x03, 0xff, 0x6a, 0x72, 0x6d, 0x6c, 0x5b, 0x51,
            0x8d, 0x1b, 0xaf, 0x92, 0xbb, 0xdd, 0xbc, 0x7f, 0x11, 0xd9, 0x5c, 0x41, 0x1f, 0x10, 0x5a, 0xd8,
            0x0a, 0xc1, 0x31, 0x88, 0xa5, 0xcd, 0x7b, 0xbd, 0x2d, 0x74, 0xd0, 0x12, 0xb8, 0xe5, 0xb4, 0xb0,
            0x89, 0x69, 0x97, 0x4a, 0x0c, 0x96, 0x77, 0x7e, 0x65, 0xb9, 0xf1, 0x09, 0xc5, 0x6e, 0xc6, 0x84,
            0x18, 0xf0, 0x7d, 0xec, 0x3a, 0xdc, 0x4d, 0x20, 0x79, 0xee, 0x5f, 0x3e, 0xd7, 0xcb, 0x39, 0x48,
        ];
        for (byte, expected) in TABLE.iter().enumerate() {
            let word = u32::from_le_bytes([0, byte as u8, byte as u8, 0]);
            let [zero, first, second, _] = substitute(word).to_le_bytes();
            assert_eq!((zero, first, second), (TABLE[0], *expected, *expected), "{byte:#x}");
        }
    }
}
