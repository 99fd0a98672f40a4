//! Frames of any bytes: what can be read and written again is read as the same.

use bytes::BytesMut;
use towline_protocols::link::frame::{decode, encode};

const PAYLOAD_BYTES_MAX: usize = 16 * 1024;

pub(crate) fn run(data: &[u8]) {
    let mut input = BytesMut::from(data);
    while let Ok(Some(frame)) = decode(&mut input, PAYLOAD_BYTES_MAX) {
        // Writing brings a frame into its shortest form once; from then on nothing changes.
        let mut written = BytesMut::new();
        encode(&frame, &mut written);
        let first = written.clone();
        let again = decode(&mut written, 2 * PAYLOAD_BYTES_MAX).expect("what was written can be read");
        let again = again.expect("a frame is written whole");
        let mut second = BytesMut::new();
        encode(&again, &mut second);
        assert_eq!(first, second);
    }
}
