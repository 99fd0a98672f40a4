//! The certificates of a listener: read from PEM files, and chosen by the name that a client wants and by
//! what it can verify.

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    path::Path,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use rustls::{
    RootCertStore, SignatureScheme,
    pki_types::{
        CertificateDer,
        pem::{self, PemObject},
    },
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use towline_crypto::{
    Provider,
    x509::{self, KeyKind, SubjectName},
};

use super::{ALPN_LINK, delegated::Delegated};
use crate::{gateway::StartError, settings::CertificateFiles};

/// A certificate with its key, and what is known of it.
#[derive(Debug)]
pub struct Certificate {
    /// For rustls.
    pub key: Arc<CertifiedKey>,
    /// The kind of its key.
    pub kind: KeyKind,
    /// The first name that it names, for metrics and logs.
    pub name: Arc<str>,
    /// Last second of its life, since 1970.
    pub not_after: i64,
    /// The provider that loaded its key.
    pub provider: Arc<str>,
    not_before: i64,
    /// In lower case; a wildcard with its `*`.
    dns_names: BTreeSet<Box<str>>,
    files: CertificateFiles,
}

impl Certificate {
    /// Reads a chain and its key, and checks that they belong together. The first of `providers` that knows the
    /// kind of its key loads it.
    ///
    /// # Errors
    /// Names the file, what is wrong with it and what it should hold.
    pub fn read(files: &CertificateFiles, providers: &[Arc<dyn Provider>]) -> Result<Self, StartError> {
        let chain = read_certificates(&files.chain)?;
        let leaf = chain.first().ok_or_else(|| wrong(&files.chain, NO_CERTIFICATE))?;
        let parsed = x509::Certificate::parse(leaf).map_err(|error| wrong(&files.chain, error))?;
        let provider = providers.iter().find(|provider| provider.certifies(leaf)).ok_or_else(|| {
            let names: Vec<_> = providers.iter().map(|provider| provider.name()).collect();
            let kind = parsed.key_kind().label();
            wrong(
                &files.chain,
                format_args!(
                    "is a certificate for a key of the kind \"{kind}\", which the listener's crypto = {names:?} \
                     does not know"
                ),
            )
        })?;
        let (not_before, not_after) = parsed.validity();
        let dns_names: BTreeSet<Box<str>> = dns_names(&parsed).collect();
        let (kind, name) = (parsed.key_kind(), display_name(&parsed));
        let key = provider.certified_key(chain, &files.key);
        Ok(Self {
            key: Arc::new(key.map_err(|error| wrong(&files.key_path(), error))?),
            kind,
            name,
            not_after,
            provider: provider.name().into(),
            not_before,
            dns_names,
            files: files.clone(),
        })
    }

    /// What clients will complain of, in sentences that say what to do; none keeps a listener from serving.
    pub fn problems(&self, now: SystemTime) -> Vec<String> {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() as i64;
        let chain: Vec<_> = self.key.cert.iter().map(x509::Certificate::parse).collect();
        let mut problems = Vec::new();
        if now > self.not_after {
            problems.push("has expired; renew it".to_owned());
        }
        if now < self.not_before {
            problems.push("is not valid yet; see the machine's clock".to_owned());
        }
        let Some(Ok(leaf)) = chain.first() else { return problems };
        if leaf.is_authority() {
            problems.push("begins with an authority's certificate; put the server's own first".to_owned());
        }
        if leaf.names().next().is_none() {
            problems.push("names nobody in subjectAltName, so that no client accepts it".to_owned());
        }
        if !leaf.allows(x509::oid::SERVER_AUTH) {
            problems.push("is not meant for servers: its extended key usage lacks serverAuth".to_owned());
        }
        let follows = |pair: &[Result<x509::Certificate<'_>, _>]| match pair {
            [Ok(signed), Ok(issuer)] => signed.issuer() == issuer.subject(),
            _ => false,
        };
        if !chain.windows(2).all(follows) {
            problems
                .push("is out of order: each certificate of the file is to be signed by the next".to_owned());
        }
        problems.into_iter().map(|problem| format!("{}: {problem}", self.files.chain.display())).collect()
    }

    fn can_sign_for(&self, schemes: &[SignatureScheme]) -> bool {
        self.key.key.choose_scheme(schemes).is_some()
    }
}

/// Chooses a certificate for each handshake of one provider.
#[derive(Debug)]
pub(super) struct Chooser {
    /// In the order of preference: cheap signatures first, else as configured. Never empty.
    candidates: Vec<Candidate>,
    /// Indexes into `candidates`, ascending, by DNS name; a wildcard with its `*`.
    by_name: HashMap<Box<str>, Vec<usize>>,
    /// Those of the names of the first one configured, for clients that name nobody that is here.
    fallback: Vec<usize>,
}

#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) certificate: Arc<Certificate>,
    /// For link clients, if its key is RSA.
    delegated: Option<Arc<Delegated>>,
}

impl Chooser {
    /// `None` without a certificate. `delegate` makes the delegated certificates of those that may have one.
    pub(super) fn new(
        certificates: &[Arc<Certificate>],
        mut delegate: impl FnMut(&Arc<Certificate>) -> Result<Option<Arc<Delegated>>, StartError>,
    ) -> Result<Option<Self>, StartError> {
        let Some(first) = certificates.first() else { return Ok(None) };
        let mut candidates = Vec::new();
        for certificate in certificates {
            let delegated = delegate(certificate)?;
            candidates.push(Candidate { certificate: Arc::clone(certificate), delegated });
        }
        candidates.sort_by_key(|candidate| rank(candidate.certificate.kind));
        let mut by_name: HashMap<Box<str>, Vec<usize>> = HashMap::new();
        let mut fallback = Vec::new();
        for (index, candidate) in candidates.iter().enumerate() {
            let names = &candidate.certificate.dns_names;
            for name in names {
                by_name.entry(name.clone()).or_default().push(index);
            }
            if Arc::ptr_eq(&candidate.certificate, first)
                || names.intersection(&first.dns_names).next().is_some()
            {
                fallback.push(index);
            }
        }
        Ok(Some(Self { candidates, by_name, fallback }))
    }

    pub(super) fn delegated(&self) -> impl Iterator<Item = &Arc<Delegated>> {
        self.candidates.iter().filter_map(|candidate| candidate.delegated.as_ref())
    }

    /// Exact name, wildcard of one label (RFC 9525, section 6.3), the first one configured. Of several, the
    /// first that the client can verify; if it can verify none, rustls tells it so by the first.
    pub(super) fn choose(&self, name: Option<&str>, schemes: &[SignatureScheme]) -> Option<&Candidate> {
        let named = name.and_then(|name| self.named(&name.trim_end_matches('.').to_ascii_lowercase()));
        let indexes = named.unwrap_or(&self.fallback);
        let mut candidates = indexes.iter().filter_map(|index| self.candidates.get(*index));
        let first = candidates.clone().next();
        candidates.find(|candidate| candidate.certificate.can_sign_for(schemes)).or(first)
    }

    fn named(&self, name: &str) -> Option<&Vec<usize>> {
        self.by_name.get(name).or_else(|| {
            let (_, parent) = name.split_once('.')?;
            self.by_name.get(format!("*.{parent}").as_str())
        })
    }
}

impl ResolvesServerCert for Chooser {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let schemes = hello.signature_schemes();
        let chosen = self.choose(hello.server_name(), schemes)?;
        if let Some(delegated) = &chosen.delegated
            && hello.alpn().is_some_and(|mut offered| offered.any(|alpn| alpn == ALPN_LINK))
            && schemes.contains(&SignatureScheme::ECDSA_NISTP256_SHA256)
            && let Some(leaf) = delegated.current(SystemTime::now())
        {
            return Some(leaf);
        }
        Some(Arc::clone(&chosen.certificate.key))
    }
}

/// Every certificate of a PEM file, in its order; at least one.
///
/// # Errors
/// Names the file and what is wrong with it.
pub fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, StartError> {
    let text = fs::read(path).map_err(|source| StartError::File { path: path.into(), source })?;
    let chain: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(&text).collect();
    match chain {
        Ok(chain) if chain.is_empty() => Err(wrong(path, NO_CERTIFICATE)),
        Ok(chain) => Ok(chain),
        Err(error) => Err(wrong(path, format_args!("is not a PEM file: {error}"))),
    }
}

/// The authorities of a PEM file.
///
/// # Errors
/// Names the file and what is wrong with it.
pub fn read_authorities(path: &Path) -> Result<RootCertStore, StartError> {
    let mut roots = RootCertStore::empty();
    for certificate in read_certificates(path)? {
        roots.add(certificate).map_err(|error| wrong(path, error))?;
    }
    Ok(roots)
}

const NO_CERTIFICATE: &str =
    "holds no certificate; write a PEM file with -----BEGIN CERTIFICATE-----, leaf first";

fn wrong(path: &Path, problem: impl std::fmt::Display) -> StartError {
    StartError::Certificate { path: path.into(), problem: problem.to_string() }
}

/// RSA signatures cost the most by far.
fn rank(kind: KeyKind) -> u8 {
    match kind {
        KeyKind::EcdsaP256 => 0,
        KeyKind::Ecdsa | KeyKind::Sm2 => 1,
        KeyKind::Ed25519 => 2,
        KeyKind::Rsa | KeyKind::Other => 3,
    }
}

fn dns_names(certificate: &x509::Certificate<'_>) -> impl Iterator<Item = Box<str>> {
    certificate.names().filter_map(|name| match name {
        SubjectName::Dns(name) => Some(name.to_ascii_lowercase().into()),
        _ => None,
    })
}

fn display_name(certificate: &x509::Certificate<'_>) -> Arc<str> {
    let first = certificate.names().next().map(|name| match name {
        SubjectName::Dns(text) | SubjectName::Email(text) | SubjectName::Uri(text) => text.to_owned(),
        SubjectName::Ip(address) => address.to_string(),
    });
    first.or_else(|| certificate.common_name()).unwrap_or_default().into()
}
