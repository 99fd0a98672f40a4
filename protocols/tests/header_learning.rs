//! What encoders learn of a connection's header fields, in bytes over lists as apps send them.
//!
//! The judge is the least that the lists can take: an octet for each field that came before, and for any other
//! one for its name and its value as a literal.

#![allow(clippy::unwrap_used, reason = "a failure here is the test's")]

use std::collections::HashSet;

use towline_protocols::{
    hpack::{self, HeaderField, StaticTable},
    qpack::{self, Decoded},
};

const TABLE_BYTES: usize = 4096;
const LIST_BYTES_MAX: usize = 16 * 1024;
const REQUESTS: usize = 400;

/// A generator by Steele, Lea and Flood (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn of<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[self.next() as usize % choices.len()]
    }
}

type List = Vec<HeaderField>;

fn list(fields: &[(&str, &str)]) -> List {
    fields.iter().map(|(name, value)| HeaderField::new(name.to_string(), value.to_string())).collect()
}

/// Requests of an app whose gateway wants a trace of another kind than W3C's, a time and a signature.
fn requests() -> Vec<List> {
    let mut random = Random(1);
    let screens = ["home", "search", "cart", "item", "orders", "order", "profile", "help", "chat", "login"];
    let one = |number: usize| {
        let item = format!("/v2/items/{}", random.next() % 1_000_000);
        let path = match number % 3 {
            0 => &item,
            _ => random.of(&["/v2/feed", "/v2/cart", "/v2/orders", "/v2/profile", "/v2/badges"]),
        };
        let trace = format!("{:016x}{:016x}", random.next(), random.next());
        let span = format!("{:016x}", random.next());
        let signature = format!("{:016X}{:016X}{:016X}", random.next(), random.next(), random.next());
        list(&[
            (":method", "GET"),
            (":scheme", "https"),
            (":authority", "api.example.com"),
            (":path", path),
            ("user-agent", "ExampleApp/8.14.2 (iPhone17,1; iOS 26.1; Scale/3.00)"),
            ("accept-language", "de-DE,de;q=0.9,en;q=0.8"),
            ("x-app-version", "8.14.2"),
            ("x-device-id", "6f0d4c3a-56c1-4a3c-8d6d-2b8f0d8f0a11"),
            ("x-screen", random.of(&screens)),
            ("x-b3-traceid", &trace),
            ("x-b3-spanid", &span),
            ("x-sent-at", &format!("{}", 1_792_000_000_000 + number as u64 * 731)),
            ("x-signature", &signature),
        ])
    };
    (0..REQUESTS).map(one).collect()
}

/// Answers whose backend says how long it took, and who answered.
fn responses() -> Vec<List> {
    let mut random = Random(2);
    let one = |number: usize| {
        let length = format!("{}", 200 + random.next() % 4000);
        let took = format!("{}.{:03}", random.next() % 90, random.next() % 1000);
        let etag = format!("\"{:016x}\"", random.next());
        let seconds = number / 3;
        let date = format!("Thu, 26 Nov 2026 12:{:02}:{:02} GMT", seconds / 60, seconds % 60);
        list(&[
            (":status", "200"),
            ("content-type", "application/json"),
            ("content-length", &length),
            ("date", &date),
            ("etag", &etag),
            ("x-envoy-upstream-service-time", &took),
            ("x-served-by", random.of(&["shop-a", "shop-b", "shop-c"])),
            ("x-correlation-id", &format!("{:016x}", random.next())),
            ("cache-control", "private, max-age=30"),
            ("vary", "accept-encoding"),
        ])
    };
    (0..REQUESTS).map(one).collect()
}

/// The least: no table holds everything that came before, and no index is always one octet.
fn least_bytes(lists: &[List]) -> usize {
    let mut seen = HashSet::new();
    let literal_bytes = |field: &HeaderField| {
        let named = HeaderField::new(":path", field.value.clone());
        let mut block = Vec::new();
        hpack::Encoder::new(StaticTable::rfc7541(), 0).encode([&named], &mut block);
        block.len()
    };
    let mut bytes = 0;
    for field in lists.iter().flatten() {
        bytes += if seen.insert(field) { literal_bytes(field) } else { 1 };
    }
    bytes
}

fn hpack_bytes(lists: &[List]) -> usize {
    let mut encoder = hpack::Encoder::new(StaticTable::link(), TABLE_BYTES);
    let mut decoder = hpack::Decoder::new(StaticTable::link(), TABLE_BYTES, LIST_BYTES_MAX);
    let mut bytes = 0;
    for list in lists {
        let mut block = Vec::new();
        encoder.encode(list, &mut block);
        assert_eq!(&decoder.decode(&block).unwrap(), list);
        bytes += block.len();
    }
    bytes
}

/// With everything delivered and acknowledged before the next list; instructions count.
fn qpack_bytes(lists: &[List], blocked_max: usize) -> usize {
    let mut encoder = qpack::Encoder::new(StaticTable::link());
    encoder.set_limits(TABLE_BYTES, TABLE_BYTES, blocked_max);
    let mut decoder = qpack::Decoder::new(StaticTable::link(), TABLE_BYTES, blocked_max, LIST_BYTES_MAX);
    let mut bytes = 0;
    for (stream, list) in (0..).zip(lists) {
        let mut section = Vec::new();
        encoder.encode(stream, list, &mut section);
        let inserted = encoder.take_instructions();
        decoder.handle_instructions(&inserted).unwrap();
        assert_eq!(decoder.decode(stream, &section), Ok(Decoded::Fields(list.clone())));
        encoder.handle_instructions(&decoder.take_instructions()).unwrap();
        bytes += section.len() + inserted.len();
    }
    bytes
}

/// Octets a list, beyond the least.
fn beyond_least(lists: &[List], bytes: usize) -> f64 {
    (bytes as f64 - least_bytes(lists) as f64) / lists.len() as f64
}

#[track_caller]
fn check(what: &str, lists: &[List], bytes: usize, beyond_max: f64) {
    let beyond = beyond_least(lists, bytes);
    println!("{what}: {:.1} octets a list, {beyond:.1} beyond the least", bytes as f64 / lists.len() as f64);
    assert!(beyond < beyond_max, "{what}: {beyond} octets a list beyond the least");
}

#[test]
fn what_never_comes_again_does_not_push_out_what_does() {
    let lists = requests();
    check("requests, HPACK", &lists, hpack_bytes(&lists), 10.0);
    check("requests, QPACK", &lists, qpack_bytes(&lists, 0), 6.0);
    check("requests, QPACK, one may be blocked", &lists, qpack_bytes(&lists, 1), 6.0);
}

#[test]
fn answers_cost_little_more_than_what_is_new_in_them() {
    let lists = responses();
    check("answers, HPACK", &lists, hpack_bytes(&lists), 7.5);
    // A date is sent three times; the first two of them are literals, since nothing may wait for an insertion.
    check("answers, QPACK", &lists, qpack_bytes(&lists, 0), 16.5);
    check("answers, QPACK, one may be blocked", &lists, qpack_bytes(&lists, 1), 8.0);
}
