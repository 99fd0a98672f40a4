//! The examples of RFC 7541, appendix C, and properties over random lists and random bytes.

use proptest::prelude::*;

use super::*;

const LIST_BYTES_MAX: usize = 16 * 1024;

fn field(name: &str, value: &str) -> HeaderField {
    HeaderField::new(name.to_owned(), value.to_owned())
}

fn fields(list: &[(&str, &str)]) -> Vec<HeaderField> {
    list.iter().map(|(name, value)| field(name, value)).collect()
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn decoder() -> Decoder {
    Decoder::new(StaticTable::rfc7541(), 4096, LIST_BYTES_MAX)
}

/// Decodes `block` and looks at the list, the table (newest first) and its size.
#[track_caller]
fn check(
    decoder: &mut Decoder,
    block: &str,
    list: &[(&str, &str)],
    table: &[(&str, &str)],
    table_size: usize,
) {
    assert_eq!(decoder.decode(&hex(block)), Ok(fields(list)));
    assert_eq!(decoder.entries().cloned().collect::<Vec<_>>(), fields(table));
    assert_eq!(decoder.table_size(), table_size);
}

mod appendix_c {
    use super::*;

    #[test]
    fn c_2_field_representations() {
        let indexed = [("custom-key", "custom-header")];
        let block = "400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572";
        check(&mut decoder(), block, &indexed, &indexed, 55);
        check(&mut decoder(), "040c 2f73 616d 706c 652f 7061 7468", &[(":path", "/sample/path")], &[], 0);
        let mut never = decoder();
        let list = never.decode(&hex("1008 7061 7373 776f 7264 0673 6563 7265 74"));
        assert_eq!(list, Ok(vec![HeaderField::sensitive("password", "secret")]));
        assert_eq!(never.table_size(), 0);
        check(&mut decoder(), "82", &[(":method", "GET")], &[], 0);
    }

    const REQUESTS: [&[(&str, &str)]; 3] = [
        &[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "www.example.com")],
        &[
            (":method", "GET"),
            (":scheme", "http"),
            (":path", "/"),
            (":authority", "www.example.com"),
            ("cache-control", "no-cache"),
        ],
        &[
            (":method", "GET"),
            (":scheme", "https"),
            (":path", "/index.html"),
            (":authority", "www.example.com"),
            ("custom-key", "custom-value"),
        ],
    ];

    const REQUEST_TABLES: [(&[(&str, &str)], usize); 3] = [
        (&[(":authority", "www.example.com")], 57),
        (&[("cache-control", "no-cache"), (":authority", "www.example.com")], 110),
        (
            &[
                ("custom-key", "custom-value"),
                ("cache-control", "no-cache"),
                (":authority", "www.example.com"),
            ],
            164,
        ),
    ];

    fn check_requests(blocks: [&str; 3]) {
        let mut decoder = decoder();
        for ((block, list), (table, size)) in blocks.iter().zip(REQUESTS).zip(REQUEST_TABLES) {
            check(&mut decoder, block, list, table, size);
        }
    }

    #[test]
    fn c_3_requests_without_huffman() {
        check_requests([
            "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
            "8286 84be 5808 6e6f 2d63 6163 6865",
            "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
        ]);
    }

    const HUFFMAN_REQUESTS: [&str; 3] = [
        "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
        "8286 84be 5886 a8eb 1064 9cbf",
        "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
    ];

    #[test]
    fn c_4_requests_with_huffman() {
        check_requests(HUFFMAN_REQUESTS);
    }

    #[test]
    fn c_4_is_also_what_the_encoder_writes() {
        let mut encoder = Encoder::new(StaticTable::rfc7541(), 4096);
        for ((list, block), (_, size)) in REQUESTS.iter().zip(HUFFMAN_REQUESTS).zip(REQUEST_TABLES) {
            let mut out = Vec::new();
            encoder.encode(&fields(list), &mut out);
            assert_eq!(out, hex(block));
            assert_eq!(encoder.table_size(), size);
        }
    }

    const DATE: (&str, &str) = ("date", "Mon, 21 Oct 2013 20:13:21 GMT");
    const DATE_LATER: (&str, &str) = ("date", "Mon, 21 Oct 2013 20:13:22 GMT");
    const LOCATION: (&str, &str) = ("location", "https://www.example.com");
    const PRIVATE: (&str, &str) = ("cache-control", "private");
    const GZIP: (&str, &str) = ("content-encoding", "gzip");
    const SET_COOKIE: (&str, &str) =
        ("set-cookie", "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1");

    /// With a table of 256 bytes, so that entries are evicted.
    fn check_responses(blocks: [&str; 3]) {
        let mut decoder = Decoder::new(StaticTable::rfc7541(), 256, LIST_BYTES_MAX);
        let list = [(":status", "302"), PRIVATE, DATE, LOCATION];
        check(&mut decoder, blocks[0], &list, &[LOCATION, DATE, PRIVATE, (":status", "302")], 222);
        let list = [(":status", "307"), PRIVATE, DATE, LOCATION];
        check(&mut decoder, blocks[1], &list, &[(":status", "307"), LOCATION, DATE, PRIVATE], 222);
        let list = [(":status", "200"), PRIVATE, DATE_LATER, LOCATION, GZIP, SET_COOKIE];
        check(&mut decoder, blocks[2], &list, &[SET_COOKIE, GZIP, DATE_LATER], 215);
    }

    #[test]
    fn c_5_responses_without_huffman() {
        check_responses([
            "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 \
             2032 303a 3133 3a32 3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 \
             6c65 2e63 6f6d",
            "4803 3330 37c1 c0bf",
            "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d \
             54c0 5a04 677a 6970 7738 666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 \
             5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33 3630 303b 2076 6572 7369 6f6e \
             3d31",
        ]);
    }

    #[test]
    fn c_6_responses_with_huffman() {
        check_responses([
            "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 \
             2d1b ff6e 919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
            "4883 640e ffc1 c0bf",
            "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab \
             77ad 94e7 821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f \
             9587 3160 65c0 03ed 4ee5 b106 3d50 07",
        ]);
    }
}

mod tables {
    use super::*;

    #[test]
    fn the_link_table_goes_on_after_the_rfcs() {
        let rfc = StaticTable::rfc7541();
        let link = StaticTable::link();
        assert_eq!((rfc.len(), link.len()), (61, 61 + LINK_STATIC_FIELDS.len()));
        for index in 1..=61 {
            assert_eq!(rfc.get(index), link.get(index));
        }
        assert_eq!((rfc.get(0), rfc.get(62)), (None, None));
        assert_eq!(rfc.get(1), Some(&field(":authority", "")));
        assert_eq!(rfc.get(61), Some(&field("www-authenticate", "")));
        assert_eq!(link.get(62), Some(&field("content-type", "application/grpc")));
        assert_eq!(link.get(105), Some(&field("priority", "")));
        assert_eq!(link.get(106), None);
    }

    #[test]
    fn no_static_field_is_listed_twice() {
        let link = StaticTable::link();
        let mut seen = std::collections::HashSet::new();
        assert!((1..=link.len()).all(|index| seen.insert(link.get(index))));
    }

    #[test]
    fn a_fresh_grpc_call_takes_one_octet_for_each_fixed_field() {
        let mut out = Vec::new();
        Encoder::new(StaticTable::link(), 4096).encode(
            &fields(&[(":method", "POST"), ("content-type", "application/grpc"), ("te", "trailers")]),
            &mut out,
        );
        assert_eq!(out, [0x80 | 3, 0x80 | 62, 0x80 | 69]);
    }

    #[test]
    fn the_encoders_table_does_not_keep_the_callers_buffer_alive() {
        let buffer = bytes::Bytes::from(vec![b'x'; 64 * 1024]);
        let sent = HeaderField::new(buffer.slice(..8), buffer.slice(8..20));
        let mut encoder = Encoder::new(StaticTable::link(), 4096);
        encoder.encode([&sent], &mut Vec::new());
        drop(sent);
        assert_eq!(encoder.table_size(), 8 + 12 + 32);
        assert!(buffer.is_unique());
    }

    #[test]
    fn an_entry_of_the_whole_table_fits_and_one_more_byte_empties_it() {
        let mut decoder = Decoder::new(StaticTable::rfc7541(), 64, LIST_BYTES_MAX);
        let literal =
            |value_bytes: usize| [&[0x40, 1, b'n', value_bytes as u8][..], &vec![b'v'; value_bytes]].concat();
        decoder.decode(&literal(31)).unwrap();
        assert_eq!(decoder.table_size(), 64);
        decoder.decode(&literal(32)).unwrap();
        assert_eq!(decoder.table_size(), 0);
        assert_eq!(decoder.decode(&[0xbe]), Err(HpackError::IndexOutOfRange(62)));
    }
}

mod size_updates {
    use super::*;

    #[test]
    fn the_encoder_announces_the_smallest_size_and_the_last() {
        let mut encoder = Encoder::new(StaticTable::rfc7541(), 4096);
        let list = fields(&[("custom-key", "custom-value")]);
        encoder.encode(&list, &mut Vec::new());
        encoder.set_table_size(1024);
        encoder.set_table_size(0);
        encoder.set_table_size(2048);
        let mut out = Vec::new();
        encoder.encode(&list, &mut out);
        assert_eq!(out[..4], [0x20, 0x3f, 0xe1, 0x0f]);
        assert_eq!(out[4], 0x40, "the entry is gone, so it is sent as a literal again");
        let mut next = Vec::new();
        encoder.encode(&list, &mut next);
        assert_eq!(next, [0xbe]);
    }

    #[test]
    fn a_size_that_comes_back_to_what_it_was_is_not_announced() {
        let mut encoder = Encoder::new(StaticTable::rfc7541(), 4096);
        encoder.set_table_size(4096);
        let mut out = Vec::new();
        encoder.encode(&[], &mut out);
        assert_eq!(out, []);
    }

    #[test]
    fn the_encoder_keeps_no_more_than_its_own_bound() {
        let mut encoder = Encoder::new(StaticTable::rfc7541(), usize::MAX);
        let mut decoder = Decoder::new(StaticTable::rfc7541(), TABLE_BYTES_MAX * 2, LIST_BYTES_MAX);
        let mut out = Vec::new();
        encoder.encode(&[], &mut out);
        assert_eq!(out, [0x3f, 0xe1, 0xff, 0x03]);
        assert_eq!(decoder.decode(&out), Ok(vec![]));
    }

    #[test]
    fn the_decoder_refuses_more_than_it_offered() {
        let error = HpackError::SizeUpdateTooLarge { asked: 4097, max: 4096 };
        assert_eq!(decoder().decode(&[0x3f, 0xe2, 0x1f]), Err(error));
        assert_eq!(decoder().decode(&[0x3f, 0xe1, 0x1f]), Ok(vec![]));
    }

    #[test]
    fn an_update_after_a_field_is_refused() {
        assert_eq!(decoder().decode(&[0x82, 0x20]), Err(HpackError::SizeUpdateMisplaced));
    }

    #[test]
    fn after_a_lowered_maximum_the_next_block_must_begin_with_an_update() {
        let mut decoder = decoder();
        decoder.set_table_size_max(100);
        assert_eq!(decoder.decode(&[0x82]), Err(HpackError::SizeUpdateMissing));
        assert_eq!(decoder.decode(&[0x20, 0x3f, 0x45, 0x82]), Ok(vec![field(":method", "GET")]));
        assert_eq!(decoder.decode(&[0x82]), Ok(vec![field(":method", "GET")]));
    }
}

mod limits {
    use super::*;

    #[test]
    fn index_zero_and_an_index_past_the_end() {
        assert_eq!(decoder().decode(&[0x80]), Err(HpackError::IndexZero));
        assert_eq!(decoder().decode(&[0x80 | 62]), Err(HpackError::IndexOutOfRange(62)));
        assert_eq!(decoder().decode(&[0x7e, 0]), Err(HpackError::IndexOutOfRange(62)));
    }

    #[test]
    fn a_list_of_the_limit_passes_and_one_byte_less_of_limit_refuses_it_alone() {
        let list = fields(&[("custom-key", "custom-value"), ("n", "v")]);
        let size = list.iter().map(HeaderField::size).sum();
        let mut block = Vec::new();
        Encoder::new(StaticTable::rfc7541(), 4096).encode(&list, &mut block);
        let mut wide = Decoder::new(StaticTable::rfc7541(), 4096, size);
        assert_eq!(wide.decode(&block), Ok(list));

        let mut narrow = Decoder::new(StaticTable::rfc7541(), 4096, size - 1);
        let error = HpackError::HeaderListTooLarge { max: size - 1 };
        assert_eq!(narrow.decode(&block), Err(error));
        assert!(!error.is_fatal());
        assert_eq!(narrow.decode(&[0xbe]), Ok(fields(&[("n", "v")])), "the table is in step all the same");
    }

    #[test]
    fn one_large_entry_repeated_by_index_runs_into_the_list_limit() {
        let mut decoder = decoder();
        let mut block = [&[0x40, 1, b'n', 0x7f, 0xa1, 0x17][..], &[b'v'; 3104]].concat();
        block.extend([0xbe; 10_000]);
        let error = HpackError::HeaderListTooLarge { max: LIST_BYTES_MAX };
        assert_eq!(decoder.decode(&block), Err(error));
    }

    #[test]
    fn a_string_longer_than_the_block_is_refused() {
        for block in [&[0x40][..], &[0x40, 3, b'a', b'b'], &[0x40, 0x7f, 0xff, 0xff, 0xff, 0x7f, b'a']] {
            assert_eq!(decoder().decode(block), Err(HpackError::Truncated));
        }
    }
}

mod secrets {
    use super::*;

    #[test]
    fn credentials_are_written_as_never_indexed_and_leave_no_trace() {
        let list = [
            field("authorization", "Bearer abc"),
            field("cookie", "a=b"),
            field("set-cookie", "a=b"),
            field("proxy-authorization", "Basic abc"),
            HeaderField::sensitive("x-pin", "1234"),
        ];
        let mut encoder = Encoder::new(StaticTable::link(), 4096);
        let mut block = Vec::new();
        encoder.encode(&list, &mut block);
        assert_eq!(encoder.table_size(), 0);
        let mut decoder = Decoder::new(StaticTable::link(), 4096, LIST_BYTES_MAX);
        let decoded = decoder.decode(&block).unwrap();
        assert!(decoded.iter().all(|field| field.sensitive));
        assert!(
            decoded.iter().zip(&list).all(|(got, sent)| (&got.name, &got.value) == (&sent.name, &sent.value))
        );
        assert_eq!(decoder.table_size(), 0);
    }

    #[test]
    fn debug_shows_no_secret() {
        let shown = format!(
            "{:?}",
            [
                field("authorization", "Bearer abc"),
                HeaderField::sensitive("x-pin", "1234"),
                field("accept", "a\nb"),
            ]
        );
        assert_eq!(shown, "[authorization: <redacted>, x-pin: <redacted>, accept: a\\nb]");
    }
}

/// Names and values out of a few, so that entries repeat, and some of any bytes.
fn any_field() -> impl Strategy<Value = HeaderField> {
    let name = prop_oneof![
        prop::sample::select(vec![
            ":path",
            ":status",
            "content-type",
            "te",
            "cookie",
            "x-request-id",
            "grpc-status",
            "x-device-id",
        ])
        .prop_map(|name| name.as_bytes().to_vec()),
        prop::collection::vec(any::<u8>(), 0..20),
    ];
    let value = prop_oneof![
        prop::sample::select(vec!["", "/", "200", "application/grpc", "trailers", "0", "abc"])
            .prop_map(|value| value.as_bytes().to_vec()),
        prop::collection::vec(any::<u8>(), 0..200),
    ];
    (name, value, prop::bool::weighted(0.1)).prop_map(|(name, value, sensitive)| HeaderField {
        name: name.into(),
        value: value.into(),
        sensitive,
    })
}

/// What one round does: new table sizes, and then a list.
fn any_round() -> impl Strategy<Value = (Vec<usize>, Vec<HeaderField>)> {
    (prop::collection::vec(0..5000usize, 0..3), prop::collection::vec(any_field(), 0..12))
}

proptest! {
    #[test]
    fn lists_come_back_whatever_the_table_sizes(
        rounds in prop::collection::vec(any_round(), 1..20),
        link_table in any::<bool>(),
    ) {
        let table = if link_table { StaticTable::link() } else { StaticTable::rfc7541() };
        let mut encoder = Encoder::new(table, 4096);
        let mut decoder = Decoder::new(table, 4096, usize::MAX);
        for (sizes, list) in rounds {
            for size in sizes {
                encoder.set_table_size(size);
                decoder.set_table_size_max(size);
            }
            // The peer learns the maximum before the next block, but an earlier one may have been lower.
            decoder.set_table_size_max(5000);
            let mut block = Vec::new();
            encoder.encode(&list, &mut block);
            let decoded = decoder.decode(&block).unwrap();
            prop_assert_eq!(decoded.len(), list.len());
            for (got, sent) in decoded.iter().zip(&list) {
                prop_assert_eq!((&got.name, &got.value), (&sent.name, &sent.value));
                prop_assert_eq!(got.sensitive, sent.is_secret());
            }
            prop_assert_eq!(encoder.table_size(), decoder.table_size());
        }
    }

    #[test]
    fn random_blocks_are_refused_or_bounded(
        blocks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..8),
    ) {
        let mut decoder = Decoder::new(StaticTable::link(), 1024, 2048);
        for block in blocks {
            if let Ok(list) = decoder.decode(&block) {
                prop_assert!(list.iter().map(HeaderField::size).sum::<usize>() <= 2048);
            }
            prop_assert!(decoder.table_size() <= 1024);
        }
    }

    #[test]
    fn a_damaged_block_never_panics(
        list in prop::collection::vec(any_field(), 1..8),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut block = Vec::new();
        Encoder::new(StaticTable::link(), 4096).encode(&list, &mut block);
        for (position, byte) in damage {
            *position.get_mut(&mut block) ^= byte;
        }
        let mut decoder = Decoder::new(StaticTable::link(), 4096, LIST_BYTES_MAX);
        // Damage in a value goes unnoticed; what counts is that the table stays bounded.
        let _ = decoder.decode(&block);
        prop_assert!(decoder.table_size() <= 4096);
    }
}
