//! QUIC endpoints and their transport parameters.

mod keys;
mod path;
mod session;
mod tokens;

use std::{net::UdpSocket, sync::Arc, time::Duration};

use quinn::{
    AckFrequencyConfig, AsyncUdpSocket, Connection, Endpoint, EndpointConfig, IdleTimeout,
    MtuDiscoveryConfig, Runtime as _, ServerConfig, TokioRuntime, TransportConfig, VarInt,
};

use self::session::Crypto;
pub use self::{
    path::Path,
    session::{Agreed, EARLY_DATA_BYTES},
};
use super::tls::ServerTls;
use crate::settings::Settings;

/// A promised heartbeat may be late by this much before QUIC itself gives up: a radio's wake-up and one
/// lost packet.
const HEARTBEAT_GRACE: Duration = Duration::from_secs(30);
/// The control stream stands beside the requests.
const CONTROL_STREAMS: u64 = 1;
/// Requests that a fresh connection may have open. quinn keeps tables as large as the limit, 9 KB at 128,
/// so the limit grows with use ([`allow_requests`]) and an idle connection does not pay for it.
pub(crate) const REQUESTS_AT_FIRST: usize = 16;
/// RFC 9114, section 6.2: HTTP/3's control stream and QPACK's two, which must be allowed before it is known
/// that HTTP/3 is spoken. The link opens none.
const HTTP3_STREAMS: u32 = 3;
/// Half-open connections that wait for their turn, all together: beyond it, Initial packets are dropped.
const INCOMING_MAX: usize = 4096;
/// Early data of connections that wait for their turn, bytes, each and all together.
const INCOMING_BYTES_MAX: u64 = 8 * 1024;
const INCOMING_BYTES_TOTAL_MAX: u64 = 4 * 1024 * 1024;

/// How connections of one listener are accepted; `None` if it has no QUIC.
pub fn server_config(tls: &Arc<ServerTls>, settings: &Settings) -> Option<Arc<ServerConfig>> {
    let mut config = ServerConfig::with_crypto(Crypto::new(Arc::clone(tls))?);
    config
        .transport_config(Arc::new(transport(settings)))
        .max_incoming(INCOMING_MAX)
        .incoming_buffer_size(INCOMING_BYTES_MAX)
        .incoming_buffer_size_total(INCOMING_BYTES_TOTAL_MAX);
    tokens::configure(&mut config);
    Some(Arc::new(config))
}

/// An endpoint on a bound socket.
///
/// # Errors
/// What the operating system said of the socket.
pub fn endpoint(socket: UdpSocket, config: &ServerConfig) -> std::io::Result<Endpoint> {
    endpoint_on(TokioRuntime.wrap_udp_socket(socket)?, config)
}

/// An endpoint on datagrams of whatever kind.
///
/// # Errors
/// The socket has no address.
pub fn endpoint_on(socket: Arc<dyn AsyncUdpSocket>, config: &ServerConfig) -> std::io::Result<Endpoint> {
    let (endpoint, runtime) = (EndpointConfig::default(), Arc::new(TokioRuntime));
    Endpoint::new_with_abstract_socket(endpoint, Some(config.clone()), socket, runtime)
}

fn transport(settings: &Settings) -> TransportConfig {
    let idle = settings.session.heartbeat_max + HEARTBEAT_GRACE;
    let mut acks = AckFrequencyConfig::default();
    acks.max_ack_delay(Some(ACK_DELAY_MAX)).reordering_threshold(VarInt::from_u32(1));
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(streams(settings.limits.streams_max.min(REQUESTS_AT_FIRST)))
        .max_concurrent_uni_streams(VarInt::from_u32(HTTP3_STREAMS))
        .stream_receive_window(VarInt::from_u32(settings.session.stream_window))
        .receive_window(VarInt::from_u32(settings.session.connection_window))
        .send_window(u64::from(settings.session.connection_window))
        // The link has no use for datagrams.
        .datagram_receive_buffer_size(None)
        // A path of the first packets' size is certain to work; discovery raises it.
        .initial_mtu(UDP_PAYLOAD_MIN)
        .mtu_discovery_config(mtu_discovery(settings.limits.quic_payload_max))
        .ack_frequency_config(Some(acks))
        // The link's own beats keep a NAT's binding, at the pace that the client learnt: QUIC adds none.
        .keep_alive_interval(None)
        .max_idle_timeout(IdleTimeout::try_from(idle).ok());
    transport
}

/// What clients that know draft-ietf-quic-ack-frequency are asked to acknowledge within, instead of 25 ms: an answer's last
/// packet has nothing behind it that would tell of its loss, and is sent again a round trip and this later (RFC 9002,
/// section 6.2.1).
const ACK_DELAY_MAX: Duration = Duration::from_millis(5);
/// Packets of this size pass everywhere (RFC 9000, section 14).
const UDP_PAYLOAD_MIN: u16 = 1200;
/// Sizes that differ by less are not worth a probe: three at the most are sent, 4 KB on a path's first second.
const MTU_STEP: u16 = 60;

fn mtu_discovery(payload_max: usize) -> Option<MtuDiscoveryConfig> {
    let payload_max = u16::try_from(payload_max).unwrap_or(u16::MAX);
    let mut probing = MtuDiscoveryConfig::default();
    probing.upper_bound(payload_max).minimum_change(MTU_STEP);
    (payload_max > UDP_PAYLOAD_MIN).then_some(probing)
}

/// Lets the peer have so many requests open at a time.
pub(crate) fn allow_requests(connection: &Connection, requests: usize) {
    connection.set_max_concurrent_bi_streams(streams(requests));
}

fn streams(requests: usize) -> VarInt {
    VarInt::from_u64(requests as u64 + CONTROL_STREAMS).unwrap_or(VarInt::MAX)
}
