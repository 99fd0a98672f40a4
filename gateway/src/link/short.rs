//! Short connections: POSTs whose bodies are frames (PROTOCOL.md, section 21).
//!
//! ```text
//!  HTTP front --body--> read --> machine --HELLO--> door::call_in: visits the session
//!                                   |      REQUEST--> gathered until it is whole --> door.open, as on a link
//!  HTTP front <--channel-- fill <---+------ answers as they come, pushes that wait
//! ```
//!
//! The answer ends when everything is answered, or when its time is over. What is late stays in the session.

mod answer;
mod gathering;

use std::{mem, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout_at},
};
use towline_protocols::link::{
    CloseCode, Connection, Control, Event, Execution, Hello, LinkError, Push, RpcError, RpcErrorKind,
};

use self::{answer::Answer, gathering::Gathering};
use super::{
    attendance,
    config::goaway,
    door::{self, Call, Door},
    requests::TcpRequests,
};
use crate::{
    gateway::Gateway,
    request::{Body, Origin, Protocol},
    session::SessionEvent,
    settings::Short,
};

/// Bytes asked of the machine at a time, as on a link.
const BURST_BYTES: usize = 32 << 10;
/// Bursts that wait for HTTP beside the one that is being made.
const BURSTS_WAITING: usize = 1;

/// Serves a POST of which `body` is the body: what is returned is the body of its answer. `patience` is how long the
/// client waits for outcomes, within `short.answer_time_max`.
pub(crate) fn serve(
    gateway: &Arc<Gateway>,
    origin: &Arc<Origin>,
    body: Body,
    patience: Option<Duration>,
) -> Body {
    let (sender, receiver) = mpsc::channel(BURSTS_WAITING);
    let post = Post::new(Arc::clone(gateway), origin, body, patience, sender);
    let (gateway, listener) = (Arc::clone(gateway), Arc::clone(&origin.listener));
    let at_work = gateway.drain.guard();
    tokio::spawn(async move {
        let outcome = Box::pin(post.run()).await;
        gateway.metrics.short_connections.with_label_values(&[&*listener, outcome]).inc();
        drop(at_work);
    });
    Body::new(Answer::new(receiver))
}

struct Post {
    gateway: Arc<Gateway>,
    origin: Arc<Origin>,
    settings: Short,
    /// `None` when it has been read to its end.
    body: Option<Body>,
    body_bytes: usize,
    input: BytesMut,
    requests: TcpRequests,
    gathering: Gathering,
    requests_begun: usize,
    /// Bytes that backends were handed and have not taken: at a window of them, reading stops.
    unread: usize,
    window: usize,
    out: BytesMut,
    answer: mpsc::Sender<Bytes>,
    /// What the client waits for outcomes behind its body.
    patience: Option<Duration>,
    due: Instant,
    /// By `short.answer_time_max`.
    due_latest: Instant,
}

/// Why an answer ends before everything is answered.
enum End {
    /// Its time is over.
    Late,
    /// The client is gone, or said good-bye.
    Gone,
    /// CLOSE says why.
    Broken(LinkError),
}

impl From<LinkError> for End {
    fn from(error: LinkError) -> Self {
        Self::Broken(error)
    }
}

impl Post {
    fn new(
        gateway: Arc<Gateway>,
        origin: &Origin,
        body: Body,
        patience: Option<Duration>,
        answer: mpsc::Sender<Bytes>,
    ) -> Self {
        let origin = Arc::new(Origin { protocol: Protocol::LinkPost, ..origin.clone() });
        let snapshot = gateway.snapshot.load_full();
        let settings = snapshot.settings.short.clone();
        let machine = Connection::short_server(Arc::clone(&snapshot.link), super::now());
        let window = snapshot.settings.session.stream_window as usize;
        let due = Instant::now() + settings.answer_time_max;
        Self {
            gateway,
            origin,
            settings,
            body: Some(body),
            body_bytes: 0,
            input: BytesMut::new(),
            requests: TcpRequests::new(machine),
            gathering: Gathering::new(window),
            requests_begun: 0,
            unread: 0,
            window,
            out: BytesMut::new(),
            answer,
            patience,
            due,
            due_latest: due,
        }
    }

    /// Says how it ended, for the metrics.
    async fn run(mut self) -> &'static str {
        let end = match self.introduce().await {
            Ok(door) => self.exchange(&Arc::new(door)).await,
            Err(end) => Err(end),
        };
        match end {
            Ok(()) => "answered",
            Err(End::Late) => {
                if self.due == self.due_latest {
                    self.gateway.metrics.limit_hit("short.answer_time_max");
                }
                "late"
            }
            Err(End::Gone) => "lost",
            Err(End::Broken(error)) => {
                self.close(&error).await;
                "closed"
            }
        }
    }

    /// Reads HELLO, visits the session, and says WELCOME.
    async fn introduce(&mut self) -> Result<Door, End> {
        let limit = self.gateway.snapshot().settings.limits.first_message_timeout;
        let Ok(hello) = timeout_at(Instant::now() + limit, Box::pin(self.hello())).await else {
            self.gateway.metrics.limit_hit("limits.first_message_timeout");
            let rule = "HELLO must come within first_message_timeout";
            return Err(LinkError::new(CloseCode::ProtocolError, rule).into());
        };
        let hello = hello?;
        self.count_requests(hello.waiting.len())?;
        let call = door::call_in(Arc::clone(&self.gateway), &self.origin, &hello).await?;
        let Call { mut admission, pushes } = call;
        admission.prefer_dictionaries(self.control());
        self.requests.welcome(&mut admission);
        let draining = self.gateway.drain.is_draining();
        if draining {
            let goaway = goaway(&self.gateway.snapshot().settings);
            self.control().goaway(goaway);
        }
        for push in pushes {
            let message = &push.message;
            let push = Push {
                id: push.id,
                priority: push.priority,
                topic: message.topic.as_bytes().to_vec().into(),
                content_type: message.content_type.as_deref().unwrap_or_default().to_owned().into(),
                payload: message.payload.clone(),
            };
            if let Err(error) = self.control().push(&push) {
                // It is left to a connection whose client takes it.
                tracing::debug!(id = push.id, "push not sent: {error}");
            }
        }
        Ok(admission.door)
    }

    async fn hello(&mut self) -> Result<Box<Hello>, End> {
        loop {
            // The machine lets nothing else pass before HELLO.
            match self.requests.machine.poll_event() {
                Some(Event::Hello(hello)) => return Ok(hello),
                Some(Event::Close { .. }) => return Err(End::Gone),
                Some(_) => {}
                None if self.body.is_none() => {
                    let rule = "the body holds no HELLO";
                    return Err(LinkError::new(CloseCode::ProtocolError, rule).into());
                }
                None => self.read().await?,
            }
        }
    }

    /// Takes requests in and sends their answers, until both are done.
    async fn exchange(&mut self, door: &Arc<Door>) -> Result<(), End> {
        let mut cut = self.body.is_none();
        loop {
            if mem::take(&mut cut) {
                self.on_body_end(door).await?;
            }
            self.follow_events(door).await?;
            self.fill();
            if self.is_over() {
                return Ok(());
            }
            let reads = self.body.is_some() && self.unread < self.window;
            let credits = Arc::clone(&self.requests.credits);
            let (answer, due) = (self.answer.clone(), self.due);
            tokio::select! {
                // What is there already goes before the end of the time, however short that is.
                biased;
                place = answer.reserve(), if !self.out.is_empty() => match place {
                    Ok(place) => place.send(mem::take(&mut self.out).freeze()),
                    Err(_) => return Err(End::Gone),
                },
                () = answer.closed(), if self.out.is_empty() => return Err(End::Gone),
                event = door.lease.next_event() => match event {
                    SessionEvent::Ready(seq) => self.requests.send_answer(seq),
                    SessionEvent::Revoked(why) => return Err(attendance::revoked(why).into()),
                    SessionEvent::Pushes | SessionEvent::Policy => {}
                },
                () = credits.changed() => {
                    let taken = self.requests.give_credit();
                    self.unread = self.unread.saturating_sub(taken);
                }
                read = self.read(), if reads => {
                    read?;
                    cut = self.body.is_none();
                }
                () = sleep_until(due) => return Err(End::Late),
            }
        }
    }

    /// Reads some of the body. Safe to cancel.
    async fn read(&mut self) -> Result<(), End> {
        let Some(body) = &mut self.body else { return Ok(()) };
        let frame = match body.frame().await {
            None => {
                self.body = None;
                return Ok(());
            }
            Some(Err(_)) => return Err(End::Gone),
            Some(Ok(frame)) => frame,
        };
        // Trailers say nothing here.
        let Ok(data) = frame.into_data() else { return Ok(()) };
        self.body_bytes += data.len();
        let bytes_max = self.settings.body_bytes_max;
        if self.body_bytes > bytes_max {
            self.gateway.metrics.limit_hit("short.body_bytes_max");
            let rule = format!("the body is larger than {bytes_max} bytes (short.body_bytes_max)");
            return Err(LinkError::new(CloseCode::LimitExceeded, rule).into());
        }
        self.input.extend_from_slice(&data);
        Ok(self.requests.machine.handle_bytes(super::now(), &mut self.input)?)
    }

    async fn on_body_end(&mut self, door: &Door) -> Result<(), End> {
        if let Some(patience) = self.patience {
            let patience = patience.min(self.settings.answer_time_max);
            self.due = self.due_latest.min(Instant::now() + patience);
        }
        self.follow_events(door).await?;
        for seq in self.requests.machine.handle_end(&self.input)? {
            match self.gathering.forget(seq) {
                // Nobody was told of it.
                Some(_) => self.requests.machine.reset(seq, &not_whole()),
                None => self.requests.cut(door, seq),
            }
        }
        Ok(())
    }

    async fn follow_events(&mut self, door: &Door) -> Result<(), End> {
        while let Some(event) = self.requests.machine.poll_event() {
            match event {
                Event::Close { .. } => return Err(End::Gone),
                Event::Ack(ack) => door.lease.acknowledge(&ack),
                Event::Subscribe(subscribe) => {
                    let subscribed = door.subscribe(&subscribe, None).await;
                    self.control().subscribed(subscribed);
                }
                Event::GivenUp { seq } => {
                    self.count_requests(1)?;
                    door.give_up(seq);
                }
                event => self.on_request_event(door, event),
            }
        }
        Ok(())
    }

    fn on_request_event(&mut self, door: &Door, event: Event) {
        if let Event::Request { seq, .. } = event
            && let Err(error) = self.count_requests(1)
        {
            let error = RpcError::new(RpcErrorKind::LimitExceeded, Execution::NotRun, error.rule);
            return self.requests.machine.reset(seq, &error);
        }
        if let Event::Reset { seq, .. } = event
            && let Some(held) = self.gathering.forget(seq)
        {
            return held.iter().for_each(|event| self.requests.discard(event));
        }
        for event in self.gathering.take_in(event) {
            if let Event::MessagePart { seq, bytes, .. } = &event
                && self.requests.feeds(*seq)
            {
                self.unread += bytes.len();
            }
            // A short connection has nothing to wait for: what is given back concerns nobody.
            _ = self.requests.on_event(door, event);
        }
    }

    fn count_requests(&mut self, more: usize) -> Result<(), LinkError> {
        self.requests_begun += more;
        let requests_max = self.settings.requests_max;
        if self.requests_begun <= requests_max {
            return Ok(());
        }
        self.gateway.metrics.limit_hit("short.requests_max");
        let rule = format!("a POST speaks of {requests_max} requests at the most (short.requests_max)");
        Err(LinkError::new(CloseCode::LimitExceeded, rule))
    }

    fn control(&mut self) -> &mut Control {
        self.requests.machine.control()
    }

    fn fill(&mut self) {
        if self.out.len() < BURST_BYTES {
            let room = BURST_BYTES - self.out.len();
            self.requests.machine.poll_transmit(super::now(), &mut self.out, room);
        }
    }

    fn is_over(&self) -> bool {
        self.body.is_none() && self.requests.are_over() && self.out.is_empty()
    }

    /// Says why, and whatever the machine still has to say, unless nobody listens.
    async fn close(&mut self, error: &LinkError) {
        tracing::debug!(peer = %self.origin.peer, "short connection closed: {error}");
        self.control().close(error.code, &error.rule);
        self.requests.machine.poll_transmit(super::now(), &mut self.out, usize::MAX);
        // The body that HTTP still carries is read no more; the client hears why.
        let last = mem::take(&mut self.out).freeze();
        _ = timeout_at(self.due.max(Instant::now() + LAST_WORDS_MAX), self.answer.send(last)).await;
    }
}

/// How long the last words may take to leave.
const LAST_WORDS_MAX: Duration = Duration::from_secs(1);

fn not_whole() -> RpcError {
    let text = "the body ended before the request had arrived whole";
    RpcError::new(RpcErrorKind::Malformed, Execution::NotRun, text)
}
