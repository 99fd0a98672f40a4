//! One short connection, from HELLO to the last byte of its answer.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::{
    sync::watch,
    time::{timeout, timeout_at},
};
use towline_protocols::{
    link::{self, CloseCode, Connection, Event, Execution, Hello, RpcError, RpcErrorKind},
    policy::{self, Step, Wanted},
};

use super::{
    WAIT,
    http::{self, Pool, Sender},
};
use crate::{
    config::{ClientConfig, Endpoint},
    core::{Begun, Call, Control, Errand, Shared, now},
    quality::Wait,
    supervisor::header,
    timeline::Made,
};

/// What a POST needs.
pub(super) struct Post {
    pub(super) shared: Arc<Shared>,
    pub(super) config: Arc<ClientConfig>,
    pub(super) link: Arc<link::Config>,
    pub(super) pool: Arc<Pool>,
    pub(super) gateway: Endpoint,
    /// A change ends it: what was sent over the network before may never be answered.
    pub(super) network: watch::Receiver<u64>,
    pub(super) round: u64,
    pub(super) errand: Errand,
}

/// How it went.
pub(super) struct Outcome {
    pub(super) errand: Errand,
    pub(super) gateway: Endpoint,
    pub(super) round: u64,
    /// `None`: it was given up, and says nothing of the gateway.
    pub(super) result: Option<Result<(), Failure>>,
}

/// Why it brought nothing.
pub(super) struct Failure {
    pub(super) reason: String,
    /// A gateway that takes short connections has answered.
    pub(super) reached: bool,
}

impl Failure {
    fn unreached(reason: impl ToString) -> Self {
        Self { reason: reason.to_string(), reached: false }
    }

    fn reached(reason: impl ToString) -> Self {
        Self { reason: reason.to_string(), reached: true }
    }
}

impl Post {
    pub(super) async fn run(self) -> Outcome {
        let errand = self.errand;
        let (mut begun, mut network) = (None, self.network.clone());
        let result = tokio::select! {
            result = self.exchange(&mut begun) => Some(result),
            () = self.unwanted() => None,
            Ok(()) = network.changed() => None,
        };
        let reached = result.as_ref().map(|result| result.as_ref().map_or_else(|it| it.reached, |()| true));
        self.shared.with(|core| core.short_over(errand, begun, reached));
        Outcome { errand, gateway: self.gateway, round: self.round, result }
    }

    /// Resolves when the call is over or gone, or has its answer from elsewhere.
    async fn unwanted(&self) {
        let Errand::Carry(key) = self.errand else { return std::future::pending().await };
        let wakers = self.shared.with(|core| core.call(key).map(|call| Arc::clone(&call.wakers)));
        let Some(wakers) = wakers else { return };
        loop {
            let notified = wakers.short.notified();
            if self.shared.with(|core| core.call(key).is_none_or(|call| call.is_post_unwanted())) {
                return;
            }
            notified.await;
        }
    }

    async fn exchange(&self, begun: &mut Option<u64>) -> Result<(), Failure> {
        let on = self.shared.with(|core| core.network.clone());
        let (mut sender, made) = match self.pool.take(&on, &self.gateway) {
            Some(sender) => (sender, None),
            None => self.connect(&on).await.map(|(sender, made)| (sender, Some(made)))?,
        };
        let Some((opened, mut machine)) = self.begin(made)? else { return Ok(()) };
        *begun = Some(opened.number);
        let mut body = BytesMut::new();
        machine.poll_transmit(Instant::now(), &mut body, usize::MAX);
        self.shared.traffic.sent(body.len());
        let wait = self.wait(Step::FirstByte, body.len());
        let request = self.pool.request(&sender, &self.gateway, body.freeze(), self.wait_s());
        let request = request.map_err(Failure::unreached)?;
        let began = now();
        let answering = async {
            // A gateway says WELCOME at once.
            let Ok(response) = timeout(wait.limit, sender.send(request)).await else {
                wait.failed();
                return Err(self.silent(wait.limit));
            };
            let response = response.inspect_err(|_| wait.failed()).map_err(Failure::unreached)?;
            wait.came();
            if response.status() == ::http::StatusCode::PAYLOAD_TOO_LARGE {
                self.shared.with(|core| core.short_too_large(self.errand));
                return Ok(());
            }
            if !http::is_answer(&response) {
                let text =
                    format!("{} does not take short connections: HTTP {}", self.gateway, response.status());
                return Err(Failure::unreached(text));
            }
            let due = now() + WAIT + self.highest();
            self.read(response.into_body(), due, &opened, &mut machine).await
        };
        Box::pin(answering).await?;
        if sender.takes_one() {
            self.pool.put(&on, &self.gateway, sender);
        }
        // A gateway that has waited is asked again at once, one that ends answers at once is not.
        if self.is_unanswered(&opened) && now().saturating_duration_since(began) < WAIT / 2 {
            return Err(Failure::reached("the answer ended without the outcome of the call"));
        }
        Ok(())
    }

    /// The longest that a step is waited for.
    fn highest(&self) -> Duration {
        self.shared.policy.borrow().connect_timeout
    }

    /// Begins to wait for that, behind so many bytes.
    fn wait(&self, step: Step, bytes: usize) -> Wait<'_> {
        let (bytes, highest) = (bytes as u64, self.highest());
        let left = self.shared.with(|core| core.left_for(self.errand));
        self.shared.quality.wait_for(&Wanted { step, bytes, left, highest })
    }

    /// How many seconds the gateway may wait for the outcome: not beyond the call's deadline, at which there is one.
    fn wait_s(&self) -> u64 {
        let left = self.shared.with(|core| core.left_for(self.errand)).unwrap_or(WAIT);
        left.min(WAIT).as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX).max(1)
    }

    async fn connect(&self, on: &policy::Network) -> Result<(Sender, Made), Failure> {
        let wait = self.wait(Step::Connect, 0);
        match timeout(wait.limit, Box::pin(self.pool.connect(on, &self.gateway))).await {
            Ok(Ok(made)) => {
                wait.came();
                Ok(made)
            }
            Ok(Err(error)) => {
                wait.failed();
                Err(Failure::unreached(error))
            }
            Err(_) => {
                wait.failed();
                Err(Failure::unreached(format!("no connection within {:?}", wait.limit)))
            }
        }
    }

    /// Whether the call still waits for the answer to what was sent, and not for that of another try.
    fn is_unanswered(&self, begun: &Begun) -> bool {
        let Errand::Carry(key) = self.errand else { return false };
        let is_waiting = |call: &mut Call| !call.is_over() && call.may_post() && Some(call.seq) == begun.seq;
        self.shared.with(|core| core.call(key).is_some_and(is_waiting))
    }

    fn silent(&self, patience: Duration) -> Failure {
        self.pool.clear();
        Failure::unreached(format!("{}: no answer within {patience:?}", self.gateway))
    }

    /// What HELLO says beside what the session knows. A short connection neither beats nor subscribes, and tells the
    /// gateway everything.
    fn introduction(&self) -> Hello {
        let mut hello = Hello {
            session_headers: self.config.session_headers.iter().map(header).collect(),
            agent: self.config.agent.clone(),
            ..Hello::default()
        };
        let credentials = self.config.credentials.as_ref();
        self.shared.with(|core| core.tokens.prove(&self.gateway, credentials, Instant::now(), &mut hello));
        hello
    }

    /// From here on the gateway may have the call. `None`: nothing is to be sent.
    fn begin(&self, made: Option<Made>) -> Result<Option<(Begun, Box<Connection>)>, Failure> {
        let base = self.introduction();
        let failed = |error| Failure::unreached(format!("the identity file cannot be written: {error}"));
        let begun = self.shared.with(|core| core.begin_short(self.errand, base)).map_err(failed)?;
        let Some(begun) = begun else { return Ok(None) };
        let hello: Hello = begun.hello.clone();
        let mut machine = Box::new(Connection::short_client(Arc::clone(&self.link), hello, Instant::now()));
        let unwanted =
            RpcError::new(RpcErrorKind::Cancelled, Execution::MayHaveRun, "the client lost interest");
        begun.given_up.iter().for_each(|&seq| machine.reset(seq, &unwanted));
        let is_to_be_sent = self.shared.with(|core| core.post(&begun, &mut *machine, made));
        Ok(is_to_be_sent.then_some((begun, machine)))
    }

    /// Hands the answer on. The gateway may wait until `due` before a message begins; one that has begun goes on.
    async fn read(
        &self,
        mut body: Incoming,
        due: Instant,
        begun: &Begun,
        machine: &mut Connection,
    ) -> Result<(), Failure> {
        let mut input = BytesMut::new();
        let mut push_line = None;
        let mut longest_gap = None;
        loop {
            let (began, gap) = (now(), self.gap());
            let due = gap.as_ref().map_or(due, |gap| began + gap.limit);
            let Ok(frame) = timeout_at(due.into(), body.frame()).await else {
                if let Some(gap) = &gap {
                    gap.failed();
                }
                return Err(self.silent(due.saturating_duration_since(began)));
            };
            longest_gap = longest_gap.max(gap.map(|_| now().saturating_duration_since(began)));
            let Some(frame) = frame else { break };
            let frame = frame.map_err(Failure::reached)?;
            let Ok(data) = frame.into_data() else { continue };
            self.shared.traffic.received(data.len());
            input.extend_from_slice(&data);
            machine.handle_bytes(Instant::now(), &mut input).map_err(Failure::reached)?;
            while let Some(event) = machine.poll_event() {
                self.on_event(event, begun, &mut push_line)?;
            }
        }
        if let Some(gap) = longest_gap {
            self.shared.quality.on(policy::Event::Came(Step::Gap, gap));
        }
        machine.handle_end(&input).map(drop).map_err(Failure::reached)?;
        self.shared.with(|core| core.told(begun));
        Ok(())
    }

    /// Begins to wait for more of a message that has begun.
    fn gap(&self) -> Option<Wait<'_>> {
        self.shared.with(|core| core.is_arriving(self.errand)).then(|| self.wait(Step::Gap, 0))
    }

    fn on_event(&self, event: Event, begun: &Begun, push_line: &mut Option<u64>) -> Result<(), Failure> {
        match self.shared.on_short_event(begun.number, *push_line, event) {
            Some(Control::Welcome(welcome)) => {
                *push_line = Some(welcome.push_line);
                self.shared.with(|core| core.short_welcomed(&self.gateway, &begun.hello, &welcome));
            }
            Some(Control::Close { code, text }) => return Err(self.closed(code, &text, begun)),
            _ => {}
        }
        Ok(())
    }

    fn closed(&self, code: CloseCode, text: &str, begun: &Begun) -> Failure {
        if code == CloseCode::Unauthorized {
            self.shared.with(|core| core.tokens.refused(&self.gateway, &begun.hello));
        }
        Failure::reached(format!("the gateway closed the short connection ({code:?}): {text}"))
    }
}
