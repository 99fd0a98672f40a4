//! QUIC on what connections are secured with: its keys, and how it behaves.

use std::{sync::Arc, time::Duration};

use rustls::{ClientConfig as TlsConfig, pki_types::ServerName};
use towline_crypto::{International, Provider as _};

use super::{Made, Secured};
use crate::{config::Limits, connect::Handshake, error::StartError, tickets::Transport};

/// QUIC's own idle timeout: a bound for connections whose beats were lost. The beats of the policy keep
/// the NAT binding; this must be above the longest beat allowed.
const QUIC_IDLE_MAX: Duration = Duration::from_secs(3700);

impl Secured {
    /// Whether QUIC can be secured in this way.
    pub(in crate::connect) fn check_quic(&self) -> Result<(), StartError> {
        quic_crypto(Arc::clone(&self.tls)).map(|_| ())
    }

    /// For one handshake by QUIC.
    pub(in crate::connect) fn quic(
        &self,
        server: &ServerName<'static>,
        handshake: Handshake,
        limits: &Limits,
    ) -> Result<Made<quinn::ClientConfig>, StartError> {
        let Made { config, is_classical, has_to_resume } =
            self.made(Transport::Quic, server, handshake.offer);
        let crypto = quic_crypto(Arc::new(config))?;
        let crypto = match has_to_resume {
            true => self.resuming.quic_resumed(Arc::new(crypto), server.clone()),
            false => self.resuming.quic(Arc::new(crypto)),
        };
        let mut config = quinn::ClientConfig::new(crypto);
        config.transport_config(Arc::new(quic_transport(limits, handshake.round_trip)));
        Ok(Made { config, is_classical, has_to_resume })
    }
}

fn quic_crypto(tls: Arc<TlsConfig>) -> Result<quinn::crypto::rustls::QuicClientConfig, StartError> {
    let initial = International::default()
        .quic_initial()
        .ok_or_else(|| StartError::Roots("no suite for QUIC's Initial packets".to_owned()))?;
    quinn::crypto::rustls::QuicClientConfig::with_initial(tls, initial)
        .map_err(|error| StartError::Roots(error.to_string()))
}

/// How QUIC behaves on a network where round trips are expected to take so long.
fn quic_transport(limits: &Limits, round_trip: Option<Duration>) -> quinn::TransportConfig {
    let mut acks = quinn::AckFrequencyConfig::default();
    acks.max_ack_delay(Some(ACK_DELAY_MAX)).reordering_threshold(1u8.into());
    let mut transport = quinn::TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(0u8.into())
        .max_concurrent_uni_streams(0u8.into())
        .stream_receive_window(limits.stream_window.into())
        // The link's own beats keep a NAT's binding, at the policy's pace: QUIC adds none.
        .keep_alive_interval(None)
        .mtu_discovery_config(mtu_discovery(limits.udp_payload_max))
        .ack_frequency_config(Some(acks))
        .max_idle_timeout(quinn::IdleTimeout::try_from(QUIC_IDLE_MAX).ok());
    if let Some(round_trip) = round_trip {
        transport.initial_rtt(round_trip.mul_f64(FIRST_TRIP_SHARE).clamp(FIRST_TRIP_MIN, FIRST_TRIP_MAX));
    }
    transport
}

/// What the gateway is asked to acknowledge within (draft-ietf-quic-ack-frequency), instead of the 25 ms of RFC 9000,
/// section 18.2: whoever repeats what was lost waits for that beside the round trip (RFC 9002, section 6.2.1), and a
/// call's packet has nothing behind it that would tell of its loss sooner.
const ACK_DELAY_MAX: Duration = Duration::from_millis(5);
/// RFC 9002, section 6.2.2, has a client that knows nothing take 333 ms for a round trip, so that its first packet is sent
/// again after a second; on a network that is known, what follows from that, with room for a handshake's larger packets.
const FIRST_TRIP_SHARE: f64 = 1.5;
const FIRST_TRIP_MIN: Duration = Duration::from_millis(50);
const FIRST_TRIP_MAX: Duration = Duration::from_secs(2);

/// Packets of this size pass everywhere (RFC 9000, section 14).
const UDP_PAYLOAD_MIN: u16 = 1200;
/// Sizes that differ by less are not worth a probe, which is a lost packet where it does not pass.
const MTU_STEP: u16 = 60;

/// Each probe is a full packet of the uplink's, and none of it is of use to the app.
fn mtu_discovery(udp_payload_max: u16) -> Option<quinn::MtuDiscoveryConfig> {
    let mut probing = quinn::MtuDiscoveryConfig::default();
    probing.upper_bound(udp_payload_max).minimum_change(MTU_STEP);
    (udp_payload_max > UDP_PAYLOAD_MIN).then_some(probing)
}
