//! Instructions and sections of any bytes: bounded lists and tables, and what was decoded survives a round
//! trip through the encoder, whose dynamic table follows.

use towline_protocols::{
    hpack::{HeaderField, StaticTable},
    qpack::{Decoded, Decoder, Encoder},
};

const TABLE_BYTES: usize = 1024;
const BLOCKED_STREAMS: usize = 2;
const LIST_BYTES_MAX: usize = 16 * 1024;

pub(crate) fn run(data: &[u8]) {
    let new = || Decoder::new(StaticTable::link(), TABLE_BYTES, BLOCKED_STREAMS, LIST_BYTES_MAX);
    let (mut decoder, mut second_decoder) = (new(), new());
    let mut encoder = Encoder::new(StaticTable::link());
    encoder.set_limits(TABLE_BYTES, TABLE_BYTES, BLOCKED_STREAMS);
    // Inputs are set apart by a rare octet; the first octet of each says what it is.
    for (stream, input) in (0u64..).zip(data.split(|&octet| octet == 0xfe)) {
        let Some((&kind, input)) = input.split_first() else { continue };
        match kind % 4 {
            0 => {
                if decoder.handle_instructions(input).is_err() {
                    return;
                }
            }
            1 => {
                let mut other = Encoder::new(StaticTable::link());
                other.set_limits(TABLE_BYTES, TABLE_BYTES, BLOCKED_STREAMS);
                let _ = other.handle_instructions(input);
            }
            2 => decoder.cancel(stream),
            _ => {
                let Ok(Decoded::Fields(list)) = decoder.decode(stream, input) else { continue };
                assert!(list.iter().map(HeaderField::size).sum::<usize>() <= LIST_BYTES_MAX);
                let mut section = Vec::new();
                encoder.encode(stream, &list, &mut section);
                let instructions = encoder.take_instructions();
                second_decoder
                    .handle_instructions(&instructions)
                    .expect("what the encoder writes can be read");
                let again =
                    second_decoder.decode(stream, &section).expect("what the encoder writes can be read");
                let Decoded::Fields(again) = again else { panic!("everything has arrived") };
                let same = |(first, second): (&HeaderField, &HeaderField)| {
                    first.name == second.name && first.value == second.value
                };
                assert!(list.len() == again.len() && list.iter().zip(&again).all(same));
                encoder
                    .handle_instructions(&second_decoder.take_instructions())
                    .expect("acknowledged what was sent");
            }
        }
        assert!(decoder.table_size() <= TABLE_BYTES);
    }
}
