//! Values that name somebody or something rather than say what is usual.

/// The longest value that a dictionary takes: longer ones are tokens and cookies by another name.
pub const VALUE_BYTES_MAX: usize = 256;

/// So many letters and digits in a row, with [`ID_DIGITS_MIN`] digits among them, are an id or a hash: the
/// half of a trace id in hex is as long.
const ID_BYTES_MIN: usize = 16;
const ID_DIGITS_MIN: usize = 2;
/// So many are a key, with digits or without.
const KEY_BYTES_MIN: usize = 40;
/// So many digits in a row are a number of an account or a telephone, or a time in seconds or less. The seconds of a
/// year, which cache lifetimes are given in, have eight.
const NUMBER_DIGITS_MIN: usize = 9;
/// Where the dashes of a UUID stand.
const UUID_DASHES: [usize; 4] = [8, 13, 18, 23];
const UUID_BYTES: usize = 36;

/// Whether a value looks like an id, a hash, a key, an address or a number of somebody's, or is too long or strange
/// to be usual. It errs towards yes: that costs bytes and tells nobody anything.
pub fn looks_unique(value: &[u8]) -> bool {
    let is_plain = value.iter().all(|byte| matches!(byte, b' '..=b'~'));
    !is_plain
        || value.len() > VALUE_BYTES_MAX
        || value.contains(&b'@')
        || value.windows(UUID_BYTES).any(is_uuid)
        || value.split(|byte| !byte.is_ascii_alphanumeric() && *byte != b'_').any(is_id)
}

fn is_id(run: &[u8]) -> bool {
    let digits = run.iter().filter(|byte| byte.is_ascii_digit()).count();
    let is_number = run.split(|byte| !byte.is_ascii_digit()).any(|digits| digits.len() >= NUMBER_DIGITS_MIN);
    is_number || run.len() >= KEY_BYTES_MIN || (run.len() >= ID_BYTES_MIN && digits >= ID_DIGITS_MIN)
}

fn is_uuid(text: &[u8]) -> bool {
    (0..).zip(text).all(|(at, byte)| match UUID_DASHES.contains(&at) {
        true => *byte == b'-',
        false => byte.is_ascii_hexdigit(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_keys_numbers_and_addresses_look_unique() {
        for value in [
            "6f0d4c3a-56c1-4a3c-8d6d-2b8f0d8f0a11",
            "urn:uuid:aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "1792000000731",
            "/users/491701234567/cart",
            "ann@shop.example",
            "eyJhbGciOiJFUzI1NiIsInR5cCI6IkpXVCJ9.e30.c2ln",
            "abcdefghijklmnopqrstuvwxyzabcdefghijklmnop",
            "caf\u{e9}",
        ] {
            assert!(looks_unique(value.as_bytes()), "{value}");
        }
        assert!(looks_unique(&[b'a'; VALUE_BYTES_MAX + 1]));
    }

    #[test]
    fn what_apps_have_in_common_does_not() {
        for value in [
            "",
            "application/grpc+proto",
            "ExampleApp/8.14.2 (iPhone17,1; iOS 26.1; Scale/3.00)",
            "de-DE,de;q=0.9,en;q=0.8",
            "private, max-age=31536000",
            "/towline.demo.v1.Orders/CreateOrder",
            "/v2/items/123456",
            "Europe/Berlin",
        ] {
            assert!(!looks_unique(value.as_bytes()), "{value}");
        }
    }
}
