//! What the gateway counts, in Prometheus' terms. One struct, so that a name is written once.

use prometheus::{
    Encoder, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

use crate::store::Counts;

/// Every counter, gauge and histogram of one gateway.
pub struct Metrics {
    registry: Registry,
    /// Connections accepted, by `listener`.
    pub connections_accepted: IntCounterVec,
    /// Connections open, by `listener` and `protocol` (`detecting` until it is known).
    pub connections_open: IntGaugeVec,
    /// Of them, those that wait without a task.
    pub connections_parked: IntGauge,
    /// Times that a connection was parked.
    pub parkings: IntCounter,
    /// Connections ended before a protocol served them, by `listener` and `reason`.
    pub connections_refused: IntCounterVec,
    /// Handshakes, by `listener` and `outcome` (`ok`, `timeout`, `failed`).
    pub handshakes: IntCounterVec,
    /// TLS session tickets, by `outcome`: `issued`, `opened`, `unknown` (no such key), `refused` (too old, forged,
    /// or of another listener's policy).
    pub tls_tickets: IntCounterVec,
    /// Session tokens of the link, by `outcome`: `issued`, `opened`, and those that were refused: `unknown` (no such
    /// key), `forged` (or another client's or session's), `expired`, `revoked` (changed password, removed user),
    /// `other_user`, `off` (`session.token_life` is 0, or a hook says who clients are).
    pub session_tokens: IntCounterVec,
    /// Short connections (POSTs of the link), by `listener` and `outcome`: `answered`, `late` (answers were left to
    /// another), `closed` (CLOSE says why), `lost` (the client went).
    pub short_connections: IntCounterVec,
    /// Early data, by `listener` and `outcome`: what TLS and QUIC did of a connection's (`accepted`,
    /// `rejected`), and what the fronts did of requests and connections in it (`served` before the handshake
    /// was complete, `waited` for it, `broken` since it never was, `refused` for want of a place to wait).
    pub early_data: IntCounterVec,
    /// Retries sent to QUIC peers that had to prove their address, by `listener`.
    pub quic_retries: IntCounterVec,
    /// QUIC connections that went on from another address, by `listener`.
    pub quic_migrations: IntCounterVec,
    /// Seconds until a certificate's end, by `listener`, `name` and `kind`.
    pub certificate_expiry_seconds: IntGaugeVec,
    /// Certificates and keys read again because their files changed, by `outcome` (`ok`, `refused`).
    pub certificate_reloads: IntCounterVec,
    /// Logins by password, session token or certificate, by `listener` and `outcome` (`ok`, `refused`).
    pub logins: IntCounterVec,
    /// Connections ended because what vouched for their clients was withdrawn, by `protocol` (`link`, `mqtt`) and `reason`
    /// (`forgotten`, `reload`, `keys`: of tokens, `authorities`: of certificates).
    pub connections_withdrawn: IntCounterVec,
    /// Fetches of the keys of tokens' issuer, by `outcome` (`ok`, `failed`).
    pub jwks_fetches: IntCounterVec,
    /// Questions to the hook, by `question` (`connect`, `access`) and `outcome`: `hit` (the answer was kept), `shared`
    /// (an equal one was under way), `allow`, `deny`, `not_mine`, `failed` (clients were refused).
    pub hook_questions: IntCounterVec,
    /// Seconds from a question to the hook's answer, the wait for a place included, by `question`.
    pub hook_seconds: HistogramVec,
    /// Requests, by `route` and `outcome` (`ok`, or the error's kind).
    pub requests: IntCounterVec,
    /// Seconds from a request's arrival to its answer's head, by `route`.
    pub request_seconds: HistogramVec,
    /// Bytes read from clients, by `protocol`.
    pub bytes_in: IntCounterVec,
    /// Bytes written to clients, by `protocol`.
    pub bytes_out: IntCounterVec,
    /// Limits met, by `limit`: the setting's name in the configuration file, as `limits.streams_max`, or a
    /// bare name for a bound that is no setting.
    pub limit_hits: IntCounterVec,
    /// What dictionaries were used for since the start, by `dictionary` (its hash's first digits) and `what`
    /// (`messages`, `bytes_before`, `bytes_after`, `messages_read`; of header dictionaries `connections`).
    pub dictionary_usage: IntGaugeVec,
    /// Serial of the endpoint list; 0: there is none.
    pub endpoint_list_serial: IntGauge,
    /// When clients stop using it, seconds since 1970; 0: there is none.
    pub endpoint_list_expires: IntGauge,
    /// Endpoint lists that clients were told of (`outcome` = `offered`), and that they fetched to the end (`fetched`).
    pub endpoint_lists: IntCounterVec,
    /// Trainings of dictionaries in the background, by `kind` (`payload`, `headers`) and `outcome` (`published`, `not_better`, `failed`).
    pub dictionary_trainings: IntCounterVec,
    /// What HELLO named instead of spelling it out, by `what` (`session_headers`, `header_dictionary`) and `outcome`
    /// (`known`, or `unknown`, which costs the client another connection).
    pub hello_references: IntCounterVec,
    /// Messages published by clients, by `protocol` and `outcome`.
    pub publishes: IntCounterVec,
    /// Publishes and subscriptions that a rule of the ACL denied, by `action` and `rule` (`default` where none matched).
    pub acl_denials: IntCounterVec,
    /// Messages handed to clients' mailboxes, by `outcome` (`sent`, `stored`, `dropped`).
    pub deliveries: IntCounterVec,
    /// Messages that MQTT sessions lost to a bound, to their expiry, or with their connections (QoS 0).
    pub mqtt_messages_dropped: IntCounter,
    /// MQTT sessions, live or away.
    pub mqtt_sessions: IntGauge,
    /// Messages that are retained, those that have expired and not made room yet among them.
    pub mqtt_retained: IntGauge,
    /// What they count, bytes.
    pub mqtt_retained_bytes: IntGauge,
    /// What sessions hold for their clients, bytes.
    pub mqtt_held_bytes: IntGauge,
    /// Messages of shared subscriptions that another member got because a member's session had ended.
    pub mqtt_messages_handed_over: IntCounter,
    /// Messages to and from upstream brokers, by `backend` and `outcome`: `forwarded`, `received`, `refused` (for good),
    /// `retried` (refused for now), `looped` (it had passed here before; without a backend where another gateway's bridge
    /// brought it as a client), `dropped` (QoS 0 while the broker was away).
    pub upstream_messages: IntCounterVec,
    /// What upstream brokers refused, each time, by `backend` and `reason`: the name of PUBACK's code, or `not_admitted`
    /// (beyond what CONNACK said).
    pub upstream_refusals: IntCounterVec,
    /// Whether an upstream broker is connected, by `backend`.
    pub upstream_connected: IntGaugeVec,
    /// Calls with several messages, by `route` and `outcome` (`ok`, `failed`).
    pub publish_batches: IntCounterVec,
    /// Calls for messages that were made again, by `route`.
    pub publish_retries: IntCounterVec,
    /// Messages that queues of the store took, by `queue` and `outcome` (`queued`, `taken`, `dropped`, `refused`).
    pub outbox_letters: IntCounterVec,
    /// Messages that wait in queues of the store, by `queue`.
    pub outbox_waiting: IntGaugeVec,
    /// Policies told to clients, by `outcome`: `sent`, and what they answered (`accepted`, `refused`).
    pub policies: IntCounterVec,
    /// Policies that clients refused, by `version` of the document.
    pub policy_refusals: IntCounterVec,
    /// Reports of clients, by `outcome`: `counted` for an experiment's arm, `taken`, `left_out` (too many).
    pub reports: IntCounterVec,
    /// The version of the policy document in force; 0 none, or the kill switch.
    pub policy_version: IntGauge,
    /// Link sessions, live or away.
    pub sessions: IntGauge,
    /// Drains begun.
    pub drains: IntCounter,
    /// Configuration reloads, by `outcome` (`ok`, `refused`).
    pub reloads: IntCounterVec,
}

impl Metrics {
    /// All at zero.
    pub fn new() -> Self {
        let registry = Registry::new();
        let r = &registry;
        Self {
            connections_accepted: counters(
                r,
                "connections_accepted_total",
                "Connections accepted",
                &["listener"],
            ),
            connections_open: gauges(r, "connections_open", "Connections open", &["listener", "protocol"]),
            connections_parked: registered(
                r,
                IntGauge::with_opts(options(
                    "connections_parked",
                    "Open connections that wait without a task",
                )),
            ),
            parkings: registered(
                r,
                IntCounter::with_opts(options("parkings_total", "Times that a connection was parked")),
            ),
            connections_refused: counters(
                r,
                "connections_refused_total",
                "Connections ended before a protocol served them",
                &["listener", "reason"],
            ),
            handshakes: counters(r, "handshakes_total", "TLS and QUIC handshakes", &["listener", "outcome"]),
            tls_tickets: counters(r, "tls_tickets_total", "TLS session tickets", &["outcome"]),
            session_tokens: counters(r, "session_tokens_total", "Session tokens of the link", &["outcome"]),
            short_connections: counters(
                r,
                "short_connections_total",
                "Short connections of the link (HTTPS POST)",
                &["listener", "outcome"],
            ),
            early_data: counters(r, "early_data_total", "Early data (0-RTT)", &["listener", "outcome"]),
            quic_retries: counters(r, "quic_retries_total", "Retries sent to QUIC peers", &["listener"]),
            quic_migrations: counters(
                r,
                "quic_migrations_total",
                "QUIC connections that went on from another address",
                &["listener"],
            ),
            certificate_expiry_seconds: gauges(
                r,
                "certificate_expiry_seconds",
                "Seconds until a certificate's end",
                &["listener", "name", "kind"],
            ),
            certificate_reloads: counters(
                r,
                "certificate_reloads_total",
                "Certificates and keys read again because their files changed",
                &["outcome"],
            ),
            logins: counters(r, "logins_total", "Logins of clients", &["listener", "outcome"]),
            connections_withdrawn: counters(
                r,
                "connections_withdrawn_total",
                "Connections ended because what vouched for their clients was withdrawn",
                &["protocol", "reason"],
            ),
            jwks_fetches: counters(
                r,
                "jwks_fetches_total",
                "Fetches of the keys of tokens' issuer",
                &["outcome"],
            ),
            hook_questions: counters(
                r,
                "hook_questions_total",
                "Questions of who clients are and what they may do",
                &["question", "outcome"],
            ),
            hook_seconds: seconds(r, "hook_seconds", "Time to the hook's answer", &["question"]),
            requests: counters(r, "requests_total", "Requests", &["route", "outcome"]),
            request_seconds: seconds(r, "request_seconds", "Time to the answer's head", &["route"]),
            bytes_in: counters(r, "bytes_in_total", "Bytes read from clients", &["protocol"]),
            bytes_out: counters(r, "bytes_out_total", "Bytes written to clients", &["protocol"]),
            limit_hits: counters(
                r,
                "limit_hits_total",
                "Limits met, by the name of their setting",
                &["limit"],
            ),
            dictionary_usage: gauges(
                r,
                "dictionary_usage",
                "Messages and bytes by dictionary since the start",
                &["dictionary", "what"],
            ),
            endpoint_list_serial: gauge(r, "endpoint_list_serial", "Serial of the endpoint list"),
            endpoint_list_expires: gauge(
                r,
                "endpoint_list_expires_timestamp_seconds",
                "When clients stop using the endpoint list",
            ),
            endpoint_lists: counters(
                r,
                "endpoint_lists_total",
                "Endpoint lists told to clients",
                &["outcome"],
            ),
            dictionary_trainings: counters(
                r,
                "dictionary_trainings_total",
                "Trainings of dictionaries in the background",
                &["kind", "outcome"],
            ),
            hello_references: counters(
                r,
                "hello_references_total",
                "What clients named by its hash in HELLO",
                &["what", "outcome"],
            ),
            publishes: counters(
                r,
                "publishes_total",
                "Messages published by clients",
                &["protocol", "outcome"],
            ),
            acl_denials: counters(
                r,
                "acl_denials_total",
                "Publishes and subscriptions that were denied",
                &["action", "rule"],
            ),
            deliveries: counters(
                r,
                "deliveries_total",
                "Messages handed to clients' mailboxes",
                &["outcome"],
            ),
            mqtt_messages_dropped: registered(
                r,
                IntCounter::with_opts(options(
                    "mqtt_messages_dropped_total",
                    "Messages that MQTT sessions lost to a bound, to their expiry, or with their connections (QoS 0)",
                )),
            ),
            mqtt_sessions: registered(
                r,
                IntGauge::with_opts(options("mqtt_sessions", "MQTT sessions, live or away")),
            ),
            mqtt_retained: registered(
                r,
                IntGauge::with_opts(options("mqtt_retained_messages", "Messages that are retained")),
            ),
            mqtt_retained_bytes: registered(
                r,
                IntGauge::with_opts(options(
                    "mqtt_retained_bytes",
                    "What retained messages count against their bound, bytes",
                )),
            ),
            mqtt_held_bytes: registered(
                r,
                IntGauge::with_opts(options(
                    "mqtt_held_bytes",
                    "What is queued for and in flight to MQTT sessions, counted against mqtt.held_bytes_max, bytes",
                )),
            ),
            mqtt_messages_handed_over: registered(
                r,
                IntCounter::with_opts(options(
                    "mqtt_messages_handed_over_total",
                    "Messages of shared subscriptions that another member got because a member's session had ended",
                )),
            ),
            upstream_messages: counters(
                r,
                "upstream_messages_total",
                "Messages to and from upstream brokers",
                &["backend", "outcome"],
            ),
            upstream_refusals: counters(
                r,
                "upstream_refusals_total",
                "Messages that upstream brokers refused",
                &["backend", "reason"],
            ),
            upstream_connected: gauges(
                r,
                "upstream_connected",
                "Whether an upstream broker is connected",
                &["backend"],
            ),
            publish_batches: counters(
                r,
                "publish_batches_total",
                "Calls with several messages",
                &["route", "outcome"],
            ),
            publish_retries: counters(
                r,
                "publish_retries_total",
                "Calls for messages that were made again",
                &["route"],
            ),
            outbox_letters: counters(
                r,
                "outbox_letters_total",
                "Messages that queues of the store took",
                &["queue", "outcome"],
            ),
            outbox_waiting: gauges(
                r,
                "outbox_waiting",
                "Messages that wait in queues of the store",
                &["queue"],
            ),
            policies: counters(
                r,
                "policies_total",
                "Policies told to clients, and their answers",
                &["outcome"],
            ),
            policy_refusals: counters(
                r,
                "policy_refusals_total",
                "Policies that clients refused",
                &["version"],
            ),
            reports: counters(r, "client_reports_total", "Reports of clients", &["outcome"]),
            policy_version: registered(
                r,
                IntGauge::with_opts(options("policy_version", "Version of the policy document in force")),
            ),
            sessions: registered(r, IntGauge::with_opts(options("sessions", "Link sessions, live or away"))),
            drains: registered(r, IntCounter::with_opts(options("drains_total", "Drains begun"))),
            reloads: counters(r, "reloads_total", "Configuration reloads", &["outcome"]),
            registry,
        }
    }

    /// Shows what the store counts.
    #[allow(clippy::expect_used, reason = "the names are constants, and a gateway has one store")]
    pub fn count_store(&self, counts: &Counts) {
        for counter in [&counts.commits, &counts.writes] {
            self.registry.register(Box::new(counter.clone())).expect("a metric's name is unique");
        }
    }

    /// Counts one more time that the bound named `limit` was met.
    pub fn limit_hit(&self, limit: &'static str) {
        self.limit_hits.with_label_values(&[limit]).inc();
    }

    /// Everything in Prometheus' text format.
    pub fn render(&self) -> String {
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            return format!("# {error}\n");
        }
        #[cfg_attr(
            not(feature = "count-allocations"),
            allow(unused_mut, reason = "nothing is appended then")
        )]
        let mut text = String::from_utf8_lossy(&text).into_owned();
        #[cfg(feature = "count-allocations")]
        crate::allocations::render(&mut text);
        text
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// Upper bounds of the latency histogram: a loopback backend to a slow one over a weak network.
const SECONDS_BUCKETS: &[f64] =
    &[0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0];

fn options(name: &str, help: &str) -> Opts {
    Opts::new(name, help).namespace("towline")
}

fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    registered(registry, IntCounterVec::new(options(name, help), labels))
}

fn gauge(registry: &Registry, name: &str, help: &str) -> IntGauge {
    registered(registry, IntGauge::with_opts(options(name, help)))
}

fn gauges(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    registered(registry, IntGaugeVec::new(options(name, help), labels))
}

fn seconds(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> HistogramVec {
    let options = HistogramOpts { common_opts: options(name, help), buckets: SECONDS_BUCKETS.to_vec() };
    registered(registry, HistogramVec::new(options, labels))
}

#[allow(clippy::expect_used, reason = "names are constants of this file, and a test makes them all")]
fn registered<M: prometheus::core::Collector + Clone + 'static>(
    registry: &Registry,
    metric: prometheus::Result<M>,
) -> M {
    let metric = metric.expect("a metric's name and labels are valid");
    registry.register(Box::new(metric.clone())).expect("a metric's name is unique");
    metric
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_counted_under_its_name() {
        let metrics = Metrics::new();
        metrics.limit_hit("limits.streams_max");
        metrics.limit_hit("limits.streams_max");
        assert!(metrics.render().contains("towline_limit_hits_total{limit=\"limits.streams_max\"} 2"));
    }
}
