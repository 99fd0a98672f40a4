//! Messages there and back, and frames that try to be more than they are.

use std::sync::LazyLock;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;

const MESSAGE_BYTES_MAX: usize = 1024 * 1024;

fn message(order: usize) -> Vec<u8> {
    format!(
        r#"{{"order_id":"ord-{order:06}","status":"SHIPPED","currency":"EUR","total_cents":{}}}"#,
        order * 37
    )
    .into_bytes()
}

fn trained(first_order: usize) -> Dictionary {
    let samples: Vec<_> = (first_order..first_order + 500).map(message).collect();
    let bytes = zstd::dict::from_samples(&samples, 4096).unwrap();
    Dictionary::new(bytes, LEVEL_DEFAULT).unwrap()
}

fn set(dictionaries: impl IntoIterator<Item = Dictionary>) -> DictionarySet {
    let mut set = DictionarySet::new();
    for dictionary in dictionaries {
        set.insert(dictionary).unwrap();
    }
    set
}

fn frame(message: &[u8]) -> Bytes {
    Compressor::default().compress(message).unwrap().frame
}

#[test]
fn a_message_comes_back_with_and_without_a_dictionary() {
    let dictionary = trained(0);
    let ours = set([dictionary.clone()]);
    let plain = Compressor::default();
    let with_dictionary = Compressor::default().with_common_dictionary(&ours, &ours.ids());
    let message = message(900_001);
    let short = with_dictionary.compress(&message).unwrap();
    assert_eq!(decompress(&short.frame, &ours, message.len()).as_deref(), Ok(&*message));
    assert_eq!(short.bytes_saved(), message.len() - short.frame.len());
    // Alone, so short a message hardly repeats itself.
    assert!(plain.compress(&message).is_none_or(|long| long.frame.len() > short.frame.len()));
    let repeated = message.repeat(10);
    let frame = plain.compress(&repeated).unwrap().frame;
    assert_eq!(decompress(&frame, &DictionarySet::new(), repeated.len()).as_deref(), Ok(&*repeated));
}

#[test]
fn what_compression_does_not_help_is_left_alone() {
    let mut noise = [0; 500];
    fastrand::Rng::with_seed(1).fill(&mut noise);
    assert_eq!(Compressor::default().compress(&noise), None);
    let zeros = [0; MESSAGE_BYTES_MIN_DEFAULT];
    assert_eq!(Compressor::default().compress(&zeros[1..]), None, "shorter than the minimum");
    assert!(Compressor::default().compress(&zeros).is_some());
    assert_eq!(Compressor::new(LEVEL_DEFAULT, 0).compress(&[]), None);
}

#[test]
fn equal_messages_give_equal_frames_whatever_came_between() {
    let compressor = Compressor::default().with_dictionary(trained(0));
    let first = compressor.compress(&message(7));
    compressor.compress(&message(8)).unwrap();
    Compressor::default().compress(&[1; 100_000]).unwrap();
    assert_eq!(compressor.compress(&message(7)), first);
}

#[test]
fn the_peers_ids_decide_the_dictionary() {
    let (best, other) = (trained(0), trained(100_000));
    assert_ne!(best.id(), other.id());
    let ours = set([best.clone(), other.clone()]);
    let chosen = |peer_ids: &[u32]| {
        let compressor = Compressor::default().with_common_dictionary(&ours, peer_ids);
        compressor.dictionary().map(Dictionary::id)
    };
    assert_eq!(chosen(&[other.id(), best.id()]), Some(best.id()));
    assert_eq!(chosen(&[1, other.id()]), Some(other.id()));
    assert_eq!(chosen(&[1]), None);
}

#[test]
fn a_dictionary_that_is_not_held_is_named() {
    let dictionary = trained(0);
    let frame =
        Compressor::default().with_dictionary(dictionary.clone()).compress(&message(1)).unwrap().frame;
    let error = CompressError::UnknownDictionary(dictionary.id());
    assert_eq!(decompress(&frame, &DictionarySet::new(), MESSAGE_BYTES_MAX), Err(error));
}

#[test]
fn a_message_of_the_limit_passes_and_one_byte_more_is_refused() {
    let frame = frame(&[0; 5000]);
    assert_eq!(decompress(&frame, &DictionarySet::new(), 5000).map(|message| message.len()), Ok(5000));
    let error = CompressError::TooLarge { declared: 5000, max: 4999 };
    assert_eq!(decompress(&frame, &DictionarySet::new(), 4999), Err(error));
}

#[test]
fn a_frame_that_declares_more_than_it_can_hold_is_refused_before_memory_is_taken() {
    // 1 GiB in a frame of one empty block.
    let frame = [0x28, 0xb5, 0x2f, 0xfd, 0xa0, 0, 0, 0, 0x40, 1, 0, 0];
    let error = decompress(&frame, &DictionarySet::new(), usize::MAX);
    assert_eq!(error, Err(CompressError::Malformed("it is too short for the content it declares")));
}

#[test]
fn a_frame_with_too_large_a_window_is_refused() {
    // Window descriptor 0x69: 8 MiB and an eighth.
    let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x40, 0x69, 0, 0, 1, 0, 0];
    let error = CompressError::WindowTooLarge(WINDOW_BYTES_MAX / 8 * 9);
    assert_eq!(decompress(&frame, &DictionarySet::new(), MESSAGE_BYTES_MAX), Err(error));
}

#[test]
fn content_that_is_shorter_or_longer_than_declared_is_refused() {
    let mut frame = frame(&[0; 5000]).to_vec();
    // Single segment, two octets of content size: 5000 - 256.
    assert_eq!(frame[4..7], [0x60, 0x88, 0x12]);
    for declared_low in [0x87, 0x89] {
        frame[5] = declared_low;
        let result = decompress(&frame, &DictionarySet::new(), MESSAGE_BYTES_MAX);
        assert!(matches!(result, Err(CompressError::Malformed(_))), "{result:?}");
    }
}

#[test]
fn a_second_frame_behind_the_first_is_refused() {
    let first = frame(&[0; 5000]);
    let skippable = [0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 0];
    for second in [&first[..], &skippable, &[0]] {
        let result = decompress(&[&first, second].concat(), &DictionarySet::new(), MESSAGE_BYTES_MAX);
        assert_eq!(result, Err(CompressError::Malformed("it is not exactly one frame")));
    }
}

#[test]
fn a_set_is_bounded_and_keeps_ids_apart() {
    let dictionary = trained(0);
    let mut set = set([dictionary.clone()]);
    assert_eq!(set.insert(dictionary.clone()), Ok(()), "the same again changes nothing");
    assert_eq!(set.len(), 1);
    let renamed = |id: u32, last: u8| {
        let mut bytes = dictionary.bytes().to_vec();
        bytes[4..8].copy_from_slice(&id.to_le_bytes());
        *bytes.last_mut().unwrap() = last;
        Dictionary::new(bytes, LEVEL_DEFAULT).unwrap()
    };
    assert_eq!(set.insert(renamed(dictionary.id(), 0)), Err(DictionaryError::IdTaken(dictionary.id())));
    for id in 1..DICTIONARIES_MAX as u32 {
        set.insert(renamed(40_000 + id, 0)).unwrap();
    }
    assert_eq!(set.insert(renamed(50_000, 0)), Err(DictionaryError::TooMany));
}

#[test]
fn what_is_not_a_dictionary_is_refused() {
    let check = |bytes: Vec<u8>, error| {
        assert_eq!(Dictionary::new(bytes, LEVEL_DEFAULT).map(|dictionary| dictionary.id()), Err(error));
    };
    check(vec![], DictionaryError::NoId);
    check(b"raw content without a header".to_vec(), DictionaryError::NoId);
    check([&[0x37, 0xa4, 0x30, 0xec, 1, 0, 0, 0][..], &[0xff; 100]].concat(), DictionaryError::Malformed);
    let bytes = DICTIONARY_BYTES_MAX + 1;
    check(vec![0; bytes], DictionaryError::TooLarge { bytes });
}

proptest! {
    #[test]
    fn any_message_comes_back(piece in prop::collection::vec(any::<u8>(), 1..300), times in 1..50usize) {
        let message = piece.repeat(times);
        if let Some(compressed) = Compressor::default().compress(&message) {
            prop_assert!(compressed.frame.len() < message.len());
            prop_assert_eq!(decompress(&compressed.frame, &DictionarySet::new(), message.len()).unwrap(), message);
        }
    }

    #[test]
    fn random_and_damaged_frames_are_refused_or_bounded(
        with_dictionary in any::<bool>(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        tail in prop::collection::vec(any::<u8>(), 0..100),
        keep in any::<prop::sample::Index>(),
    ) {
        let ours = set([TRAINED.clone()]);
        let peer_ids = if with_dictionary { ours.ids() } else { vec![] };
        let compressor = Compressor::default().with_common_dictionary(&ours, &peer_ids);
        let mut frame = compressor.compress(&message(3).repeat(20)).unwrap().frame.to_vec();
        frame.truncate(keep.index(frame.len() + 1));
        frame.extend(tail);
        apply(&damage, &mut frame);
        if let Ok(message) = decompress(&frame, &ours, 4096) {
            prop_assert!(message.len() <= 4096);
        }
    }

    #[test]
    fn a_damaged_dictionary_is_refused_or_works(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = TRAINED.bytes().to_vec();
        apply(&damage, &mut bytes);
        if let Ok(dictionary) = Dictionary::new(bytes, LEVEL_DEFAULT) {
            let ours = set([dictionary.clone()]);
            let message = message(900_001);
            if let Some(compressed) = Compressor::default().with_dictionary(dictionary).compress(&message) {
                prop_assert_eq!(decompress(&compressed.frame, &ours, message.len()).unwrap(), message);
            }
        }
    }
}

static TRAINED: LazyLock<Dictionary> = LazyLock::new(|| trained(0));

fn apply(damage: &[(prop::sample::Index, u8)], bytes: &mut [u8]) {
    for (position, byte) in damage {
        if !bytes.is_empty() {
            *position.get_mut(bytes) ^= byte;
        }
    }
}

/// Words in an order that repeats little.
fn prose(seed: u64, words: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let word =
        |random: &mut fastrand::Rng| format!("item{} price {} in stock, ", random.u16(..400), random.u16(..));
    (0..words).flat_map(|_| word(&mut random).into_bytes()).collect()
}

#[test]
fn messages_get_smaller_on_a_slow_network_and_are_left_alone_on_one_faster_than_the_processor() {
    let effort = Effort::default();
    let compressor = Compressor::default().with_effort(effort.clone());
    let message = prose(1, 3000);
    let bytes_at = |rate: Option<f64>| {
        effort.set(rate.map(|rate| Pace { rate, speed: 40e6, level_min: 1, level_max: 15 }));
        let compressed = compressor.compress_kind(Kind::of_path(b"/stock"), &message)?;
        let back = decompress(&compressed.frame, &DictionarySet::new(), message.len()).unwrap();
        assert!(back == message);
        Some(compressed.frame.len())
    };
    let usual = bytes_at(None).unwrap();
    let [slow, fast] = [3_000.0, 5e6].map(|rate| bytes_at(Some(rate)).unwrap());
    assert!(slow * 10 < usual.min(fast) * 9, "{slow}, {usual}, {fast}");
    assert_eq!(bytes_at(Some(1e9)), None);
    assert_eq!(bytes_at(None), Some(usual), "the kind was not given up for that");
}
