//! QUIC's handshake messages on their way to rustls: quinn reads them from CRYPTO frames. One that has to resume a session
//! ends here before its keys are made, where the server does not.

use std::{any::Any, sync::Arc};

use quinn::{
    ConnectError, Side,
    crypto::{ClientConfig, ExportKeyingMaterialError, HeaderKey, KeyPair, Keys, PacketKey, Session},
};
use quinn_proto::{
    ConnectionId, TransportError, TransportErrorCode, transport_parameters::TransportParameters,
};
use rustls::{AlertDescription, pki_types::ServerName};

use super::{
    capture,
    hello::{Answer, Hello},
    message::Messages,
    store::Store,
};

/// The cryptography of connections, of whose sessions [`capture::take`] learns.
pub(super) struct Seen {
    pub(super) inner: Arc<dyn ClientConfig>,
    /// Only a session is resumed, of this server's; the store is told if that is refused.
    pub(super) resumes_for: Option<(Arc<Store>, ServerName<'static>)>,
}

impl ClientConfig for Seen {
    fn start_session(
        self: Arc<Self>,
        version: u32,
        server_name: &str,
        parameters: &TransportParameters,
    ) -> Result<Box<dyn Session>, ConnectError> {
        let inner = Arc::clone(&self.inner).start_session(version, server_name, parameters)?;
        let resumes_for = self.resumes_for.clone().map(|of| (Hello::default(), of));
        Ok(Box::new(SeenSession { inner, messages: Messages::default(), resumes_for }))
    }
}

struct SeenSession {
    inner: Box<dyn Session>,
    messages: Messages,
    /// What was read of ServerHello, until it is whole.
    resumes_for: Option<(Hello, (Arc<Store>, ServerName<'static>))>,
}

impl SeenSession {
    /// Looks whether the server resumes what it has to.
    fn look(&mut self, bytes: &[u8]) -> Result<(), TransportError> {
        let Some((hello, (store, server))) = &mut self.resumes_for else { return Ok(()) };
        match hello.read(bytes) {
            Answer::Unfinished => {}
            Answer::Resumes => self.resumes_for = None,
            Answer::Whole => {
                store.refused(server);
                let alert = u8::from(AlertDescription::HandshakeFailure);
                let reason = "the gateway does not resume the session".to_owned();
                return Err(TransportError { code: TransportErrorCode::crypto(alert), frame: None, reason });
            }
        }
        Ok(())
    }
}

impl Session for SeenSession {
    fn initial_keys(&self, destination: &ConnectionId, side: Side) -> Keys {
        self.inner.initial_keys(destination, side)
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        self.inner.handshake_data()
    }

    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        self.inner.peer_identity()
    }

    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        self.inner.early_crypto()
    }

    fn early_data_accepted(&self) -> Option<bool> {
        self.inner.early_data_accepted()
    }

    fn is_handshaking(&self) -> bool {
        self.inner.is_handshaking()
    }

    fn read_handshake(&mut self, bytes: &[u8]) -> Result<bool, TransportError> {
        self.look(bytes)?;
        capture::handles(&mut self.messages, bytes);
        self.inner.read_handshake(bytes)
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        self.inner.transport_parameters()
    }

    fn write_handshake(&mut self, bytes: &mut Vec<u8>) -> Option<Keys> {
        self.inner.write_handshake(bytes)
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        self.inner.next_1rtt_keys()
    }

    fn is_valid_retry(&self, destination: &ConnectionId, header: &[u8], payload: &[u8]) -> bool {
        self.inner.is_valid_retry(destination, header, payload)
    }

    fn export_keying_material(
        &self,
        output: &mut [u8],
        label: &[u8],
        context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        self.inner.export_keying_material(output, label, context)
    }
}
