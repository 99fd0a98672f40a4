//! What messages are made of: draws that are as uneven as those of people.

use std::{ops::RangeInclusive, sync::LazyLock};

use fastrand::Rng;

/// An entry of `list`; the chance falls with the rank (Zipf), as it does for words, authors and topics.
pub(super) fn frequent<'a, T: ?Sized>(random: &mut Rng, list: &[&'a T]) -> &'a T {
    list[rank(random, list.len())]
}

/// A number below `count`, number n with a chance that goes with 1/(n + 1).
pub(super) fn rank(random: &mut Rng, count: usize) -> usize {
    let drawn = ((count as f64 + 1.0).ln() * random.f64()).exp();
    (drawn as usize).clamp(1, count) - 1
}

/// Any entry of `list`.
pub(super) fn any<'a>(random: &mut Rng, list: &[&'a str]) -> &'a str {
    list[random.usize(..list.len())]
}

/// So many words, the first with a capital letter.
pub(super) fn sentence(random: &mut Rng, words: RangeInclusive<usize>) -> String {
    let words: Vec<_> = (0..random.usize(words)).map(|_| frequent(random, &WORD_LIST)).collect();
    let mut text = words.join(" ");
    if let Some(first) = text.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    text + any(random, &[".", ".", ".", "!", "?", ""])
}

/// `digits` hexadecimal digits.
pub(super) fn hex(random: &mut Rng, digits: usize) -> String {
    (0..digits).map(|_| random.digit(16)).collect()
}

/// A random UUID, version 4.
pub(super) fn uuid(random: &mut Rng) -> String {
    let lengths = [8, 4, 3, 3, 12].map(|digits| hex(random, digits));
    let [first, second, third, fourth, fifth] = lengths;
    format!("{first}-{second}-4{third}-{}{fourth}-{fifth}", any(random, &["8", "9", "a", "b"]))
}

/// `count` characters as base64 (URL) writes them.
pub(super) fn base64(random: &mut Rng, count: usize) -> String {
    let other = |random: &mut Rng| if random.bool() { '-' } else { '_' };
    (0..count).map(|_| if random.u8(..32) == 0 { other(random) } else { random.alphanumeric() }).collect()
}

static WORD_LIST: LazyLock<Vec<&str>> = LazyLock::new(|| WORDS.split_ascii_whitespace().collect());

/// Frequent words of short messages, the most frequent first.
const WORDS: &str = "the to and a of in is you it for on that we i this be with have at so my not are just but \
    was all what if me they can will from about up there one now out like get do no time know when your how go \
    our as an new more see good back today really some would think then or by want day could who here over \
    people need last only work after should well still way been make had off take right first two has love \
    great them look first never much come than down next week night year home before always best because \
    where why again even thanks little long any tomorrow sure happy show which too into may feel morning old \
    thing something better big life help maybe tonight made anyone world team live find nice soon weekend \
    friends hope start keep watch every someone play game city water food coffee summer photo train rain street \
    music story light house free open early late kids party lunch dinner weather minutes hours ready waiting \
    finally actually everyone another already yesterday different beautiful amazing favourite weird together \
    birthday holiday garden kitchen window mountain river bridge station market ticket concert museum \
    football match goal season league coach captain score winter autumn spring snow storm sunshine cloud \
    phone battery camera update version release design code server review meeting project office report \
    budget question answer problem idea reason change moment memory journey flight hotel airport beach island \
    forest trail running cycling climbing training marathon recipe bread cheese tomato garlic pepper chocolate \
    dog cat puppy bird horse baby brother sister mother father family neighbour teacher doctor driver artist \
    painting drawing novel chapter poem guitar piano song album vinyl studio theatre film series episode \
    trailer scene actor director election council vote climate energy solar wind electric bike tram ferry \
    price sale shop order delivery package broken fixed repair tool paint wall floor roof door key lost found \
    stolen police court law right wrong true false strange quiet loud bright dark cold warm hot fresh sweet";

pub(super) const FIRST_NAMES: [&str; 24] = [
    "Anna", "Ben", "Chen", "Dilara", "Emil", "Fatima", "Greta", "Hugo", "Ines", "Jonas", "Kofi", "Lena",
    "Mei", "Noah", "Olga", "Pablo", "Quynh", "Rosa", "Sami", "Tara", "Uwe", "Vera", "Wei", "Zoe",
];

pub(super) const LAST_NAMES: [&str; 20] = [
    "Alvarez",
    "Bauer",
    "Costa",
    "Dubois",
    "Eriksen",
    "Fischer",
    "Garcia",
    "Haddad",
    "Ivanova",
    "Jensen",
    "Kim",
    "Lindqvist",
    "Moreau",
    "Novak",
    "Okafor",
    "Petrov",
    "Rossi",
    "Silva",
    "Tanaka",
    "Wang",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn low_ranks_are_drawn_more_often() {
        let mut random = Rng::with_seed(1);
        let mut drawn = [0; 50];
        for _ in 0..10_000 {
            drawn[rank(&mut random, 50)] += 1;
        }
        assert!(drawn[0] > 3 * drawn[5] && drawn[5] > drawn[49] && drawn[49] > 0, "{drawn:?}");
    }

    #[test]
    fn a_uuid_has_version_and_variant() {
        let drawn = uuid(&mut Rng::with_seed(2));
        assert_eq!((drawn.len(), &drawn[14..15]), (36, "4"));
    }
}
