//! Mistakes and what is said about them.

use std::path::Path;

use super::{reader::Reader, *};
use crate::settings::*;

const EXAMPLE: &str = include_str!("../../../towline.example.toml");

/// A file that is in order up to what `text` adds.
const LISTENER: &str =
    "[[listeners]]\nname = \"a\"\nbind = \"127.0.0.1:1\"\ntls = \"off\"\nauthentication = \"none\"\n";

fn mistakes(source: &str) -> String {
    parse(Path::new("t.toml"), source).err().map(|mistakes| mistakes.to_string()).unwrap_or_default()
}

/// `text` follows a listener that is in order, from line 6 on.
#[track_caller]
fn check(text: &str, expected: &str) {
    assert_eq!(mistakes(&format!("{LISTENER}{text}")), expected, "\n{text}");
}

/// `text` replaces the listener.
#[track_caller]
fn check_alone(text: &str, expected: &str) {
    assert_eq!(mistakes(text), expected, "\n{text}");
}

#[test]
fn a_file_in_order_has_no_mistakes() {
    check("", "");
}

#[test]
fn a_syntax_error_is_reported_alone() {
    let found = mistakes("[[listeners]]\nname = \n[limits\nstreams_max = 0\n");
    assert!(found.starts_with("t.toml:2:"), "{found}");
    assert!(found.contains("not valid TOML"), "{found}");
    assert!(!found.contains("streams_max"), "{found}");
}

#[test]
fn every_mistake_is_reported_in_the_order_of_the_file() {
    check(
        "[limits]\nstreams_max = 0\nfoo = 1\nwrite_timeout = \"ten\"\n",
        "t.toml:7:15: limits.streams_max: 0 is out of range; write 1 to 10000\n\
         t.toml:8:1: limits.foo: unknown key; known here: `handshake_timeout`, `handshakes_max`, \
         `first_message_timeout`, `connections_max`, `frame_bytes_max`, `quic_payload_max`, \
         `header_list_bytes_max`, \
         `message_bytes_max`, `streams_max`, `sessions_max`, `idle_timeout`, `tcp_user_timeout`, `write_timeout` or `park_after`\n\
         t.toml:9:17: limits.write_timeout: \"ten\" is not a duration, as \"500ms\", \"30s\", \"2m\", \"1h\" or \"7d\"",
    );
}

#[test]
fn unknown_keys_get_the_nearest_known_one() {
    check(
        "[limits]\nstream_max = 5\n",
        "t.toml:7:1: limits.stream_max: unknown key; did you mean `streams_max`?",
    );
    check("[limit]\nx = 5\n", "t.toml:6:2: limit: unknown key; did you mean `limits`?");
}

#[test]
fn wrong_types_say_what_to_write() {
    let number = "is not a number of bytes, as 4096, \"64KiB\", \"4MiB\" or \"1GiB\"";
    check(
        "[limits]\nframe_bytes_max = \"64kb\"\n",
        &format!("t.toml:7:19: limits.frame_bytes_max: \"64kb\" {number}"),
    );
    check("[limits]\nframe_bytes_max = -1\n", &format!("t.toml:7:19: limits.frame_bytes_max: -1 {number}"));
    check(
        "[limits]\nstreams_max = \"8\"\n",
        "t.toml:7:15: limits.streams_max: \"8\" is not a whole number from 1 to 10000",
    );
    check("[log]\njson = \"yes\"\n", "t.toml:7:8: log.json: \"yes\" is not true or false");
    check("[log]\nfilter = 3\n", "t.toml:7:10: log.filter: 3 is not a string in quotes");
    check(
        "[compression]\ndictionaries = \"a\"\n",
        "t.toml:7:16: compression.dictionaries: \"a\" is not a list of strings, as [\"a\", \"b\"]",
    );
    check("[routes]\n", "t.toml:6:1: routes: this table is not a list of tables: begin each with [[routes]]");
    check_alone(&format!("limits = 3\n{LISTENER}"), "t.toml:1:10: limits: 3 is not a table");
}

#[test]
fn ranges_are_checked_at_their_edges() {
    check("[limits]\nstreams_max = 1\n", "");
    check("[limits]\nstreams_max = 10000\n", "");
    check(
        "[limits]\nstreams_max = 10001\n",
        "t.toml:7:15: limits.streams_max: 10001 is out of range; write 1 to 10000",
    );
    check("[limits]\nframe_bytes_max = \"1MiB\"\n", "");
    check(
        "[limits]\nframe_bytes_max = \"2MiB\"\n",
        "t.toml:7:19: limits.frame_bytes_max: 2MiB is out of range; write 16640 to 1MiB",
    );
    check(
        "[limits]\nidle_timeout = \"500ms\"\n",
        "t.toml:7:16: limits.idle_timeout: 500ms is out of range; write 1s to 1d",
    );
}

#[test]
fn keys_must_fit_each_other() {
    check(
        "[client_policy]\nbackoff_min = \"40s\"\nbackoff_max = \"30s\"\n",
        "t.toml:7:15: client_policy.backoff_min: is longer than client_policy.backoff_max",
    );
    check(
        "[session]\nstream_window = \"1MiB\"\n",
        "t.toml:7:17: session.stream_window: is larger than session.connection_window, which bounds all streams together",
    );
    check(
        "[client_policy]\nheartbeat = \"11m\"\n",
        "t.toml:7:13: client_policy.heartbeat: is longer than session.heartbeat_max, which the gateway holds clients to",
    );
    check(
        "[log]\nfilter = \"info,a=b=c\"\n",
        "t.toml:7:10: log.filter: \"info,a=b=c\" is not a filter; write a level (error, warn, info, debug, trace), or levels by target, as \"info,towline_gateway=debug\"",
    );
}

#[test]
fn listeners_are_checked() {
    check_alone(
        "",
        "t.toml:1:1: listeners: there is none, so nobody could connect; write a section [[listeners]]",
    );
    check_alone(
        "[[listeners]]\ntls = \"of\"\nprotocols = [\"http\", \"ftp\", \"http\"]\nauthentication = \"none\"\n",
        "t.toml:1:1: listeners.name: is missing; write for example name = \"public\"\n\
         t.toml:1:1: listeners.bind: is missing; write for example bind = \"0.0.0.0:443\"\n\
         t.toml:1:1: listeners.certificate: is missing, and TLS and QUIC need it; write certificate = \
         { chain = \"chain.pem\", key = \"key.pem\" }, or tls = \"off\" and quic = false\n\
         t.toml:2:7: listeners.tls: \"of\" is not known; write \"required\", \"optional\" or \"off\"\n\
         t.toml:3:13: listeners.protocols: \"ftp\" is not known; write \"link\", \"http\", \"mqtt\" or \"websocket\"\n\
         t.toml:3:13: listeners.protocols: \"http\" stands there twice",
    );
    check(
        "[[listeners]]\nname = \"a\"\nbind = \"127.0.0.1:1\"\ntls = \"off\"\nauthentication = \"none\"\n",
        "t.toml:7:8: listeners.name: \"a\" names an earlier listener too; names are unique\n\
         t.toml:8:8: listeners.bind: 127.0.0.1:1 is another listener's or the admin listener's address already; choose another port",
    );
    check(
        "[[listeners]]\nname = \"b\"\nbind = \"localhost\"\ntls = \"off\"\nauthentication = \"none\"\n",
        "t.toml:8:8: listeners.bind: \"localhost\" is not an address with a port; write for example \"127.0.0.1:7443\" or \"[::]:443\"",
    );
    check(
        "[[listeners]]\nname = \"b\"\nbind = \"127.0.0.1:2\"\ntls = \"off\"\ntcp = false\nauthentication = \"none\"\n",
        "t.toml:10:7: listeners.tcp: is false, and so is quic: nothing would listen; set one of them to true",
    );
}

#[test]
fn websockets_have_a_path_and_origins() {
    check_alone(
        &format!(
            "{LISTENER}websocket_path = \"mqtt\"\nwebsocket_origins = [\"app.example.com\", \"https://a.example.com/\"]\n"
        ),
        "t.toml:6:18: listeners.websocket_path: \"mqtt\" is not a path; write for example \"/mqtt\"\n\
         t.toml:7:21: listeners.websocket_origins: \"app.example.com\" is not an origin; write for example \
         \"https://app.example.com\", or \"*\" for all\n\
         t.toml:7:21: listeners.websocket_origins: \"https://a.example.com/\" is not an origin; write for example \
         \"https://app.example.com\", or \"*\" for all",
    );
    check_alone(&format!("{LISTENER}websocket_origins = [\"*\", \"null\", \"http://localhost:3000\"]\n"), "");
}

#[test]
fn load_balancers_are_named_by_networks() {
    check_alone(
        &format!("{LISTENER}proxy_protocol = [\"10.0.0.0/8\", \"10.0.0.1/8\", \"balancer\"]\n"),
        "t.toml:6:18: listeners.proxy_protocol: \"10.0.0.1/8\" has bits behind its prefix; write \"10.0.0.0/8\"\n\
         t.toml:6:18: listeners.proxy_protocol: \"balancer\" is not a network; write for example \"10.0.0.0/8\", \
         \"2001:db8::/32\" or \"192.0.2.7\"",
    );
    check_alone(&format!("{LISTENER}proxy_protocol = [\"10.0.0.0/8\", \"::1\"]\n"), "");
}

#[test]
fn nobody_is_admitted_by_accident() {
    check_alone(
        "[[listeners]]\nname = \"a\"\nbind = \"0.0.0.0:1\"\ntls = \"off\"\nauthentication = \"none\"\n",
        "t.toml:5:18: listeners.authentication: \"none\" on 0.0.0.0, which is not loopback, would admit anybody; \
         write \"password\", or open_to_network = true if that is meant",
    );
    check_alone(
        "[[listeners]]\nname = \"a\"\nbind = \"0.0.0.0:1\"\ntls = \"off\"\nauthentication = \"none\"\nopen_to_network = true\n",
        "",
    );
    check_alone(
        "[[listeners]]\nname = \"a\"\nbind = \"127.0.0.1:1\"\ntls = \"off\"\n",
        "t.toml:1:1: listeners.authentication: \"password\" needs [auth] password_file = \"users\"; \
         make its lines with `towline passwd`, or write \"none\"",
    );
    check(
        "[admin]\nbind = \"[::]:7900\"\n",
        "t.toml:7:8: admin.bind: the admin listener admits without authentication, and :: is not loopback; \
         bind 127.0.0.1, or write open_to_network = true if the network keeps others out",
    );
}

#[test]
fn files_that_are_named_must_be_there() {
    let gone = "No such file or directory (os error 2)";
    check_alone(
        "[[listeners]]\nname = \"a\"\nbind = \"127.0.0.1:1\"\nauthentication = \"none\"\n\
         certificate = { chain = \"gone.pem\", key = \"gone.key\" }\n",
        &format!("t.toml:5:15: listeners.certificate: gone.pem: {gone}"),
    );
    check(
        "[auth]\npassword_file = \"gone\"\n",
        &format!("t.toml:7:17: auth.password_file: gone cannot be read: {gone}"),
    );
    check(
        "[compression]\ndictionaries = [\"gone\"]\n",
        &format!("t.toml:7:16: compression.dictionaries: gone: {gone}"),
    );
}

const BACKEND: &str = "[[backends]]\nname = \"b\"\nkind = \"grpc\"\naddress = \"h:1\"\n";
const BROKER: &str = "[[backends]]\nname = \"m\"\nkind = \"mqtt\"\naddress = \"h:1\"\n";

#[test]
fn backends_are_checked() {
    check(BACKEND, "");
    check(
        "[[backends]]\n",
        "t.toml:6:1: backends.kind: is missing; write for example kind = \"grpc\"\n\
         t.toml:6:1: backends.name: is missing; write for example name = \"orders\"\n\
         t.toml:6:1: backends.address: is missing; write for example address = \"127.0.0.1:8080\"",
    );
    check(
        "[[backends]]\nname = \"b c\"\nkind = \"http1\"\naddress = \"http://h\"\ntopic_prefix = \"x\"\n",
        "t.toml:7:8: backends.name: \"b c\" is not a name; write 1 to 64 letters, digits, '-', '_' or '.'\n\
         t.toml:9:11: backends.address: \"http://h\" is not host:port, as \"127.0.0.1:8080\"\n\
         t.toml:10:16: backends.topic_prefix: belongs to backends of kind \"mqtt\"; leave it out",
    );
    check(
        &format!("{BACKEND}{BACKEND}"),
        "t.toml:11:8: backends.name: \"b\" names an earlier backend too; names are unique",
    );
    check(
        &format!("{BACKEND}tls = {{ ca = \"gone\" }}\n"),
        "t.toml:10:7: backends.tls: gone: I/O error: No such file or directory (os error 2)",
    );
    check(
        &format!("{BROKER}tls = {{ ca = \"gone\" }}\n"),
        "t.toml:10:7: backends.tls: of backends of kind \"mqtt\" stands in [backends.upstream]",
    );
}

/// `route` stands from line 14 on, behind a gRPC backend `b` and a broker `m`.
#[track_caller]
fn check_route(route: &str, expected: &str) {
    check(&format!("{BACKEND}{BROKER}{route}"), expected);
}

#[test]
fn routes_are_checked() {
    check_route("[[routes]]\nname = \"r\"\nbackend = \"b\"\n", "");
    check_route(
        "[[routes]]\nname = \"r\"\nbackend = \"c\"\npath = \"a*b\"\nhost = \"A:1\"\n",
        "t.toml:16:11: routes.backend: no backend is called \"c\"; known: \"b\", \"m\"\n\
         t.toml:17:8: routes.path: \"a*b\" is not a path; begin it with '/', and write '*' at its end only, \
         as \"/orders.v1.Orders/*\"\n\
         t.toml:18:8: routes.host: \"A:1\" is not a host in lower case without a port, as \"api.example.com\" \
         or \"*.example.com\"",
    );
    check_route(
        "[[routes]]\nname = \"r\"\nbackend = \"b\"\nheader = { name = \"X-A\", value = \"1\" }\n",
        "t.toml:17:10: routes.header: \"X-A\" is not a header name in lower case, as \"x-canary\"",
    );
    check_route(
        "[[routes]]\nname = \"r\"\nbackend = \"b\"\n[[routes]]\nname = \"s\"\nbackend = \"b\"\n",
        "t.toml:18:8: routes.name: route \"r\" comes first; \"s\" matches only what this earlier route takes \
         already: give it another condition, or remove it",
    );
    check_route(
        "[[routes]]\nname = \"r\"\n",
        "t.toml:14:1: routes.backend: is missing; write for example backend = \"orders\"",
    );
}

#[test]
fn topic_routes_are_checked() {
    let call = "call = \"/a.B/C\"\n";
    check_route(&format!("[[routes]]\nname = \"r\"\nbackend = \"b\"\ntopic = \"a/+\"\n{call}"), "");
    check_route("[[routes]]\nname = \"r\"\nbackend = \"m\"\ntopic = \"a/#\"\n", "");
    check_route(
        "[[routes]]\nname = \"r\"\nbackend = \"b\"\ntopic = \"a/+\"\n",
        "t.toml:14:1: routes.call: is missing: the method that each publish becomes; \
         write for example call = \"/orders.v1.Orders/Ingest\"",
    );
    check_route(
        &format!("[[routes]]\nname = \"r\"\nbackend = \"m\"\ntopic = \"a/+\"\npath = \"/\"\n{call}"),
        "t.toml:18:8: routes.path: is a condition on requests, and a route with a topic takes publishes; \
         make two routes of it\n\
         t.toml:19:8: routes.call: \"m\" is an MQTT broker, which gets the publish as it is; leave it out",
    );
    check_route(
        "[[routes]]\nname = \"r\"\nbackend = \"m\"\n",
        "t.toml:16:11: routes.backend: \"m\" is an MQTT broker, which takes publishes only; write topic = \"…\"",
    );
    check_route(
        &format!("[[routes]]\nname = \"r\"\nbackend = \"b\"\n{call}"),
        "t.toml:17:8: routes.call: is what a publish becomes; it needs topic = \"…\", or leave it out",
    );
}

#[test]
fn never_indexed_names_are_names_of_header_fields() {
    check(
        "[session]\nnever_indexed = [\"X-Api-Key\", \":path\"]\n",
        "t.toml:7:17: session.never_indexed: \":path\" is not the name of a header field, as \"x-api-key\"",
    );
    check("[session]\nnever_indexed = [\"X-Api-Key\"]\n", "");
}

#[test]
fn response_information_is_the_beginning_of_a_topic() {
    let line = |text: &str| format!("[mqtt]\nresponse_information = \"{text}\"\n");
    check(&line("responses/${clientid}/"), "");
    for text in ["responses/#", "${clientid}/+", "$SYS/${clientid}"] {
        let expected = format!(
            "t.toml:7:24: mqtt.response_information: \"{text}\" begins no topic that clients may publish to: it holds '+' \
             or '#', or is below $SYS; write for example \"responses/${{clientid}}/\""
        );
        check(&line(text), &expected);
    }
    let found = mistakes(&format!("{LISTENER}{}", line("r/${nobody}")));
    assert!(
        found.contains("mqtt.response_information") && found.contains("${nobody} is not known"),
        "{found}"
    );
}

#[test]
fn the_example_names_every_key_and_its_default() {
    let folder = tempfile::tempdir().unwrap();
    crate::cli::development_certificates(&folder.path().join("towline-data")).unwrap();
    let reader = Reader::new(folder.path(), &Providers::default());
    let document = reader.document(EXAMPLE);
    let example = sections::settings(reader.root(document.get_ref()));
    let asked = reader.asked();
    let mistakes = reader.into_mistakes();
    assert!(mistakes.is_empty(), "{}", Mistakes::new(Path::new("towline.example.toml"), EXAMPLE, mistakes));
    for path in asked {
        let key = path.rsplit('.').next().unwrap();
        let written = EXAMPLE.lines().any(|line| {
            let line = line.trim_start_matches(['#', ' ', '[']);
            line.strip_prefix(key).is_some_and(|rest| rest.starts_with([' ', ']']))
                || line.contains(&format!("{key} = "))
                || line.ends_with(&format!(".{key}]"))
        });
        assert!(written, "{path} is not in towline.example.toml");
    }
    let shown = |settings: &Settings| {
        let Settings { drain_timeout, drain_spread, drain_endpoints, tls, auth, admin, .. } = settings;
        let Settings { limits, session, mqtt, client_policy, compression, dictionaries, .. } = settings;
        let Settings { log, .. } = settings;
        format!(
            "{drain_timeout:?} {drain_spread:?} {drain_endpoints:?} {tls:?} {auth:?} {admin:?} \
             {limits:?} {session:?} {mqtt:?} {client_policy:?} {compression:?} {dictionaries:?} {log:?}"
        )
    };
    assert_eq!(shown(&example), shown(&Settings::default()));
    assert_eq!(example.backends[0], Backend::new("orders", BackendKind::Grpc, "127.0.0.1:7081"));
    assert_eq!(example.backends[1], Backend::new("broker", BackendKind::Mqtt, "127.0.0.1:1884"));
}

#[test]
fn what_a_bridge_is_told_must_fit_together() {
    check(
        &format!(
            "{BROKER}[backends.upstream]\nlocal_prefix = \"+/\"\nsubscribe = [\"a#\"]\nstatus_topic = \"\"\n\
             tls = {{}}\nbackoff_min = \"50s\"\nbuffer_policy = \"qos0\"\npassword_file = \"gone\"\n"
        ),
        "t.toml:11:16: backends.upstream.local_prefix: holds '+', '#' or NUL, which no topic name may hold\n\
         t.toml:12:13: backends.upstream.subscribe: \"a#\" is not a topic filter: `#` must stand alone in the last \
         level, as in `devices/#`\n\
         t.toml:13:16: backends.upstream.status_topic: is not a topic name: it is empty, or holds '+', '#' or NUL\n\
         t.toml:14:7: backends.upstream.tls: needs the authorities that sign the other side's certificate; write \
         tls = { ca = \"ca.pem\" }\n\
         t.toml:15:15: backends.upstream.backoff_min: is longer than backends.upstream.backoff_max\n\
         t.toml:16:17: backends.upstream.buffer_policy: \"qos0\" is not known; write \"oldest\" or \"newest\"\n\
         t.toml:17:17: backends.upstream.password_file: needs user = \"…\" beside it\n\
         t.toml:17:17: backends.upstream.password_file: gone cannot be read: No such file or directory (os error 2)",
    );
    check(
        &format!("{BACKEND}[backends.upstream]\nhops_max = 3\n"),
        "t.toml:10:1: backends.upstream: belongs to backends of kind \"mqtt\"; leave it out",
    );
    check(
        &format!("{BROKER}[backends.upstream]\ntls = {{ ca = \"gone\" }}\n"),
        "t.toml:10:1: backends.upstream: tls: gone: I/O error: No such file or directory (os error 2)",
    );
}

#[cfg(not(feature = "tlcp"))]
#[test]
fn tlcp_in_a_build_without_it_is_a_mistake_that_says_how_to_get_it() {
    let files = "sign_chain = \"a\", sign_key = \"b\", encrypt_chain = \"c\", encrypt_key = \"d\"";
    let found = mistakes(&format!("{LISTENER}tlcp_certificate = {{ {files} }}\n"));
    assert!(found.contains("listeners.tlcp_certificate: TLCP is not in this build"), "{found}");
    assert!(found.contains("--features tlcp"), "{found}");
}

#[test]
fn nobody_is_asked_to_leave_after_the_drain() {
    let check = |text: &str, expected: &str| {
        assert_eq!(mistakes(&format!("{text}{LISTENER}")), expected, "\n{text}");
    };
    let mistake = "t.toml:2:16: drain_spread: is longer than drain_timeout, which cuts off whoever is still to \
         leave; write at most \"5s\"";
    check("drain_timeout = \"5s\"\ndrain_spread = \"5001ms\"\n", mistake);
    check("drain_timeout = \"5s\"\ndrain_spread = \"5s\"\n", "");
    let short = parse(Path::new("t.toml"), &format!("drain_timeout = \"5s\"\n{LISTENER}")).unwrap();
    assert_eq!(short.drain_spread, short.drain_timeout, "the default follows a shorter drain");
}

#[test]
fn a_short_heartbeat_max_bounds_the_default_heartbeat() {
    let source = format!("{LISTENER}[session]\nheartbeat_max = \"30s\"\n");
    let settings = parse(Path::new("t.toml"), &source).unwrap();
    assert_eq!(settings.client_policy.heartbeat, settings.session.heartbeat_max);
}

#[test]
fn paths_that_no_request_can_have_are_mistakes() {
    let backend = "[[backends]]\nname = \"b\"\nkind = \"grpc\"\naddress = \"h:1\"\n";
    let call = mistakes(&format!(
        "{LISTENER}{backend}[[routes]]\nname = \"r\"\ntopic = \"a\"\nbackend = \"b\"\ncall = \"/a\\u0001\"\n"
    ));
    assert!(call.starts_with("t.toml:14:8: routes.call: "), "{call}");
    let path = mistakes(&format!(
        "{LISTENER}{backend}[[routes]]\nname = \"r\"\npath = \"/a\\u0001\"\nbackend = \"b\"\n"
    ));
    assert!(path.starts_with("t.toml:12:8: routes.path: "), "{path}");
}

#[test]
fn a_file_that_is_no_dictionary_is_named_with_its_line() {
    let found = mistakes(&format!("{LISTENER}[compression]\ndictionaries = [\"Cargo.toml\"]\n"));
    assert!(found.starts_with("t.toml:7:16: compression.dictionaries: "), "{found}");
}

#[test]
fn what_tls_is_made_from_must_fit_together() {
    let folder = tempfile::tempdir().unwrap();
    crate::cli::development_certificates(folder.path()).unwrap();
    fs::write(folder.path().join("keys"), "no key").unwrap();
    let check = |keys: &str, expected: &str| {
        let text = format!(
            "[[listeners]]\nname = \"a\"\nbind = \"127.0.0.1:1\"\nauthentication = \"none\"\n{keys}\n"
        );
        let found = parse(&folder.path().join("t.toml"), &text).err().map(|error| error.to_string());
        let found = found.unwrap_or_default().replace(&*folder.path().to_string_lossy(), "");
        assert_eq!(found, expected, "\n{text}");
    };
    let ecdsa = "certificate = { chain = \"dev-cert.pem\", key = \"dev-key.pem\" }";
    let both = "certificate = [{ chain = \"dev-cert.pem\", key = \"dev-key.pem\" }, \
                { chain = \"dev-sm2-cert.pem\", key = \"dev-sm2-key.pem\" }]";
    check(ecdsa, "");
    check(&format!("{both}\ncrypto = [\"shangmi\", \"international\"]\nquic = true"), "");
    check(
        &format!("{ecdsa}\ncrypto = [\"hsm\", \"international\", \"international\"]"),
        "/t.toml:6:10: listeners.crypto: \"hsm\" is not known; known: \"international\", \"shangmi\"\n\
         /t.toml:6:10: listeners.crypto: \"international\" stands there twice",
    );
    check(
        &format!("{ecdsa}\ncrypto = [\"international\", \"shangmi\"]"),
        "/t.toml:6:10: listeners.crypto: \"shangmi\" has no certificate of its kind; add one to \
         certificate = [ … ], or leave it out",
    );
    check(
        both,
        "/t.toml:5:15: listeners.certificate: /dev-sm2-cert.pem: is a certificate for a key of the kind \"sm2\", \
         which the listener's crypto = [\"international\"] does not know",
    );
    check(
        "certificate = { chain = \"dev-cert.pem\", key = \"dev-sm2-key.pem\" }",
        "/t.toml:5:15: listeners.certificate: /dev-sm2-key.pem: cannot be used: unexpected error: failed to parse \
         private key as RSA, ECDSA, or EdDSA",
    );
    check(
        &format!("{ecdsa}\nclient_certificates = \"required\"\ntls = \"optional\""),
        "/t.toml:1:1: listeners.client_ca: is missing: the authorities that sign clients' certificates; write \
         client_ca = \"clients.pem\"\n\
         /t.toml:6:23: listeners.client_certificates: \"required\" could be got round in plaintext; write \
         tls = \"required\"",
    );
    check(
        &format!("{ecdsa}\nclient_ca = \"dev-ca.pem\"\nforward_client_certificate = true"),
        "/t.toml:6:13: listeners.client_ca: would never be used; write client_certificates = \"required\" or \
         \"optional\"\n\
         /t.toml:7:30: listeners.forward_client_certificate: needs client certificates; write \
         client_certificates = \"required\" or \"optional\"",
    );
    check(
        &format!("{ecdsa}\ndelegated_life = \"8d\"\n[tls]\nticket_keys = \"keys\""),
        "/t.toml:6:18: listeners.delegated_life: 8d is out of range; write 1h to 7d\n\
         /t.toml:8:15: tls.ticket_keys: /keys: line 1 is not base64 of 48 bytes; make it with `towline cert \
         ticket-key`",
    );
    check(
        &format!("{ecdsa}\ntls = \"off\""),
        "/t.toml:5:15: listeners.certificate: would never be used with tls = \"off\" and quic = false; leave it out, \
         or set tls",
    );
}

#[test]
fn rules_of_the_acl_are_checked() {
    check(
        "[acl]\ndefault = \"no\"\n[[acl.rules]]\nname = \"a\"\ntopics = [\"a/${user}\"]\nclaims = [\"role\"]\n",
        "t.toml:7:11: acl.default: \"no\" is not known; write \"allow\", \"deny\" or \"ask\"\n\
         t.toml:8:1: acl.rules.permission: is missing; write for example permission = \"allow\"\n\
         t.toml:10:10: acl.rules.topics: \"a/${user}\": ${user} is not known; write ${clientid}, ${username}, \
         ${cert_common_name} or ${claim.NAME}\n\
         t.toml:11:10: acl.rules.claims: \"role\" is not name=value, as \"role=admin\"\n\
         t.toml:11:10: acl.rules.claims: names nothing; leave the key out for a rule without this condition",
    );
    let rule = "[[acl.rules]]\nname = \"a\"\npermission = \"allow\"\n";
    check(
        &format!("{rule}listeners = [\"b\"]\nusers = []\n{rule}"),
        "t.toml:9:13: acl.rules.listeners: there is no listener \"b\"\n\
         t.toml:10:9: acl.rules.users: names nothing; leave the key out for a rule without this condition\n\
         t.toml:12:8: acl.rules.name: \"a\" names an earlier rule too; names are unique",
    );
    let settings =
        parse(Path::new("t.toml"), &format!("{LISTENER}{rule}claims = [\"role=admin\"]\n")).unwrap();
    assert_eq!(settings.acl.rules[0].claims, [("role".to_owned(), "admin".to_owned())]);
}

#[test]
fn a_hook_needs_a_backend_that_can_be_asked() {
    let address = "127.0.0.1:1";
    let backend =
        |kind: &str| format!("[[backends]]\nname = \"b\"\nkind = \"{kind}\"\naddress = \"{address}\"\n");
    check(
        "[auth.hook]\ndeadline = \"0s\"\n[acl]\ndefault = \"ask\"\n",
        "t.toml:6:1: auth.hook.backend: is missing; write for example backend = \"accounts\"\n\
         t.toml:7:12: auth.hook.deadline: 0ms is out of range; write 10ms to 1m",
    );
    check("[auth.hook]\nbackend = \"b\"\n", "t.toml:7:11: auth.hook.backend: there is no backend \"b\"");
    check(
        &format!("{}[auth.hook]\nbackend = \"b\"\npath = \"auth\"\n", backend("http1")),
        "t.toml:12:8: auth.hook.path: \"auth\" is not a path, as \"/towline/auth\"",
    );
    check(
        &format!("{}[auth.hook]\nbackend = \"b\"\npath = \"/auth\"\n", backend("grpc")),
        "t.toml:12:8: auth.hook.path: is for HTTP; a gRPC backend is asked at towline.auth.v1.Auth: leave it out",
    );
    let far = backend("http1").replace(address, "accounts.internal:80");
    check(
        &format!("{far}[auth.hook]\nbackend = \"b\"\n"),
        "t.toml:11:11: auth.hook.backend: \"b\" gets passwords, and is beyond loopback without tls; give it tls, or \
         write plaintext = true if the way to it is your own",
    );
    let hook = "[auth.hook]\nbackend = \"b\"\n";
    check(&format!("{}{hook}", backend("http1")), "");
    check(&format!("{far}{hook}plaintext = true\n"), "");
    check(
        &format!("{far}{hook}plaintext = false\n"),
        "t.toml:11:11: auth.hook.backend: \"b\" gets passwords, and is beyond loopback without tls; give it tls, or \
         write plaintext = true if the way to it is your own",
    );
    check(
        &format!("{}[auth.hook]\nbackend = \"b\"\n", backend("mqtt")),
        "t.toml:11:11: auth.hook.backend: \"b\" is an MQTT broker; name one of kind http1, http2 or grpc",
    );
    check(
        "[acl]\ndefault = \"ask\"\n[[acl.rules]]\nname = \"a\"\npermission = \"ask\"\n",
        "t.toml:7:11: acl.default: \"ask\" needs somebody to ask: [auth.hook] backend = \"NAME\"\n\
         t.toml:10:14: acl.rules.permission: \"ask\" needs somebody to ask: [auth.hook] backend = \"NAME\"",
    );
}

#[test]
fn an_endpoint_list_that_nobody_would_believe_is_a_mistake() {
    let folder = tempfile::tempdir().unwrap();
    let (file, key) = (folder.path().join("list"), towline_crypto::signing::SigningKey::generate().unwrap());
    let refused = |keys: &str, part: &str| {
        let text = format!("{LISTENER}[endpoint_list]\nfile = {file:?}\n{keys}");
        let found = mistakes(&text);
        assert!(found.contains(part) && found.lines().count() == 1, "{found}");
    };
    let keys = format!("keys = [\"{}\"]\n", key.public());
    refused("", "t.toml:7:8: endpoint_list.file: needs `keys`");
    refused("keys = [\"rubbish\"]\n", "endpoint_list.keys: \"rubbish\" is no public key");
    refused(&keys, "No such file");
    fs::write(&file, "towline endpoints 2\n").unwrap();
    refused(&keys, "an endpoint list begins with the line `towline endpoints 1`");
    let text = "towline endpoints 1\nserial 1\nissued 1\nexpires 2\nendpoint a:1 tcp 0 1\n";
    let signature = |key| towline_protocols::endpoints::ListSignature { key, bytes: [0; 64] }.line();
    fs::write(&file, format!("{text}{}", signature([7; 8]))).unwrap();
    refused(&keys, "bad signature: it is by key 0707070707070707, and the keys to go by are");
    fs::write(&file, format!("{text}{}", signature(key.public().id()))).unwrap();
    refused(&keys, "bad signature: it was changed after it was signed");
}
