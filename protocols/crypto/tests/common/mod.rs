//! Two rustls connections that talk through memory, and SM2 certificates for them.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyUsagePurpose,
};
use rustls::{
    ClientConfig, ClientConnection, Error, RootCertStore, ServerConfig, ServerConnection,
    pki_types::{CertificateDer, ServerName},
    sign::SingleCertAndKey,
};
use towline_crypto::{
    KeyReference, Provider,
    shangmi::issue::{self, Sm2KeyPair},
};

/// A chain that ends at `ca`, and its key as PEM.
pub struct Certified {
    pub ca: CertificateDer<'static>,
    pub leaf: CertificateDer<'static>,
    pub key_pem: String,
}

/// An SM2 authority and a leaf for `localhost`.
pub fn sm2_certificate() -> Certified {
    let mut authority = CertificateParams::default();
    authority.distinguished_name.push(DnType::CommonName, "test authority");
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let (ca_key, key) = (Sm2KeyPair::generate().unwrap(), Sm2KeyPair::generate().unwrap());
    let ca = issue::self_signed(&authority, &ca_key).unwrap();
    let leaf = issue::signed_by(&params, &key, &Issuer::new(authority, ca_key)).unwrap();
    Certified { ca, leaf, key_pem: key.to_pem().unwrap().to_string() }
}

pub fn server(provider: &dyn Provider, certified: &Certified) -> ServerConfig {
    let key = KeyReference::Pem(certified.key_pem.clone().into_bytes());
    server_with(provider, certified, &key)
}

pub fn server_with(provider: &dyn Provider, certified: &Certified, key: &KeyReference) -> ServerConfig {
    let certified = provider.certified_key(vec![certified.leaf.clone()], key).unwrap();
    ServerConfig::builder_with_provider(provider.crypto())
        .with_protocol_versions(provider.versions())
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)))
}

pub fn client(provider: &dyn Provider, certified: &Certified) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(certified.ca.clone()).unwrap();
    ClientConfig::builder_with_provider(provider.crypto())
        .with_protocol_versions(provider.versions())
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

/// Client and server of one connection.
pub struct Pair {
    pub client: ClientConnection,
    pub server: ServerConnection,
}

impl Pair {
    pub fn new(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>) -> Self {
        let name = ServerName::try_from("localhost").unwrap();
        Self {
            client: ClientConnection::new(Arc::clone(client), name).unwrap(),
            server: ServerConnection::new(Arc::clone(server)).unwrap(),
        }
    }

    /// Carries bytes until neither side has any: the handshake, its tickets, and what was written.
    pub fn drive(&mut self) -> Result<(), Error> {
        while self.client.wants_write() || self.server.wants_write() {
            let mut wire = Vec::new();
            while self.client.wants_write() {
                self.client.write_tls(&mut wire).unwrap();
            }
            let mut bytes = wire.as_slice();
            while !bytes.is_empty() {
                self.server.read_tls(&mut bytes).unwrap();
                self.server.process_new_packets()?;
            }
            wire.clear();
            while self.server.wants_write() {
                self.server.write_tls(&mut wire).unwrap();
            }
            let mut bytes = wire.as_slice();
            while !bytes.is_empty() {
                self.client.read_tls(&mut bytes).unwrap();
                self.client.process_new_packets()?;
            }
        }
        Ok(())
    }
}
