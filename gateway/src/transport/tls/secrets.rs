//! Traffic secrets, on their way from rustls to the record layer.
//!
//! rustls shows secrets to a `KeyLog` alone, which it calls while it processes the message that makes them. Ours
//! hands them to the caller of [`capture`] on the same thread, and to nobody else.

use std::cell::RefCell;

use rustls::KeyLog;
use zeroize::Zeroize;

use super::record::Direction;

/// Those of one TLS 1.3 handshake, as far as they are known.
#[derive(Default)]
pub(super) struct Secrets {
    /// Protects the client's part of the handshake.
    pub(super) client_handshake: Secret,
    /// Protects what the client sends afterwards.
    pub(super) client: Secret,
    /// Protects what the server sends afterwards.
    pub(super) server: Secret,
}

/// Overwritten when it is dropped; never shown.
#[derive(Clone, Default)]
pub(super) struct Secret(Vec<u8>);

impl Secrets {
    /// Whether the server's Finished was made, which is when the last two become known.
    pub(super) fn are_known(&self) -> bool {
        !self.client.0.is_empty() && !self.server.0.is_empty()
    }
}

impl Secret {
    /// A direction that begins under this secret.
    pub(super) fn direction(&self) -> Option<Direction> {
        Direction::new(&self.0)
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

thread_local! {
    static CAPTURED: RefCell<Option<Secrets>> = const { RefCell::new(None) };
}

/// Runs `process` and returns the secrets that became known in it.
pub(super) fn capture<T>(process: impl FnOnce() -> T) -> (T, Secrets) {
    CAPTURED.set(Some(Secrets::default()));
    let result = process();
    (result, CAPTURED.take().unwrap_or_default())
}

/// For every `ServerConfig` of the gateway: hands secrets to [`capture`]; writes nothing anywhere.
#[derive(Debug)]
pub(super) struct Capture;

impl KeyLog for Capture {
    fn log(&self, label: &str, _client_random: &[u8], secret: &[u8]) {
        CAPTURED.with_borrow_mut(|captured| {
            if let Some(captured) = captured
                && let Some(place) = captured.place(label)
            {
                place.0 = secret.to_vec();
            }
        });
    }

    fn will_log(&self, label: &str) -> bool {
        CAPTURED.with_borrow_mut(|captured| captured.as_mut().is_some_and(|it| it.place(label).is_some()))
    }
}

impl Secrets {
    fn place(&mut self, label: &str) -> Option<&mut Secret> {
        match label {
            "CLIENT_HANDSHAKE_TRAFFIC_SECRET" => Some(&mut self.client_handshake),
            "CLIENT_TRAFFIC_SECRET_0" => Some(&mut self.client),
            "SERVER_TRAFFIC_SECRET_0" => Some(&mut self.server),
            _ => None,
        }
    }
}
