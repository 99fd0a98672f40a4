//! `[presence]`, `[delayed]`, `[shadow]` and `[[rewrite]]`.

use std::time::Duration;

use crate::{
    control::config::reader::Table,
    rewrite::Rewrites,
    settings::{Delayed, Presence, Rewrite, Shadow},
};

const ACTIONS: &[(&str, (bool, bool))] =
    &[("all", (true, true)), ("publish", (true, false)), ("subscribe", (false, true))];

pub(super) fn presence(mut t: Table<'_, '_>) -> Presence {
    let d = Presence::default();
    let presence = Presence {
        topic: t.string("topic", &d.topic),
        events_max: t.count("events_max", d.events_max, 1024..=10_000_000),
    };
    if presence.topic.contains(['+', '#', '\0']) || presence.topic.ends_with('/') {
        t.mistake("topic", "is not the beginning of a topic: it holds '+', '#' or NUL, or ends in '/'");
    }
    t.finish();
    presence
}

pub(super) fn delayed(mut t: Table<'_, '_>) -> Delayed {
    let d = Delayed::default();
    let s = Duration::from_secs;
    let delayed = Delayed {
        enabled: t.boolean("enabled", d.enabled),
        messages_max: t.count("messages_max", d.messages_max, 1..=10_000_000),
        bytes_max: t.size("bytes_max", d.bytes_max, 64 << 10..=16 << 30),
        delay_max: t.duration("delay_max", d.delay_max, s(1)..=s(4_294_967)),
    };
    t.finish();
    delayed
}

pub(super) fn shadow(mut t: Table<'_, '_>) -> Shadow {
    let d = Shadow::default();
    let shadow = Shadow {
        enabled: t.boolean("enabled", d.enabled),
        things_max: t.count("things_max", d.things_max, 1..=10_000_000),
        bytes_max: t.size("bytes_max", d.bytes_max, 128..=1 << 20),
    };
    t.finish();
    shadow
}

pub(super) fn rewrites(root: &mut Table<'_, '_>) -> Vec<Rewrite> {
    let mut rewrites = Vec::new();
    for mut t in root.tables("rewrite") {
        let (publish, subscribe) = t.word("action", (true, true), ACTIONS);
        let topic = t.required_string("topic", "old/+/#");
        let regex = t.optional_string("regex");
        let to = t.required_string("to", "new/$1/$2");
        let rewrite = Rewrite { publish, subscribe, topic, regex, to };
        if t.has("topic")
            && let Err(error) = Rewrites::compile(std::slice::from_ref(&rewrite))
        {
            t.mistake("topic", error);
        }
        t.finish();
        rewrites.push(rewrite);
    }
    rewrites
}
