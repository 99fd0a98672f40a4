//! The SDK, as an app uses it.

use std::{
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use http::Method;
use towline_client::{
    BundledAddresses, CallRequest, Client, ClientConfig, ConnectionState, Endpoint, Timeline,
};
use towline_protocols::policy::{Network, NetworkKind, Value};

use super::{PATIENCE, Started, body, host, path};
use crate::{
    clock,
    lab::run::orders::{Sample, Setup, Start},
};

/// States that are kept; a line that changes more often than that says nothing new.
const STATES_MAX: usize = 10_000;

/// The SDK.
pub(in crate::lab::run) struct Sdk {
    setup: Setup,
    line: Line,
    starts: u64,
}

/// What is seen of the client from outside of its calls.
#[derive(Clone, Default)]
pub(super) struct Line(Arc<Mutex<Seen>>);

#[derive(Default)]
struct Seen {
    client: Option<Client>,
    /// What kind of network the app says that it is on.
    kind: Option<NetworkKind>,
    states: Vec<(u64, String)>,
}

impl Line {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What an app passes on of the operating system's word: the same network, and another address.
    pub(super) fn moved(&self) {
        let client = self.seen().client.clone();
        if let Some(client) = client {
            let unsaid = || Network::new(NetworkKind::Cellular, "lab");
            client.network_changed(self.network().unwrap_or_else(unsaid));
        }
    }

    fn network(&self) -> Option<Network> {
        self.seen().kind.map(|kind| Network::new(kind, "lab"))
    }

    pub(super) fn take_states(&self) -> Vec<(u64, String)> {
        std::mem::take(&mut self.seen().states)
    }

    fn note(&self, state: &ConnectionState) {
        let states = &mut self.seen().states;
        if states.len() < STATES_MAX {
            states.push((clock::now(), state.to_string()));
        }
    }

    /// Follows the states of `client` while it lives.
    fn watch(&self, client: &Client) {
        let (mut states, line) = (client.states(), self.clone());
        tokio::spawn(async move {
            loop {
                let state = states.borrow_and_update().clone();
                let is_over = matches!(state, ConnectionState::Closed { .. });
                line.note(&state);
                if is_over || states.changed().await.is_err() {
                    return;
                }
            }
        });
    }
}

impl Sdk {
    pub(super) fn new(setup: Setup) -> Result<Self, String> {
        let line = Line::default();
        line.seen().kind = setup.kind.as_deref().and_then(NetworkKind::from_name);
        let sdk = Self { setup, line, starts: 0 };
        sdk.config(None, true)?;
        Ok(sdk)
    }

    pub(super) fn line(&self) -> Line {
        self.line.clone()
    }

    fn config(&self, folder: Option<&Path>, is_bundled: bool) -> Result<ClientConfig, String> {
        let server: Endpoint = self.setup.server.parse().map_err(|error| format!("{error}"))?;
        let roots = std::fs::read(&self.setup.ca).map_err(|error| format!("the CA: {error}"))?;
        let mut config = ClientConfig::new(vec![server], roots);
        if is_bundled {
            let (host, addresses) = (host(&self.setup.server).to_owned(), vec![self.setup.address]);
            config.bundled_addresses = vec![BundledAddresses { host, addresses }];
        }
        config.identity_file = folder.map(|folder| folder.join("identity"));
        config.limits.deadline_default = PATIENCE;
        config.seed = Some(self.setup.seed.wrapping_add(self.starts));
        for strategy in &self.setup.without {
            let name = format!("{strategy}.enabled");
            config.strategies.set(&name, Value::Switch(false)).map_err(|error| error.to_string())?;
        }
        for (name, value) in &self.setup.set {
            config.strategies.set(name, value.value()).map_err(|error| error.to_string())?;
        }
        Ok(config)
    }

    fn start(&mut self, folder: &Path, is_bundled: bool) -> Result<Client, String> {
        self.starts += 1;
        std::fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let client =
            Client::start(self.config(Some(folder), is_bundled)?).map_err(|error| error.to_string())?;
        if let Some(network) = self.line.network() {
            client.network_changed(network);
        }
        self.line.watch(&client);
        Ok(client)
    }

    pub(super) async fn cold(&mut self, name: &str, start: Start) -> Sample {
        let again = start == Start::Again;
        let folder = self.setup.folder.join(if again { "again" } else { name });
        let started = Started::now();
        let (begun, client) = (started.0, self.start(&folder, start == Start::Bundled));
        let client = match client {
            Ok(client) => client,
            Err(error) => return started.sample(Err(error), None),
        };
        self.line.take_states();
        // What may run twice may leave with the first flight of an app that was started again.
        let sample = self.measured(started, &client, name, again).await;
        let online = self.line.seen().states.iter().find(|(_, state)| state.starts_with("online")).cloned();
        let connect = online.map(|(at, _)| at.saturating_sub(begun));
        client.close().await;
        Sample { connect, ..sample }
    }

    pub(super) async fn call(&mut self, name: &str) -> Sample {
        let client = self.line.seen().client.clone();
        let client = match client {
            Some(client) => client,
            None => match self.start(&self.setup.folder.join("lasting"), false) {
                Ok(client) => self.line.seen().client.insert(client).clone(),
                Err(error) => return Started::now().sample(Err(error), None),
            },
        };
        self.measured(Started::now(), &client, name, false).await
    }

    async fn measured(&self, started: Started, client: &Client, name: &str, idempotent: bool) -> Sample {
        let request = CallRequest::http(Method::POST, path(&self.setup, name), body(&self.setup, name));
        let request = CallRequest { idempotent, ..request };
        let (mut timeline, outcome) = (None, client.call(request).await);
        let outcome = outcome.map_err(|error| error.to_string()).and_then(|answer| {
            timeline = Some(parts(&answer.timeline));
            match answer.status {
                200 => Ok(answer.timeline.transport.map(|it| it.to_string()).unwrap_or_default()),
                status => Err(format!("status {status}")),
            }
        });
        Sample { timeline, ..started.sample(outcome, None) }
    }
}

/// The parts of a call's time, in milliseconds; those that it did not have are left out.
fn parts(timeline: &Timeline) -> String {
    let Timeline { attempts, queue, dns, connect, tls, send, first_byte, elapsed, .. } = timeline;
    let times = [
        ("queue", Some(*queue)),
        ("dns", *dns),
        ("connect", *connect),
        ("tls", *tls),
        ("send", *send),
        ("first", *first_byte),
        ("all", Some(*elapsed)),
    ];
    let times = times.iter().filter_map(|(name, time)| Some(format!("{name} {}", (*time)?.as_millis())));
    times.chain([format!("attempts {attempts}")]).collect::<Vec<_>>().join(", ")
}
