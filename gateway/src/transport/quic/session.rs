//! TLS inside QUIC (RFC 9001), with the configuration chosen when the ClientHello is here.
//!
//! ```text
//! Hello: gather ─ whole ─> choose ─> Handshake: rustls ─ client's Finished ─> Over: rustls is gone
//!    └───────── no configuration, no ClientHello ─────> an alert
//! ```
//!
//! quinn's own session takes its configuration before the first packet is read, and keeps rustls' connection
//! for the life of QUIC's. Here certificates and cryptography follow from what the client offers, and an
//! established connection keeps the secrets of the next key update alone.

use std::{any::Any, sync::Arc};

use quinn::{
    Side,
    crypto::{
        self, ExportKeyingMaterialError, HeaderKey, KeyPair, Keys, PacketKey, UnsupportedVersion,
        rustls::QuicServerConfig,
    },
};
use quinn_proto::{
    ConnectionId, TransportError, TransportErrorCode, transport_parameters::TransportParameters,
};
use rustls::{
    pki_types::CertificateDer,
    quic::{KeyChange, Secrets, ServerConnection, Version},
};
use towline_protocols::tls::{Alert, ClientHello, HELLO_BYTES_MAX};

use super::keys;
use crate::transport::tls::{
    ServerTls,
    early::{self, EarlyOutcome},
};

/// A handshake message's type and length (RFC 8446, section 4).
const MESSAGE_HEADER_BYTES: usize = 4;

/// RFC 9001, section 4.6.1: the one size of early data that a ticket may offer on QUIC, whose flow control bounds
/// it.
pub const EARLY_DATA_BYTES: u32 = u32::MAX;

/// The cryptography of a listener's QUIC connections.
pub(super) struct Crypto {
    tls: Arc<ServerTls>,
    /// For packets before any choice, which every configuration protects alike (RFC 9001, section 5.2).
    initial: Arc<QuicServerConfig>,
}

impl Crypto {
    /// `None` if the listener has no QUIC.
    pub(super) fn new(tls: Arc<ServerTls>) -> Option<Arc<Self>> {
        let initial = tls.quic_initial()?;
        Some(Arc::new(Self { tls, initial }))
    }
}

impl crypto::ServerConfig for Crypto {
    fn initial_keys(&self, version: u32, dst_cid: &ConnectionId) -> Result<Keys, UnsupportedVersion> {
        // Drafts of QUIC are not spoken: nobody is left who speaks no version 1.
        match version {
            QUIC_V1 => self.initial.initial_keys(version, dst_cid),
            _ => Err(UnsupportedVersion),
        }
    }

    fn retry_tag(&self, version: u32, orig_dst_cid: &ConnectionId, packet: &[u8]) -> [u8; 16] {
        self.initial.retry_tag(version, orig_dst_cid, packet)
    }

    fn start_session(self: Arc<Self>, _: u32, params: &TransportParameters) -> Box<dyn crypto::Session> {
        let mut own_params = Vec::new();
        params.write(&mut own_params);
        let state = State::Hello { gathered: Vec::new(), own_params };
        Box::new(Session { crypto: self, state, agreed: None, certificates: None, secrets: None })
    }
}

/// RFC 9000, section 15.
const QUIC_V1: u32 = 1;

struct Session {
    crypto: Arc<Crypto>,
    state: State,
    /// What the ClientHello led to.
    agreed: Option<Agreed>,
    /// The client's, once its handshake is over.
    certificates: Option<Box<[CertificateDer<'static>]>>,
    /// Of the next key update (RFC 9001, section 6).
    secrets: Option<Box<Secrets>>,
}

/// What the ClientHello led to; quinn yields it as a connection's `handshake_data`.
#[derive(Clone, Debug)]
pub struct Agreed {
    /// The protocol that ALPN chose.
    pub protocol: Option<Arc<[u8]>>,
    /// Whether the client's early data is taken: streams may arrive before the handshake is complete.
    pub early_data: bool,
    /// What became of the client's wish to send some.
    pub early_outcome: EarlyOutcome,
}

enum State {
    Hello { gathered: Vec<u8>, own_params: Vec<u8> },
    Handshake(Box<Handshake>),
    Over,
}

struct Handshake {
    tls: ServerConnection,
    /// Whether tickets offer early data.
    early_data: bool,
}

impl Session {
    /// Takes a piece of the ClientHello in; true when it was whole.
    fn read_hello(&mut self, bytes: &[u8]) -> Result<bool, TransportError> {
        let State::Hello { gathered, own_params } = &mut self.state else { return Ok(false) };
        gathered.extend_from_slice(bytes);
        let Some(&[kind, a, b, c]) = gathered.first_chunk::<MESSAGE_HEADER_BYTES>() else {
            return Ok(false);
        };
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        if length > HELLO_BYTES_MAX || kind != CLIENT_HELLO {
            let alert = if kind == CLIENT_HELLO { Alert::DecodeError } else { Alert::UnexpectedMessage };
            return Err(refused(alert, format!("no ClientHello: type {kind}, {length} octets")));
        }
        if gathered.len() < MESSAGE_HEADER_BYTES + length {
            return Ok(false);
        }
        let (gathered, own_params) = (std::mem::take(gathered), std::mem::take(own_params));
        self.begin(&gathered, MESSAGE_HEADER_BYTES + length, own_params)?;
        Ok(true)
    }

    fn begin(&mut self, gathered: &[u8], length: usize, own_params: Vec<u8>) -> Result<(), TransportError> {
        let hello = ClientHello::parse(&gathered[..length])
            .map_err(|error| refused(error.alert(), error.to_string()))?;
        let config = self
            .crypto
            .tls
            .choose_quic(&hello)
            .map_err(|error| refused(Alert::HandshakeFailure, error.to_string()))?;
        let early_data = config.max_early_data_size == EARLY_DATA_BYTES;
        let mut tls = ServerConnection::new(config, Version::V1, own_params)
            .map_err(|error| refused(Alert::InternalError, error.to_string()))?;
        let welcome = early_data && hello.offers_early_data();
        let (read, early_outcome) = early::decide(welcome, || tls.read_hs(gathered));
        read.map_err(|error| tls_error(&tls, &error))?;
        let protocol = tls.alpn_protocol().map(Arc::from);
        self.agreed = Some(Agreed { protocol, early_data: tls.zero_rtt_keys().is_some(), early_outcome });
        self.state = State::Handshake(Box::new(Handshake { tls, early_data }));
        Ok(())
    }

    /// Nothing but key updates follows: rustls' connection has done its work.
    fn end_handshake(&mut self) {
        if let State::Handshake(handshake) = &self.state {
            let owned = |chain: &[CertificateDer<'static>]| chain.to_vec().into_boxed_slice();
            self.certificates = handshake.tls.peer_certificates().map(owned);
            self.state = State::Over;
        }
    }
}

/// A handshake message's type (RFC 8446, section 4).
const CLIENT_HELLO: u8 = 1;

impl crypto::Session for Session {
    fn initial_keys(&self, dst_cid: &ConnectionId, _: Side) -> Keys {
        crypto::ServerConfig::initial_keys(&*self.crypto, QUIC_V1, dst_cid)
            .unwrap_or_else(|_| unreachable!("the version was accepted before"))
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        self.agreed.clone().map(|agreed| -> Box<dyn Any> { Box::new(agreed) })
    }

    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        self.certificates.as_deref().map(|chain| -> Box<dyn Any> { Box::new(chain.to_vec()) })
    }

    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        let State::Handshake(handshake) = &self.state else { return None };
        let keys = handshake.tls.zero_rtt_keys()?;
        Some((Box::new(keys.header), Box::new(keys.packet)))
    }

    fn early_data_accepted(&self) -> Option<bool> {
        None
    }

    fn is_handshaking(&self) -> bool {
        match &self.state {
            State::Hello { .. } => true,
            State::Handshake(handshake) => handshake.tls.is_handshaking(),
            State::Over => false,
        }
    }

    fn read_handshake(&mut self, bytes: &[u8]) -> Result<bool, TransportError> {
        match &mut self.state {
            State::Hello { .. } => self.read_hello(bytes),
            State::Handshake(handshake) => {
                handshake.tls.read_hs(bytes).map_err(|error| tls_error(&handshake.tls, &error))?;
                Ok(false)
            }
            // RFC 9001, section 6: key updates of TLS are not for QUIC, and a client has nothing else to say.
            State::Over => Err(refused(Alert::UnexpectedMessage, "a handshake message after its end".into())),
        }
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        let State::Handshake(handshake) = &self.state else { return Ok(None) };
        let Some(mut bytes) = handshake.tls.quic_transport_parameters() else { return Ok(None) };
        Ok(Some(TransportParameters::read(Side::Server, &mut bytes)?))
    }

    fn write_handshake(&mut self, out: &mut Vec<u8>) -> Option<Keys> {
        let State::Handshake(handshake) = &mut self.state else { return None };
        let start = out.len();
        let change = handshake.tls.write_hs(out);
        if handshake.tls.is_handshaking() {
            return change.map(|change| self.changed(change));
        }
        if handshake.early_data
            && let Some(offering) = early::offer_early_data(&out[start..], EARLY_DATA_BYTES)
        {
            out.truncate(start);
            out.extend(offering);
        }
        if change.is_none() {
            self.end_handshake();
        }
        change.map(|change| self.changed(change))
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        Some(keys::next(self.secrets.as_mut()?))
    }

    fn is_valid_retry(&self, _: &ConnectionId, _: &[u8], _: &[u8]) -> bool {
        // Servers receive none (RFC 9000, section 17.2.5).
        false
    }

    fn export_keying_material(
        &self,
        _: &mut [u8],
        _: &[u8],
        _: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        // Nothing here binds to a channel; the secret for it went with rustls' connection.
        Err(ExportKeyingMaterialError)
    }
}

impl Session {
    fn changed(&mut self, change: KeyChange) -> Keys {
        let keys = match change {
            KeyChange::Handshake { keys } => keys,
            KeyChange::OneRtt { keys, next } => {
                self.secrets = Some(Box::new(next));
                keys
            }
        };
        Keys {
            header: KeyPair { local: Box::new(keys.local.header), remote: Box::new(keys.remote.header) },
            packet: KeyPair { local: Box::new(keys.local.packet), remote: Box::new(keys.remote.packet) },
        }
    }
}

fn tls_error(tls: &ServerConnection, error: &rustls::Error) -> TransportError {
    match tls.alert() {
        Some(alert) => crypto_error(alert.into(), error.to_string()),
        None => TransportError {
            code: TransportErrorCode::PROTOCOL_VIOLATION,
            frame: None,
            reason: format!("TLS: {error}"),
        },
    }
}

fn refused(alert: Alert, reason: String) -> TransportError {
    crypto_error(alert as u8, reason)
}

/// RFC 9001, section 4.8: an alert is an error of the transport.
fn crypto_error(alert: u8, reason: String) -> TransportError {
    TransportError { code: TransportErrorCode::crypto(alert), frame: None, reason }
}

#[cfg(test)]
mod tests;
