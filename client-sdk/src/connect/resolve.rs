//! Looking names up: by the system's resolver, or the app's own.

use std::{
    collections::HashMap,
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{sync::watch, task::JoinSet, time::timeout};
use towline_protocols::policy::{Network, NetworkKey, RacePolicy};

use super::ConnectError;
use crate::{
    bundled::Bundle,
    config::Endpoint,
    core::{Shared, now},
    work,
};

/// Looks names up in place of the system's resolver: DNS over HTTPS, an operator's HTTPDNS, a list.
pub trait Resolve: Send + Sync {
    /// The addresses of `host`, the preferred first. It may take as long as it likes: connections to addresses that are
    /// known do not wait for it.
    fn resolve(&self, host: &str) -> Resolving;

    /// The same for connections on `network`, which is the one in use, or one that has joined it
    /// ([`crate::Client::network_joined`]). This is what the client asks; whoever tells networks apart answers it.
    fn resolve_on(&self, network: &Network, host: &str) -> Resolving {
        let _ = network;
        self.resolve(host)
    }
}

/// The addresses, once they are known.
pub type Resolving = Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>>;

/// Names that are looked up at one time; a resolver that never answers holds each for good.
const LOOKUPS_MAX: usize = 16;

type Answer = Option<Result<Vec<IpAddr>, Arc<str>>>;

/// What is being looked up. Whoever asks for the same shares the answer; a network that is left takes its questions
/// along.
#[derive(Clone)]
pub(super) struct Lookups {
    resolver: Option<Arc<dyn Resolve>>,
    bundle: Bundle,
    running: Arc<Mutex<HashMap<Question, watch::Receiver<Answer>>>>,
}

/// The name, the network, and how often that has changed.
type Question = (String, NetworkKey, u64);

impl Lookups {
    pub(super) fn new(resolver: Option<Arc<dyn Resolve>>, bundle: Bundle) -> Self {
        Self { resolver, bundle, running: Arc::default() }
    }

    /// What the app brought along for `host`; nothing where the race is switched off, which then asks DNS each time.
    pub(super) fn bundled(&self, policy: &RacePolicy, host: &str) -> Vec<IpAddr> {
        if policy.enabled { self.bundle.of(host).to_vec() } else { Vec::new() }
    }

    /// Addresses of `host` that need not be waited for, and whether it is to be looked up beside.
    pub(super) fn at_once(
        &self,
        shared: &Shared,
        policy: &RacePolicy,
        host: &str,
        network: NetworkKey,
    ) -> (Vec<IpAddr>, bool) {
        if !policy.enabled {
            return (Vec::new(), true);
        }
        let known = shared.routes.addresses(policy, network, host, now());
        let is_fresh = known.as_ref().is_some_and(|known| known.is_fresh);
        (self.bundle.beside(known.as_ref(), host), !is_fresh)
    }

    /// The addresses of `host`. They are also remembered, even where nobody waits for them any more.
    pub(super) async fn find(
        self,
        shared: Arc<Shared>,
        host: String,
        network: Network,
    ) -> Result<Vec<IpAddr>, String> {
        let mut answer = self.ask(&shared, host, network)?;
        let answer = answer.wait_for(Option::is_some).await;
        match answer.as_deref() {
            Ok(Some(Ok(addresses))) => Ok(addresses.clone()),
            Ok(Some(Err(reason))) => Err(reason.to_string()),
            Ok(None) | Err(_) => Err("DNS: the question was given up".to_owned()),
        }
    }

    fn ask(
        &self,
        shared: &Arc<Shared>,
        host: String,
        network: Network,
    ) -> Result<watch::Receiver<Answer>, String> {
        let place = network.place();
        let question = (host, place, *shared.network.borrow());
        let mut running = self.running.lock();
        // One whose task broke is asked again.
        if let Some(answer) = running.get(&question).filter(|answer| answer.has_changed().is_ok()) {
            return Ok(answer.clone());
        }
        if running.len() >= LOOKUPS_MAX {
            return Err(format!("DNS: {LOOKUPS_MAX} names are being looked up, and none is answered"));
        }
        let (sender, answer) = watch::channel(None);
        running.insert(question.clone(), answer.clone());
        let again = {
            let race = &shared.strategies.borrow().race;
            race.enabled.then_some(race.names_again)
        };
        let lookup = self.lookup(&network, &question.0, again);
        let (running, shared) = (Arc::clone(&self.running), Arc::clone(shared));
        let asked = async move {
            let result = match lookup.await {
                Ok(addresses) if addresses.is_empty() => Err("DNS: the name has no address".into()),
                Ok(addresses) => Ok(addresses),
                Err(error) => Err(format!("DNS: {error}").into()),
            };
            if let Ok(addresses) = &result {
                shared.routes.found(place, &question.0, addresses.clone(), now());
            }
            running.lock().remove(&question);
            sender.send_replace(Some(result));
        };
        tokio::spawn(work::boxed(asked));
        Ok(answer)
    }

    /// Addresses to connect to at once, which may be old: then they are looked up beside.
    pub(super) async fn addresses(
        &self,
        shared: &Arc<Shared>,
        network: &Network,
        endpoint: &Endpoint,
    ) -> Result<Vec<SocketAddr>, ConnectError> {
        let host = &endpoint.host;
        if let Ok(address) = host.parse() {
            return Ok(vec![SocketAddr::new(address, endpoint.port)]);
        }
        let policy = shared.strategies.borrow().race.clone();
        let (mut addresses, is_due) = self.at_once(shared, &policy, host, network.place());
        if is_due {
            let found = self.clone().find(Arc::clone(shared), host.clone(), network.clone());
            match addresses.is_empty() {
                true => addresses = found.await.map_err(ConnectError)?,
                false => drop(tokio::spawn(work::boxed(found))),
            }
        }
        Ok(interleave(addresses, endpoint.port))
    }

    fn lookup(&self, network: &Network, host: &str, again: Option<Duration>) -> Resolving {
        if let Some(own) = &self.resolver {
            return own.resolve_on(network, host);
        }
        let host = host.to_owned();
        let ask = move || {
            let host = host.clone();
            async move {
                let found = tokio::net::lookup_host((host.as_str(), 0)).await?;
                Ok(found.map(|address| address.ip()).take(ADDRESSES_MAX).collect())
            }
        };
        Box::pin(asked_again(ask, again))
    }
}

/// Asks, and where nothing is said for so long, once more beside, and then after twice as long each time: systems repeat a
/// question that was lost after five seconds, and each consists of two, one for each family, of which either may be lost.
/// The first word counts.
async fn asked_again<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
    ask: impl Fn() -> F,
    again: Option<Duration>,
) -> T {
    let Some(mut pause) = again else { return ask().await };
    let mut asked = JoinSet::new();
    for _ in 1..ASKED_MAX {
        asked.spawn(work::boxed(ask()));
        if let Ok(Some(Ok(answer))) = timeout(pause, asked.join_next()).await {
            return answer;
        }
        pause *= 2;
    }
    tokio::select! {
        Some(Ok(answer)) = asked.join_next() => answer,
        answer = ask() => answer,
    }
}

/// Questions for one name at one time: each that hangs holds a thread.
const ASKED_MAX: usize = 4;
/// Addresses of one name that are looked at.
const ADDRESSES_MAX: usize = 16;
/// Of them, those that are tried; more would make one attempt arbitrarily long.
const ADDRESSES_TRIED_MAX: usize = 8;

/// Addresses with a port, families interleaved as RFC 8305, section 4 asks.
pub(super) fn interleave(found: Vec<IpAddr>, port: u16) -> Vec<SocketAddr> {
    let found = found.into_iter().map(|address| SocketAddr::new(address, port));
    let (six, four): (Vec<_>, Vec<_>) = found.partition(SocketAddr::is_ipv6);
    let (mut six, mut four) = (six.into_iter(), four.into_iter());
    let mut out = Vec::new();
    while out.len() < ADDRESSES_TRIED_MAX {
        let before = out.len();
        out.extend(six.next());
        out.extend(four.next());
        if out.len() == before {
            break;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_question_that_is_lost_is_asked_again() {
        let ms = Duration::from_millis;
        let check = async |answers: [u64; 4], again: Option<u64>, expected: (usize, u64)| {
            let (asked, began) = (std::cell::Cell::new(0), tokio::time::Instant::now());
            let ask = || tokio::time::sleep(ms(answers[asked.replace(asked.get() + 1)]));
            asked_again(ask, again.map(ms)).await;
            assert_eq!((asked.get(), began.elapsed()), (expected.0, ms(expected.1)));
        };
        let lost = 60_000;
        check([60; 4], Some(500), (1, 60)).await;
        check([lost, 60, 60, 60], Some(500), (2, 560)).await;
        check([lost, lost, 60, 60], Some(500), (3, 1560)).await;
        check([lost, lost, lost, 60], Some(500), (4, 3560)).await;
        check([5000, lost, lost, lost], Some(500), (4, 5000)).await;
        check([1400, 5000, lost, lost], Some(500), (2, 1400)).await;
        check([5000, 60, 60, 60], None, (1, 5000)).await;
    }

    #[test]
    fn families_take_turns() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let found = vec![address("::1"), address("::2"), address("127.0.0.1")];
        let expected = ["[::1]:1", "127.0.0.1:1", "[::2]:1"].map(|text| text.parse().unwrap());
        assert_eq!(interleave(found, 1), expected);
    }
}
