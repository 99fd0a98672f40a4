//! Frames of any bytes: the output is bounded; and any message comes back from its own frame.

use towline_protocols::compress::{Compressor, DictionarySet, decompress};

const MESSAGE_BYTES_MAX: usize = 64 * 1024;

pub(crate) fn run(data: &[u8]) {
    let dictionaries = DictionarySet::new();
    if let Ok(message) = decompress(data, &dictionaries, MESSAGE_BYTES_MAX) {
        assert!(message.len() <= MESSAGE_BYTES_MAX);
    }
    if let Some(compressed) = Compressor::default().compress(data) {
        let message = decompress(&compressed.frame, &dictionaries, data.len()).expect("our own frame");
        assert_eq!(&*message, data);
    }
}
