//! An integer of any bytes keeps its value when it is written again, in no more bytes.

use towline_protocols::varint;

pub(crate) fn run(data: &[u8]) {
    let mut input = data;
    while let Some(value) = varint::get(&mut input) {
        let mut shortest = Vec::new();
        varint::put(&mut shortest, value);
        assert!(shortest.len() == varint::size(value) && shortest.len() <= 8);
        assert_eq!(varint::get(&mut &*shortest), Some(value));
    }
    assert!(input.len() < 8);
}
