//! Any opening is decided within the bound, and no decision changes when more bytes come.

use towline_protocols::detect::{DETECT_BYTES_MAX, Detection, detect};

pub(crate) fn run(data: &[u8]) {
    let mut decided = Detection::NeedMore;
    for length in 0..=data.len().min(2 * DETECT_BYTES_MAX) {
        let detection = detect(&data[..length]);
        assert!(decided == Detection::NeedMore || detection == decided);
        assert!(detection != Detection::NeedMore || length < DETECT_BYTES_MAX);
        decided = detection;
    }
}
