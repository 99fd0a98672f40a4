//! TLS configurations: TLS 1.3 by rustls, the app's own roots, pins and certificate, ALPN `towline/1`.

use std::{io, sync::Arc};

use rustls::{
    ClientConfig as TlsConfig, HandshakeKind, NamedGroup, RootCertStore,
    client::danger::ServerCertVerifier,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
    sign::SingleCertAndKey,
};
use towline_crypto::{Provider, ServerVerifier, offer_of};
use towline_protocols::policy::KeyExchange;

use crate::{
    config::{ClientCertificate, Tls},
    error::{ConfigError, StartError},
    tickets::{Resuming, Tickets, Transport},
};

/// The link protocol's name in ALPN.
pub(super) const ALPN: &[u8] = b"towline/1";

/// HTTP/2's.
#[cfg(feature = "http2")]
pub(super) const HTTP_2: &[u8] = b"h2";

/// What connections are secured with, and what they are resumed with.
#[derive(Clone)]
pub(super) struct Secured {
    /// Offers what the providers have, in their order.
    pub(super) tls: Arc<TlsConfig>,
    /// The same without the hybrid group, where that would come first. It is not offered behind the others either: a server
    /// that likes it better would ask for it by a HelloRetryRequest.
    classical: Option<Arc<TlsConfig>>,
    pub(super) resuming: Resuming,
}

/// Made for one handshake.
pub(super) struct Made<C> {
    pub(super) config: C,
    /// With X25519 alone.
    pub(super) is_classical: bool,
    /// It comes to nothing unless it resumes a session.
    pub(super) has_to_resume: bool,
}

impl<C> Made<C> {
    /// Whether what has to resume a session did so.
    pub(super) fn check(&self, connection: &rustls::ClientConnection) -> io::Result<()> {
        match self.has_to_resume && connection.handshake_kind() != Some(HandshakeKind::Resumed) {
            true => {
                Err(io::Error::new(io::ErrorKind::InvalidData, "the gateway does not resume the session"))
            }
            false => Ok(()),
        }
    }

    /// Whether a hybrid handshake may succeed where this one failed.
    pub(super) fn is_refused(&self, error: &io::Error) -> bool {
        // Of TLS, not of the network.
        self.is_classical && error.kind() == io::ErrorKind::InvalidData
    }
}

/// What TCP and QUIC are secured with; none of it is found missing only when a connection is tried.
pub(super) fn secured(tls: &Tls, early_data: bool, tickets: &Tickets) -> Result<Secured, StartError> {
    let providers: Vec<_> = tls.crypto.iter().map(|provider| provider.crypto()).collect();
    let unusable = |error: &dyn std::fmt::Display| StartError::Roots(error.to_string());
    let offer = offer_of(&providers)
        .ok_or_else(|| ConfigError::new("security.crypto", "name at least one provider"))?;
    let verifier = ServerVerifier::new(Arc::new(roots(&tls.roots_pem)?), tls.pins.clone(), &providers)
        .map_err(|error| unusable(&error))?;
    let verifier: Arc<dyn ServerCertVerifier> = tickets.verifier(Arc::new(verifier));
    let builder = |crypto: CryptoProvider| {
        let builder = TlsConfig::builder_with_provider(Arc::new(crypto))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| unusable(&error))?;
        // The verifier is rustls' own, and takes delegated certificates and pins beside.
        Ok::<_, StartError>(builder.dangerous().with_custom_certificate_verifier(Arc::clone(&verifier)))
    };
    let crypto = tickets.crypto(offer);
    let hybrid = builder(crypto.clone())?;
    let mut config = match &tls.certificate {
        None => hybrid.with_no_client_auth(),
        Some(certificate) => hybrid.with_client_cert_resolver(Arc::new(identity(certificate, &tls.crypto)?)),
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.enable_early_data = early_data;
    let resuming = tickets.resuming(&config, &verifier);
    config.resumption = resuming.by(Transport::Tcp);
    let classical = match without_hybrid(crypto) {
        None => None,
        Some(crypto) => {
            // A session is resumed by those alone who have the verifier and the certificates that it was made with.
            let credentials = Arc::clone(&config.client_auth_cert_resolver);
            let mut classical = builder(crypto)?.with_client_cert_resolver(credentials);
            classical.alpn_protocols.clone_from(&config.alpn_protocols);
            classical.enable_early_data = early_data;
            Some(Arc::new(classical))
        }
    };
    Ok(Secured { tls: Arc::new(config), classical, resuming })
}

/// The same cryptography without the group that is the first and a hybrid one; `None` if it is not, as ShangMi's.
fn without_hybrid(mut crypto: CryptoProvider) -> Option<CryptoProvider> {
    let (first, others) = crypto.kx_groups.split_first()?;
    let is_left_out = first.name() == HYBRID && others.first().is_some_and(|next| next.name() == CLASSICAL);
    crypto.kx_groups.remove(0);
    is_left_out.then_some(crypto)
}

const HYBRID: NamedGroup = NamedGroup::X25519MLKEM768;
const CLASSICAL: NamedGroup = NamedGroup::X25519;

impl Secured {
    /// For one handshake by `transport`, but QUIC.
    pub(super) fn streams(
        &self,
        transport: Transport,
        server: &ServerName<'static>,
        offer: KeyExchange,
    ) -> Made<Arc<TlsConfig>> {
        let Made { config, is_classical, has_to_resume } = self.made(transport, server, offer);
        let config = match transport {
            Transport::Http => http_config(config),
            Transport::Tcp | Transport::Quic => config,
        };
        Made { config: Arc::new(config), is_classical, has_to_resume }
    }

    /// Sessions are kept apart by transport: what a ticket allows of early data differs.
    fn made(
        &self,
        transport: Transport,
        server: &ServerName<'static>,
        offer: KeyExchange,
    ) -> Made<TlsConfig> {
        // A session that is taken from the store is not there for another handshake.
        let classical = self.classical.as_ref().and_then(|classical| {
            let resumption = self.resuming.classically(transport, server, offer)?;
            Some((classical, resumption))
        });
        match classical {
            None => {
                let mut config = TlsConfig::clone(&self.tls);
                config.resumption = self.resuming.by(transport);
                Made { config, is_classical: false, has_to_resume: false }
            }
            Some((classical, resumption)) => {
                let mut config = TlsConfig::clone(classical);
                config.resumption = resumption;
                let has_to_resume = offer == KeyExchange::ClassicalResumed;
                Made { config, is_classical: true, has_to_resume }
            }
        }
    }
}

fn roots(roots_pem: &[u8]) -> Result<RootCertStore, StartError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(roots_pem) {
        let certificate = certificate.map_err(|error| StartError::Roots(format!("not PEM: {error:?}")))?;
        roots.add(certificate).map_err(|error| StartError::Roots(error.to_string()))?;
    }
    if roots.is_empty() {
        let text =
            "no certificate found: pass the PEM of the authority that signed the gateway's certificate";
        return Err(StartError::Roots(text.to_owned()));
    }
    Ok(roots)
}

/// The client's own certificate, by the provider that knows its kind.
fn identity(
    certificate: &ClientCertificate,
    providers: &[Arc<dyn Provider>],
) -> Result<SingleCertAndKey, StartError> {
    let wrong = |text: String| ConfigError::new("security.certificate", text);
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&certificate.chain_pem).collect();
    let chain = chain.map_err(|error| wrong(format!("is not PEM: {error:?}")))?;
    let leaf = chain.first().ok_or_else(|| wrong("holds no certificate".to_owned()))?;
    let provider = providers.iter().find(|provider| provider.certifies(leaf));
    let provider = provider.ok_or_else(|| wrong("has a key of a kind that no provider knows".to_owned()))?;
    let certified = provider.certified_key(chain, &certificate.key);
    Ok(certified.map_err(|error| wrong(format!("its key {error}")))?.into())
}

/// The same trust for HTTP, which has an ALPN of its own; nothing goes early.
fn http_config(mut tls: TlsConfig) -> TlsConfig {
    tls.alpn_protocols = vec![
        #[cfg(feature = "http2")]
        HTTP_2.to_vec(),
        b"http/1.1".to_vec(),
    ];
    tls.enable_early_data = false;
    tls
}

#[cfg(test)]
#[cfg(feature = "quic")]
mod kept_sessions;
#[cfg(test)]
#[cfg(feature = "quic")]
mod offers;
#[cfg(feature = "quic")]
mod quic;

#[cfg(test)]
mod tests {
    use towline_crypto::International;

    use super::*;

    fn made(tls: &Tls, early_data: bool) -> Result<Secured, StartError> {
        secured(tls, early_data, &Tickets::default())
    }

    fn check(pem: &str, reason: &str) {
        let error = made(&Tls::new(pem), true).err().unwrap().to_string();
        assert!(error.contains(reason), "{error}");
    }

    #[test]
    fn roots_that_are_none_are_refused_at_the_start() {
        check("", "no certificate found");
        check("hello", "no certificate found");
        check("-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n", "not PEM");
        check("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "roots:");
    }

    #[test]
    fn a_certificate_that_cannot_be_shown_is_refused_at_the_start() {
        let ours = rcgen::generate_simple_self_signed(vec!["app".into()]).unwrap();
        let other = rcgen::KeyPair::generate().unwrap().serialize_pem();
        let check = |chain: &str, key: &str, reason: &str| {
            let mut tls = Tls::new(ours.cert.pem());
            tls.certificate = Some(ClientCertificate::pem(chain, key));
            let error = made(&tls, true).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.contains(reason) && error.is_empty() == reason.is_empty(), "{error}");
        };
        check(&ours.cert.pem(), &ours.signing_key.serialize_pem(), "");
        check("", &other, "security.certificate: holds no certificate");
        check(&ours.cert.pem(), &other, "its key is not the key of the first certificate");
        check(&ours.cert.pem(), "", "its key holds no private key");
    }

    #[test]
    fn short_calls_offer_http_2_first_unless_it_is_left_out() {
        let ours = rcgen::generate_simple_self_signed(vec!["app".into()]).unwrap();
        let secured = made(&Tls::new(ours.cert.pem()), true).unwrap();
        let http_2: &[&[u8]] = if cfg!(feature = "http2") { &[b"h2"] } else { &[] };
        let offered = [http_2, &[b"http/1.1"]].concat();
        assert_eq!(http_config((*secured.tls).clone()).alpn_protocols, offered);
    }

    #[test]
    fn every_provider_is_offered_in_the_order_of_preference() {
        let ours = rcgen::generate_simple_self_signed(vec!["app".into()]).unwrap();
        let mut tls = Tls::new(ours.cert.pem());
        tls.crypto = vec![Arc::new(towline_crypto::ShangMi::default()), Arc::new(International::default())];
        let secured = made(&tls, false).unwrap();
        let provider = secured.tls.crypto_provider();
        let suites: Vec<u16> = provider.cipher_suites.iter().map(|suite| suite.suite().into()).collect();
        assert_eq!(suites[0], 0x00c6);
        assert!(suites.contains(&0x1301));
        assert_eq!(u16::from(provider.kx_groups[0].name()), 41);
        assert!(secured.classical.is_none(), "the hybrid is not the first");
        #[cfg(feature = "quic")]
        assert!(secured.check_quic().is_ok());
        tls.crypto.clear();
        let error = made(&tls, false).err().unwrap().to_string();
        assert!(error.contains("name at least one provider"), "{error}");
    }
}
