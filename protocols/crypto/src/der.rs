//! DER (ITU-T X.690), as much of it as certificates need.

/// Not the DER that was expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not a well-formed certificate")]
pub struct Malformed;

pub(crate) mod tag {
    pub(crate) const BOOLEAN: u8 = 0x01;
    pub(crate) const INTEGER: u8 = 0x02;
    pub(crate) const BIT_STRING: u8 = 0x03;
    pub(crate) const OCTET_STRING: u8 = 0x04;
    pub(crate) const OID: u8 = 0x06;
    pub(crate) const UTF8_STRING: u8 = 0x0c;
    pub(crate) const PRINTABLE_STRING: u8 = 0x13;
    pub(crate) const IA5_STRING: u8 = 0x16;
    pub(crate) const UTC_TIME: u8 = 0x17;
    pub(crate) const GENERALIZED_TIME: u8 = 0x18;
    pub(crate) const SEQUENCE: u8 = 0x30;
    pub(crate) const SET: u8 = 0x31;
    pub(crate) const CONTEXT_0: u8 = 0xa0;
    pub(crate) const CONTEXT_1_PRIMITIVE: u8 = 0x81;
    pub(crate) const CONTEXT_2_PRIMITIVE: u8 = 0x82;
    pub(crate) const CONTEXT_3: u8 = 0xa3;
}

/// Takes values off the front of some bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next value's tag and content.
    pub(crate) fn any(&mut self) -> Result<(u8, &'a [u8]), Malformed> {
        let (&[tag, first], rest) = self.0.split_first_chunk::<2>().ok_or(Malformed)?;
        // Tags above 30 take more octets; certificates have none.
        if tag & 0x1f == 0x1f {
            return Err(Malformed);
        }
        let octets = if first < 0x80 { 0 } else { usize::from(first & 0x7f) };
        let (length, rest) = rest.split_at_checked(octets).ok_or(Malformed)?;
        let length = match (first, length) {
            (0..0x80, _) => usize::from(first),
            // DER takes the shortest form (X.690, section 10.1).
            (_, [high, ..]) if *high != 0 && octets <= 3 => {
                length.iter().fold(0, |sum, octet| sum << 8 | usize::from(*octet))
            }
            _ => return Err(Malformed),
        };
        if octets == 1 && length < 0x80 {
            return Err(Malformed);
        }
        let (content, rest) = rest.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        Ok((tag, content))
    }

    /// The content of the next value, which has the tag `expected`.
    pub(crate) fn take(&mut self, expected: u8) -> Result<&'a [u8], Malformed> {
        match self.any()? {
            (tag, content) if tag == expected => Ok(content),
            _ => Err(Malformed),
        }
    }

    /// The next value with tag and length.
    pub(crate) fn whole(&mut self, expected: u8) -> Result<&'a [u8], Malformed> {
        let before = self.0;
        self.take(expected)?;
        Ok(&before[..before.len() - self.0.len()])
    }

    /// The content of the next value, if it has the tag.
    pub(crate) fn optional(&mut self, tag: u8) -> Result<Option<&'a [u8]>, Malformed> {
        if self.0.first() == Some(&tag) { self.take(tag).map(Some) } else { Ok(None) }
    }
}

/// UTCTime or GeneralizedTime as RFC 5280, section 4.1.2.5 writes them; seconds since 1970.
pub(crate) fn time(reader: &mut Reader<'_>) -> Result<i64, Malformed> {
    let (tag, text) = reader.any()?;
    let (year, rest) = match tag {
        tag::UTC_TIME => {
            let (year, rest) = text.split_at_checked(2).ok_or(Malformed)?;
            let year = number(year)?;
            (if year < 50 { 2000 + year } else { 1900 + year }, rest)
        }
        tag::GENERALIZED_TIME => {
            let (year, rest) = text.split_at_checked(4).ok_or(Malformed)?;
            (number(year)?, rest)
        }
        _ => return Err(Malformed),
    };
    let Some((digits, b"Z")) = rest.split_at_checked(10) else { return Err(Malformed) };
    let mut pairs = digits.chunks(2).map(number);
    let mut next = |range: std::ops::RangeInclusive<i64>| {
        let value = pairs.next().ok_or(Malformed)??;
        if range.contains(&value) { Ok(value) } else { Err(Malformed) }
    };
    let (month, day) = (next(1..=12)?, next(1..=31)?);
    let (hour, minute, second) = (next(0..=23)?, next(0..=59)?, next(0..=59)?);
    Ok(days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second)
}

/// A value of the parts together.
pub(crate) fn value(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut out = Vec::with_capacity(length + 5);
    out.push(tag);
    match u8::try_from(length) {
        Ok(short) if short < 0x80 => out.push(short),
        _ => {
            let octets = (length as u32).to_be_bytes();
            let skip = octets.iter().take_while(|octet| **octet == 0).count();
            out.push(0x80 | (octets.len() - skip) as u8);
            out.extend_from_slice(&octets[skip..]);
        }
    }
    parts.iter().for_each(|part| out.extend_from_slice(part));
    out
}

/// A time between 1970 and 9999.
pub(crate) fn time_value(seconds: i64) -> Vec<u8> {
    let (year, month, day) = date(seconds.div_euclid(86_400));
    let second = seconds.rem_euclid(86_400);
    let rest = format!("{month:02}{day:02}{:02}{:02}{:02}Z", second / 3600, second / 60 % 60, second % 60);
    // RFC 5280, section 4.1.2.5: UTCTime through the year 2049.
    if (1950..2050).contains(&year) {
        value(tag::UTC_TIME, &[format!("{:02}{rest}", year % 100).as_bytes()])
    } else {
        value(tag::GENERALIZED_TIME, &[format!("{year:04}{rest}").as_bytes()])
    }
}

fn number(digits: &[u8]) -> Result<i64, Malformed> {
    digits.iter().try_fold(0, |sum, digit| match digit {
        b'0'..=b'9' => Ok(sum * 10 + i64::from(digit - b'0')),
        _ => Err(Malformed),
    })
}

/// Days of the Gregorian calendar since 1970-01-01; years begin in March, so that the leap day ends one.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// The inverse of [`days`].
fn date(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, tag: u8, seconds: i64) {
        let encoded = value(tag, &[text.as_bytes()]);
        assert_eq!(time(&mut Reader::new(&encoded)), Ok(seconds));
        assert_eq!(time_value(seconds), encoded);
    }

    #[test]
    fn times_are_read_and_written() {
        check("700101000000Z", tag::UTC_TIME, 0);
        check("000229235959Z", tag::UTC_TIME, 951_868_799);
        check("491231235959Z", tag::UTC_TIME, 2_524_607_999);
        check("20500101000000Z", tag::GENERALIZED_TIME, 2_524_608_000);
        check("21000301000000Z", tag::GENERALIZED_TIME, 4_107_542_400);
    }

    #[test]
    fn lengths_are_written_in_the_shortest_form_and_read_in_no_other() {
        for length in [0, 1, 127, 128, 255, 256, 65_535, 65_536] {
            let content = vec![7; length];
            let encoded = value(tag::OCTET_STRING, &[&content]);
            assert_eq!(Reader::new(&encoded).take(tag::OCTET_STRING), Ok(&content[..]));
        }
        for wrong in [&[4, 0x81, 1, 7][..], &[4, 0x80], &[4, 0x82, 0, 200], &[4, 2, 7], &[0x1f, 0], &[4]] {
            assert_eq!(Reader::new(wrong).any(), Err(Malformed), "{wrong:?}");
        }
    }
}
