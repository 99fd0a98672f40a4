//! TLS sessions that outlive the app: an app that was killed resumes them, with early data where it may send any
//! (PROTOCOL.md, section 17), instead of whole handshakes.
//!
//! ```text
//!  capture  what rustls does not show of a session: message and key     quic: the same for QUIC
//!  record   a session as bytes        folder: sealed files, each used once
//!  mint     a session of rustls' from a record, when the server is dialled
//!  store    what rustls asks: memory first, then the folder
//!  hello    whether a server that was shown a session resumes it
//! ```

mod capture;
mod folder;
#[cfg(feature = "quic")]
mod hello;
mod message;
mod mint;
#[cfg(feature = "quic")]
mod quic;
mod record;
mod store;

use std::{fmt::Write as _, sync::Arc};

use aws_lc_rs::digest::{Context, SHA256};
use rustls::{
    ClientConfig as TlsConfig,
    client::{Resumption, danger::ServerCertVerifier},
    crypto::CryptoProvider,
    pki_types::ServerName,
};
use towline_protocols::policy::KeyExchange;

use self::{folder::Folder, mint::Mint, store::Store};
use crate::{
    config::{ClientConfig, Security, Tls},
    identity::Identity,
};

/// What became of TLS sessions on disk since the client was started ([`crate::Client::ticket_counts`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TicketCounts {
    /// Given to the disk, for the next run of the app.
    pub kept: u64,
    /// Of earlier runs, taken away from there to be used.
    pub restored: u64,
    /// That could not be read or opened: the handshake was a whole one, or used another.
    pub damaged: u64,
    /// That went before they were used, since there were too many.
    pub dropped: u64,
}

/// What TLS connections are resumed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    /// The link on TCP.
    Tcp = 0,
    /// The link on QUIC: what a ticket allows of early data differs.
    Quic,
    /// HTTPS, which has its own ALPN.
    Http,
}

impl Transport {
    fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Quic => "quic",
            Self::Http => "http",
        }
    }
}

/// Where sessions are kept; cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Tickets {
    folder: Option<Arc<Folder>>,
}

impl Tickets {
    /// With what earlier runs of the app have kept under the same configuration. Without an identity file, or where the
    /// app does not want it, sessions live in memory.
    pub(crate) fn open(config: &ClientConfig, identity: &Identity) -> Self {
        match (&config.security, &config.identity_file) {
            (Security::Tls(tls), Some(path)) if config.keep_tickets => {
                Self { folder: Folder::beside(path, identity, &trust(tls)).map(Arc::new) }
            }
            _ => Self::default(),
        }
    }

    pub(crate) fn counts(&self) -> TicketCounts {
        self.folder.as_ref().map(|folder| folder.counts()).unwrap_or_default()
    }

    /// The cryptography to configure TLS with.
    pub(crate) fn crypto(&self, offer: CryptoProvider) -> CryptoProvider {
        match self.folder {
            Some(_) => capture::seen_through(offer),
            None => offer,
        }
    }

    /// The verifier to configure TLS with.
    pub(crate) fn verifier(&self, verifier: Arc<dyn ServerCertVerifier>) -> Arc<dyn ServerCertVerifier> {
        match self.folder {
            Some(_) => Arc::new(mint::Gate { inner: verifier }),
            None => verifier,
        }
    }

    /// What configurations that share `tls`'s parts are resumed with; `verifier` is what `tls` was made with.
    pub(crate) fn resuming(&self, tls: &TlsConfig, verifier: &Arc<dyn ServerCertVerifier>) -> Resuming {
        let kept = self.folder.as_ref().map(|folder| {
            let (verifier, credentials) = (Arc::clone(verifier), Arc::clone(&tls.client_auth_cert_resolver));
            let mint = Mint::new(Arc::clone(tls.crypto_provider()), verifier, credentials);
            (Arc::clone(folder), Arc::new(mint))
        });
        let stores = [Transport::Tcp, Transport::Quic, Transport::Http].map(|transport| {
            let kept = kept.as_ref().map(|(folder, mint)| store::Kept {
                folder: Arc::clone(folder),
                mint: Arc::clone(mint),
                transport: transport.name(),
            });
            Arc::new(Store::new(kept))
        });
        Resuming {
            #[cfg(feature = "quic")]
            is_kept: kept.is_some(),
            stores,
        }
    }
}

/// Resumes the sessions of one configuration, and of one that offers other groups beside it.
#[derive(Clone)]
pub(crate) struct Resuming {
    #[cfg(feature = "quic")]
    is_kept: bool,
    /// By transport.
    stores: [Arc<Store>; 3],
}

impl Resuming {
    fn store(&self, transport: Transport) -> &Arc<Store> {
        &self.stores[transport as usize]
    }

    /// By that transport.
    pub(crate) fn by(&self, transport: Transport) -> Resumption {
        Resumption::store(Arc::clone(self.store(transport)) as _)
    }

    /// What one handshake with X25519 alone resumes. `None` where it is to be a hybrid one.
    pub(crate) fn classically(
        &self,
        transport: Transport,
        server: &ServerName<'static>,
        offer: KeyExchange,
    ) -> Option<Resumption> {
        let store = self.store(transport);
        let classical = match offer {
            KeyExchange::Hybrid => None,
            KeyExchange::ClassicalResumed => store.resumed_classically(server),
            KeyExchange::Classical => store.classically(server),
        };
        classical.map(|classical| Resumption::store(Arc::new(classical)))
    }

    /// A handshake with X25519 alone came to nothing there.
    pub(crate) fn refused(&self, transport: Transport, server: &ServerName<'static>) {
        self.store(transport).refused(server);
    }

    /// QUIC's cryptography, so that its sessions can be kept.
    #[cfg(feature = "quic")]
    pub(crate) fn quic(
        &self,
        crypto: Arc<dyn quinn::crypto::ClientConfig>,
    ) -> Arc<dyn quinn::crypto::ClientConfig> {
        match self.is_kept {
            true => Arc::new(quic::Seen { inner: crypto, resumes_for: None }),
            false => crypto,
        }
    }

    /// The same for a handshake that has to resume, or comes to nothing.
    #[cfg(feature = "quic")]
    pub(crate) fn quic_resumed(
        &self,
        crypto: Arc<dyn quinn::crypto::ClientConfig>,
        server: ServerName<'static>,
    ) -> Arc<dyn quinn::crypto::ClientConfig> {
        let resumes_for = Some((Arc::clone(self.store(Transport::Quic)), server));
        Arc::new(quic::Seen { inner: crypto, resumes_for })
    }
}

/// A hash of what an app trusts and shows: sessions of one such configuration are for no other.
fn trust(tls: &Tls) -> String {
    let mut hash = Context::new(&SHA256);
    let mut update = |part: &[u8]| {
        hash.update(&(part.len() as u64).to_be_bytes());
        hash.update(part);
    };
    update(&tls.roots_pem);
    update(&(tls.pins.len() as u64).to_be_bytes());
    tls.pins.iter().for_each(|pin| update(pin.to_string().as_bytes()));
    update(tls.certificate.as_ref().map_or(&[][..], |certificate| &certificate.chain_pem));
    tls.crypto.iter().for_each(|provider| update(provider.name().as_bytes()));
    hash.finish().as_ref().iter().fold(String::new(), |mut hex, byte| {
        // Writing to a string cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}
