//! The way in: who is the client, which session is its own, and what becomes of its requests.

use std::{
    sync::Arc,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use http_body_util::{BodyExt as _, Empty};
use towline_protocols::{
    hpack::HeaderField,
    link::{
        Ack, ClientFacts, CloseCode, Control, Execution, Header, Hello, LinkError, Place, RequestHead,
        RpcError, RpcErrorKind, SessionHeaders, Subscribe, Subscribed, Welcome,
    },
    mqtt::topic,
    policy::Transport,
};

use super::{
    answer,
    asked::{Asked, Known},
    credentials::{self, Proven},
    head,
};
use crate::{
    auth::{By, Identity},
    gateway::Gateway,
    request::{Body, Origin},
    session::{
        self, Attach, Begin, BodySender, Changed, Consumer, Credits, Established, Lease, OpenError, Opened,
        PendingPush, ShortVisit, Visited,
    },
    transport::{Completion, Handshake},
};

/// A connection that has been let in.
pub(super) struct Door {
    pub(super) gateway: Arc<Gateway>,
    /// With client id and user.
    pub(super) origin: Arc<Origin>,
    /// When the client has to have proved itself anew, on another connection.
    pub(super) expires: Option<Instant>,
    /// What proved who it is may do so again.
    pub(super) may_return: bool,
    pub(super) lease: Lease,
    headers: Option<Arc<SessionHeaders>>,
    /// HELLO named this session, or none. Otherwise its client may have given the requests that come before it has
    /// read WELCOME to the session that it named, on another gateway: they do not run here.
    names_session: bool,
    /// Complete once the connection holds its session.
    pub(super) holds: Handshake,
}

/// What became of a REQUEST.
pub(super) enum Opening {
    /// Its answer will come from the consumer; its messages go to the body, or nowhere.
    Answered(Consumer, Option<BodySender>),
    /// Ask again when the connection holds its session.
    Later,
    /// Send RESET.
    Refused(RpcError),
}

/// What HELLO led to.
pub(super) struct Admission {
    pub(super) door: Door,
    pub(super) welcome: Welcome,
    /// Answers of requests that earlier connections carried, from where the client has them.
    pub(super) attached: Vec<Consumer>,
    /// Requests whose answers are gone.
    pub(super) refused: Vec<(u64, RpcError)>,
    pub(super) subscriptions: Changed,
}

/// Follows HELLO: authenticates, and opens the session.
pub(super) async fn login(
    gateway: Arc<Gateway>,
    origin: &Origin,
    hello: &Hello,
) -> Result<Admission, LinkError> {
    check_session_headers(&gateway, hello)?;
    let mut proven = credentials::prove(&gateway, origin, hello).await?;
    let asked = Asked::of(&gateway, &proven.origin(origin, hello), &hello.topics).await;
    asked.must_be_known()?;
    let opened = match asked.is_permitted() {
        true => gateway.sessions.open(hello, proven.identity.user.clone()),
        false => {
            let hello = Hello { topics: asked.permitted.clone(), ..hello.clone() };
            gateway.sessions.open(&hello, proven.identity.user.clone())
        }
    };
    let opened = opened.map_err(|error| refused_hello(&gateway, error))?;
    count_known(&gateway, hello);
    let Opened { lease, session_id, seq_min, resumed, unknown, attached, refused, .. } = opened;
    let Opened { partial, mut subscriptions, headers, headers_kept, .. } = opened;
    asked.tell_denied(&mut subscriptions.subscribed.results);
    proven.login.take().into_iter().for_each(|login| lease.remember_login(login));
    let session_headers_kept_s = headers_kept_s(&gateway, headers_kept);
    let mut welcome =
        Welcome { seq_min, partial, session_headers_kept_s, ..welcome(resumed, session_id, unknown) };
    proven.give_token(&gateway, hello, &mut welcome);
    let door = Door::new(gateway, origin, lease, headers, proven, Handshake::complete());
    // Whoever has no session yet can have sent to none.
    let names_session = hello.session_id == session_id || hello.session_id == 0;
    let door = Door { names_session, ..door };
    welcome.push_line = door.lease.session().push_line();
    Ok(Admission { door, welcome, attached, refused, subscriptions })
}

/// What CLOSE says to a HELLO that the session did not follow.
fn refused_hello(gateway: &Gateway, error: OpenError) -> LinkError {
    if error == OpenError::UnknownHeaders {
        count_reference(gateway, "session_headers", "unknown");
    }
    LinkError::new(error.close_code(), error.to_string())
}

/// What HELLO in early data led to, where the gateway knows the client's session.
pub(super) struct Visit {
    pub(super) admission: Admission,
    /// Earlier requests whose answers follow when the connection holds the session.
    pub(super) awaited: Vec<u64>,
    /// To be told that it does.
    pub(super) holds: Completion,
}

/// Follows HELLO in early data, as far as that changes nothing for others and costs little. `None`: it waits
/// for the handshake.
pub(super) fn visit(gateway: &Arc<Gateway>, origin: &Origin, hello: &Hello) -> Option<Visit> {
    check_session_headers(gateway, hello).ok()?;
    let proven = credentials::prove_cheaply(gateway, origin, hello)?;
    let visited = gateway.sessions.visit(hello, proven.identity.user.clone())?;
    let (holds, handshake) = Handshake::pending();
    count_known(gateway, hello);
    let Visited { lease, session_id, seq_min, unknown, awaited, headers, headers_kept } = visited;
    let session_headers_kept_s = headers_kept_s(gateway, headers_kept);
    let welcome = welcome(true, session_id, unknown);
    let mut welcome = Welcome { seq_min, session_headers_kept_s, visiting: true, ..welcome };
    proven.give_token(gateway, hello, &mut welcome);
    let door = Door::new(Arc::clone(gateway), origin, lease, headers, proven, handshake);
    welcome.push_line = door.lease.session().push_line();
    let subscriptions = Changed { subscribed: Subscribed::default(), new: Vec::new() };
    let admission = Admission { door, welcome, attached: Vec::new(), refused: Vec::new(), subscriptions };
    Some(Visit { admission, awaited, holds })
}

/// They are kept as long as the session.
fn headers_kept_s(gateway: &Gateway, are_kept: bool) -> u32 {
    let expiry = gateway.snapshot().settings.session.expiry;
    if are_kept { u32::try_from(expiry.as_secs()).unwrap_or(u32::MAX) } else { 0 }
}

/// What the HELLO of a short connection led to.
pub(super) struct Call {
    pub(super) admission: Admission,
    pub(super) pushes: Vec<PendingPush>,
}

/// Follows the HELLO of a short connection: authenticates, and visits the session.
pub(super) async fn call_in(
    gateway: Arc<Gateway>,
    origin: &Origin,
    hello: &Hello,
) -> Result<Call, LinkError> {
    check_session_headers(&gateway, hello)?;
    let mut proven = credentials::prove(&gateway, origin, hello).await?;
    let visit = gateway.sessions.visit_short(hello, proven.identity.user.clone());
    let visit = visit.map_err(|error| refused_hello(&gateway, error))?;
    count_known(&gateway, hello);
    let ShortVisit { lease, session_id, seq_min, resumed, attached, refused, .. } = visit;
    let ShortVisit { pushes, headers, headers_kept, .. } = visit;
    proven.login.take().into_iter().for_each(|login| lease.remember_login(login));
    let session_headers_kept_s = headers_kept_s(&gateway, headers_kept);
    let told = welcome(resumed, session_id, Vec::new());
    let mut welcome = Welcome { seq_min, session_headers_kept_s, ..told };
    proven.give_token(&gateway, hello, &mut welcome);
    welcome.push_line = lease.session().push_line();
    let door = Door::new(gateway, origin, lease, headers, proven, Handshake::complete());
    let door = Door { names_session: resumed, ..door };
    let subscriptions = Changed { subscribed: Subscribed::default(), new: Vec::new() };
    Ok(Call { admission: Admission { door, welcome, attached, refused, subscriptions }, pushes })
}

fn welcome(resumed: bool, session_id: u64, unknown: Vec<u64>) -> Welcome {
    let server_time_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    Welcome {
        resumed,
        session_id,
        unknown,
        server_time_ms: u64::try_from(server_time_ms).unwrap_or(u64::MAX),
        ..Welcome::default()
    }
}

impl Admission {
    /// WELCOME says what others have found of networks like the client's.
    pub(super) fn offer_silence(&mut self, facts: Option<&ClientFacts>, transport: Transport) {
        let learned = &self.door.gateway.learned;
        let kept = facts.and_then(|facts| learned.offer(facts.network, &facts.carrier, transport));
        self.welcome.silence_kept_s =
            kept.map_or(0, |kept| u32::try_from(kept.as_secs()).unwrap_or(u32::MAX));
    }

    /// Has the client say what it is, where neither the session knows nor HELLO says it.
    pub(super) fn ask_for_facts(&mut self, hello: &Hello) {
        let session = self.door.lease.session();
        self.welcome.report_wanted = hello.facts.is_none() && session.facts().is_none();
    }

    /// WELCOME names the dictionaries that this client is to use.
    pub(super) fn prefer_dictionaries(&mut self, control: &mut Control) {
        let client_id = self.door.lease.session().client_id();
        let edition = self.door.gateway.dictionaries.edition();
        let order = edition.order(client_id);
        self.welcome.header_dictionaries = edition.header_order(client_id);
        control.prefer(&order);
        self.welcome.limits.get_or_insert_default().dictionaries = order;
    }
}

impl Door {
    fn new(
        gateway: Arc<Gateway>,
        origin: &Origin,
        lease: Lease,
        headers: Option<Arc<SessionHeaders>>,
        proven: Proven,
        holds: Handshake,
    ) -> Self {
        let client_id = Some(Arc::clone(lease.session().client_id()));
        let Proven { identity: Identity { user, claims, until, by }, as_of, .. } = proven;
        let expires = until.map(super::ends_at);
        let may_return = matches!(by, By::Hook(_));
        let origin = Arc::new(Origin { client_id, user, claims, by, ..origin.clone() });
        lease.vouch(&origin);
        if gateway.withdrawals.count() != as_of || !gateway.snapshot().trusts(&origin) {
            // By what it was admitted may be what was withdrawn, and it came behind those who were looked for.
            lease.disown();
        }
        Self { gateway, origin, expires, may_return, lease, headers, names_session: true, holds }
    }

    /// A visitor becomes the holder of its session, with those of HELLO's subscriptions that the client may have.
    pub(super) async fn establish(&self, hello: &Hello, awaited: &[u64]) -> Result<Established, LinkError> {
        let asked = Asked::of(&self.gateway, &self.origin, &hello.topics).await;
        asked.must_be_known()?;
        let established = self.lease.establish(&asked.permitted_of(hello), awaited);
        let mut established =
            established.map_err(|error: OpenError| LinkError::new(error.close_code(), error.to_string()))?;
        asked.tell_denied(&mut established.subscriptions.subscribed.results);
        Ok(established)
    }

    /// Follows SUBSCRIBE, as far as the client may.
    ///
    /// # Errors
    /// The hook has to be asked about that: what is known so far.
    pub(super) fn subscribe_now(&self, subscribe: &Subscribe) -> Result<Subscribed, Known> {
        let asked = Asked::now(&self.gateway, &self.origin, &subscribe.add)?;
        Ok(self.subscribe_as(subscribe, asked))
    }

    /// The same, with the hook asked; `known` is what [`Door::subscribe_now`] knows, if it was tried.
    pub(super) async fn subscribe(&self, subscribe: &Subscribe, known: Option<Known>) -> Subscribed {
        let Self { gateway, origin, .. } = self;
        let asked = match known {
            Some(known) => Asked::ask(gateway, origin, &subscribe.add, &known).await,
            None => Asked::of(gateway, origin, &subscribe.add).await,
        };
        self.subscribe_as(subscribe, asked)
    }

    fn subscribe_as(&self, subscribe: &Subscribe, asked: Asked) -> Subscribed {
        let mut subscribed = match asked.is_permitted() {
            true => self.subscribed(self.lease.subscribe(subscribe)),
            false => {
                let remove = subscribe.remove.clone();
                let permitted = Subscribe { add: asked.permitted.clone(), remove };
                self.subscribed(self.lease.subscribe(&permitted))
            }
        };
        asked.tell_denied(&mut subscribed.results);
        subscribed
    }

    /// The client gives up a request that any connection may have carried, or may still.
    pub(super) fn give_up(&self, seq: u64) {
        if self.names_session {
            self.lease.give_up(seq);
        }
    }

    /// Answers a change of subscriptions. The messages that are retained for what is new follow as pushes.
    pub(super) fn subscribed(&self, changed: Changed) -> Subscribed {
        let session = self.lease.session();
        for (filter, options) in changed.new {
            // MQTT 5, section 4.8.2: none for shared subscriptions.
            if topic::split_share(&filter).0.is_none() {
                let retained = &self.gateway.mqtt.retained;
                retained.deliver(session.as_ref(), session.client_id(), &filter, &options);
            }
        }
        changed.subscribed
    }

    /// Whether clients that were asked to leave must have done so. Until then they are served as before, since
    /// they were also asked to take their time.
    fn refuses_requests(&self) -> bool {
        let spread = || self.gateway.snapshot().settings.drain_spread;
        self.gateway.drain.is_draining() && self.gateway.drain.lasts(spread())
    }

    /// A request of a client that names another session than there is: its answer, if this session has run it. It is
    /// not begun, for it may have run in the session that the client speaks of.
    fn recall(&self, seq: u64) -> Opening {
        match self.lease.attach(seq, Place::default()) {
            Attach::Attached(consumer) => Opening::Answered(consumer, None),
            Attach::Refused(error) => Opening::Refused(error),
            Attach::Unknown | Attach::Later => {
                let text = "HELLO does not name the session that is here: only idempotent requests are run";
                Opening::Refused(RpcError::new(RpcErrorKind::SessionLost, Execution::NotNow, text))
            }
        }
    }

    /// Follows REQUEST: runs it, or attaches to what ran already. `end` says that no message follows.
    pub(super) fn open(&self, seq: u64, head: &RequestHead, end: bool, credits: &Arc<Credits>) -> Opening {
        // While it visits, the bit says no more than HELLO's floor, which counts when the session is held.
        let is_spoken_to = self.names_session || head.heard;
        if head.acknowledges && self.holds.is_complete() && is_spoken_to {
            self.lease.acknowledge(&Ack { floor: seq - 1, seqs: Vec::new() });
        }
        if !is_spoken_to && !head.idempotent {
            return self.recall(seq);
        }
        let (producer, consumer) = match self.lease.begin(seq) {
            // Only what has not run may be refused as not run; dropped, it is as if it had not come.
            Begin::Run(..) if self.refuses_requests() => {
                let text = "the gateway is draining: send the request again elsewhere";
                return Opening::Refused(RpcError::new(RpcErrorKind::Draining, Execution::NotRun, text));
            }
            Begin::Run(producer, consumer) => {
                consumer.exchange().set_priority(head.priority);
                (producer, consumer)
            }
            Begin::Later => return Opening::Later,
            Begin::Attached(consumer) => return Opening::Answered(consumer, None),
            Begin::Refused(error) => return Opening::Refused(error),
        };
        let grpc = head::is_grpc_list(&head.fields);
        let (sender, body) = match end {
            true => (None, Body::new(Empty::new().map_err(|never| match never {}))),
            false => {
                let (sender, body) = session::channel(seq, grpc, Arc::clone(credits));
                consumer.exchange().uploads(sender.upload());
                (Some(sender), Body::new(body))
            }
        };
        let request = head::request(head, self.headers.as_deref(), &self.origin, body, Instant::now());
        let mut request = match request {
            Ok(request) => request,
            Err(error) => {
                _ = producer.error(error);
                return Opening::Answered(consumer, None);
            }
        };
        self.gateway.dictionaries.headers.pass(&head.fields, &mut request);
        let at_work = self.gateway.drain.guard();
        // Boxed: a task is moved several times on its way to the scheduler, and once more when it ends.
        let running = Box::pin(answer::run(Arc::clone(&self.gateway), Box::new(request), producer));
        tokio::spawn(async move {
            running.await;
            drop(at_work);
        });
        if end {
            consumer.exchange().request_complete();
        }
        Opening::Answered(consumer, sender)
    }
}

/// HELLO's session headers are bounded as a request's are.
fn check_session_headers(gateway: &Gateway, hello: &Hello) -> Result<(), LinkError> {
    let bytes_max = gateway.snapshot().settings.limits.header_list_bytes_max;
    let size = |header: &Header| HeaderField::new(header.name.clone(), header.value.clone()).size();
    if hello.session_headers.iter().map(size).sum::<usize>() > bytes_max {
        gateway.metrics.limit_hit("limits.header_list_bytes_max");
        let rule = format!("HELLO.session_headers must not exceed header_list_bytes_max ({bytes_max})");
        return Err(LinkError::new(CloseCode::LimitExceeded, rule));
    }
    Ok(())
}

/// HELLO was followed.
fn count_known(gateway: &Gateway, hello: &Hello) {
    if !hello.session_headers_hash.is_empty() {
        count_reference(gateway, "session_headers", "known");
    }
    if hello.header_dictionary != 0 {
        count_reference(gateway, "header_dictionary", "known");
    }
}

pub(super) fn count_reference(gateway: &Gateway, what: &str, outcome: &str) {
    gateway.metrics.hello_references.with_label_values(&[what, outcome]).inc();
}
