//! The clients that are looked at.

mod curl;
mod http3;
mod sdk;

use std::{sync::Arc, time::Duration};

use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use tokio::time::{Instant, sleep_until};

use self::{curl::Curl, http3::Http3, sdk::Sdk};
use super::orders::{Sample, Setup, Start, Who};
use crate::clock;

/// How long anybody waits for an answer.
pub(in crate::lab) const PATIENCE: Duration = Duration::from_secs(10);

/// A client.
pub(super) enum Subject {
    Sdk(Box<Sdk>),
    Http3(Box<Http3>),
    Curl(Box<Curl>),
}

/// The device's address has changed: whoever listens to the operating system is told.
#[derive(Clone, Default)]
pub(super) struct Moves(Option<sdk::Line>);

impl Moves {
    pub(super) fn tell(&self) {
        if let Some(line) = &self.0 {
            line.moved();
        }
    }
}

impl Subject {
    pub(super) fn new(setup: Setup) -> Result<Self, String> {
        Ok(match setup.who {
            Who::Sdk => Self::Sdk(Box::new(Sdk::new(setup)?)),
            Who::H3 => Self::Http3(Box::new(Http3::new(setup)?)),
            Who::H1 | Who::H2 => Self::Curl(Box::new(Curl::new(setup)?)),
        })
    }

    pub(super) fn moves(&self) -> Moves {
        if let Self::Sdk(sdk) = self { Moves(Some(sdk.line())) } else { Moves::default() }
    }

    /// The one call of an app that has just been started.
    pub(super) async fn cold(&mut self, name: &str, start: Start) -> Sample {
        match self {
            Self::Sdk(sdk) => sdk.cold(name, start).await,
            Self::Http3(http3) => http3.cold(name, start == Start::Again).await,
            Self::Curl(curl) => curl.cold(name).await,
        }
    }

    /// Calls, a new one every `interval` or as soon as the one before is over.
    pub(super) async fn calls(&mut self, prefix: &str, time: Duration, interval: Duration) -> Vec<Sample> {
        if let Self::Curl(curl) = self {
            return curl.calls(prefix, time, interval).await;
        }
        let (began, mut samples) = (Instant::now(), Vec::new());
        let mut due = began;
        while due - began < time {
            sleep_until(due).await;
            due = Instant::now().max(due) + interval;
            let name = format!("{prefix}-{}", samples.len());
            samples.extend(match self {
                Self::Sdk(sdk) => Some(sdk.call(&name).await),
                Self::Http3(http3) => Some(http3.call(&name).await),
                Self::Curl(_) => None,
            });
        }
        samples
    }

    /// When the SDK's line was in which state since this was asked last.
    pub(super) fn take_states(&mut self) -> Vec<(u64, String)> {
        if let Self::Sdk(sdk) = self { sdk.line().take_states() } else { Vec::new() }
    }
}

/// A call that begins now.
struct Started(u64);

impl Started {
    fn now() -> Self {
        Self(clock::now())
    }

    fn sample(self, outcome: Result<String, String>, connect: Option<u64>) -> Sample {
        let took = clock::now() - self.0;
        let (by, error) = match outcome {
            Ok(by) => (by, None),
            Err(error) => (String::new(), Some(error)),
        };
        Sample { start: self.0, took, error, connect, by, timeline: None }
    }
}

/// A request's body: it does not compress, and is another one each time.
fn body(setup: &Setup, name: &str) -> Vec<u8> {
    let seed = name.bytes().fold(setup.seed, |seed, byte| seed.wrapping_mul(31).wrapping_add(byte.into()));
    let mut body = vec![0; setup.request_bytes];
    fastrand::Rng::with_seed(seed).fill(&mut body);
    body
}

fn path(setup: &Setup, name: &str) -> String {
    format!("/call/{name}/{}", setup.answer_bytes)
}

/// The host of HOST:PORT.
fn host(server: &str) -> &str {
    server.rsplit_once(':').map_or(server, |(host, _)| host)
}

/// A TLS client that trusts the laboratory.
fn tls(setup: &Setup, alpn: &[u8]) -> Result<rustls::ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", setup.ca.display());
    for certificate in CertificateDer::pem_file_iter(&setup.ca).map_err(|error| failed(&error))? {
        roots.add(certificate.map_err(|error| failed(&error))?).map_err(|error| failed(&error))?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| error.to_string())?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    Ok(config)
}
