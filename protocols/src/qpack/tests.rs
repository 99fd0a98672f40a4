//! The example of RFC 9204, appendix B, and properties over random lists, orders and bytes.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::hpack::{HeaderField, HpackError, StaticTable};

const LIST_BYTES_MAX: usize = 16 * 1024;

fn field(name: &str, value: &str) -> HeaderField {
    HeaderField::new(name.to_owned(), value.to_owned())
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn decoder(capacity: usize, blocked: usize) -> Decoder {
    Decoder::new(StaticTable::rfc9204(), capacity, blocked, LIST_BYTES_MAX)
}

#[track_caller]
fn check(decoder: &mut Decoder, stream: u64, section: &str, list: &[(&str, &str)]) {
    let list = list.iter().map(|(name, value)| field(name, value)).collect();
    assert_eq!(decoder.decode(stream, &hex(section)), Ok(Decoded::Fields(list)));
}

/// Two sides with everything delivered at once.
fn exchange(encoder: &mut Encoder, decoder: &mut Decoder, stream: u64, list: &[HeaderField]) -> usize {
    let mut section = Vec::new();
    encoder.encode(stream, list, &mut section);
    let instructions = encoder.take_instructions();
    decoder.handle_instructions(&instructions).unwrap();
    let decoded = decoder.decode(stream, &section).unwrap();
    assert_eq!(decoded, Decoded::Fields(list.to_vec()));
    encoder.handle_instructions(&decoder.take_instructions()).unwrap();
    section.len() + instructions.len()
}

#[test]
fn appendix_b() {
    let mut decoder = decoder(220, 1);
    check(&mut decoder, 0, "0000 510b 2f69 6e64 6578 2e68 746d 6c", &[(":path", "/index.html")]);
    assert!(!decoder.has_instructions());

    // B.2: the section of stream 4 comes before the insertions that it refers to.
    assert_eq!(decoder.decode(4, &hex("0381 1011")), Ok(Decoded::Blocked(2)));
    let instructions = "3fbd01 c00f 7777 772e 6578 616d 706c 652e 636f 6d c10c 2f73 616d 706c 652f 7061 7468";
    decoder.handle_instructions(&hex(instructions)).unwrap();
    let list = [(":authority", "www.example.com"), (":path", "/sample/path")];
    check(&mut decoder, 4, "0381 1011", &list);
    assert_eq!(decoder.take_instructions(), hex("84"));

    // B.3: a speculative insertion.
    decoder.handle_instructions(&hex("4a63 7573 746f 6d2d 6b65 790c 6375 7374 6f6d 2d76 616c 7565")).unwrap();
    assert_eq!(decoder.take_instructions(), hex("01"));

    // B.4: a duplicate, and a section that is cancelled.
    decoder.handle_instructions(&hex("02")).unwrap();
    let list = [(":authority", "www.example.com"), (":path", "/"), ("custom-key", "custom-value")];
    check(&mut decoder, 8, "0500 80c1 81", &list);
    assert_eq!(decoder.table_size(), 217);

    // B.5: an insertion that evicts.
    decoder.handle_instructions(&hex("810d 6375 7374 6f6d 2d76 616c 7565 32")).unwrap();
    assert_eq!(decoder.table_size(), 215);
}

#[test]
fn a_section_refers_only_to_what_was_acknowledged() {
    let mut encoder = Encoder::new(StaticTable::link());
    encoder.set_limits(4096, 4096, 0);
    let mut decoder = Decoder::new(StaticTable::link(), 4096, 0, LIST_BYTES_MAX);
    let list = [field("x-tenant", "acme"), field("x-region", "north-west")];
    let sections: Vec<Vec<u8>> = (0..4)
        .map(|stream| {
            let mut section = Vec::new();
            encoder.encode(stream, &list, &mut section);
            section
        })
        .collect();
    // Not one instruction has arrived, and every section can be read.
    for (stream, section) in (0..).zip(&sections) {
        assert_eq!(decoder.decode(stream, section), Ok(Decoded::Fields(list.to_vec())));
    }
    decoder.handle_instructions(&encoder.take_instructions()).unwrap();
    encoder.handle_instructions(&decoder.take_instructions()).unwrap();
    let mut section = Vec::new();
    encoder.encode(9, &list, &mut section);
    assert_eq!(section.len(), 2 + list.len());
}

#[test]
fn where_streams_may_be_blocked_the_first_section_refers_to_what_it_inserts() {
    let mut encoder = Encoder::new(StaticTable::link());
    encoder.set_limits(4096, 4096, 1);
    let mut decoder = Decoder::new(StaticTable::link(), 4096, 1, LIST_BYTES_MAX);
    let list = [field("x-tenant", "acme")];
    let encode = |encoder: &mut Encoder, stream| {
        let mut section = Vec::new();
        encoder.encode(stream, &list, &mut section);
        section
    };
    let (first, second) = (encode(&mut encoder, 1), encode(&mut encoder, 2));
    assert_eq!(first.len(), 3);
    assert!(second.len() > 3, "a second stream may not be blocked");
    assert_eq!(decoder.decode(1, &first), Ok(Decoded::Blocked(1)));
    assert_eq!(decoder.decode(2, &second), Ok(Decoded::Fields(list.to_vec())));
    decoder.handle_instructions(&encoder.take_instructions()).unwrap();
    assert_eq!(decoder.decode(1, &first), Ok(Decoded::Fields(list.to_vec())));
}

#[test]
fn entries_that_unacknowledged_sections_refer_to_are_not_evicted() {
    let mut encoder = Encoder::new(StaticTable::link());
    encoder.set_limits(100, 100, 0);
    let mut decoder = Decoder::new(StaticTable::link(), 100, 0, LIST_BYTES_MAX);
    let kept = [field("x-kept", "yes")];
    for stream in 0..2 {
        exchange(&mut encoder, &mut decoder, stream, &kept);
    }
    let mut late = Vec::new();
    encoder.encode(7, &kept, &mut late);
    assert_eq!(late.len(), 3);
    // Others would push it out of so small a table.
    for round in 0..8 {
        let other = [field("x-other", &format!("{}", round / 2)), field("x-more", &format!("{}", round / 2))];
        exchange(&mut encoder, &mut decoder, 10 + round, &other);
    }
    assert_eq!(decoder.decode(7, &late), Ok(Decoded::Fields(kept.to_vec())));
    encoder.handle_instructions(&decoder.take_instructions()).unwrap();
    for round in 0..8 {
        let other = [field("x-other", &format!("{}", round / 2)), field("x-more", &format!("{}", round / 2))];
        exchange(&mut encoder, &mut decoder, 20 + round, &other);
    }
    let mut section = Vec::new();
    encoder.encode(30, &kept, &mut section);
    assert!(section.len() > 3, "it went when it was acknowledged");
}

#[test]
fn a_cancelled_stream_frees_its_entries() {
    let mut encoder = Encoder::new(StaticTable::link());
    encoder.set_limits(100, 100, 0);
    let mut decoder = Decoder::new(StaticTable::link(), 100, 0, LIST_BYTES_MAX);
    let list = [field("x-kept", "yes")];
    for stream in 0..2 {
        exchange(&mut encoder, &mut decoder, stream, &list);
    }
    let mut never_read = Vec::new();
    encoder.encode(7, &list, &mut never_read);
    decoder.cancel(7);
    let cancellation = decoder.take_instructions();
    assert_eq!(cancellation, hex("47"));
    encoder.handle_instructions(&cancellation).unwrap();
    assert_eq!(encoder.handle_instructions(&hex("87")), Err(QpackError::NotOutstanding(7)));
}

#[test]
fn credentials_are_never_indexed_literals() {
    let mut encoder = Encoder::new(StaticTable::link());
    encoder.set_limits(4096, 4096, 10);
    let mut decoder = Decoder::new(StaticTable::link(), 4096, 10, LIST_BYTES_MAX);
    let list = [field("authorization", "Bearer abc"), HeaderField::sensitive("x-pin", "1234")];
    let mut section = Vec::new();
    encoder.encode(1, &list, &mut section);
    encoder.encode(2, &list, &mut Vec::new());
    assert_eq!(
        encoder.table_size(),
        "x-pin".len() + 32,
        "a name that is not in the static table, and no value"
    );
    let Ok(Decoded::Fields(fields)) = decoder.decode(1, &section) else { panic!("not decoded") };
    assert!(fields.iter().all(|field| field.sensitive));
    assert_eq!((&fields[1].name, &fields[1].value), (&list[1].name, &list[1].value));
}

#[test]
fn the_encoder_refuses_acknowledgments_of_what_it_did_not_send() {
    let mut encoder = Encoder::new(StaticTable::link());
    encoder.set_limits(4096, 4096, 0);
    assert_eq!(encoder.handle_instructions(&hex("00")), Err(QpackError::Increment(0)));
    assert_eq!(encoder.handle_instructions(&hex("01")), Err(QpackError::Increment(1)));
    assert_eq!(encoder.handle_instructions(&hex("81")), Err(QpackError::NotOutstanding(1)));
    assert_eq!(encoder.handle_instructions(&hex("41")), Ok(()));
    let truncated = Err(QpackError::Primitive(HpackError::Truncated));
    assert_eq!(encoder.handle_instructions(&hex("ff")), truncated);
}

#[test]
fn the_decoder_holds_the_peer_to_its_limits() {
    let instruction = |text: &str| decoder(64, 0).handle_instructions(&hex(text));
    assert_eq!(instruction("3f22"), Err(QpackError::CapacityTooLarge { asked: 65, max: 64 }));
    assert_eq!(instruction("3f21 4161 21"), Err(QpackError::Primitive(HpackError::Truncated)));
    let entry =
        "3f21 4161 20 6161 6161 6161 6161 6161 6161 6161 6161 6161 6161 6161 6161 6161 6161 6161 6161";
    assert_eq!(instruction(entry), Err(QpackError::EntryTooLarge { size: 65, capacity: 64 }));
    assert_eq!(instruction("3f21 00"), Err(QpackError::IndexOutOfRange(0)));
    assert_eq!(instruction("ff 50 00"), Err(QpackError::IndexOutOfRange(143)));
    let section = |text: &str| decoder(64, 0).decode(1, &hex(text));
    assert_eq!(section("0200 80"), Err(QpackError::TooManyBlocked { max: 0 }));
    assert_eq!(section("0500"), Err(QpackError::Prefix));
    assert_eq!(section("0080"), Err(QpackError::Prefix));
    assert_eq!(section("0000 80"), Err(QpackError::IndexOutOfRange(0)));
    assert_eq!(section("0000 10"), Err(QpackError::IndexOutOfRange(0)));
    assert_eq!(section("00"), Err(QpackError::Primitive(HpackError::Truncated)));
    let mut small = Decoder::new(StaticTable::rfc9204(), 0, 0, 40);
    assert_eq!(small.decode(1, &hex("0000 d1d1")), Err(QpackError::HeaderListTooLarge { max: 40 }));
}

#[test]
fn a_peer_that_takes_no_acknowledgments_is_stopped() {
    let mut decoder = decoder(4096, 0);
    decoder.handle_instructions(&hex("3f e11f 4161 0161")).unwrap();
    let error = (0..=INSTRUCTIONS_BYTES_MAX as u64).find_map(|_| decoder.decode(1, &hex("0200 80")).err());
    assert_eq!(error, Some(QpackError::Backlog { max: INSTRUCTIONS_BYTES_MAX }));
}

#[test]
fn many_rounds_in_a_small_table_stay_in_step_and_small() {
    let mut encoder = Encoder::new(StaticTable::link());
    encoder.set_limits(256, 256, 0);
    let mut decoder = Decoder::new(StaticTable::link(), 256, 0, LIST_BYTES_MAX);
    let mut bytes = 0;
    for round in 0..2000 {
        let list = [field("x-tenant", "acme"), field("x-shard", &format!("{}", round / 40))];
        bytes += exchange(&mut encoder, &mut decoder, round, &list);
    }
    assert!(bytes < 2000 * 8, "{bytes} bytes");
}

fn any_field() -> impl Strategy<Value = HeaderField> {
    let name = prop_oneof![
        prop::sample::select(vec![":path", ":status", "te", "cookie", "x-request-id", "x-device-id", "x-a"])
            .prop_map(|name| name.as_bytes().to_vec()),
        prop::collection::vec(any::<u8>(), 0..20),
    ];
    let value = prop_oneof![
        4 => prop::sample::select(vec!["", "/", "200", "trailers", "0", "abc"])
            .prop_map(|value| value.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..200),
    ];
    (name, value, prop::bool::weighted(0.1)).prop_map(|(name, value, sensitive)| HeaderField {
        name: name.into(),
        value: value.into(),
        sensitive,
    })
}

/// What happens in one step: a section is sent, one of those under way arrives or its stream is abandoned,
/// encoder or decoder instructions arrive.
#[derive(Clone, Debug)]
enum Step {
    Send(Vec<HeaderField>),
    Arrive(prop::sample::Index),
    Abandon(prop::sample::Index),
    EncoderStream,
    DecoderStream,
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => prop::collection::vec(any_field(), 0..8).prop_map(Step::Send),
        3 => any::<prop::sample::Index>().prop_map(Step::Arrive),
        1 => any::<prop::sample::Index>().prop_map(Step::Abandon),
        2 => Just(Step::EncoderStream),
        2 => Just(Step::DecoderStream),
    ]
}

proptest! {
    #[test]
    fn sections_come_back_in_any_order(
        steps in prop::collection::vec(any_step(), 1..120),
        capacity in 0..600usize,
        blocked in 0..4usize,
    ) {
        let mut encoder = Encoder::new(StaticTable::link());
        encoder.set_limits(capacity, capacity, blocked);
        let mut decoder = Decoder::new(StaticTable::link(), capacity, blocked, usize::MAX);
        let mut under_way: BTreeMap<u64, (Vec<u8>, Vec<HeaderField>)> = BTreeMap::new();
        let steps = steps.into_iter().chain([Step::EncoderStream]);
        for (stream, step) in (0u64..).zip(steps) {
            match step {
                Step::Send(list) => {
                    let mut section = Vec::new();
                    encoder.encode(stream, &list, &mut section);
                    under_way.insert(stream, (section, list));
                }
                Step::Arrive(index) if !under_way.is_empty() => {
                    let stream = *index.get(&under_way.keys().copied().collect::<Vec<_>>());
                    let (section, list) = &under_way[&stream];
                    // An error would be a stream more than may be blocked, or a reference that does not hold.
                    if let Decoded::Fields(fields) = decoder.decode(stream, section).unwrap() {
                        prop_assert_eq!(fields.len(), list.len());
                        for (got, sent) in fields.iter().zip(list) {
                            prop_assert_eq!((&got.name, &got.value), (&sent.name, &sent.value));
                            prop_assert_eq!(got.sensitive, sent.is_secret());
                        }
                        under_way.remove(&stream);
                    } else {
                        prop_assert!(blocked > 0);
                    }
                }
                Step::Abandon(index) if !under_way.is_empty() => {
                    let stream = *index.get(&under_way.keys().copied().collect::<Vec<_>>());
                    decoder.cancel(stream);
                    under_way.remove(&stream);
                }
                Step::Arrive(_) | Step::Abandon(_) => {}
                Step::EncoderStream => decoder.handle_instructions(&encoder.take_instructions()).unwrap(),
                Step::DecoderStream => encoder.handle_instructions(&decoder.take_instructions()).unwrap(),
            }
            prop_assert!(decoder.table_size() <= capacity);
        }
        prop_assert_eq!(encoder.table_size(), decoder.table_size());
        for (stream, (section, _)) in under_way {
            prop_assert!(matches!(decoder.decode(stream, &section), Ok(Decoded::Fields(_))));
        }
    }

    #[test]
    fn random_bytes_are_refused_or_bounded(
        inputs in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<u8>(), 0..100)), 1..12),
    ) {
        let mut decoder = Decoder::new(StaticTable::link(), 1024, 2, 2048);
        let mut encoder = Encoder::new(StaticTable::link());
        encoder.set_limits(1024, 1024, 2);
        for (stream, (is_section, input)) in (0..).zip(inputs) {
            if !is_section {
                let _ = decoder.handle_instructions(&input);
                let _ = encoder.handle_instructions(&input);
            } else if let Ok(Decoded::Fields(list)) = decoder.decode(stream, &input) {
                prop_assert!(list.iter().map(HeaderField::size).sum::<usize>() <= 2048);
                encoder.encode(stream, &list, &mut Vec::new());
            }
            prop_assert!(decoder.table_size() <= 1024);
        }
    }
}
