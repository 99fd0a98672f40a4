//! Durations and sizes as people write them, in configurations, policies and options.

use std::time::Duration;

const DURATION_UNITS: &[(&str, u64)] =
    &[("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
const SIZE_UNITS: &[(&str, u64)] = &[("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];

/// Reads `500ms`, `30s`, `2m`, `1h`, `7d`.
pub fn parse_duration(text: &str) -> Option<Duration> {
    parse(text, DURATION_UNITS).map(Duration::from_millis)
}

/// Reads `64KiB`, `4MiB`, `1GiB`.
pub fn parse_size(text: &str) -> Option<u64> {
    parse(text, SIZE_UNITS)
}

/// Writes a duration in the largest unit that holds it without a fraction.
pub fn show_duration(duration: Duration) -> String {
    let ms = duration.as_millis() as u64;
    show(ms, DURATION_UNITS).unwrap_or_else(|| format!("{ms}ms"))
}

/// Writes a size in the largest unit that holds it without a fraction.
pub fn show_size(bytes: u64) -> String {
    show(bytes, SIZE_UNITS).unwrap_or_else(|| bytes.to_string())
}

fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

fn show(value: u64, units: &[(&str, u64)]) -> Option<String> {
    let (unit, factor) =
        units.iter().rev().find(|(_, factor)| value != 0 && value.is_multiple_of(*factor))?;
    Some(format!("{}{unit}", value / factor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_at_their_edges() {
        let check = |text, expected: Option<u64>| {
            assert_eq!(parse_duration(text), expected.map(Duration::from_millis), "{text}");
        };
        check("0s", Some(0));
        check("500ms", Some(500));
        check("2m", Some(120_000));
        check("7d", Some(604_800_000));
        check("30", None);
        check("s", None);
        check("", None);
        check("1.5s", None);
        check("-1s", None);
        check("1 s", None);
        check("99999999999999999999s", None);
        check("18446744073709551615d", None);
        assert_eq!(parse_size("64KiB"), Some(65_536));
        assert_eq!(parse_size("64kB"), None);
    }

    #[test]
    fn what_is_shown_reads_back() {
        for ms in [1, 500, 1000, 1500, 60_000, 90_000, 3_600_000, 86_400_000] {
            let duration = Duration::from_millis(ms);
            assert_eq!(parse_duration(&show_duration(duration)), Some(duration));
        }
        assert_eq!(show_size(65_536), "64KiB");
        assert_eq!(show_size(1000), "1000");
    }
}
