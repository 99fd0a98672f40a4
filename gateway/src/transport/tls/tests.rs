//! Handshakes in memory: who gets which certificate, and who is refused with which alert.

use std::{path::Path, time::Duration};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    SignatureAlgorithm,
};
use rustls::{
    AlertDescription, ClientConfig, ClientConnection, Error, ServerConnection, SignatureScheme,
    client::{Resumption, danger::ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName},
};
use towline_crypto::{Pin, ServerVerifier};

use super::*;
use crate::{
    metrics::Metrics,
    settings::{CertificateFiles, Tls},
};

struct Authority {
    pem: String,
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let issuer = Issuer::new(params, key);
        Self { pem: certificate.pem(), certificate: certificate.der().clone(), issuer }
    }

    fn store(&self) -> Arc<RootCertStore> {
        let mut store = RootCertStore::empty();
        store.add(self.certificate.clone()).unwrap();
        Arc::new(store)
    }

    fn issue(
        &self,
        names: &[&str],
        algorithm: &'static SignatureAlgorithm,
        change: impl FnOnce(&mut CertificateParams),
    ) -> (CertificateDer<'static>, KeyPair) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name = Default::default();
        params.distinguished_name.push(DnType::CommonName, "someone");
        change(&mut params);
        let key = KeyPair::generate_for(algorithm).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().der().clone(), key)
    }

    /// Files of a server's certificate.
    fn server(
        &self,
        folder: &Path,
        names: &[&str],
        algorithm: &'static SignatureAlgorithm,
    ) -> CertificateFiles {
        let (certificate, key) = self.issue(names, algorithm, |_| ());
        let serial = std::fs::read_dir(folder).unwrap().count();
        let (chain, key_path) = (folder.join(format!("{serial}.pem")), folder.join(format!("{serial}.key")));
        let pem = rustls_pem(&certificate);
        std::fs::write(&chain, pem).unwrap();
        std::fs::write(&key_path, key.serialize_pem()).unwrap();
        CertificateFiles::pem(chain, key_path)
    }
}

fn rustls_pem(certificate: &CertificateDer<'_>) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", STANDARD.encode(certificate))
}

struct Scene {
    authority: Authority,
    folder: tempfile::TempDir,
    listener: Listener,
}

impl Scene {
    fn new(certificates: &[(&[&str], &'static SignatureAlgorithm)]) -> Self {
        let (authority, folder) = (Authority::new("servers"), tempfile::tempdir().unwrap());
        let mut listener = Listener::plain("a", ([127, 0, 0, 1], 0).into());
        listener.certificates =
            certificates.iter().map(|(names, kind)| authority.server(folder.path(), names, kind)).collect();
        Self { authority, folder, listener }
    }

    fn serve(&self) -> ServerTls {
        self.serve_with(&keys())
    }

    fn serve_with(&self, keys: &Arc<TicketKeys>) -> ServerTls {
        ServerTls::new(&self.listener, &Providers::default(), keys, SystemTime::now()).unwrap()
    }

    /// Asks clients for certificates of `authority`.
    fn ask(&mut self, mode: ClientCertificates, authority: &Authority) {
        let path = self.folder.path().join("clients.pem");
        std::fs::write(&path, &authority.pem).unwrap();
        self.listener.client_certificates = mode;
        self.listener.client_ca = Some(path);
    }

    fn client(&self) -> Client {
        Client {
            roots: self.authority.store(),
            provider: aws_lc_rs::default_provider(),
            versions: rustls::ALL_VERSIONS,
            name: "a.example",
            alpn: &[],
            identity: None,
            pins: Vec::new(),
            resumption: Resumption::disabled(),
        }
    }
}

fn keys() -> Arc<TicketKeys> {
    let outcomes = Metrics::new().tls_tickets;
    Arc::new(TicketKeys::new(&Tls::default(), outcomes, SystemTime::now()).unwrap())
}

#[derive(Clone)]
struct Client {
    roots: Arc<RootCertStore>,
    provider: CryptoProvider,
    versions: &'static [&'static SupportedProtocolVersion],
    name: &'static str,
    alpn: &'static [&'static [u8]],
    identity: Option<(CertificateDer<'static>, Arc<KeyPair>)>,
    pins: Vec<Pin>,
    resumption: Resumption,
}

/// What came of a handshake.
struct Done {
    client: ClientConnection,
    server: ServerConnection,
}

impl Client {
    fn only(mut self, schemes: &[SignatureScheme]) -> Self {
        let mapping = self.provider.signature_verification_algorithms.mapping;
        let kept: Vec<_> = mapping.iter().filter(|(scheme, _)| schemes.contains(scheme)).copied().collect();
        self.provider.signature_verification_algorithms.mapping = Box::leak(kept.into_boxed_slice());
        self
    }

    fn with_identity(mut self, (certificate, key): (CertificateDer<'static>, KeyPair)) -> Self {
        self.identity = Some((certificate, Arc::new(key)));
        self
    }

    fn config(&self) -> ClientConfig {
        let provider = Arc::new(self.provider.clone());
        let verifier =
            ServerVerifier::new(Arc::clone(&self.roots), self.pins.clone(), &[Arc::clone(&provider)])
                .unwrap();
        let verifier: Arc<dyn ServerCertVerifier> = Arc::new(verifier);
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(self.versions)
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
                builder.with_client_auth_cert(vec![certificate.clone()], key).unwrap()
            }
        };
        config.alpn_protocols = self.alpn.iter().map(|alpn| alpn.to_vec()).collect();
        config.resumption = self.resumption.clone();
        config
    }

    /// `Err` holds what the side at fault says, and the alert that the other side got.
    fn connect(&self, tls: &ServerTls) -> Result<Done, (Error, Option<AlertDescription>)> {
        let facts = HelloFacts {
            cipher_suites: self.provider.cipher_suites.iter().map(|suite| suite.suite().into()).collect(),
            named_groups: self.provider.kx_groups.iter().map(|group| group.name().into()).collect(),
            signature_schemes: Vec::new(),
        };
        let server = ServerConnection::new(tls.choose_by(&facts).unwrap()).unwrap();
        let name = ServerName::try_from(self.name).unwrap();
        let client = ClientConnection::new(Arc::new(self.config()), name).unwrap();
        let mut done = Done { client, server };
        done.run()?;
        Ok(done)
    }
}

impl Done {
    fn run(&mut self) -> Result<(), (Error, Option<AlertDescription>)> {
        let mut moved = true;
        while moved {
            moved = false;
            let mut bytes = Vec::new();
            while self.client.wants_write() {
                self.client.write_tls(&mut bytes).unwrap();
            }
            if !bytes.is_empty() {
                moved = true;
                self.server.read_tls(&mut &bytes[..]).unwrap();
                if let Err(error) = self.server.process_new_packets() {
                    return Err((error, self.alert_to_client()));
                }
            }
            let mut bytes = Vec::new();
            while self.server.wants_write() {
                self.server.write_tls(&mut bytes).unwrap();
            }
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                moved = true;
                self.client.read_tls(&mut rest).unwrap();
                if let Err(error) = self.client.process_new_packets() {
                    return Err((error, self.alert_to_server()));
                }
            }
        }
        Ok(())
    }

    fn alert_to_client(&mut self) -> Option<AlertDescription> {
        let mut bytes = Vec::new();
        while self.server.wants_write() {
            self.server.write_tls(&mut bytes).unwrap();
        }
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            self.client.read_tls(&mut rest).unwrap();
            if let Err(Error::AlertReceived(alert)) = self.client.process_new_packets() {
                return Some(alert);
            }
        }
        None
    }

    fn alert_to_server(&mut self) -> Option<AlertDescription> {
        let mut bytes = Vec::new();
        while self.client.wants_write() {
            self.client.write_tls(&mut bytes).unwrap();
        }
        self.server.read_tls(&mut &bytes[..]).unwrap();
        match self.server.process_new_packets() {
            Err(Error::AlertReceived(alert)) => Some(alert),
            _ => None,
        }
    }

    fn leaf(&self) -> &CertificateDer<'_> {
        &self.client.peer_certificates().unwrap()[0]
    }

    fn kind(&self) -> KeyKind {
        towline_crypto::x509::Certificate::parse(self.leaf()).unwrap().key_kind()
    }

    fn identity(&self) -> Option<Arc<PeerIdentity>> {
        PeerIdentity::of(self.server.peer_certificates(), None, false, SystemTime::now()).unwrap()
    }
}

const ECDSA: &SignatureAlgorithm = &rcgen::PKCS_ECDSA_P256_SHA256;
const ED25519: &SignatureAlgorithm = &rcgen::PKCS_ED25519;
const RSA: &SignatureAlgorithm = &rcgen::PKCS_RSA_SHA256;
static TLS13: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];
static TLS12: &[&SupportedProtocolVersion] = &[&rustls::version::TLS12];
const RSA_ONLY: &[SignatureScheme] = &[SignatureScheme::RSA_PSS_SHA256, SignatureScheme::RSA_PKCS1_SHA256];

#[test]
fn the_name_chooses_exactly_then_by_wildcard_then_the_first() {
    let names: [&[&str]; 3] = [&["first.example"], &["a.example"], &["*.wild.example"]];
    let scene = Scene::new(&names.map(|names| (names, ECDSA)));
    let tls = scene.serve();
    let certificate = |index: usize| tls.certificates[index].key.cert[0].clone();
    let check = |name: &'static str, index: usize| {
        let chosen = tls.families[0].chooser.choose(Some(name), &[SignatureScheme::ECDSA_NISTP256_SHA256]);
        assert_eq!(chosen.unwrap().certificate.key.cert[0], certificate(index), "{name}");
    };
    check("a.example", 1);
    check("A.Example.", 1);
    check("first.example", 0);
    check("x.wild.example", 2);
    check("x.y.wild.example", 0);
    check("wild.example", 0);
    check("unknown.example", 0);
    check("", 0);
    assert_eq!(*scene.client().connect(&tls).unwrap().leaf(), certificate(1));
}

#[test]
fn ecdsa_comes_first_and_rsa_is_for_those_who_verify_nothing_else() {
    let scene = Scene::new(&[(&["a.example"], RSA), (&["a.example"], ED25519), (&["a.example"], ECDSA)]);
    let tls = scene.serve();
    for versions in [TLS13, TLS12] {
        let client = Client { versions, ..scene.client() };
        let kind = |client: Client| client.connect(&tls).unwrap().kind();
        assert_eq!(kind(client.clone()), KeyKind::EcdsaP256);
        assert_eq!(kind(client.clone().only(RSA_ONLY)), KeyKind::Rsa);
        // The authority signs with ECDSA, so that scheme is needed for the chain, but not offered for handshakes.
        assert_eq!(kind(client.only(&[SignatureScheme::ED25519])), KeyKind::Ed25519);
    }
}

#[test]
fn who_can_verify_none_is_told_so() {
    let scene = Scene::new(&[(&["a.example"], ECDSA)]);
    let (error, alert) = scene.client().only(RSA_ONLY).connect(&scene.serve()).err().unwrap();
    assert!(matches!(error, Error::PeerIncompatible(_)), "{error}");
    assert_eq!(alert, Some(AlertDescription::HandshakeFailure));
}

#[test]
fn link_clients_get_a_delegated_certificate_and_everybody_else_the_rsa_one() {
    let scene = Scene::new(&[(&["a.example"], RSA)]);
    let tls = scene.serve();
    let link = Client { alpn: &[ALPN_LINK], ..scene.client() };
    let kind = |client: &Client| client.connect(&tls).unwrap().kind();
    assert_eq!(kind(&link), KeyKind::EcdsaP256);
    assert_eq!(kind(&Client { alpn: &[ALPN_HTTP2], ..scene.client() }), KeyKind::Rsa);
    assert_eq!(kind(&scene.client()), KeyKind::Rsa);
    assert_eq!(kind(&link.clone().only(RSA_ONLY)), KeyKind::Rsa);
    let rsa = tls.certificates[0].key.cert[0].clone();
    let pinned = Client { pins: vec![Pin::of_certificate(&rsa).unwrap()], ..link.clone() };
    assert_eq!(kind(&pinned), KeyKind::EcdsaP256, "a pin names the RSA key");
    let mut off = scene.listener.clone();
    off.delegated_ecdsa = false;
    let off = Scene { listener: off, ..scene }.serve();
    assert_eq!(link.connect(&off).unwrap().kind(), KeyKind::Rsa);
}

#[test]
fn a_delegated_certificate_is_renewed_at_half_of_its_life_and_never_served_after_it() {
    let scene = Scene::new(&[(&["a.example"], RSA)]);
    let tls = scene.serve();
    let delegated = tls.families[0].chooser.delegated().next().unwrap();
    let (now, life) = (SystemTime::now(), scene.listener.delegated_life);
    let leaf = |at| delegated.current(at).map(|key| key.cert[0].clone());
    let first = leaf(now).unwrap();
    tls.tend(now + life / 2 - Duration::from_secs(60)).unwrap();
    assert_eq!(leaf(now), Some(first.clone()));
    assert_eq!(leaf(now + life), None, "nothing rather than an expired one");
    tls.tend(now + life / 2).unwrap();
    assert_ne!(leaf(now + life), Some(first));
    assert!(leaf(now + life).is_some());
}

#[test]
fn clients_show_who_they_are_where_they_are_asked() {
    let clients = Authority::new("clients");
    let mut scene = Scene::new(&[(&["a.example"], ECDSA)]);
    let meter = || clients.issue(&["meter-7.devices.example"], ECDSA, |_| ());
    scene.ask(ClientCertificates::Optional, &clients);
    let tls = scene.serve();
    assert!(scene.client().connect(&tls).unwrap().identity().is_none());
    let identity = scene.client().with_identity(meter()).connect(&tls).unwrap().identity().unwrap();
    assert_eq!(identity.user().map(|name| &**name), Some("someone"));
    assert!(identity.is_named("meter-7.devices.example") && identity.is_named("*.devices.example"));
    assert!(identity.is_named("someone") && identity.is_named("*") && !identity.is_named("*.example.net"));
    scene.ask(ClientCertificates::Required, &clients);
    let tls = scene.serve();
    assert!(scene.client().with_identity(meter()).connect(&tls).unwrap().identity().is_some());
    let alert = scene.client().connect(&tls).err().unwrap().1;
    assert_eq!(alert, Some(AlertDescription::CertificateRequired));
}

#[test]
fn wrong_client_certificates_are_refused_each_with_its_alert() {
    let clients = Authority::new("clients");
    let mut scene = Scene::new(&[(&["a.example"], ECDSA)]);
    scene.ask(ClientCertificates::Optional, &clients);
    let tls = scene.serve();
    let check = |identity, reason: &str, alert| {
        let (error, got) = scene.client().with_identity(identity).connect(&tls).err().unwrap();
        assert!(error.to_string().contains(reason), "{error}");
        assert_eq!(got, Some(alert), "{error}");
    };
    let expired = clients.issue(&[], ECDSA, |params| params.not_after = rcgen::date_time_ymd(2020, 1, 1));
    check(expired, "expired", AlertDescription::CertificateExpired);
    let for_servers = clients.issue(&[], ECDSA, |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    });
    check(for_servers, "extended key usage", AlertDescription::UnsupportedCertificate);
    let stranger = Authority::new("strangers").issue(&[], ECDSA, |_| ());
    check(stranger, "UnknownIssuer", AlertDescription::UnknownCA);
    let forged = Authority::new("clients").issue(&[], ECDSA, |_| ());
    check(forged, "BadSignature", AlertDescription::DecryptError);
    let key = KeyPair::generate().unwrap();
    let selfmade = CertificateParams::new(vec![]).unwrap().self_signed(&key).unwrap().der().clone();
    check((selfmade, key), "UnknownIssuer", AlertDescription::UnknownCA);
}

#[test]
fn wrong_server_certificates_are_refused_each_with_its_alert() {
    let check = |names: &[&str], change: fn(&mut CertificateParams), reason: &str, alert| {
        let mut scene = Scene::new(&[]);
        let (certificate, key) = scene.authority.issue(names, ECDSA, change);
        let (chain, key_path) = (scene.folder.path().join("c.pem"), scene.folder.path().join("k.pem"));
        std::fs::write(&chain, rustls_pem(&certificate)).unwrap();
        std::fs::write(&key_path, key.serialize_pem()).unwrap();
        scene.listener.certificates = vec![CertificateFiles::pem(chain, key_path)];
        let (error, got) = scene.client().connect(&scene.serve()).err().unwrap();
        assert!(error.to_string().contains(reason), "{error}");
        assert_eq!(got, Some(alert), "{error}");
    };
    let names = &["a.example"];
    let expired = |params: &mut CertificateParams| params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    check(names, expired, "expired", AlertDescription::CertificateExpired);
    check(&["b.example"], |_| (), "not valid for name", AlertDescription::BadCertificate);
    let for_clients = |params: &mut CertificateParams| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    };
    check(names, for_clients, "extended key usage", AlertDescription::UnsupportedCertificate);
}

#[test]
fn a_session_resumes_on_another_node_but_under_no_other_policy() {
    let clients = Authority::new("clients");
    let mut scene = Scene::new(&[(&["a.example"], ECDSA)]);
    let keys = keys();
    let open = scene.serve_with(&keys);
    let elsewhere = scene.serve_with(&keys);
    scene.ask(ClientCertificates::Required, &clients);
    let closed = scene.serve_with(&keys);
    let client = Client { resumption: Resumption::in_memory_sessions(16), ..scene.client() };
    // One configuration, so that the client keeps its sessions.
    let config = Arc::new(client.config());
    let connect = |tls: &ServerTls| {
        let server = ServerConnection::new(tls.choose_by(&HelloFacts::default()).unwrap()).unwrap();
        let name = ServerName::try_from("a.example").unwrap();
        let mut done = Done { client: ClientConnection::new(Arc::clone(&config), name).unwrap(), server };
        done.run().map(|()| done.client.handshake_kind())
    };
    assert_eq!(connect(&open).unwrap(), Some(rustls::HandshakeKind::Full));
    assert_eq!(connect(&elsewhere).unwrap(), Some(rustls::HandshakeKind::Resumed));
    let alert = connect(&closed).err().unwrap().1;
    assert_eq!(
        alert,
        Some(AlertDescription::CertificateRequired),
        "a ticket is no way round the certificate"
    );
}

#[test]
fn a_resumed_session_keeps_its_identity_until_the_certificate_expires() {
    let clients = Authority::new("clients");
    let mut scene = Scene::new(&[(&["a.example"], ECDSA)]);
    scene.ask(ClientCertificates::Required, &clients);
    let tls = scene.serve();
    let identity = clients.issue(&["meter"], ECDSA, |params| {
        params.not_after = rcgen::date_time_ymd(2090, 1, 1);
    });
    let client = Client { resumption: Resumption::in_memory_sessions(16), ..scene.client() };
    let config = Arc::new(client.with_identity(identity).config());
    let connect = || {
        let server = ServerConnection::new(tls.choose_by(&HelloFacts::default()).unwrap()).unwrap();
        let name = ServerName::try_from("a.example").unwrap();
        let mut done = Done { client: ClientConnection::new(Arc::clone(&config), name).unwrap(), server };
        done.run().unwrap();
        done
    };
    let (full, resumed) = (connect(), connect());
    assert_eq!(resumed.client.handshake_kind(), Some(rustls::HandshakeKind::Resumed));
    let (first, second) = (full.identity().unwrap(), resumed.identity().unwrap());
    assert_eq!(first.fingerprint_sha256, second.fingerprint_sha256);
    let later = SystemTime::now() + Duration::from_secs(100 * 366 * 86_400);
    assert_eq!(PeerIdentity::of(resumed.server.peer_certificates(), None, false, later).err(), Some(Expired));
}

#[test]
fn a_client_that_offers_one_kind_of_cryptography_gets_that_one() {
    use towline_crypto::shangmi::issue::{Sm2KeyPair, self_signed, to_pem};
    let mut scene = Scene::new(&[(&["a.example"], ECDSA)]);
    let key = Sm2KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
    let (chain, key_path) = (scene.folder.path().join("sm.pem"), scene.folder.path().join("sm.key"));
    let sm2 = self_signed(&params, &key).unwrap();
    std::fs::write(&chain, to_pem(&sm2).unwrap()).unwrap();
    std::fs::write(&key_path, &*key.to_pem().unwrap()).unwrap();
    scene.listener.certificates.push(CertificateFiles::pem(chain, key_path));
    scene.listener.crypto = vec!["shangmi".into(), "international".into()];
    let tls = scene.serve();
    assert_eq!(scene.client().connect(&tls).unwrap().kind(), KeyKind::EcdsaP256);
    let mut roots = RootCertStore::empty();
    roots.add(sm2).unwrap();
    let shangmi = Providers::default().get("shangmi").unwrap().crypto();
    let client =
        Client { roots: Arc::new(roots), provider: (*shangmi).clone(), versions: TLS13, ..scene.client() };
    assert_eq!(client.connect(&tls).unwrap().kind(), KeyKind::Sm2);
    let stranger =
        HelloFacts { cipher_suites: vec![0x1303], named_groups: vec![41], signature_schemes: vec![] };
    assert_eq!(tls.choose_by(&stranger).err(), Some(NoOverlap));
}

#[test]
fn certificates_and_crypto_must_fit_each_other() {
    let mut scene = Scene::new(&[(&["a.example"], ECDSA)]);
    let check = |listener: &Listener, expected: &str| {
        let error = ServerTls::new(listener, &Providers::default(), &keys(), SystemTime::now()).err();
        let error = error.unwrap().to_string();
        assert!(error.contains(expected), "{error}");
    };
    scene.listener.crypto = vec!["shangmi".into()];
    check(&scene.listener, "a key of the kind \"ecdsa\"");
    scene.listener.crypto = vec!["international".into(), "shangmi".into()];
    check(&scene.listener, "no certificate is for crypto \"shangmi\"");
    scene.listener.crypto = vec!["hsm".into()];
    check(&scene.listener, "crypto \"hsm\" is not known; known: [\"international\", \"shangmi\"]");
}

#[test]
fn what_clients_will_complain_of_is_named() {
    let scene = Scene::new(&[]);
    let folder = scene.folder.path();
    let check = |names: &[&str], change: fn(&mut CertificateParams), expected: &str| {
        let (certificate, key) = scene.authority.issue(names, ECDSA, change);
        let (chain, key_path) = (folder.join("c.pem"), folder.join("k.pem"));
        std::fs::write(&chain, rustls_pem(&certificate) + &scene.authority.pem).unwrap();
        std::fs::write(&key_path, key.serialize_pem()).unwrap();
        let files = CertificateFiles::pem(&chain, key_path);
        let providers: Vec<Arc<dyn Provider>> = vec![Arc::new(towline_crypto::International::default())];
        let problems = Certificate::read(&files, &providers).unwrap().problems(SystemTime::now());
        let problems: Vec<_> =
            problems.iter().map(|text| text.trim_start_matches(&*chain.to_string_lossy())).collect();
        assert_eq!(problems.join("\n"), expected);
    };
    check(&["a.example"], |_| (), "");
    check(
        &["a.example"],
        |leaf| leaf.not_after = rcgen::date_time_ymd(2020, 1, 1),
        ": has expired; renew it",
    );
    let early = |leaf: &mut CertificateParams| leaf.not_before = rcgen::date_time_ymd(2999, 1, 1);
    check(&["a.example"], early, ": is not valid yet; see the machine's clock");
    check(&[], |_| (), ": names nobody in subjectAltName, so that no client accepts it");
    let authority = |leaf: &mut CertificateParams| leaf.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    check(&["a.example"], authority, ": begins with an authority's certificate; put the server's own first");
}
