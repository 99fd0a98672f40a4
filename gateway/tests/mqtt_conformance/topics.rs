//! Section 4.7: topic names and filters.

use towline_protocols::mqtt::*;

use crate::{bed::*, mqtt_support::*};

/// Whether a subscriber of `filter` gets what is published under `name`.
async fn check_match(filter: &str, name: &str, expected: bool) {
    let mut client = Client::v5(&default_gateway(), "client").await;
    assert_eq!(client.subscribe(filter, QoS::AtMostOnce).await, ReasonCode::Success, "{filter:.99}");
    client.publish(name, "x", QoS::AtMostOnce).await;
    let mut is_sent = false;
    // What the gateway answers goes ahead of messages, so the second answer is behind them.
    for _ in 0..2 {
        client.send(Packet::Pingreq).await;
        while client.receive().await.unwrap() != Packet::Pingresp {
            is_sent = true;
        }
    }
    assert_eq!(is_sent, expected, "{filter:.99} against {name:.99}");
}

#[tokio::test(start_paused = true)]
async fn mqtt_4_7_1_1_the_multi_level_wildcard_is_alone_on_the_last_level() {
    for filter in [&b"a#"[..], b"a/#/b", b"#/b", b"a/#b", b"$share/g/a#"] {
        check_ended(&subscribe_bytes(filter, 0), ReasonCode::MalformedPacket).await;
    }
    for (name, expected) in
        [("a", true), ("a/b", true), ("a/b/c", true), ("a/", true), ("ab", false), ("b", false)]
    {
        check_match("a/#", name, expected).await;
        check_match("#", name, true).await;
    }
}

#[tokio::test(start_paused = true)]
async fn mqtt_4_7_1_2_the_single_level_wildcard_is_alone_on_its_level() {
    for filter in [&b"a+"[..], b"a/+b", b"++", b"+a/b"] {
        check_ended(&subscribe_bytes(filter, 0), ReasonCode::MalformedPacket).await;
    }
    for (filter, name, expected) in [
        ("+", "a", true),
        ("+", "/a", false),
        ("+/+", "/a", true),
        ("/+", "/a", true),
        ("a/+", "a/", true),
        ("a/+", "a", false),
        ("a/+/c", "a/b/c", true),
        ("a/+/c", "a//c", true),
        ("a/+/#", "a", false),
        ("a/+/#", "a/b", true),
    ] {
        check_match(filter, name, expected).await;
    }
}

#[tokio::test(start_paused = true)]
async fn mqtt_4_7_2_1_a_wildcard_in_front_does_not_match_a_dollar() {
    for (filter, name, expected) in [
        ("#", "$a/b", false),
        ("+/b", "$a/b", false),
        ("$a/#", "$a/b", true),
        ("$a/+", "$a/b", true),
        ("a/#", "a/$b", true),
    ] {
        check_match(filter, name, expected).await;
    }
    // Nor what is retained.
    let mut client = Client::v5(&default_gateway(), "client").await;
    client.send(retained("$a/b", "x", QoS::AtMostOnce)).await;
    client.subscribe("#", QoS::AtMostOnce).await;
    client.expect_nothing().await;
    client.subscribe("$a/#", QoS::AtMostOnce).await;
    assert_eq!(client.payload().await, "x");
}

#[tokio::test(start_paused = true)]
async fn mqtt_4_7_3_1_a_filter_has_a_character() {
    check_ended(&subscribe_bytes(b"", 0), ReasonCode::MalformedPacket).await;
    check_ended_v311(b"\x82\x05\0\x01\0\0\0").await;
}

#[tokio::test(start_paused = true)]
async fn mqtt_4_7_3_3_a_topic_may_have_65535_bytes() {
    let name = "x".repeat(65_535);
    check_match(&name, &name, true).await;
}

#[tokio::test(start_paused = true)]
async fn mqtt_4_7_3_4_topics_are_compared_as_they_are() {
    for (filter, name, expected) in [
        ("A", "a", false),
        ("a", "a ", false),
        ("a b", "a b", true),
        ("/a", "a", false),
        ("a/", "a", false),
        ("a//b", "a/b", false),
        // Composed and decomposed.
        ("\u{e9}", "e\u{301}", false),
        ("\u{fff9}\u{1}", "\u{fff9}\u{1}", true),
    ] {
        check_match(filter, name, expected).await;
    }
}
