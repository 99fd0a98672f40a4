//! The status page and its counts.

use std::fmt::{self, Write};

use serde::Serialize;

use crate::{
    gateway::Gateway,
    settings::{Listener, Settings},
};

/// Who is there, in numbers.
#[derive(Serialize)]
pub(super) struct Counts {
    /// Connections open on all listeners.
    connections: usize,
    /// Link sessions, live or away.
    link_sessions: usize,
    /// MQTT sessions, live or away.
    mqtt_sessions: usize,
    /// Retained MQTT messages.
    retained_messages: usize,
    /// Whether the gateway is on its way out.
    draining: bool,
}

impl Counts {
    pub(super) fn of(gateway: &Gateway) -> Self {
        Self {
            connections: gateway.slots.open(),
            link_sessions: gateway.sessions.len(),
            mqtt_sessions: gateway.mqtt.sessions(),
            retained_messages: gateway.mqtt.retained.len(),
            draining: gateway.drain.is_draining(),
        }
    }
}

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem;color:#222}\
    table{border-collapse:collapse;width:100%;margin-bottom:1.5rem}\
    th,td{text-align:left;padding:.25rem .75rem .25rem 0;border-bottom:1px solid #ddd}\
    th{font-weight:600;color:#555}code{font-size:.95em}";

/// A page without scripts or anything fetched from elsewhere.
pub(super) fn page(gateway: &Gateway) -> String {
    let snapshot = gateway.snapshot.load_full();
    let counts = Counts::of(gateway);
    let mut page = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Towline</title><style>{STYLE}</style>\
         <h1>Towline {}</h1><p>{}: {} connections, {} link sessions, {} MQTT sessions, \
         {} retained messages. \
         <a href=\"/metrics\">Metrics</a>, <a href=\"/sessions\">sessions</a>.</p>",
        env!("CARGO_PKG_VERSION"),
        if counts.draining { "Draining" } else { "Serving" },
        counts.connections,
        counts.link_sessions,
        counts.mqtt_sessions,
        counts.retained_messages,
    );
    // Writing to a string cannot fail.
    let _ = tables(&mut page, gateway, &snapshot.settings);
    page
}

fn tables(page: &mut String, gateway: &Gateway, settings: &Settings) -> fmt::Result {
    let listeners = settings.listeners.iter().map(|listener| {
        let open = ["link_tcp", "link_quic", "http", "mqtt", "detecting"].map(|protocol| {
            gateway.metrics.connections_open.with_label_values(&[&*listener.name, protocol]).get().to_string()
        });
        let mut row = vec![listener.name.to_string(), transports(listener)];
        row.extend(open);
        row
    });
    table(
        page,
        "Listeners",
        &["name", "address", "link on TCP", "link on QUIC", "HTTP", "MQTT", "detecting"],
        listeners,
    )?;
    let routes = settings.routes.iter().map(|route| {
        let header = route.header.as_ref().map(|(name, value)| format!("{name}: {value}"));
        let conditions = [route.topic.clone(), route.host.clone(), route.path.clone(), header];
        let condition: Vec<_> = conditions.into_iter().flatten().collect();
        let condition = if condition.is_empty() { "everything".to_owned() } else { condition.join(", ") };
        vec![
            route.name.to_string(),
            condition,
            route.backend.to_string(),
            route.call.clone().unwrap_or_default(),
        ]
    });
    table(page, "Routes, first match wins", &["name", "takes", "backend", "call"], routes)?;
    let backends = settings.backends.iter().map(|backend| {
        vec![backend.name.to_string(), format!("{:?}", backend.kind).to_lowercase(), backend.address.clone()]
    });
    table(page, "Backends", &["name", "kind", "address"], backends)
}

fn transports(listener: &Listener) -> String {
    let transport = match (listener.tcp, listener.quic) {
        (true, true) => "TCP and UDP",
        (true, false) => "TCP",
        (false, _) => "UDP",
    };
    format!("{} {transport}", listener.bind)
}

fn table(
    page: &mut String,
    title: &str,
    heads: &[&str],
    rows: impl Iterator<Item = Vec<String>>,
) -> fmt::Result {
    write!(page, "<h2>{title}</h2><table><tr>")?;
    for head in heads {
        write!(page, "<th>{head}")?;
    }
    for row in rows {
        write!(page, "<tr>")?;
        for cell in row {
            write!(page, "<td>{}", escaped(&cell))?;
        }
    }
    write!(page, "</table>")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
