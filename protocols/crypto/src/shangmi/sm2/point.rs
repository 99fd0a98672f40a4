//! Points of SM2's curve `y^2 = x^3 - 3 x + b` (GB/T 32918.5-2017, section 2) and their multiples.
//!
//! Sums are by the complete formulas of Renes, Costello and Batina (eprint 2015/1060, algorithms 4 to 6), which have
//! no special cases. Tables are read in whole. So time depends neither on points nor on scalars.

use std::sync::LazyLock;

use subtle::{Choice, ConditionallySelectable, ConstantTimeEq as _};

use super::{Point, field::Field};

const B: Field = Field::from_montgomery([
    0x90d2_3063_2bc0_dd42,
    0x71cf_379a_e9b5_37ab,
    0x5279_8150_5ea5_1c3c,
    0x240f_e188_ba20_e2c8,
]);
const GENERATOR: Affine = Affine {
    x: Field::from_montgomery([
        0x6132_8990_f418_029e,
        0x3e79_81ed_dca6_c050,
        0xd6a1_ed99_ac24_c3c3,
        0x9116_7a5e_e1c1_3b05,
    ]),
    y: Field::from_montgomery([
        0xc135_4e59_3c2d_0ddd,
        0xc1f5_e578_8d32_95fa,
        0x8d4c_fb06_6e2a_48f8,
        0x63cd_65d4_81d7_35bd,
    ]),
};

/// A point other than that at infinity.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Affine {
    x: Field,
    y: Field,
}

/// `(x / z, y / z)`; at infinity where `z` is zero.
#[derive(Clone, Copy, Debug)]
pub(super) struct Projective {
    x: Field,
    y: Field,
    z: Field,
}

impl Affine {
    /// An uncompressed point (SEC 1, section 2.3.4), which TLS alone knows (RFC 8446, section 4.2.8.2), if it is on
    /// the curve. The curve's cofactor is one: there is no subgroup to fall into.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        const UNCOMPRESSED: u8 = 4;
        let (&tag, coordinates) = bytes.split_first()?;
        let (&[x, y], []) = coordinates.as_chunks::<32>() else { return None };
        let point = Self { x: Field::from_bytes(&x)?, y: Field::from_bytes(&y)? };
        (tag == UNCOMPRESSED && point.is_on_curve()).then_some(point)
    }

    pub(super) fn to_bytes(self) -> Point {
        let mut bytes = [4; 65];
        bytes[1..33].copy_from_slice(&self.x.to_bytes());
        bytes[33..].copy_from_slice(&self.y.to_bytes());
        bytes
    }

    /// Its x coordinate, big-endian.
    pub(super) fn x(self) -> [u8; 32] {
        self.x.to_bytes()
    }

    fn is_on_curve(self) -> bool {
        let cubic = self.x.square().multiply(self.x).subtract(self.x.triple()).add(B);
        self.y.square().ct_eq(&cubic).into()
    }
}

impl Projective {
    const INFINITY: Self = Self { x: Field::ZERO, y: Field::ONE, z: Field::ZERO };

    /// `None` at infinity.
    pub(super) fn to_affine(self) -> Option<Affine> {
        let is_infinity = bool::from(self.z.ct_eq(&Field::ZERO));
        let inverse = self.z.invert();
        (!is_infinity).then(|| Affine { x: self.x.multiply(inverse), y: self.y.multiply(inverse) })
    }

    /// Algorithm 4.
    pub(super) fn add(self, other: &Self) -> Self {
        let xx = self.x.multiply(other.x);
        let yy = self.y.multiply(other.y);
        let zz = self.z.multiply(other.z);
        let xy = self.x.add(self.y).multiply(other.x.add(other.y)).subtract(xx.add(yy));
        let yz = self.y.add(self.z).multiply(other.y.add(other.z)).subtract(yy.add(zz));
        let xz = self.x.add(self.z).multiply(other.x.add(other.z)).subtract(xx.add(zz));
        sum(xx, yy, zz, [xy, yz, xz])
    }

    /// Algorithm 5.
    fn add_affine(self, other: &Affine) -> Self {
        let xx = self.x.multiply(other.x);
        let yy = self.y.multiply(other.y);
        let xy = self.x.add(self.y).multiply(other.x.add(other.y)).subtract(xx.add(yy));
        let yz = other.y.multiply(self.z).add(self.y);
        let xz = other.x.multiply(self.z).add(self.x);
        sum(xx, yy, self.z, [xy, yz, xz])
    }

    /// Algorithm 6.
    fn double(self) -> Self {
        let (xx, yy, zz) = (self.x.square(), self.y.square(), self.z.square());
        let (xy, yz, xz) = (self.x.multiply(self.y), self.y.multiply(self.z), self.x.multiply(self.z));
        let (xy, yz, xz) = (xy.double(), yz.double(), xz.double());
        let part = B.multiply(zz).subtract(xz).triple();
        let (minus, plus) = (yy.subtract(part), yy.add(part));
        let side = B.multiply(xz).subtract(zz.triple().add(xx)).triple();
        Self {
            x: minus.multiply(xy).subtract(side.multiply(yz)),
            y: plus.multiply(minus).add(xx.subtract(zz).triple().multiply(side)),
            z: yz.multiply(yy).double().double(),
        }
    }
}

/// What algorithms 4 and 5 have in common, from the products of coordinates on.
#[inline]
fn sum(xx: Field, yy: Field, zz: Field, [xy, yz, xz]: [Field; 3]) -> Projective {
    let part = xz.subtract(B.multiply(zz)).triple();
    let (minus, plus) = (yy.subtract(part), yy.add(part));
    let side = B.multiply(xz).subtract(zz.triple().add(xx)).triple();
    let slope = xx.subtract(zz).triple();
    Projective {
        x: plus.multiply(xy).subtract(yz.multiply(side)),
        y: plus.multiply(minus).add(slope.multiply(side)),
        z: minus.multiply(yz).add(xy.multiply(slope)),
    }
}

impl ConditionallySelectable for Affine {
    #[inline]
    fn conditional_select(a: &Self, b: &Self, choice: Choice) -> Self {
        let select = |a, b| Field::conditional_select(a, b, choice);
        Self { x: select(&a.x, &b.x), y: select(&a.y, &b.y) }
    }
}

impl ConditionallySelectable for Projective {
    #[inline]
    fn conditional_select(a: &Self, b: &Self, choice: Choice) -> Self {
        let select = |a, b| Field::conditional_select(a, b, choice);
        Self { x: select(&a.x, &b.x), y: select(&a.y, &b.y), z: select(&a.z, &b.z) }
    }
}

/// Scalars are cut into digits of four bits.
const DIGITS: usize = 64;

/// A scalar times a point: four doublings and a sum per digit, from the highest.
pub(super) fn multiply(point: &Affine, scalar: &[u8; 32]) -> Projective {
    let mut table = [Projective::INFINITY; 16];
    for digit in 1..16 {
        table[digit] = table[digit - 1].add_affine(point);
    }
    (0..DIGITS).rev().fold(Projective::INFINITY, |sum, at| {
        let sum = sum.double().double().double().double();
        sum.add(&look_up(&table, digit(scalar, at)))
    })
}

/// A scalar times the generator: a sum per digit, since the table has every digit at every place.
pub(super) fn multiply_generator(scalar: &[u8; 32]) -> Projective {
    GENERATOR_TABLE.iter().enumerate().fold(Projective::INFINITY, |sum, (at, row)| {
        let digit = digit(scalar, at);
        let more = sum.add_affine(&look_up(row, digit.wrapping_sub(1)));
        // Affine points know no infinity, so digit 0 finds something that is not used.
        Projective::conditional_select(&more, &sum, digit.ct_eq(&0))
    })
}

/// Row `i` has 1 to 15 times `16^i` times the generator: 60 KiB, made by the first handshake in 5 ms.
static GENERATOR_TABLE: LazyLock<Box<[[Affine; 15]]>> = LazyLock::new(|| {
    let mut base = Projective::INFINITY.add_affine(&GENERATOR);
    (0..DIGITS)
        .map(|_| {
            let mut row = [Affine::default(); 15];
            let mut multiple = Projective::INFINITY;
            for slot in &mut row {
                multiple = multiple.add(&base);
                // No multiple here is one of the group's order, so none is at infinity.
                *slot = multiple.to_affine().unwrap_or_default();
            }
            base = multiple.add(&base);
            row
        })
        .collect()
});

/// Digit `at`, from the lowest.
fn digit(scalar: &[u8; 32], at: usize) -> u8 {
    scalar[31 - at / 2] >> (at % 2 * 4) & 0x0f
}

/// Reads the whole table; an index beyond it finds the first.
#[inline]
fn look_up<T: ConditionallySelectable>(table: &[T], index: u8) -> T {
    table
        .iter()
        .zip(0..)
        .skip(1)
        .fold(table[0], |found, (entry, at): (&T, u8)| T::conditional_select(&found, entry, index.ct_eq(&at)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sm2::{
        ProjectivePoint, Scalar,
        elliptic_curve::{ff::PrimeField as _, ops::Reduce as _, sec1::ToSec1Point as _},
    };

    use super::*;

    /// The crate's arithmetic is the judge of ours.
    fn theirs(scalar: &[u8; 32], point: Option<&[u8; 32]>) -> Option<Vec<u8>> {
        let scalar = <Scalar as sm2::elliptic_curve::ops::Reduce<sm2::FieldBytes>>::reduce(&(*scalar).into());
        let base = point.map_or(Scalar::ONE, |at| Scalar::reduce(&sm2::FieldBytes::from(*at)));
        let point = ProjectivePoint::GENERATOR * base * scalar;
        let bytes = point.to_affine().to_sec1_point(false).as_bytes().to_vec();
        (bytes.len() == 65).then_some(bytes)
    }

    fn ours(scalar: &[u8; 32], point: Option<&[u8; 32]>) -> Option<Vec<u8>> {
        let product = match point {
            None => multiply_generator(scalar),
            Some(at) => multiply(&multiply_generator(at).to_affine()?, scalar),
        };
        product.to_affine().map(|point| point.to_bytes().to_vec())
    }

    #[track_caller]
    fn check(scalar: [u8; 32]) {
        assert_eq!(ours(&scalar, None), theirs(&scalar, None), "{scalar:x?} G");
        let point = [3; 32];
        assert_eq!(ours(&scalar, Some(&point)), theirs(&scalar, Some(&point)), "{scalar:x?} P");
    }

    #[test]
    fn multiples_at_the_ends_of_the_group() {
        let small = |value: u8| {
            let mut bytes = [0; 32];
            bytes[31] = value;
            bytes
        };
        (0..40).for_each(|value| check(small(value)));
        for less in 0..4u64 {
            let near: [u8; 32] = (-Scalar::from(less)).to_repr().into();
            check(near);
        }
        check([0xff; 32]);
        check([0xf0; 32]);
        check([0x0f; 32]);
        check([0x10; 32]);
    }

    #[test]
    fn the_order_times_a_point_is_infinity() {
        let mut order: [u8; 32] = (-Scalar::ONE).to_repr().into();
        order[31] += 1;
        assert!(multiply_generator(&order).to_affine().is_none());
        assert!(multiply(&GENERATOR, &order).to_affine().is_none());
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn multiples_are_those_of_the_crate(scalar: [u8; 32], point: [u8; 32]) {
            prop_assert_eq!(ours(&scalar, None), theirs(&scalar, None));
            prop_assert_eq!(ours(&scalar, Some(&point)), theirs(&scalar, Some(&point)));
        }

        #[test]
        fn points_come_back_from_bytes(scalar: [u8; 32]) {
            let Some(bytes) = ours(&scalar, None) else { return Ok(()) };
            let back = Affine::from_bytes(&bytes).map(|point| point.to_bytes().to_vec());
            prop_assert_eq!(back, Some(bytes));
        }
    }
}
