//! How messages of a topic route reach their backend: `batch`, `retry`, `dead_letters`, `dead_letter_topic`.

use std::time::Duration;

use super::upstream::bounds;
use crate::{
    control::config::reader::Table,
    settings::{Batch, Delivery, DropPolicy, QueueBounds, Retry, Route},
};

pub(super) fn delivery(t: &mut Table<'_, '_>) -> Delivery {
    Delivery {
        batch: batch(t),
        retry: retry(t.table("retry")),
        dead_letters: dead_letters(t),
        dead_letter_topic: dead_letter_topic(t),
    }
}

pub(super) fn check_delivery(t: &Table<'_, '_>, route: &Route, to_broker: bool) {
    if route.topic.is_none() {
        for key in ["batch", "retry", "dead_letters", "dead_letter_topic"] {
            if t.has(key) {
                t.mistake(key, "is for messages; it needs topic = \"…\", or leave it out");
            }
        }
    }
    if to_broker && route.delivery.batch.is_some() {
        t.mistake(
            "batch",
            "is for HTTP and gRPC backends; a broker gets each message as it is: leave it out",
        );
    }
}

fn batch(t: &mut Table<'_, '_>) -> Option<Batch> {
    let (is_set, d) = (t.has("batch"), Batch::default());
    let mut t = t.table("batch");
    let batch = Batch {
        count_max: t.count("count", d.count_max, 1..=10_000),
        bytes_max: t.size("bytes", d.bytes_max, 1024..=64 << 20),
        time_max: t.duration("time", d.time_max, Duration::ZERO..=Duration::from_secs(60)),
    };
    t.finish();
    is_set.then_some(batch)
}

fn retry(mut t: Table<'_, '_>) -> Retry {
    let d = Retry::default();
    let ms = Duration::from_millis;
    let retry = Retry {
        attempts_max: t.count("attempts", d.attempts_max, 1..=100),
        backoff_min: t.duration("backoff_min", d.backoff_min, ms(1)..=ms(60_000)),
        backoff_max: t.duration("backoff_max", d.backoff_max, ms(1)..=ms(3_600_000)),
    };
    if retry.backoff_min > retry.backoff_max {
        t.mistake("backoff_min", "is longer than routes.retry.backoff_max");
    }
    t.finish();
    retry
}

fn dead_letters(t: &mut Table<'_, '_>) -> Option<QueueBounds> {
    let is_set = t.has("dead_letters");
    let mut t = t.table("dead_letters");
    let default = QueueBounds {
        count_max: 10_000,
        bytes_max: 16 << 20,
        age_max: Duration::from_secs(30 * 86_400),
        policy: DropPolicy::Oldest,
    };
    let bounds = bounds(&mut t, ["count", "bytes", "age", "policy"], default);
    t.finish();
    is_set.then_some(bounds)
}

/// A topic that dead letters' own are put behind.
pub(super) fn dead_letter_topic(t: &mut Table<'_, '_>) -> Option<String> {
    let topic = t.optional_string("dead_letter_topic")?;
    if topic.is_empty() || topic.contains(['+', '#', '\0']) || topic.starts_with('$') {
        t.mistake(
            "dead_letter_topic",
            "is not a topic: it is empty, begins with '$', or holds '+', '#' or NUL",
        );
    }
    Some(topic)
}
