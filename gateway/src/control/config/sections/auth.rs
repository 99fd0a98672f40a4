//! `[auth]`.

use std::{net::IpAddr, path::Path, time::Duration};

use http::Uri;

use crate::{
    auth::{
        Users,
        jwt::{Algorithm, Issuer},
    },
    control::config::reader::Table,
    settings::{Auth, Backend, BackendKind, Guesses, Hook, Jwks, Jwt},
};

const DAY: Duration = Duration::from_secs(86_400);

pub(super) fn auth(mut t: Table<'_, '_>, backends: &[Backend]) -> Auth {
    let default = Auth::default();
    let password_file = t.optional_path("password_file");
    if let Some(path) = &password_file
        && let Err(problem) = usable_users(path)
    {
        t.mistake("password_file", problem);
    }
    let password_checks_max = t.count("password_checks_max", default.password_checks_max, 1..=1024);
    let ends_per_second_max = t.count("ends_per_second_max", default.ends_per_second_max, 1..=1_000_000);
    let is_jwt = t.has("jwt");
    let jwt = jwt(t.table("jwt"), is_jwt);
    let is_hook = t.has("hook");
    let hook = hook(t.table("hook"), is_hook, backends);
    let guesses = guesses(t.table("guesses"));
    t.finish();
    let jwt = jwt.filter(|_| is_jwt);
    Auth { password_file, password_checks_max, jwt, hook, guesses, ends_per_second_max }
}

fn guesses(mut t: Table<'_, '_>) -> Guesses {
    let d = Guesses::default();
    let second = Duration::from_secs(1);
    let mut failures = |key, default: u32| t.count(key, default as usize, 0..=1_000_000) as u32;
    let guesses = Guesses {
        failures_max: failures("failures_max", d.failures_max),
        address_failures_max: failures("address_failures_max", d.address_failures_max),
        within: t.duration("within", d.within, second..=DAY),
        refused_for: t.duration("refused_for", d.refused_for, second..=DAY),
        entries_max: t.count("entries_max", d.entries_max, 16..=10_000_000),
    };
    t.finish();
    guesses
}

fn hook(mut t: Table<'_, '_>, is_set: bool, backends: &[Backend]) -> Option<Hook> {
    let d = Hook::new("");
    let backend = if is_set { t.required_string("backend", "accounts") } else { t.string("backend", "") };
    let second = Duration::from_secs(1);
    let hook = Hook {
        backend: backend.into(),
        plaintext: t.boolean("plaintext", d.plaintext),
        path: t.string("path", &d.path),
        certificates: t.boolean("certificates", d.certificates),
        deadline: t.duration("deadline", d.deadline, Duration::from_millis(10)..=60 * second),
        questions_max: t.count("questions_max", d.questions_max, 1..=100_000),
        waiting_max: t.count("waiting_max", d.waiting_max, 0..=1_000_000),
        cache_entries_max: t.count("cache_entries_max", d.cache_entries_max, 1..=10_000_000),
        allowed_for: t.duration("allowed_for", d.allowed_for, Duration::ZERO..=DAY),
        denied_for: t.duration("denied_for", d.denied_for, Duration::ZERO..=DAY),
    };
    t.finish();
    if !is_set {
        return None;
    }
    check_hook(&t, &hook, backends);
    Some(hook)
}

fn check_hook(t: &Table<'_, '_>, hook: &Hook, backends: &[Backend]) {
    let backend = backends.iter().find(|backend| backend.name == hook.backend);
    let kind = backend.map(|backend| backend.kind);
    match kind {
        None if t.has("backend") => {
            t.mistake("backend", format_args!("there is no backend \"{}\"", hook.backend));
        }
        Some(BackendKind::Mqtt) => t.mistake(
            "backend",
            format_args!("\"{}\" is an MQTT broker; name one of kind http1, http2 or grpc", hook.backend),
        ),
        _ => {}
    }
    let is_open = |backend: &Backend| {
        let host = backend.address.rsplit_once(':').map_or(&*backend.address, |(host, _port)| host);
        backend.kind != BackendKind::Mqtt && backend.tls.is_none() && !is_loopback(host)
    };
    if !hook.plaintext && backend.is_some_and(is_open) {
        t.mistake(
            "backend",
            format_args!(
                "\"{}\" gets passwords, and is beyond loopback without tls; give it tls, or write plaintext = true \
                 if the way to it is your own",
                hook.backend
            ),
        );
    }
    if kind == Some(BackendKind::Grpc) && t.has("path") {
        t.mistake("path", "is for HTTP; a gRPC backend is asked at towline.auth.v1.Auth: leave it out");
    }
    let is_path = hook.path.starts_with('/') && !hook.path.contains(['?', '#', ' ']);
    if !is_path || hook.path.parse::<http::uri::PathAndQuery>().is_err() {
        t.mistake("path", format_args!("\"{}\" is not a path, as \"/towline/auth\"", hook.path));
    }
}

/// Whether a URL's or an address's host is this machine.
fn is_loopback(host: &str) -> bool {
    let literal = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || literal.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn usable_users(path: &Path) -> Result<(), String> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
    Users::parse(&text).map(drop).map_err(|error| format!("{}:{error}", path.display()))
}

fn jwt(mut t: Table<'_, '_>, is_set: bool) -> Option<Jwt> {
    let d = Jwt::default();
    let jwt = Jwt {
        jwks_file: t.optional_path("jwks_file"),
        jwks: jwks(&mut t),
        hmac_secret_file: t.optional_path("hmac_secret_file"),
        algorithms: algorithms(&mut t),
        issuer: t.optional_string("issuer"),
        audience: t.strings("audience"),
        leeway: t.duration("leeway", d.leeway, Duration::ZERO..=Duration::from_secs(600)),
        user_claim: t.string("user_claim", &d.user_claim),
        client_id_claim: t.optional_string("client_id_claim"),
    };
    t.finish();
    if !is_set {
        return None;
    }
    if jwt.jwks_file.is_none() && !t.has("jwks_url") && jwt.hmac_secret_file.is_none() {
        t.mistake(
            "jwks_file",
            "is missing, and so are jwks_url and hmac_secret_file: no token could be verified",
        );
    }
    let takes_hmac = jwt.algorithms.contains(&Algorithm::Hs256);
    if takes_hmac != jwt.hmac_secret_file.is_some() {
        let text = match takes_hmac {
            true => "names \"HS256\", which needs hmac_secret_file = \"secret\"",
            false => "leaves \"HS256\" out, the only use of hmac_secret_file; add it, or leave that out",
        };
        t.mistake("algorithms", text);
    }
    // A file is named with what is wrong with it.
    let files =
        [("jwks_file", jwt.jwks_file.is_some()), ("hmac_secret_file", jwt.hmac_secret_file.is_some())];
    for (key, _) in files.into_iter().filter(|(_, is_set)| *is_set) {
        let alone = match key {
            "jwks_file" => Jwt { hmac_secret_file: None, ..jwt.clone() },
            _ => Jwt { jwks_file: None, ..jwt.clone() },
        };
        if let Err(problem) = Issuer::new(&alone) {
            t.mistake(key, problem);
        }
    }
    if jwt.audience.is_empty() && t.has("audience") {
        t.mistake("audience", "names nobody; leave the key out to take tokens for anybody");
    }
    Some(jwt)
}

/// The defaults, and HS256 where there is a secret.
fn algorithms(t: &mut Table<'_, '_>) -> Vec<Algorithm> {
    let is_set = t.has("algorithms");
    let words = t.strings("algorithms");
    if !is_set {
        let hmac = t.has("hmac_secret_file").then_some(Algorithm::Hs256);
        return Jwt::default().algorithms.into_iter().chain(hmac).collect();
    }
    if words.is_empty() {
        t.mistake("algorithms", "is empty: no token could be verified");
    }
    words.iter().filter_map(|word| t.choose("algorithms", word, Algorithm::NAMES)).collect()
}

fn jwks(t: &mut Table<'_, '_>) -> Option<Jwks> {
    let url = t.optional_string("jwks_url");
    let d = Jwks::new(Uri::default());
    let second = Duration::from_secs(1);
    let mut jwks = Jwks {
        ca: t.optional_path("jwks_ca"),
        refresh: t.duration("jwks_refresh", d.refresh, second..=30 * DAY),
        refetch_after: t.duration("jwks_refetch_after", d.refetch_after, second..=DAY),
        age_max: t.duration("jwks_age_max", d.age_max, second..=30 * DAY),
        ..d
    };
    if jwks.age_max < jwks.refresh {
        t.mistake("jwks_age_max", "is shorter than jwks_refresh: there would be no keys in between");
    }
    let url = url?;
    let Some(parsed) = url.parse::<Uri>().ok().filter(|parsed| parsed.authority().is_some()) else {
        t.mistake(
            "jwks_url",
            format_args!("\"{url}\" is not a URL, as \"https://id.example.com/jwks.json\""),
        );
        return None;
    };
    let host = parsed.host().unwrap_or_default();
    match parsed.scheme_str() {
        Some("https") => match &jwks.ca {
            None => {
                t.mistake("jwks_url", "is https: jwks_ca has to name the authorities that are trusted (PEM)")
            }
            Some(ca) => {
                if let Err(error) = std::fs::metadata(ca) {
                    t.mistake("jwks_ca", format_args!("{} cannot be read: {error}", ca.display()));
                }
            }
        },
        Some("http") if is_loopback(host) => {}
        _ => t.mistake(
            "jwks_url",
            "is not https, and whoever is in between could sign tokens; http is for loopback",
        ),
    }
    jwks.url = parsed;
    Some(jwks)
}
