//! Blocks of any bytes through one decoder: bounded lists and tables, and what was decoded survives a
//! round trip through the encoder.

use towline_protocols::hpack::{Decoder, Encoder, HeaderField, StaticTable};

const TABLE_BYTES: usize = 4096;
const LIST_BYTES_MAX: usize = 16 * 1024;

pub(crate) fn run(data: &[u8]) {
    let table = StaticTable::link();
    let mut decoder = Decoder::new(table, TABLE_BYTES, LIST_BYTES_MAX);
    let mut encoder = Encoder::new(table, TABLE_BYTES);
    let mut second_decoder = Decoder::new(table, TABLE_BYTES, LIST_BYTES_MAX);
    // Blocks of the input are set apart by a rare octet.
    for block in data.split(|&octet| octet == 0xfe) {
        let decoded = decoder.decode(block);
        assert!(decoder.table_size() <= TABLE_BYTES);
        let list = match decoded {
            Ok(list) => list,
            Err(error) if error.is_fatal() => return,
            Err(_) => continue,
        };
        assert!(list.iter().map(HeaderField::size).sum::<usize>() <= LIST_BYTES_MAX);
        let mut encoded = Vec::new();
        encoder.encode(&list, &mut encoded);
        let again = second_decoder.decode(&encoded).expect("what the encoder writes can be read");
        let same = |(first, second): (&HeaderField, &HeaderField)| {
            first.name == second.name && first.value == second.value && first.is_secret() == second.sensitive
        };
        assert!(list.len() == again.len() && list.iter().zip(&again).all(same));
    }
}
