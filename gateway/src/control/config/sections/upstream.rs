//! `[backends.upstream]`: bridges to MQTT brokers, and queues in the store.

use std::time::Duration;

use crate::{
    backend::check_tls,
    control::config::{reader::Table, sections::delivery::dead_letter_topic},
    router::TopicFilter,
    settings::{Backend, BackendKind, BackendTls, DropPolicy, QueueBounds, Upstream},
};

const POLICIES: &[(&str, DropPolicy)] = &[("oldest", DropPolicy::Oldest), ("newest", DropPolicy::Newest)];
const BYTES_MIN: usize = 64 << 10;
const BYTES_MAX: usize = 16 << 30;
const COUNT_MAX: usize = 10_000_000;
const DAY: Duration = Duration::from_secs(86_400);

pub(super) fn upstream(mut t: Table<'_, '_>) -> Upstream {
    let d = Upstream::default();
    let s = Duration::from_secs;
    let qos = t.integer("subscribe_qos", d.subscribe_qos.into(), 0..=1);
    let upstream = Upstream {
        local_prefix: t.string("local_prefix", &d.local_prefix),
        subscribe: t.strings("subscribe"),
        subscribe_qos: u8::try_from(qos).unwrap_or(d.subscribe_qos),
        client_id: t.optional_string("client_id"),
        user: t.optional_string("user"),
        password_file: t.optional_path("password_file"),
        tls: tls(&mut t),
        keep_alive: t.duration("keep_alive", d.keep_alive, s(1)..=s(3600)),
        session_expiry: t.duration("session_expiry", d.session_expiry, s(0)..=365 * DAY),
        status_topic: t.optional_string("status_topic"),
        backoff_min: t.duration("backoff_min", d.backoff_min, Duration::from_millis(10)..=s(60)),
        backoff_max: t.duration("backoff_max", d.backoff_max, Duration::from_millis(10)..=s(3600)),
        refused_tries_max: t.count("refused_tries_max", d.refused_tries_max, 1..=1000),
        dead_letter_topic: dead_letter_topic(&mut t),
        hops_max: t.count("hops_max", d.hops_max, 1..=64),
        buffer: t.boolean("buffer", d.buffer),
        bounds: bounds(
            &mut t,
            ["buffer_max", "buffer_bytes_max", "buffer_age_max", "buffer_policy"],
            d.bounds,
        ),
    };
    check(&t, &upstream);
    t.finish();
    upstream
}

/// The bounds of a queue in the store, under the keys for count, bytes, age and policy.
pub(super) fn bounds(t: &mut Table<'_, '_>, keys: [&'static str; 4], d: QueueBounds) -> QueueBounds {
    let [count, bytes, age, policy] = keys;
    QueueBounds {
        count_max: t.count(count, d.count_max, 1..=COUNT_MAX),
        bytes_max: t.size(bytes, d.bytes_max, BYTES_MIN..=BYTES_MAX),
        age_max: t.duration(age, d.age_max, Duration::ZERO..=365 * DAY),
        policy: t.word(policy, d.policy, POLICIES),
    }
}

/// What has to fit the rest of the backend, of its `tls` and `upstream`.
pub(super) fn check_upstream(t: &Table<'_, '_>, backend: &Backend) {
    if backend.kind != BackendKind::Mqtt {
        if t.has("upstream") {
            t.mistake("upstream", "belongs to backends of kind \"mqtt\"; leave it out");
        }
        if let Some(tls) = &backend.tls
            && let Err(problem) = check_tls(backend, tls)
        {
            t.mistake("tls", problem);
        }
        return;
    }
    if t.has("tls") {
        t.mistake("tls", "of backends of kind \"mqtt\" stands in [backends.upstream]");
    }
    if let Some(tls) = &backend.upstream.tls
        && let Err(problem) = check_tls(backend, tls)
    {
        t.mistake("upstream", format_args!("tls: {problem}"));
    }
}

pub(super) fn tls(t: &mut Table<'_, '_>) -> Option<BackendTls> {
    let is_set = t.has("tls");
    let mut table = t.table("tls");
    let ca = table.optional_path("ca");
    let server_name = table.optional_string("server_name");
    let (certificate, key) = (table.optional_path("certificate"), table.optional_path("key"));
    table.finish();
    if !is_set {
        return None;
    }
    if certificate.is_some() != key.is_some() {
        t.mistake("tls", "needs certificate and key, or neither");
    }
    let Some(ca) = ca else {
        t.mistake(
            "tls",
            "needs the authorities that sign the other side's certificate; write tls = { ca = \"ca.pem\" }",
        );
        return None;
    };
    Some(BackendTls { ca, server_name, certificate: certificate.zip(key) })
}

fn check(t: &Table<'_, '_>, upstream: &Upstream) {
    let is_name = |text: &str| !text.contains(['+', '#', '\0']);
    if !is_name(&upstream.local_prefix) {
        t.mistake("local_prefix", "holds '+', '#' or NUL, which no topic name may hold");
    }
    if upstream.status_topic.as_deref().is_some_and(|topic| topic.is_empty() || !is_name(topic)) {
        t.mistake("status_topic", "is not a topic name: it is empty, or holds '+', '#' or NUL");
    }
    for filter in &upstream.subscribe {
        if let Err(error) = TopicFilter::parse(filter) {
            t.mistake("subscribe", format_args!("\"{filter}\" is not a topic filter: {error}"));
        }
    }
    if let Some(path) = &upstream.password_file {
        if upstream.user.is_none() {
            t.mistake("password_file", "needs user = \"…\" beside it");
        }
        if let Err(error) = std::fs::read_to_string(path) {
            t.mistake("password_file", format_args!("{} cannot be read: {error}", path.display()));
        }
    }
    if upstream.backoff_min > upstream.backoff_max {
        t.mistake("backoff_min", "is longer than backends.upstream.backoff_max");
    }
}
