//! Names of gateways that the app looks up itself: it asks for the next question, and answers it when it can.

use std::{
    io,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Mutex as Turns, mpsc, oneshot, watch},
    time::timeout,
};
use towline_client::{ConnectionState, Resolve, Resolving};

use crate::{
    client::Client,
    error::TowlineError,
    signals::Network,
    source::{Feed, Listens, Source},
};

/// Questions that wait for the app: as many as the client has at one time.
const QUESTIONS_MAX: usize = 16;

/// Addresses in one answer, as of the system's resolver.
const ADDRESSES_MAX: usize = 16;

/// How long the app has for an answer. A question that it lost must not keep its name from being asked again.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// A name whose addresses the client wants to know. The lookup fails where this is released without an answer, and
/// where there is none after 30 seconds; connections to addresses that are known do not wait for it.
#[derive(uniffi::Object)]
pub struct NameQuestion {
    host: String,
    network: Network,
    /// `None` once it is answered.
    answer: Mutex<Option<Waits>>,
}

type Waits = oneshot::Sender<io::Result<Vec<IpAddr>>>;

/// Hands out the names that the app looks up, each to one listener.
#[derive(uniffi::Object)]
pub struct NameListener {
    source: Source<NameFeed>,
}

#[uniffi::export]
impl Client {
    /// Listens for names to look up, where the option `own_resolver` is set: by DNS over HTTPS, an operator's HTTPDNS,
    /// or Android's `Network.getAllByName`. Until somebody listens no name is looked up.
    ///
    /// # Errors
    /// The option is not set; or the client is closed.
    pub fn names(&self) -> Result<Arc<NameListener>, TowlineError> {
        let states = self.open()?.states();
        let questions = self.questions().ok_or_else(|| {
            TowlineError::option("own_resolver", "is not set: names are looked up by the system's resolver")
        })?;
        Ok(Arc::new(NameListener { source: Source::new(NameFeed { questions, states }) }))
    }
}

#[uniffi::export]
impl NameQuestion {
    /// The name.
    pub fn host(&self) -> String {
        self.host.clone()
    }

    /// The network that connections to it are for, as the app has told of it: Android's `Network.getAllByName` asks there.
    pub fn network(&self) -> Network {
        self.network.clone()
    }

    /// Its addresses, the preferred first: 1 to 16 of IPv4 and IPv6. A second answer is none.
    ///
    /// # Errors
    /// One of them is no address; then the question is still open.
    pub fn answer(&self, addresses: Vec<String>) -> Result<(), TowlineError> {
        let parse = |(place, text): (usize, &String)| {
            let wrong = |_| {
                TowlineError::argument(format!("addresses[{place}]"), format!("`{text}` is no IP address"))
            };
            text.parse::<IpAddr>().map_err(wrong)
        };
        let found = addresses.iter().enumerate().map(parse).collect::<Result<Vec<_>, _>>()?;
        if found.is_empty() || found.len() > ADDRESSES_MAX {
            let reason = format!(
                "{} addresses, not 1 to {ADDRESSES_MAX}; `fail` says that there are none",
                found.len()
            );
            return Err(TowlineError::argument("addresses", reason));
        }
        self.tell(Ok(found));
        Ok(())
    }

    /// There is no answer, and why: the state of the line says so.
    pub fn fail(&self, reason: String) {
        self.tell(Err(io::Error::other(reason)));
    }
}

#[uniffi::export]
impl NameListener {
    /// Waits for the next question; `None` once the client is closed.
    pub async fn next(&self) -> Result<Option<Arc<NameQuestion>>, TowlineError> {
        self.source.next().await
    }

    /// Ends every wait: `next` answers `None` from here on. For languages whose tasks cannot be cancelled while they
    /// wait.
    pub fn stop(&self) {
        self.source.stop();
    }
}

impl NameQuestion {
    fn tell(&self, answer: io::Result<Vec<IpAddr>>) {
        if let Some(waits) = self.waits().take() {
            // Nobody waits where the time is over.
            let _ = waits.send(answer);
        }
    }

    fn waits(&self) -> MutexGuard<'_, Option<Waits>> {
        self.answer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Questions on their way to whoever listens.
pub(crate) type Questions = Arc<Turns<mpsc::Receiver<NameQuestion>>>;

/// What asks the app, and what it is asked.
pub(crate) fn asking() -> (Asking, Questions) {
    let (sender, receiver) = mpsc::channel(QUESTIONS_MAX);
    (Asking(sender), Arc::new(Turns::new(receiver)))
}

/// Asks the app for addresses. It is not called: it takes a question when it wants to.
pub(crate) struct Asking(mpsc::Sender<NameQuestion>);

impl Resolve for Asking {
    fn resolve(&self, host: &str) -> Resolving {
        self.resolve_on(&towline_client::Network::default(), host)
    }

    fn resolve_on(&self, network: &towline_client::Network, host: &str) -> Resolving {
        Box::pin(self.ask(network, host, ANSWER_MAX))
    }
}

impl Asking {
    fn ask(
        &self,
        network: &towline_client::Network,
        host: &str,
        answer_max: Duration,
    ) -> impl Future<Output = io::Result<Vec<IpAddr>>> + Send + 'static {
        let (questions, host, network) = (self.0.clone(), host.to_owned(), Network::from(network));
        async move {
            let (answer, answered) = oneshot::channel();
            let question = NameQuestion { host, network, answer: Mutex::new(Some(answer)) };
            questions.try_send(question).map_err(|_| io::Error::other("the app takes no more questions"))?;
            match timeout(answer_max, answered).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(_)) => Err(io::Error::other("the app gave no answer")),
                Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the app has not answered in time")),
            }
        }
    }
}

impl Listens for NameListener {
    type Feed = NameFeed;

    fn source(&self) -> &Source<NameFeed> {
        &self.source
    }
}

pub(crate) struct NameFeed {
    questions: Questions,
    states: watch::Receiver<ConnectionState>,
}

impl Feed for NameFeed {
    type Item = Arc<NameQuestion>;

    async fn next(&mut self) -> Option<Arc<NameQuestion>> {
        let Self { questions, states } = self;
        tokio::select! {
            biased;
            _ = states.wait_for(|state| matches!(state, ConnectionState::Closed { .. })) => None,
            question = open_question(questions) => question.map(Arc::new),
        }
    }
}

/// The next one that somebody still waits for.
async fn open_question(questions: &Questions) -> Option<NameQuestion> {
    let mut questions = questions.lock().await;
    loop {
        let question = questions.recv().await?;
        let is_open = question.waits().as_ref().is_some_and(|waits| !waits.is_closed());
        if is_open {
            return Some(question);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_question_is_answered_by_the_app_or_fails() {
        let (asking, questions) = asking();
        let asked = tokio::spawn(asking.resolve("edge.example"));
        let question = open_question(&questions).await.unwrap();
        assert_eq!(question.host(), "edge.example");
        for (addresses, argument) in
            [(vec![], "addresses"), (vec!["192.0.2.7".to_owned(), "edge".to_owned()], "addresses[1]")]
        {
            match question.answer(addresses) {
                Err(TowlineError::Argument { argument: named, .. }) => assert_eq!(named, argument),
                other => panic!("{other:?}"),
            }
        }
        question.answer(vec!["2001:db8::7".to_owned(), "192.0.2.7".to_owned()]).unwrap();
        let expected: Vec<IpAddr> = vec!["2001:db8::7".parse().unwrap(), "192.0.2.7".parse().unwrap()];
        assert_eq!(asked.await.unwrap().unwrap(), expected);

        let asked = tokio::spawn(asking.resolve("edge.example"));
        open_question(&questions).await.unwrap().fail("no HTTPDNS".to_owned());
        assert_eq!(asked.await.unwrap().unwrap_err().to_string(), "no HTTPDNS");
        let asked = tokio::spawn(asking.resolve("edge.example"));
        drop(open_question(&questions).await.unwrap());
        assert!(asked.await.unwrap().unwrap_err().to_string().contains("no answer"));
    }

    #[tokio::test]
    async fn a_question_that_nobody_takes_is_given_up_and_not_handed_out_later() {
        let (asking, questions) = asking();
        let home = towline_client::Network::new(towline_client::NetworkKind::Wifi, "home");
        let given_up = asking.ask(&home, "a.example", Duration::ZERO).await.unwrap_err();
        assert_eq!(given_up.kind(), io::ErrorKind::TimedOut);
        let asked = tokio::spawn(asking.resolve_on(&home, "b.example"));
        let question = open_question(&questions).await.unwrap();
        assert_eq!((question.host(), question.network()), ("b.example".to_owned(), Network::from(&home)));
        drop(question);
        assert!(asked.await.unwrap().is_err());
    }
}
