//! `[[listeners]]`.

use std::{collections::HashSet, net::SocketAddr, ops::RangeInclusive, time::Duration};

use towline_protocols::tls::{RecordSizes, record::CONTENT_BYTES_MAX};

use super::{address, name, tls};
use crate::{
    control::config::reader::Table,
    network::Network,
    settings::{Auth, Authentication, Listener, ListenerProtocol, Rates, TlsMode},
};

const PROTOCOLS: &[(&str, ListenerProtocol)] = &[
    ("link", ListenerProtocol::Link),
    ("http", ListenerProtocol::Http),
    ("mqtt", ListenerProtocol::Mqtt),
    ("websocket", ListenerProtocol::WebSocket),
];
const TLS_MODES: &[(&str, TlsMode)] =
    &[("required", TlsMode::Required), ("optional", TlsMode::Optional), ("off", TlsMode::Off)];
const AUTHENTICATIONS: &[(&str, Authentication)] = &[
    ("none", Authentication::None),
    ("password", Authentication::Password),
    ("certificate", Authentication::Certificate),
];

/// One record's worth: what came early is held until the handshake ends, and by anybody who has a ticket.
const EARLY_DATA_BYTES_MAX: usize = 16 * 1024;
/// Below, records are mostly overhead; above, there are none.
const FIRST_RECORD_BYTES: RangeInclusive<usize> = 256..=CONTENT_BYTES_MAX;
/// Gigabytes in small records are small records always.
const FIRST_BYTES_MAX: usize = u32::MAX as usize;
const IDLE: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(3600);

pub(super) fn listeners(root: &mut Table<'_, '_>, auth: &Auth, admin: SocketAddr) -> Vec<Listener> {
    let mut names = HashSet::new();
    let mut addresses = HashSet::from([(admin, "tcp")]);
    let mut listeners = Vec::new();
    for mut table in root.tables("listeners") {
        let listener = listener(&mut table);
        check_authentication(&table, &listener, auth);
        if table.has("name") && !names.insert(listener.name.clone()) {
            table.mistake(
                "name",
                format_args!("\"{}\" names an earlier listener too; names are unique", listener.name),
            );
        }
        for (used, transport) in [(listener.tcp, "tcp"), (listener.quic, "udp")] {
            if used
                && table.has("bind")
                && listener.bind.port() != 0
                && !addresses.insert((listener.bind, transport))
            {
                let text =
                    "is another listener's or the admin listener's address already; choose another port";
                table.mistake("bind", format_args!("{} {text}", listener.bind));
            }
        }
        table.finish();
        listeners.push(listener);
    }
    if listeners.is_empty() && !root.has("listeners") {
        root.mistake("listeners", "there is none, so nobody could connect; write a section [[listeners]]");
    }
    listeners
}

fn listener(table: &mut Table<'_, '_>) -> Listener {
    let default = Listener::plain("", SocketAddr::from(([127, 0, 0, 1], 0)));
    let name = name(table, "public");
    if !table.has("bind") {
        table.required_string("bind", "0.0.0.0:443");
    }
    let mut listener = Listener {
        bind: address(table, "bind").unwrap_or(default.bind),
        name,
        tcp: table.boolean("tcp", true),
        quic: table.boolean("quic", false),
        protocols: protocols(table),
        tls: table.word("tls", TlsMode::Required, TLS_MODES),
        proxy_protocol: networks(table, "proxy_protocol"),
        authentication: table.word("authentication", Authentication::Password, AUTHENTICATIONS),
        websocket_path: websocket_path(table, default.websocket_path),
        websocket_origins: websocket_origins(table),
        open_to_network: table.boolean("open_to_network", false),
        alt_svc_port: alt_svc_port(table),
        connections_max: table.count("connections_max", default.connections_max, 1..=10_000_000),
        rate: rate(table.table("rate")),
        early_data_bytes_max: table.size(
            "early_data_bytes_max",
            default.early_data_bytes_max as usize,
            0..=EARLY_DATA_BYTES_MAX,
        ) as u32,
        record_size: record_size(table.table("record_size")),
        ..default
    };
    tls::listener(table, &mut listener);
    check_transports(table, &listener);
    listener
}

fn alt_svc_port(table: &mut Table<'_, '_>) -> Option<u16> {
    let set = table.has("alt_svc_port");
    let port = table.count("alt_svc_port", 0, 0..=usize::from(u16::MAX));
    set.then(|| u16::try_from(port).ok())?
}

fn rate(mut table: Table<'_, '_>) -> Rates {
    let d = Rates::default();
    let mut each = |key, default: u32| {
        u32::try_from(table.integer(key, default.into(), 0..=u32::MAX.into())).unwrap_or(default)
    };
    let (device_messages, messages) =
        (each("device_messages", d.device_messages), each("messages", d.messages));
    let (connects, address_connects) =
        (each("connects", d.connects), each("address_connects", d.address_connects));
    let mut size = |key, default: u32| {
        u32::try_from(table.size(key, default as usize, 0..=u32::MAX as usize)).unwrap_or(default)
    };
    let (device_bytes, bytes) = (size("device_bytes", d.device_bytes), size("bytes", d.bytes));
    let burst = table.duration("burst", d.burst, Duration::from_millis(10)..=Duration::from_secs(3600));
    let patience = table.duration("patience", d.patience, Duration::ZERO..=Duration::from_secs(86_400));
    table.finish();
    Rates { device_messages, device_bytes, messages, bytes, connects, address_connects, burst, patience }
}

fn websocket_path(table: &mut Table<'_, '_>, default: String) -> String {
    let path = table.string("websocket_path", &default);
    let is_path =
        path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic() && !b"?#".contains(&byte));
    if !is_path {
        table
            .mistake("websocket_path", format_args!("\"{path}\" is not a path; write for example \"/mqtt\""));
    }
    path
}

/// As browsers write them (RFC 6454, section 6.2), since they are compared with what those send.
fn websocket_origins(table: &mut Table<'_, '_>) -> Option<Vec<String>> {
    let set = table.has("websocket_origins");
    let origins = table.strings("websocket_origins");
    for origin in &origins {
        let authority =
            origin.split_once("://").filter(|(scheme, _)| !scheme.is_empty()).map(|(_, rest)| rest);
        let is_origin =
            authority.is_some_and(|it| !it.is_empty() && !it.contains(['/', '?', '#', '@', '*', ' ']));
        if !is_origin && origin != "*" && origin != "null" {
            let text = "is not an origin; write for example \"https://app.example.com\", or \"*\" for all";
            table.mistake("websocket_origins", format_args!("\"{origin}\" {text}"));
        }
    }
    set.then_some(origins)
}

fn networks(table: &mut Table<'_, '_>, key: &'static str) -> Vec<Network> {
    let texts = table.strings(key);
    let mut networks = Vec::with_capacity(texts.len());
    for text in texts {
        match text.parse() {
            Ok(network) => networks.push(network),
            Err(error) => table.mistake(key, format_args!("\"{text}\" {error}")),
        }
    }
    networks
}

fn record_size(mut table: Table<'_, '_>) -> RecordSizes {
    let default = RecordSizes::default();
    let sizes = RecordSizes {
        first: table.size("first", default.first.into(), FIRST_RECORD_BYTES) as u16,
        first_bytes: table.size("first_bytes", default.first_bytes as usize, 0..=FIRST_BYTES_MAX) as u32,
        idle_ms: table.duration("idle", Duration::from_millis(default.idle_ms.into()), IDLE).as_millis()
            as u32,
    };
    table.finish();
    sizes
}

fn protocols(table: &mut Table<'_, '_>) -> Vec<ListenerProtocol> {
    let all = || PROTOCOLS.iter().map(|(_, protocol)| *protocol).collect();
    let set = table.has("protocols");
    let words = table.strings("protocols");
    if !set {
        return all();
    }
    if words.is_empty() {
        table.mistake(
            "protocols",
            "is empty; write at least one of \"link\", \"http\", \"mqtt\" or \"websocket\"",
        );
    }
    let mut protocols: Vec<ListenerProtocol> = Vec::new();
    for word in words {
        let Some(protocol) = table.choose("protocols", &word, PROTOCOLS) else { continue };
        if protocols.contains(&protocol) {
            table.mistake("protocols", format_args!("\"{word}\" stands there twice"));
        } else {
            protocols.push(protocol);
        }
    }
    protocols
}

fn check_transports(table: &Table<'_, '_>, listener: &Listener) {
    if !listener.tcp && !listener.quic {
        table.mistake("tcp", "is false, and so is quic: nothing would listen; set one of them to true");
    }
    if !listener.tcp && !listener.proxy_protocol.is_empty() {
        table.mistake("proxy_protocol", "speaks of TCP connections, and tcp is false; leave it out");
    }
    if listener.quic && listener.protocols.iter().all(|it| *it == ListenerProtocol::WebSocket) {
        let text =
            "carries no WebSocket; add \"link\", \"http\" or \"mqtt\" to protocols, or set quic = false";
        table.mistake("quic", text);
    }
}

fn check_authentication(table: &Table<'_, '_>, listener: &Listener, auth: &Auth) {
    let checks_passwords = auth.password_file.is_some() || auth.jwt.is_some() || auth.hook.is_some();
    if listener.authentication == Authentication::Password && !checks_passwords {
        let text = "\"password\" needs [auth] password_file = \"users\"; make its lines with `towline passwd`, or write \"none\"";
        table.mistake("authentication", text);
    }
    let beyond_loopback = !listener.bind.ip().is_loopback();
    if listener.authentication == Authentication::None && beyond_loopback && !listener.open_to_network {
        table.mistake(
            "authentication",
            format_args!(
                "\"none\" on {}, which is not loopback, would admit anybody; write \"password\", \
                 or open_to_network = true if that is meant",
                listener.bind.ip()
            ),
        );
    }
}
