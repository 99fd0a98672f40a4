//! `[[backends]]` and `[[routes]]`.

use std::{collections::HashMap, collections::HashSet, sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue, uri::PathAndQuery};

use super::{
    delivery::{check_delivery, delivery},
    is_host_and_port, name,
    upstream::{check_upstream, tls, upstream},
};
use crate::{
    control::config::reader::Table,
    dictionaries::Sampling,
    router::TopicFilter,
    settings::{Backend, BackendKind, Route},
};

const KINDS: &[(&str, BackendKind)] = &[
    ("http1", BackendKind::Http1),
    ("http2", BackendKind::Http2),
    ("grpc", BackendKind::Grpc),
    ("mqtt", BackendKind::Mqtt),
];
const TIMEOUT_MAX: Duration = Duration::from_secs(3600);
const TIMEOUT_MIN: Duration = Duration::from_millis(1);

pub(super) fn backends(root: &mut Table<'_, '_>) -> Vec<Backend> {
    let mut names = HashSet::new();
    let mut backends = Vec::new();
    for mut table in root.tables("backends") {
        let backend = backend(&mut table);
        if table.has("name") && !names.insert(backend.name.clone()) {
            table.mistake(
                "name",
                format_args!("\"{}\" names an earlier backend too; names are unique", backend.name),
            );
        }
        table.finish();
        backends.push(backend);
    }
    backends
}

fn backend(t: &mut Table<'_, '_>) -> Backend {
    let d = Backend::new("", BackendKind::Http1, "");
    if !t.has("kind") {
        t.required_string("kind", "grpc");
    }
    let backend = Backend {
        name: name(t, "orders"),
        kind: t.word("kind", d.kind, KINDS),
        address: t.required_string("address", "127.0.0.1:8080"),
        connect_timeout: t.duration(
            "connect_timeout",
            d.connect_timeout,
            TIMEOUT_MIN..=Duration::from_secs(60),
        ),
        timeout: t.duration("timeout", d.timeout, TIMEOUT_MIN..=TIMEOUT_MAX),
        connections_max: t.count("connections_max", d.connections_max, 1..=10_000),
        idle_timeout: t.duration(
            "idle_timeout",
            d.idle_timeout,
            Duration::from_secs(1)..=Duration::from_secs(3600),
        ),
        tls: tls(t),
        topic_prefix: t.string("topic_prefix", &d.topic_prefix),
        upstream: upstream(t.table("upstream")),
        service: None,
    };
    if t.has("address") && !is_host_and_port(&backend.address) {
        t.mistake("address", format_args!("\"{}\" is not host:port, as \"127.0.0.1:8080\"", backend.address));
    }
    if backend.kind != BackendKind::Mqtt && !backend.topic_prefix.is_empty() {
        t.mistake("topic_prefix", "belongs to backends of kind \"mqtt\"; leave it out");
    }
    check_upstream(t, &backend);
    if backend.topic_prefix.contains(['+', '#', '\0']) {
        t.mistake("topic_prefix", "holds '+', '#' or NUL, which no topic name may hold");
    }
    backend
}

pub(super) fn routes(root: &mut Table<'_, '_>, backends: &[Backend]) -> Vec<Route> {
    let mut names = HashSet::new();
    let mut conditions: HashMap<_, Arc<str>> = HashMap::new();
    let mut routes = Vec::new();
    for mut table in root.tables("routes") {
        let route = route(&mut table);
        if table.has("name") && !names.insert(route.name.clone()) {
            table.mistake(
                "name",
                format_args!("\"{}\" names an earlier route too; names are unique", route.name),
            );
        }
        check_conditions(&table, &route);
        check_backend(&table, &route, backends);
        let Route { path, host, header, topic, client_certificate, .. } = route.clone();
        let condition = (path, host, header, topic, client_certificate);
        if let Some(earlier) = conditions.get(&condition) {
            let text =
                "matches only what this earlier route takes already: give it another condition, or remove it";
            table.mistake("name", format_args!("route \"{earlier}\" comes first; \"{}\" {text}", route.name));
        }
        conditions.entry(condition).or_insert_with(|| route.name.clone());
        table.finish();
        routes.push(route);
    }
    routes
}

fn route(t: &mut Table<'_, '_>) -> Route {
    Route {
        name: name(t, "orders"),
        path: t.optional_string("path"),
        host: t.optional_string("host"),
        header: header(t),
        topic: t.optional_string("topic"),
        backend: t.required_string("backend", "orders").into(),
        call: t.optional_string("call"),
        timeout: t.optional_duration("timeout", TIMEOUT_MIN..=TIMEOUT_MAX),
        client_certificate: t.optional_string("client_certificate"),
        encrypted_only: t.boolean("encrypted_only", false),
        idempotent: t.boolean("idempotent", false),
        sampling: sampling(t),
        dcz: t.boolean("dcz", false),
        durable: t.word("outcome", false, &[("memory", false), ("durable", true)]),
        delivery: delivery(t),
    }
}

fn sampling(t: &mut Table<'_, '_>) -> Sampling {
    let mut one_in = |key| u32::try_from(t.integer(key, 0, 0..=1_000_000)).unwrap_or(u32::MAX);
    let (every, headers_every) = (one_in("sample"), one_in("sample_headers"));
    let mut redact = Vec::new();
    for text in t.strings("redact") {
        match text.parse() {
            Ok(rule) => redact.push(rule),
            Err(error) => t.mistake("redact", error),
        }
    }
    Sampling { every, headers_every, redact: redact.into() }
}

fn header(t: &mut Table<'_, '_>) -> Option<(String, String)> {
    let set = t.has("header");
    let mut table = t.table("header");
    let (name, value) = (table.optional_string("name"), table.optional_string("value"));
    table.finish();
    if !set {
        return None;
    }
    let Some((name, value)) = name.zip(value) else {
        t.mistake(
            "header",
            "needs a name and a value; write header = { name = \"x-canary\", value = \"yes\" }",
        );
        return None;
    };
    if HeaderName::from_lowercase(name.as_bytes()).is_err() {
        t.mistake("header", format_args!("\"{name}\" is not a header name in lower case, as \"x-canary\""));
    }
    if HeaderValue::from_str(&value).is_err() {
        t.mistake("header", format_args!("{value:?} holds characters that no header value may hold"));
    }
    Some((name, value))
}

fn check_conditions(t: &Table<'_, '_>, route: &Route) {
    if let Some(path) = &route.path {
        let star = path.find('*').is_some_and(|at| at + 1 != path.len());
        if !path.starts_with('/') || star || path.contains('?') || path.parse::<PathAndQuery>().is_err() {
            t.mistake(
                "path",
                format_args!("\"{path}\" is not a path; begin it with '/', and write '*' at its end only, as \"/orders.v1.Orders/*\""),
            );
        }
    }
    if let Some(host) = &route.host {
        let bare = host.strip_prefix("*.").unwrap_or(host);
        let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
        if bare.is_empty() || !bare.bytes().all(fits) {
            t.mistake("host", format_args!("\"{host}\" is not a host in lower case without a port, as \"api.example.com\" or \"*.example.com\""));
        }
    }
    if let Some(name) = &route.client_certificate
        && (name.is_empty() || name.get(1..).is_some_and(|rest| rest.contains('*')))
    {
        let text = "is not a certificate's name; write one that it bears, \"*.suffix\", or \"*\" for every certificate";
        t.mistake("client_certificate", format_args!("\"{name}\" {text}"));
    }
    let Some(topic) = &route.topic else { return };
    if let Err(error) = TopicFilter::parse(topic) {
        t.mistake("topic", format_args!("\"{topic}\": {error}"));
    }
    for key in ["path", "host", "header"] {
        if t.has(key) {
            t.mistake(
                key,
                "is a condition on requests, and a route with a topic takes publishes; make two routes of it",
            );
        }
    }
}

fn check_backend(t: &Table<'_, '_>, route: &Route, backends: &[Backend]) {
    let Some(backend) = backends.iter().find(|backend| backend.name == route.backend) else {
        if t.has("backend") {
            let known: Vec<_> = backends.iter().map(|backend| format!("\"{}\"", backend.name)).collect();
            let known = if known.is_empty() { "there is none yet".to_owned() } else { known.join(", ") };
            t.mistake("backend", format_args!("no backend is called \"{}\"; known: {known}", route.backend));
        }
        return;
    };
    let to_broker = backend.kind == BackendKind::Mqtt;
    check_delivery(t, route, to_broker);
    match (&route.topic, &route.call) {
        (None, _) if to_broker => {
            t.mistake(
                "backend",
                format_args!(
                    "\"{}\" is an MQTT broker, which takes publishes only; write topic = \"…\"",
                    backend.name
                ),
            );
        }
        (None, Some(_)) => {
            t.mistake("call", "is what a publish becomes; it needs topic = \"…\", or leave it out")
        }
        (Some(_), Some(_)) if to_broker => {
            t.mistake(
                "call",
                format_args!(
                    "\"{}\" is an MQTT broker, which gets the publish as it is; leave it out",
                    backend.name
                ),
            );
        }
        (Some(_), None) if !to_broker => {
            t.mistake("call", "is missing: the method that each publish becomes; write for example call = \"/orders.v1.Orders/Ingest\"");
        }
        (Some(_), Some(call)) if !call.starts_with('/') || call.parse::<PathAndQuery>().is_err() => {
            t.mistake(
                "call",
                format_args!("\"{call}\" is not a path; begin it with '/', as \"/orders.v1.Orders/Ingest\""),
            );
        }
        _ => {}
    }
}
