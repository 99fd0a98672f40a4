//! What the gateway accepts on the link, made of its settings.

use std::time::Duration;

use towline_protocols::{
    compress::Compressor,
    link::{Config, GoAway, Limits, Policy, proto::Reason},
};

use crate::{
    dictionaries::Shelves,
    settings::{ClientPolicy, Settings},
};

/// How late a promised beat may be: a radio's wake-up and a lost packet or two.
const HEARTBEAT_GRACE: Duration = Duration::from_secs(15);

/// Makes the machines' configuration.
pub(crate) fn config(settings: &Settings, dictionaries: Shelves) -> Config {
    let (limits, session, compression) = (&settings.limits, &settings.session, &settings.compression);
    let bytes = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
    Config {
        limits: Limits {
            frame_bytes_max: bytes(limits.frame_bytes_max),
            stream_window: session.stream_window,
            connection_window: session.connection_window,
            header_table_bytes: bytes(session.header_table_bytes),
            qpack_blocked_streams: bytes(session.qpack_blocked_streams),
            header_list_bytes_max: bytes(limits.header_list_bytes_max),
            message_bytes_max: bytes(limits.message_bytes_max),
            streams_max: bytes(limits.streams_max),
        },
        dictionaries: dictionaries.payload,
        header_dictionaries: dictionaries.headers,
        compressor: compression.enabled.then(|| Compressor::new(compression.level, compression.bytes_min)),
        heartbeat_max: session.heartbeat_max,
        heartbeat_grace: HEARTBEAT_GRACE,
        ..Config::default()
    }
}

/// What a gateway that drains tells its clients.
pub(super) fn goaway(settings: &Settings) -> GoAway {
    GoAway {
        reason: Reason::Drain.into(),
        endpoints: settings.drain_endpoints.clone(),
        spread_ms: u32::try_from(settings.drain_spread.as_millis()).unwrap_or(u32::MAX),
        text: "the gateway is being stopped or replaced".to_owned(),
    }
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
        ..Policy::default()
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
        let config = config(&settings, Shelves::default());
        assert_eq!(config.limits.streams_max, 7);
        assert!(config.compressor.is_none());
    }
}
