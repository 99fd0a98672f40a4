//! Messages as the demo backend exchanges them: what the built-in dictionary is trained on.
//!
//! Every seed gives one message, always the same. The protobuf messages have the fields of the gateway's
//! demo.proto, the JSON ones the same names.

use std::{fmt::Write as _, ops::Range};

use fastrand::Rng;
use prost::Message;

/// Seeds of the messages that the built-in dictionary is trained on.
pub const TRAINING_SEEDS: Range<u64> = 0..6_000;

/// Seeds of messages that it has never seen, to measure with.
pub const HELD_BACK_SEEDS: Range<u64> = 1_000_000..1_001_000;

/// The message of this seed: in the mix of calls that an app makes, about two in three in protobuf.
pub fn message(seed: u64) -> Vec<u8> {
    let mut random = Rng::with_seed(seed);
    match random.u8(0..12) {
        0..=1 => create_order(&mut random).encode_to_vec(),
        2..=4 => order(&mut random).encode_to_vec(),
        5 => echo(&mut random).encode_to_vec(),
        6 => echo_reply(&mut random).encode_to_vec(),
        7 => reading(&mut random).encode_to_vec(),
        8 => create_order_json(&create_order(&mut random)).into_bytes(),
        9..=10 => order_json(&order(&mut random)).into_bytes(),
        _ => order_list_json(&mut random).into_bytes(),
    }
}

#[derive(Clone, PartialEq, Message)]
struct OrderItem {
    #[prost(string, tag = "1")]
    sku: String,
    #[prost(string, tag = "2")]
    title: String,
    #[prost(uint32, tag = "3")]
    quantity: u32,
    #[prost(uint64, tag = "4")]
    unit_price: u64,
}

#[derive(Clone, PartialEq, Message)]
struct CreateOrderRequest {
    #[prost(string, tag = "1")]
    order_id: String,
    #[prost(string, tag = "2")]
    customer_id: String,
    #[prost(string, tag = "3")]
    currency: String,
    #[prost(message, repeated, tag = "4")]
    items: Vec<OrderItem>,
    #[prost(string, tag = "5")]
    note: String,
}

#[derive(Clone, PartialEq, Message)]
struct Order {
    #[prost(string, tag = "1")]
    order_id: String,
    #[prost(string, tag = "2")]
    customer_id: String,
    #[prost(string, tag = "3")]
    currency: String,
    #[prost(message, repeated, tag = "4")]
    items: Vec<OrderItem>,
    #[prost(string, tag = "5")]
    note: String,
    #[prost(uint32, tag = "6")]
    status: u32,
    #[prost(uint64, tag = "7")]
    total: u64,
    #[prost(uint64, tag = "8")]
    created_unix_ms: u64,
    #[prost(uint32, tag = "9")]
    executions: u32,
}

#[derive(Clone, PartialEq, Message)]
struct EchoRequest {
    #[prost(string, tag = "1")]
    text: String,
    #[prost(bytes, tag = "2")]
    payload: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct EchoReply {
    #[prost(string, tag = "1")]
    text: String,
    #[prost(bytes, tag = "2")]
    payload: Vec<u8>,
    #[prost(uint64, tag = "3")]
    index: u64,
    #[prost(string, tag = "4")]
    user: String,
    #[prost(string, tag = "5")]
    client_id: String,
}

#[derive(Clone, PartialEq, Message)]
struct Reading {
    #[prost(string, tag = "1")]
    device_id: String,
    #[prost(string, tag = "2")]
    sensor: String,
    #[prost(double, tag = "3")]
    value: f64,
    #[prost(uint64, tag = "4")]
    unix_ms: u64,
}

fn create_order(random: &mut Rng) -> CreateOrderRequest {
    CreateOrderRequest {
        order_id: id(random, "ord"),
        customer_id: id(random, "cus"),
        currency: pick(random, &CURRENCIES).to_owned(),
        items: items(random),
        note: note(random),
    }
}

fn order(random: &mut Rng) -> Order {
    let request = create_order(random);
    Order {
        status: random.u32(1..=4),
        total: request.items.iter().map(|item| u64::from(item.quantity) * item.unit_price).sum(),
        created_unix_ms: unix_ms(random),
        executions: 1,
        order_id: request.order_id,
        customer_id: request.customer_id,
        currency: request.currency,
        items: request.items,
        note: request.note,
    }
}

fn items(random: &mut Rng) -> Vec<OrderItem> {
    (0..random.usize(1..=4))
        .map(|_| {
            let (sku, title) = PRODUCTS[random.usize(..PRODUCTS.len())];
            OrderItem {
                sku: format!("{sku}-{:03}", random.u32(0..40)),
                title: format!("{title}, {}", pick(random, &VARIANTS)),
                quantity: random.u32(1..=3),
                unit_price: random.u64(2..200) * 50 + 49,
            }
        })
        .collect()
}

/// Half of the orders come with a place to deliver to.
fn note(random: &mut Rng) -> String {
    if random.bool() {
        return String::new();
    }
    format!(
        "Deliver to {} {}, {} {}, {} {}. {}",
        pick(random, &FIRST_NAMES),
        pick(random, &LAST_NAMES),
        pick(random, &STREETS),
        random.u32(1..180),
        random.u32(10_000..99_999),
        pick(random, &CITIES),
        pick(random, &WISHES),
    )
}

fn echo(random: &mut Rng) -> EchoRequest {
    let text = sentence(random);
    EchoRequest { text, payload: (0..random.usize(0..12)).map(|_| random.u8(..)).collect() }
}

fn echo_reply(random: &mut Rng) -> EchoReply {
    let EchoRequest { text, payload } = echo(random);
    let user = pick(random, &FIRST_NAMES).to_lowercase();
    EchoReply { text, payload, index: random.u64(0..5), user, client_id: id(random, "phone") }
}

fn reading(random: &mut Rng) -> Reading {
    Reading {
        device_id: id(random, "sensor"),
        sensor: pick(random, &SENSORS).to_owned(),
        value: f64::from(random.i32(-200..1200)) / 10.0,
        unix_ms: unix_ms(random),
    }
}

fn create_order_json(request: &CreateOrderRequest) -> String {
    format!(
        r#"{{"order_id":"{}","customer_id":"{}","currency":"{}","items":{},"note":"{}"}}"#,
        request.order_id,
        request.customer_id,
        request.currency,
        items_json(&request.items),
        request.note
    )
}

fn order_json(order: &Order) -> String {
    format!(
        r#"{{"order_id":"{}","customer_id":"{}","currency":"{}","items":{},"note":"{}","status":"{}","total":{},"created_unix_ms":{},"executions":{}}}"#,
        order.order_id,
        order.customer_id,
        order.currency,
        items_json(&order.items),
        order.note,
        STATUSES[order.status as usize],
        order.total,
        order.created_unix_ms,
        order.executions
    )
}

fn order_list_json(random: &mut Rng) -> String {
    let orders: Vec<_> = (0..random.usize(1..=3)).map(|_| order_json(&order(random))).collect();
    format!(r#"{{"orders":[{}]}}"#, orders.join(","))
}

fn items_json(items: &[OrderItem]) -> String {
    let mut json = String::from("[");
    for (position, item) in items.iter().enumerate() {
        let comma = if position > 0 { "," } else { "" };
        // Writing to a string cannot fail.
        let _ = write!(
            json,
            r#"{comma}{{"sku":"{}","title":"{}","quantity":{},"unit_price":{}}}"#,
            item.sku, item.title, item.quantity, item.unit_price
        );
    }
    json + "]"
}

fn id(random: &mut Rng, kind: &str) -> String {
    format!("{kind}-{:010x}", random.u64(..1 << 40))
}

/// Some time in the two years from January 2025 on.
fn unix_ms(random: &mut Rng) -> u64 {
    random.u64(1_735_689_600_000..1_798_761_600_000)
}

fn sentence(random: &mut Rng) -> String {
    let words: Vec<_> = (0..random.usize(3..14)).map(|_| pick(random, &WORDS)).collect();
    words.join(" ")
}

fn pick(random: &mut Rng, list: &[&'static str]) -> &'static str {
    list[random.usize(..list.len())]
}

const CURRENCIES: [&str; 6] = ["EUR", "EUR", "USD", "GBP", "CNY", "JPY"];

const STATUSES: [&str; 5] = [
    "ORDER_STATUS_UNSPECIFIED",
    "ORDER_STATUS_PLACED",
    "ORDER_STATUS_PAID",
    "ORDER_STATUS_SHIPPED",
    "ORDER_STATUS_DELIVERED",
];

const PRODUCTS: [(&str, &str); 16] = [
    ("TEA-GRN", "Green tea"),
    ("TEA-BLK", "Black tea"),
    ("COF-ESP", "Espresso beans"),
    ("COF-FLT", "Filter coffee"),
    ("MUG-CER", "Ceramic mug"),
    ("MUG-TRV", "Travel mug"),
    ("BAG-CNV", "Canvas bag"),
    ("BAG-RCK", "Rucksack"),
    ("LMP-DSK", "Desk lamp"),
    ("LMP-BIK", "Bicycle light"),
    ("CBL-USB", "USB-C cable"),
    ("CHR-PWR", "Wall charger"),
    ("PHN-CSE", "Phone case"),
    ("NTB-LIN", "Notebook, lined"),
    ("PEN-GEL", "Gel pen"),
    ("UMB-FLD", "Folding umbrella"),
];

const VARIANTS: [&str; 12] = [
    "small",
    "medium",
    "large",
    "black",
    "white",
    "dark blue",
    "olive",
    "pack of 2",
    "pack of 10",
    "250 g",
    "500 g",
    "1 m",
];

const FIRST_NAMES: [&str; 14] = [
    "Anna", "Ben", "Chen", "Dilara", "Emil", "Fatima", "Greta", "Hugo", "Ines", "Jonas", "Kofi", "Lena",
    "Mei", "Noah",
];

const LAST_NAMES: [&str; 12] = [
    "Alvarez", "Bauer", "Costa", "Dubois", "Eriksen", "Fischer", "Haddad", "Ivanova", "Kim", "Moreau",
    "Okafor", "Wang",
];

const STREETS: [&str; 10] = [
    "Lindenstrasse",
    "Station Road",
    "Rue de la Gare",
    "Via Roma",
    "Calle Mayor",
    "High Street",
    "Hafenweg",
    "Mill Lane",
    "Gartenstrasse",
    "Kirkegata",
];

const CITIES: [&str; 10] =
    ["Hamburg", "Lyon", "Porto", "Leeds", "Bergen", "Bologna", "Valencia", "Graz", "Ghent", "Aarhus"];

const WISHES: [&str; 6] = [
    "Please ring twice.",
    "Leave at the door.",
    "Call on arrival.",
    "Gift wrap, no invoice inside.",
    "Only after 6 pm.",
    "With the neighbours if nobody is at home.",
];

const SENSORS: [&str; 6] = ["temperature", "humidity", "battery", "pressure", "vibration", "door"];

const WORDS: [&str; 24] = [
    "hello", "from", "the", "train", "again", "is", "anybody", "there", "message", "number", "we", "are",
    "late", "today", "because", "of", "rain", "see", "you", "at", "station", "tonight", "thanks", "ok",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_always_gives_the_same_message_and_seeds_differ() {
        let messages: Vec<_> = (0..200).map(message).collect();
        assert_eq!(messages, (0..200).map(message).collect::<Vec<_>>());
        let different: std::collections::HashSet<_> = messages.iter().collect();
        assert_eq!(different.len(), messages.len());
    }

    #[test]
    fn no_held_back_message_is_one_of_the_training() {
        let training: std::collections::HashSet<_> = TRAINING_SEEDS.map(message).collect();
        assert!(HELD_BACK_SEEDS.map(message).all(|held_back| !training.contains(&held_back)));
    }

    #[test]
    fn json_and_protobuf_hold_the_same_order() {
        let order = order(&mut Rng::with_seed(3));
        assert_eq!(Order::decode(&*order.encode_to_vec()), Ok(order.clone()));
        let json = order_json(&order);
        for text in [&order.order_id, &order.items[0].title, &order.total.to_string()] {
            assert!(json.contains(text), "{text} is in {json}");
        }
    }
}
