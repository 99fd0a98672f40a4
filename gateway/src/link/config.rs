//! What the gateway accepts on the link, made of its settings.

use std::time::Duration;

use towline_protocols::{
    compress::Compressor,
    link::{Config, GoAway, Limits, proto::Reason},
};

use crate::{dictionaries::Shelves, settings::Settings};

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

#[cfg(test)]
mod tests {
    use super::*;

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
