//! The sections of the file: each key with its default and range, then what must hold between keys.

mod access;
mod auth;
mod bounds;
mod delivery;
mod listeners;
mod routes;
mod tls;
mod topics;
mod upstream;

use std::{net::SocketAddr, time::Duration};

use towline_protocols::policy::units::show_duration;

use self::{
    bounds as section,
    listeners::listeners,
    routes::{backends, routes},
};
use super::reader::Table;
use crate::{control::telemetry, endpoints::PublishedList, settings::*};

/// The whole file.
pub(super) fn settings(mut root: Table<'_, '_>) -> Settings {
    let root = &mut root;
    let default = Settings::default();
    let seconds = Duration::from_secs;
    let drain_timeout =
        root.duration("drain_timeout", default.drain_timeout, Duration::ZERO..=seconds(86_400));
    let tls = tls::tls(root.table("tls"));
    let admin = admin(root.table("admin"));
    let backends = backends(root);
    let auth = auth::auth(root.table("auth"), &backends);
    let session = section::session(root.table("session"));
    let limits = section::limits(root.table("limits"));
    let listeners = listeners(root, &auth, admin.bind);
    let settings = Settings {
        data_dir: root.path("data_dir", &default.data_dir),
        drain_timeout,
        drain_spread: drain_spread(root, drain_timeout),
        drain_endpoints: drain_endpoints(root),
        acl: access::acl(root.table("acl"), &listeners, auth.hook.is_some()),
        listeners,
        routes: routes(root, &backends),
        backends,
        tls,
        auth,
        admin,
        short: section::short(root.table("short"), limits.idle_timeout),
        limits,
        push: section::push(root.table("push")),
        mqtt: section::mqtt(root.table("mqtt")),
        presence: topics::presence(root.table("presence")),
        delayed: topics::delayed(root.table("delayed")),
        shadow: topics::shadow(root.table("shadow")),
        rewrites: topics::rewrites(root),
        client_policy: section::client_policy(root.table("client_policy"), session.heartbeat_max),
        session,
        compression: section::compression(root.table("compression")),
        dictionaries: section::dictionaries(root.table("dictionaries")),
        endpoint_list: endpoint_list(root.table("endpoint_list")),
        log: log(root.table("log")),
        providers: root.providers().clone(),
    };
    root.finish();
    settings
}

/// Clients that were told to leave later than `drain_timeout` would be cut off before they have left, all
/// at one time.
fn drain_spread(root: &mut Table<'_, '_>, drain_timeout: Duration) -> Duration {
    let default = Settings::default().drain_spread.min(drain_timeout);
    let spread = root.duration("drain_spread", default, Duration::ZERO..=Duration::from_secs(3600));
    if spread > drain_timeout {
        let timeout = show_duration(drain_timeout);
        let text = "is longer than drain_timeout, which cuts off whoever is still to leave; write at most";
        root.mistake("drain_spread", format_args!("{text} \"{timeout}\""));
    }
    spread
}

fn drain_endpoints(root: &mut Table<'_, '_>) -> Vec<String> {
    let endpoints = root.strings("drain_endpoints");
    for endpoint in &endpoints {
        if !is_host_and_port(endpoint) {
            root.mistake(
                "drain_endpoints",
                format_args!("\"{endpoint}\" is not host:port, as \"edge2.example.com:443\""),
            );
        }
    }
    endpoints
}

/// A list that nobody would believe is a mistake here, and not a silence at clients.
fn endpoint_list(mut table: Table<'_, '_>) -> Option<EndpointList> {
    let file = table.optional_path("file");
    let mut keys = Vec::new();
    for text in table.strings("keys") {
        match text.parse() {
            Ok(key) => keys.push(key),
            Err(error) => table.mistake("keys", format_args!("\"{text}\" {error}")),
        }
    }
    let list = file.map(|file| EndpointList { file, keys });
    match &list {
        Some(list) if list.keys.is_empty() && !table.has("keys") => {
            table.mistake("file", "needs `keys`: the public keys of those who sign it, as apps have them");
        }
        Some(list) if !list.keys.is_empty() => {
            if let Err(problem) = PublishedList::load(list) {
                table.mistake("file", problem);
            }
        }
        _ => {}
    }
    table.finish();
    list
}

fn admin(mut table: Table<'_, '_>) -> Admin {
    let default = Admin::default();
    let bind = address(&mut table, "bind").unwrap_or(default.bind);
    let open_to_network = table.boolean("open_to_network", default.open_to_network);
    if !bind.ip().is_loopback() && !open_to_network {
        table.mistake(
            "bind",
            format_args!(
                "the admin listener admits without authentication, and {} is not loopback; bind 127.0.0.1, \
                 or write open_to_network = true if the network keeps others out",
                bind.ip()
            ),
        );
    }
    table.finish();
    Admin { bind, open_to_network }
}

fn log(mut table: Table<'_, '_>) -> Log {
    let default = Log::default();
    let filter = table.string("filter", &default.filter);
    if telemetry::parse_filter(&filter).is_err() {
        table.mistake(
            "filter",
            format_args!(
                "\"{filter}\" is not a filter; write a level (error, warn, info, debug, trace), \
                 or levels by target, as \"info,towline_gateway=debug\""
            ),
        );
    }
    let json = table.boolean("json", default.json);
    table.finish();
    Log { filter, json }
}

/// A socket address that is set; the default's place is the caller's.
fn address(table: &mut Table<'_, '_>, key: &'static str) -> Option<SocketAddr> {
    let text = table.optional_string(key)?;
    let parsed = text.parse().ok();
    if parsed.is_none() {
        table.mistake(
            key,
            format_args!("\"{text}\" is not an address with a port; write for example \"127.0.0.1:7443\" or \"[::]:443\""),
        );
    }
    parsed
}

fn is_host_and_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let host_ok = match host.strip_prefix('[') {
        Some(v6) => v6.strip_suffix(']').is_some_and(|v6| v6.parse::<std::net::Ipv6Addr>().is_ok()),
        None => !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)),
    };
    host_ok && port.parse::<u16>().is_ok_and(|port| port > 0)
}

/// Names are labels of metrics and stand in logs.
pub(super) fn name(table: &mut Table<'_, '_>, example: &str) -> std::sync::Arc<str> {
    let name = table.required_string("name", example);
    let fits = (1..=64).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    if table.has("name") && !fits {
        table.mistake(
            "name",
            format_args!("\"{name}\" is not a name; write 1 to 64 letters, digits, '-', '_' or '.'"),
        );
    }
    name.into()
}
