//! What the gateway accepts on the link, made of its settings.

use std::time::Duration;

use towline_dictionaries::DictionaryFile;
use towline_protocols::{
    compress::{Compressor, DictionarySet},
    link::{Config, Limits, Policy},
};

use crate::settings::{ClientPolicy, Settings};

/// How late a promised beat may be: a radio's wake-up and a lost packet or two.
const HEARTBEAT_GRACE: Duration = Duration::from_secs(15);

/// Why the settings make no link configuration.
#[derive(Debug, thiserror::Error)]
#[error("compression.dictionaries: {0}")]
pub(crate) struct ConfigError(String);

/// Reads the dictionaries and makes the machines' configuration.
pub(crate) fn config(settings: &Settings) -> Result<Config, ConfigError> {
    let (limits, session, compression) = (&settings.limits, &settings.session, &settings.compression);
    let bytes = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
    Ok(Config {
        limits: Limits {
            frame_bytes_max: bytes(limits.frame_bytes_max),
            stream_window: session.stream_window,
            connection_window: session.connection_window,
            header_table_bytes: bytes(session.header_table_bytes),
            header_list_bytes_max: bytes(limits.header_list_bytes_max),
            message_bytes_max: bytes(limits.message_bytes_max),
            streams_max: bytes(limits.streams_max),
        },
        dictionaries: dictionaries(settings)?.into(),
        compressor: compression.enabled.then(|| Compressor::new(compression.level, compression.bytes_min)),
        heartbeat_max: session.heartbeat_max,
        heartbeat_grace: HEARTBEAT_GRACE,
        ..Config::default()
    })
}

/// The configured ones first: they were trained on this operator's traffic.
fn dictionaries(settings: &Settings) -> Result<DictionarySet, ConfigError> {
    let compression = &settings.compression;
    let mut set = DictionarySet::default();
    let mut add = |file: &DictionaryFile| {
        let dictionary = file.prepare(compression.level).map_err(|error| ConfigError(error.to_string()))?;
        set.insert(dictionary).map_err(|error| ConfigError(error.to_string()))
    };
    for path in &compression.dictionaries {
        add(&DictionaryFile::load(path).map_err(|error| ConfigError(error.to_string()))?)?;
    }
    for file in towline_dictionaries::builtin().map_err(|error| ConfigError(error.to_string()))? {
        add(&file)?;
    }
    Ok(set)
}

/// POLICY as the settings say it.
pub(super) fn policy(settings: &ClientPolicy) -> Policy {
    let ms = |value: Duration| u32::try_from(value.as_millis()).unwrap_or(u32::MAX);
    let mut policy = Policy {
        revision: 0,
        heartbeat_ms: ms(settings.heartbeat),
        fallback_delay_ms: ms(settings.fallback_delay),
        connect_timeout_ms: ms(settings.connect_timeout),
        backoff_min_ms: ms(settings.backoff_min),
        backoff_max_ms: ms(settings.backoff_max),
    };
    policy.revision = revision(&policy);
    policy
}

/// The revision names the values: all nodes of equal configuration say the same, and a client that follows
/// it already is not told again. FNV-1a, cut to what a varint carries; never 0, which means none.
fn revision(policy: &Policy) -> u64 {
    let values = [
        policy.heartbeat_ms,
        policy.fallback_delay_ms,
        policy.connect_timeout_ms,
        policy.backoff_min_ms,
        policy.backoff_max_ms,
    ];
    let hash =
        values.iter().flat_map(|value| value.to_be_bytes()).fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    (hash >> 2).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_names_the_values_of_a_policy() {
        let settings = Settings::default().client_policy;
        let changed = ClientPolicy { heartbeat: settings.heartbeat * 2, ..settings.clone() };
        assert_eq!(policy(&settings), policy(&settings.clone()));
        assert_ne!(policy(&settings).revision, policy(&changed).revision);
    }

    #[test]
    fn settings_become_the_machines_limits() {
        let mut settings = Settings::default();
        settings.limits.streams_max = 7;
        settings.compression.enabled = false;
        let config = config(&settings).unwrap();
        assert_eq!(config.limits.streams_max, 7);
        assert!(config.compressor.is_none());
        assert!(!config.dictionaries.ids().is_empty());
    }
}
