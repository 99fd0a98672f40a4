//! A phone with the app on it: the header fields that all its requests share.

use bytes::Bytes;
use fastrand::Rng;
use towline_protocols::hpack::HeaderField;

use super::words::{any, base64, hex, rank, uuid};

/// What the app's backend is called.
pub(super) const AUTHORITY: &str = "api.example.com";

/// One installation of the app, with somebody logged in.
#[derive(Clone, Debug)]
pub(super) struct Device {
    pub(super) user_id: u64,
    pub(super) id: String,
    user_agent: String,
    app_version: String,
    platform: &'static str,
    language: &'static str,
    time_zone: &'static str,
    token: String,
}

impl Device {
    pub(super) fn new(random: &mut Rng) -> Self {
        let (platform, system, model) = MODELS[rank(random, MODELS.len())];
        let app_version = any(random, &["8.14.2", "8.14.2", "8.14.1", "8.13.0"]).to_owned();
        Self {
            user_id: random.u64(100_000_000..999_999_999),
            id: uuid(random),
            user_agent: format!("ExampleApp/{app_version} ({model}; {system}; Scale/3.00)"),
            app_version,
            platform,
            language: LANGUAGES[rank(random, LANGUAGES.len())],
            time_zone: TIME_ZONES[rank(random, TIME_ZONES.len())],
            token: token(random),
        }
    }

    /// What never changes while the app runs: on the link these are the session's header fields.
    pub(super) fn session_fields(&self) -> Vec<HeaderField> {
        vec![
            field(":authority", AUTHORITY),
            field("user-agent", &self.user_agent),
            field("authorization", &format!("Bearer {}", self.token)),
            field("accept-language", self.language),
            field("x-device-id", &self.id),
            field("x-app-version", &self.app_version),
            field("x-platform", self.platform),
            field("x-time-zone", self.time_zone),
        ]
    }
}

/// A field whose bytes are its own.
pub(super) fn field(name: &'static str, value: &str) -> HeaderField {
    HeaderField::new(Bytes::from_static(name.as_bytes()), Bytes::copy_from_slice(value.as_bytes()))
}

/// What tells one request from all others where nothing below does: an id and a trace (W3C Trace Context).
pub(super) fn tracing_fields(random: &mut Rng) -> Vec<HeaderField> {
    let trace = format!("00-{}-{}-01", hex(random, 32), hex(random, 16));
    vec![field("x-request-id", &uuid(random)), field("traceparent", &trace)]
}

/// A JSON Web Token by its looks: the head is everybody's, the rest is nobody else's.
fn token(random: &mut Rng) -> String {
    const HEAD: &str = "eyJhbGciOiJFUzI1NiIsInR5cCI6IkpXVCIsImtpZCI6IjIwMjYtMTAifQ";
    format!(
        "{HEAD}.eyJpc3MiOiJodHRwczovL2F1dGguZXhhbXBsZS5jb20{}.{}",
        base64(random, 132),
        base64(random, 86)
    )
}

const MODELS: [(&str, &str, &str); 8] = [
    ("ios", "iOS 26.1", "iPhone17,1"),
    ("android", "Android 16", "SM-S931B"),
    ("ios", "iOS 26.0.1", "iPhone16,2"),
    ("android", "Android 16", "Pixel 9"),
    ("android", "Android 15", "2311DRK48G"),
    ("ios", "iOS 18.7", "iPhone14,5"),
    ("android", "Android 14", "CPH2609"),
    ("android", "Android 15", "SM-A546B"),
];

const LANGUAGES: [&str; 6] = [
    "en-GB,en;q=0.9",
    "de-DE,de;q=0.9,en;q=0.8",
    "fr-FR,fr;q=0.9,en;q=0.8",
    "es-ES,es;q=0.9",
    "zh-Hans-CN,zh-Hans;q=0.9",
    "pt-PT,pt;q=0.9,en;q=0.8",
];

const TIME_ZONES: [&str; 6] =
    ["Europe/London", "Europe/Berlin", "Europe/Paris", "Europe/Madrid", "Asia/Shanghai", "Europe/Lisbon"];
