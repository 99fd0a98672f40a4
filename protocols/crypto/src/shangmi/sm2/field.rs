//! Numbers modulo SM2's prime `p = 2^256 - 2^224 - 2^96 + 2^64 - 1` (GB/T 32918.5-2017, section 2), in Montgomery's
//! form: `x` is kept as `x 2^256 mod p`. No branch and no index depends on a value: carries become masks, and the
//! machine code for x86-64 has no conditional jump here but those of `invert`'s loops.

use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

/// Four limbs, the lowest first, always below `p`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Field([u64; 4]);

const P: [u64; 4] =
    [0xffff_ffff_ffff_ffff, 0xffff_ffff_0000_0000, 0xffff_ffff_ffff_ffff, 0xffff_fffe_ffff_ffff];

impl Field {
    pub(super) const ZERO: Self = Self([0; 4]);
    /// 2^256 mod p.
    pub(super) const ONE: Self = Self([1, 0xffff_ffff, 0, 0x1_0000_0000]);
    /// 2^512 mod p.
    const R2: Self = Self([0x2_0000_0003, 0x2_ffff_ffff, 0x1_0000_0001, 0x4_0000_0002]);

    /// One that is in Montgomery's form already.
    pub(super) const fn from_montgomery(limbs: [u64; 4]) -> Self {
        Self(limbs)
    }

    /// 32 bytes, big-endian; `None` at `p` and above.
    pub(super) fn from_bytes(bytes: &[u8; 32]) -> Option<Self> {
        let mut limbs = [0; 4];
        for (limb, bytes) in limbs.iter_mut().rev().zip(bytes.as_chunks().0) {
            *limb = u64::from_be_bytes(*bytes);
        }
        let (_, is_below) = minus(limbs, P);
        is_below.then(|| Self(limbs).multiply(Self::R2))
    }

    pub(super) fn to_bytes(self) -> [u8; 32] {
        let Self(limbs) = self.multiply(Self([1, 0, 0, 0]));
        let mut bytes = [0; 32];
        for (bytes, limb) in bytes.as_chunks_mut().0.iter_mut().zip(limbs.iter().rev()) {
            *bytes = limb.to_be_bytes();
        }
        bytes
    }

    #[inline]
    pub(super) fn add(self, other: Self) -> Self {
        let (sum, carry) = plus(self.0, other.0);
        below_p(sum, carry)
    }

    #[inline]
    pub(super) fn subtract(self, other: Self) -> Self {
        let (difference, borrow) = minus(self.0, other.0);
        // What went below zero comes back by p.
        let mask = mask(borrow);
        Self(plus(difference, P.map(|limb| limb & mask)).0)
    }

    #[inline]
    pub(super) fn double(self) -> Self {
        self.add(self)
    }

    #[inline]
    pub(super) fn triple(self) -> Self {
        self.double().add(self)
    }

    /// `a b / 2^256`. `p` is -1 modulo 2^64, so the lowest limb itself is the multiple of `p` that clears it.
    #[inline]
    pub(super) fn multiply(self, other: Self) -> Self {
        let a = self.0;
        // Below 2 p after each round, and so below 2^320 within one.
        let (mut t, mut top) = ([0; 4], false);
        for b in other.0 {
            let (t0, carry) = a[0].carrying_mul(b, t[0]);
            let (t1, carry) = a[1].carrying_mul_add(b, t[1], carry);
            let (t2, carry) = a[2].carrying_mul_add(b, t[2], carry);
            let (t3, carry) = a[3].carrying_mul_add(b, t[3], carry);
            let t4 = carry + u64::from(top);
            // (t + t0 p) / 2^64 = t / 2^64 + t0 (2^192 - 2^160 - 2^32 + 1), of which the second is never below zero.
            let (low, high) = (t0 << 32, t0 >> 32);
            let (folded, _) = minus([t0, 0, 0, t0], [low, high, low, high]);
            (t, top) = plus([t1, t2, t3, t4], folded);
        }
        below_p(t, top)
    }

    #[inline]
    pub(super) fn square(self) -> Self {
        self.multiply(self)
    }

    /// `1 / x` as `x^(p - 2)`; zero of zero. The exponent in words: fffffffe, four of ffffffff, 0, ffffffff, fffffffd.
    pub(super) fn invert(self) -> Self {
        let x = self;
        let x2 = x.squares(1).multiply(x);
        let x4 = x2.squares(2).multiply(x2);
        let x8 = x4.squares(4).multiply(x4);
        let x16 = x8.squares(8).multiply(x8);
        let x24 = x16.squares(8).multiply(x8);
        let x28 = x24.squares(4).multiply(x4);
        let x30 = x28.squares(2).multiply(x2);
        let x31 = x30.squares(1).multiply(x);
        let x32 = x31.squares(1).multiply(x);
        let high = (0..4).fold(x31.squares(1), |high, _| high.squares(32).multiply(x32));
        let middle = high.squares(64).multiply(x32);
        middle.squares(30).multiply(x30).squares(2).multiply(x)
    }

    /// `x^(2^count)`.
    fn squares(self, count: u32) -> Self {
        (0..count).fold(self, |x, _| x.square())
    }
}

impl ConditionallySelectable for Field {
    #[inline]
    fn conditional_select(a: &Self, b: &Self, choice: Choice) -> Self {
        Self(std::array::from_fn(|limb| u64::conditional_select(&a.0[limb], &b.0[limb], choice)))
    }
}

impl ConstantTimeEq for Field {
    fn ct_eq(&self, other: &Self) -> Choice {
        self.0.ct_eq(&other.0)
    }
}

/// A number below `2 p`, with its 257th bit, brought below `p`.
#[inline]
fn below_p(limbs: [u64; 4], carry: bool) -> Field {
    let (reduced, borrow) = minus(limbs, P);
    // It stays as it is if it was below p already: a borrow that no carry makes up for.
    let keep = mask(borrow & !carry);
    Field(std::array::from_fn(|limb| reduced[limb] ^ (reduced[limb] ^ limbs[limb]) & keep))
}

#[inline]
fn plus(a: [u64; 4], b: [u64; 4]) -> ([u64; 4], bool) {
    let (s0, carry) = a[0].carrying_add(b[0], false);
    let (s1, carry) = a[1].carrying_add(b[1], carry);
    let (s2, carry) = a[2].carrying_add(b[2], carry);
    let (s3, carry) = a[3].carrying_add(b[3], carry);
    ([s0, s1, s2, s3], carry)
}

#[inline]
fn minus(a: [u64; 4], b: [u64; 4]) -> ([u64; 4], bool) {
    let (d0, borrow) = a[0].borrowing_sub(b[0], false);
    let (d1, borrow) = a[1].borrowing_sub(b[1], borrow);
    let (d2, borrow) = a[2].borrowing_sub(b[2], borrow);
    let (d3, borrow) = a[3].borrowing_sub(b[3], borrow);
    ([d0, d1, d2, d3], borrow)
}

/// All ones for true.
#[inline]
fn mask(bit: bool) -> u64 {
    u64::from(bit).wrapping_neg()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What is hardest on carries: the ends, limbs of all ones and of zeros, neighbours of p.
    fn element() -> impl Strategy<Value = Field> {
        let limb = prop_oneof![Just(0), Just(1), Just(u64::MAX), Just(u64::MAX - 1), any::<u64>()];
        let near = (0..3usize, 0..3u64).prop_map(|(limb, less)| {
            let mut limbs = P;
            limbs[0] -= 1 + less;
            limbs[limb + 1] = limbs[limb + 1].wrapping_sub(less & 1);
            limbs
        });
        prop_oneof![prop::array::uniform4(limb), near]
            .prop_map(|limbs| if minus(limbs, P).1 { Field(limbs) } else { Field(minus(limbs, P).0) })
    }

    /// `a b / 2^256 mod p` by doubling and halving bit by bit, with what `add` and `subtract` are tested for.
    fn reference(a: Field, b: Field) -> Field {
        let mut sum = Field::ZERO;
        for bit in 0..256 {
            if b.0[bit / 64] >> (bit % 64) & 1 == 1 {
                sum = sum.add(a);
            }
            sum = half(sum);
        }
        sum
    }

    fn half(x: Field) -> Field {
        let (limbs, top) = if x.0[0] & 1 == 1 { plus(x.0, P) } else { (x.0, false) };
        let up = [limbs[1], limbs[2], limbs[3], u64::from(top)];
        Field(std::array::from_fn(|limb| limbs[limb] >> 1 | up[limb] << 63))
    }

    fn same(a: Field, b: Field) -> bool {
        a.0 == b.0 && minus(a.0, P).1
    }

    proptest! {
        #[test]
        fn sums_and_differences_are_those_of_wide_numbers(a in element(), b in element()) {
            let sum = a.add(b);
            prop_assert!(minus(sum.0, P).1);
            let (wide, carry) = plus(a.0, b.0);
            prop_assert!(wide == sum.0 && !carry || minus(wide, P).0 == sum.0);
            prop_assert!(same(sum.subtract(b), a));
            prop_assert!(same(a.subtract(b).add(b), a));
        }

        #[test]
        fn products_are_those_of_doubling_and_halving(a in element(), b in element()) {
            prop_assert!(same(a.multiply(b), reference(a, b)));
        }

        #[test]
        fn inverses_multiply_to_one(a in element()) {
            let expected = if same(a, Field::ZERO) { Field::ZERO } else { Field::ONE };
            prop_assert!(same(a.multiply(a.invert()), expected));
        }

        #[test]
        fn bytes_come_back(a in element()) {
            let Some(back) = Field::from_bytes(&a.to_bytes()) else { return Err(TestCaseError::fail("none")) };
            prop_assert!(same(a, back));
        }
    }

    #[test]
    fn p_and_above_are_no_numbers() {
        let mut bytes = [0xff; 32];
        assert!(Field::from_bytes(&bytes).is_none());
        for (bytes, limb) in bytes.as_chunks_mut().0.iter_mut().zip(P.iter().rev()) {
            *bytes = limb.to_be_bytes();
        }
        assert!(Field::from_bytes(&bytes).is_none());
        bytes[31] -= 1;
        assert!(Field::from_bytes(&bytes).is_some());
    }
}
