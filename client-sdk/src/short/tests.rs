//! A client whose link cannot be had, and a gateway that takes its POSTs. Time is simulated.

mod limits;

use std::{
    collections::BTreeMap,
    convert::Infallible,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::{
    Request, Response,
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::{sync::mpsc, time::Instant};
use towline_protocols::{
    hpack::HeaderField,
    link::{self, Connection, Event, Execution, Hello, RpcError, RpcErrorKind, Welcome},
};

use crate::{
    ByteIo, CallRequest, Client, ClientConfig, Dial, Dialed, Dialing, Endpoint, FirstFlight, ShortCalls,
    Transport,
};

/// What the network and the gateway do.
#[derive(Default)]
struct World {
    /// POSTs whose answer is cut behind WELCOME, though the call runs.
    cuts: u32,
    /// With a cut, the gateway forgets its session.
    forgets: bool,
    /// No connection is made at all.
    is_unreachable: bool,
    /// The gateway of this port is dead.
    dead: Option<u16>,
    /// Requests are taken and never answered.
    is_mute: bool,
    muted: u32,
    /// Ports that connections were asked for.
    dialed: Vec<u16>,
    /// Larger bodies are refused; 0 for none.
    body_bytes_max: usize,
    refused: u32,
    /// Answers need what the client does not hold.
    is_unreadable: bool,
    /// How often a POST has to give way to somebody who sends it again.
    gives_way: u32,
    /// Answers wait.
    holds: bool,
    /// Answers come in pieces, so far apart.
    trickles: Option<Duration>,
    /// Of so many answers the second half never comes.
    stalls: u32,
    /// The gateway's session; 0 before there is one.
    session_id: u64,
    sessions: u64,
    outcomes: BTreeMap<u64, Bytes>,
    runs: BTreeMap<u64, u32>,
    /// Numbers that POSTs gave up.
    given_up: Vec<u64>,
    hellos: Vec<Hello>,
    posts: usize,
    posts_most: usize,
    links_tried: u32,
}

#[derive(Clone, Default)]
struct Network(Arc<Mutex<World>>);

impl Network {
    fn client(&self, change: impl FnOnce(&mut ClientConfig)) -> Client {
        let mut config = ClientConfig::plaintext(vec!["edge:443".parse().unwrap()]);
        config.seed = Some(3);
        config.dialer = Some(Arc::new(self.clone()));
        change(&mut config);
        Client::start(config).unwrap()
    }

    fn with<T>(&self, step: impl FnOnce(&mut World) -> T) -> T {
        step(&mut self.0.lock())
    }

    /// Reads a POST's body and says WELCOME; `None` when the answer is cut there.
    fn answer(&self, body: &[u8], sender: &mpsc::UnboundedSender<Bytes>) -> Option<Held> {
        let now = std::time::Instant::now();
        let mut machine = Connection::short_server(Arc::new(link::Config::default()), now);
        machine.handle_bytes(now, &mut BytesMut::from(body)).unwrap();
        let mut held = Held { machine, answers: Vec::new() };
        let Some(Event::Hello(hello)) = held.machine.poll_event() else { panic!("HELLO comes first") };
        let cut = self.with(|world| world.on_hello(&hello, &mut held));
        let mut out = BytesMut::new();
        held.machine.poll_transmit(now, &mut out, usize::MAX);
        sender.send(out.freeze()).ok();
        (!cut).then_some(held)
    }
}

/// A POST that is to be answered.
struct Held {
    machine: Connection,
    answers: Vec<(u64, Result<Bytes, RpcError>)>,
}

impl Held {
    fn finish(mut self) -> Bytes {
        for (seq, answer) in self.answers {
            let answer = answer.and_then(|message| {
                self.machine.send_response(seq, vec![HeaderField::from_static(":status", "200")], false)?;
                self.machine.send_message(seq, message, true).map(drop)
            });
            if let Err(error) = answer {
                self.machine.reset(seq, &error);
            }
        }
        let mut out = BytesMut::new();
        self.machine.poll_transmit(std::time::Instant::now(), &mut out, usize::MAX);
        out.freeze()
    }
}

async fn send_in_pieces(network: &Network, mut bytes: Bytes, sender: &mpsc::UnboundedSender<Bytes>) {
    const PIECES: usize = 16;
    let pause = network.with(|world| world.trickles);
    let piece = bytes.len().div_ceil(if pause.is_some() { PIECES } else { 1 });
    let half = bytes.len() / 2;
    let stalls = network.with(|world| {
        world.stalls = world.stalls.saturating_sub(u32::from(!bytes.is_empty()));
        world.stalls > 0
    });
    while !bytes.is_empty() {
        if stalls && bytes.len() <= half {
            std::future::pending::<()>().await;
        }
        sender.send(bytes.split_to(piece.min(bytes.len()))).ok();
        tokio::time::sleep(pause.unwrap_or_default()).await;
    }
}

impl World {
    /// Says WELCOME and runs what comes with HELLO; whether the answer is cut then.
    fn on_hello(&mut self, hello: &Hello, held: &mut Held) -> bool {
        self.hellos.push(hello.clone());
        if self.session_id == 0 {
            self.sessions += 1;
            self.session_id = 70 + self.sessions;
            self.outcomes = BTreeMap::new();
        }
        let resumed = hello.session_id == self.session_id;
        let session_id = self.session_id;
        held.machine.control().welcome(Welcome { resumed, session_id, push_line: 1, ..Welcome::default() });
        let mut seqs = Vec::new();
        let mut messages = BTreeMap::<u64, Vec<u8>>::new();
        while let Some(event) = held.machine.poll_event() {
            match event {
                Event::Request { seq, .. } => seqs.push(seq),
                Event::GivenUp { seq } => self.given_up.push(seq),
                Event::MessagePart { seq, bytes, .. } => {
                    messages.entry(seq).or_default().extend_from_slice(&bytes);
                }
                _ => {}
            }
        }
        for seq in &seqs {
            let message = messages.remove(seq).unwrap_or_default();
            held.answers.push((*seq, self.run(*seq, message, resumed)));
        }
        let cut = !seqs.is_empty() && self.cuts > 0;
        self.cuts -= u32::from(cut);
        if cut && self.forgets {
            self.session_id = 0;
        }
        cut
    }

    fn mutes(&mut self) -> bool {
        self.muted += u32::from(self.is_mute);
        self.is_mute
    }

    fn refuses(&mut self, bytes: usize) -> bool {
        let refuses = self.body_bytes_max > 0 && bytes > self.body_bytes_max;
        self.refused += u32::from(refuses);
        refuses
    }

    fn run(&mut self, seq: u64, message: Vec<u8>, resumed: bool) -> Result<Bytes, RpcError> {
        if !resumed {
            return Err(RpcError::new(RpcErrorKind::SessionLost, Execution::NotNow, "another session"));
        }
        if self.is_unreadable {
            let text = "the dictionary is not held";
            return Err(RpcError::new(RpcErrorKind::UnknownDictionary, Execution::Ran, text));
        }
        let runs = &mut self.runs;
        let outcome = self.outcomes.entry(seq).or_insert_with(|| {
            *runs.entry(seq).or_default() += 1;
            message.into()
        });
        if self.gives_way > 0 {
            self.gives_way -= 1;
            return Err(RpcError::new(RpcErrorKind::TakenElsewhere, Execution::MayHaveRun, "four others"));
        }
        Ok(outcome.clone())
    }
}

impl Dial for Network {
    fn dial(&self, _: &Endpoint, _: FirstFlight) -> Dialing {
        self.with(|world| world.links_tried += 1);
        Box::pin(async { Err(io::ErrorKind::ConnectionReset.into()) })
    }

    fn carries_http(&self) -> bool {
        true
    }

    fn dial_http(&self, gateway: &Endpoint) -> Dialing {
        let (network, port) = (self.clone(), gateway.port);
        Box::pin(async move {
            network.with(|world| world.dialed.push(port));
            if network.with(|world| world.is_unreachable || world.dead == Some(port)) {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            let (ours, theirs) = tokio::io::duplex(1 << 16);
            tokio::spawn(serve(network, port, theirs));
            Ok(Dialed { stream: Box::new(ours) as Box<dyn ByteIo>, early: 0 })
        })
    }
}

async fn serve(network: Network, port: u16, stream: tokio::io::DuplexStream) {
    let service = service_fn(move |request: Request<Incoming>| {
        let network = network.clone();
        async move {
            assert_eq!(request.uri().path(), "/towline/1");
            if network.with(|world| world.dead == Some(port)) {
                return Err(io::Error::from(io::ErrorKind::ConnectionReset));
            }
            if network.with(|world| world.mutes()) {
                std::future::pending::<()>().await;
            }
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let (sender, receiver) = mpsc::unbounded_channel();
            if network.with(|world| world.refuses(body.len())) {
                return Ok(Response::builder().status(413).body(Answer(receiver)).unwrap());
            }
            tokio::spawn(answer(network, body, sender));
            let response = Response::builder().header("content-type", "application/towline");
            Ok(response.body(Answer(receiver)).unwrap())
        }
    });
    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.ok();
}

async fn answer(network: Network, body: Bytes, sender: mpsc::UnboundedSender<Bytes>) {
    network.with(|world| {
        world.posts += 1;
        world.posts_most = world.posts_most.max(world.posts);
    });
    if let Some(held) = network.answer(&body, &sender) {
        while network.with(|world| world.holds) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        send_in_pieces(&network, held.finish(), &sender).await;
    }
    network.with(|world| world.posts -= 1);
}

struct Answer(mpsc::UnboundedReceiver<Bytes>);

impl hyper::body::Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}

fn post(message: &'static str) -> CallRequest {
    CallRequest::http(http::Method::POST, "/pay", message)
}

async fn answered(client: &Client, message: &'static str) {
    let response = client.call(post(message)).await.unwrap();
    let transport = response.timeline.transport.unwrap();
    assert_eq!((response.messages.concat(), transport), (message.as_bytes().to_vec(), Transport::Post));
}

#[tokio::test(start_paused = true)]
async fn without_a_link_calls_go_by_post_after_a_while_and_then_at_once() {
    let network = Network::default();
    let (client, start) = (network.client(|_| {}), Instant::now());
    answered(&client, "one").await;
    assert_eq!(start.elapsed().as_secs(), 3, "short_after");
    let start = Instant::now();
    answered(&client, "two").await;
    assert!(start.elapsed() < Duration::from_millis(10), "{:?}", start.elapsed());
    network.with(|world| {
        assert_eq!(world.runs, BTreeMap::from([(1, 1), (2, 1)]));
        let said: Vec<_> = world.hellos.iter().map(|hello| (hello.session_id, hello.outcome_floor)).collect();
        assert_eq!(said, [(0, 0), (71, 0), (71, 1)], "the first asks for a name, the last acknowledges");
        assert!(world.hellos.iter().is_sorted_by(|one, next| one.epoch < next.epoch));
        assert!(world.links_tried > 1, "the link is looked for all the while");
    });
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_was_cut_is_fetched_and_the_call_runs_once() {
    let network = Network::default();
    network.with(|world| world.cuts = 3);
    answered(&network.client(|_| {}), "pay").await;
    network.with(|world| {
        assert_eq!(world.runs, BTreeMap::from([(1, 1)]));
        assert_eq!(world.hellos.len(), 5);
    });
}

/// The deadline passes; what the error says of the call, and how often that ran.
async fn expired(unreachable: bool) -> (RpcErrorKind, Execution, usize) {
    let network = Network::default();
    network.with(|world| (world.is_unreachable, world.cuts) = (unreachable, u32::MAX));
    let client = network.client(|_| {});
    let error = client.call(post("pay").deadline(Duration::from_secs(20))).await.unwrap_err();
    (error.kind, error.execution, network.with(|world| world.runs.len()))
}

#[tokio::test(start_paused = true)]
async fn a_call_that_no_gateway_was_given_has_not_run() {
    assert_eq!(expired(true).await, (RpcErrorKind::DeadlineExceeded, Execution::NotRun, 0));
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_answer_never_came_may_have_run() {
    assert_eq!(expired(false).await, (RpcErrorKind::DeadlineExceeded, Execution::MayHaveRun, 1));
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_forgot_the_session_runs_nothing_that_may_have_run() {
    let network = Network::default();
    let client = network.client(|_| {});
    answered(&client, "one").await;
    network.with(|world| world.session_id = 0);
    answered(&client, "two").await;
    network.with(|world| (world.cuts, world.forgets, world.runs) = (1, true, BTreeMap::new()));
    let error = client.call(post("three")).await.unwrap_err();
    assert_eq!((error.kind, error.execution), (RpcErrorKind::SessionLost, Execution::MayHaveRun));
    network.with(|world| assert_eq!(world.runs.values().sum::<u32>(), 1));
}

#[tokio::test(start_paused = true)]
async fn no_more_short_connections_than_allowed() {
    let network = Network::default();
    let client = network.client(|config| config.limits.short_calls_max = 3);
    answered(&client, "first").await;
    network.with(|world| (world.holds, world.posts_most) = (true, 0));
    let calls: Vec<_> = (0..8)
        .map(|_| {
            let caller = client.clone();
            tokio::spawn(async move { caller.call(post("n")).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(1)).await;
    network.with(|world| {
        assert_eq!((world.posts, world.posts_most), (3, 3));
        world.holds = false;
    });
    for call in calls {
        call.await.unwrap().unwrap();
    }
    network.with(|world| {
        assert_eq!(world.posts_most, 3);
        assert!(world.runs.values().all(|&runs| runs == 1) && world.runs.len() == 9);
    });
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_takes_long_is_asked_for_again_and_again() {
    let network = Network::default();
    network.with(|world| world.holds = true);
    let client = network.client(|_| {});
    let caller = client.clone();
    let call =
        tokio::spawn(async move { caller.call(post("slow").deadline(Duration::from_secs(300))).await });
    tokio::time::sleep(Duration::from_secs(100)).await;
    network.with(|world| world.holds = false);
    assert_eq!(call.await.unwrap().unwrap().messages.concat(), b"slow");
    network.with(|world| {
        assert_eq!(world.runs, BTreeMap::from([(1, 1)]));
        assert!((3..8).contains(&world.hellos.len()), "{}", world.hellos.len());
    });
}

#[tokio::test(start_paused = true)]
async fn switched_off_nothing_goes_by_post() {
    let network = Network::default();
    let client = network.client(|config| config.short_calls = ShortCalls::Off);
    let error = client.call(post("pay").deadline(Duration::from_secs(30))).await.unwrap_err();
    assert_eq!(error.execution, Execution::NotRun);
    network.with(|world| assert!(world.hellos.is_empty() && world.links_tried > 1));
}

#[tokio::test(start_paused = true)]
async fn calls_side_by_side_leave_a_dead_gateway_for_the_next_one() {
    let network = Network::default();
    let ports = ["edge:1", "edge:2", "edge:3", "edge:4"];
    let client = network.client(|config| config.endpoints = ports.map(|port| port.parse().unwrap()).to_vec());
    answered(&client, "one").await;
    network.with(|world| world.dead = world.dialed.pop());
    let start = Instant::now();
    let calls: Vec<_> = (0..4)
        .map(|_| {
            let caller = client.clone();
            tokio::spawn(async move { caller.call(post("n")).await })
        })
        .collect();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    network.with(|world| assert!(world.runs.values().all(|&runs| runs == 1)));
}

#[tokio::test(start_paused = true)]
async fn clients_begin_at_different_gateways() {
    let mut first = std::collections::BTreeSet::new();
    for seed in 0..8 {
        let network = Network::default();
        let endpoints = || ["edge:1", "edge:2"].map(|port| port.parse().unwrap()).to_vec();
        let client = network.client(|config| (config.seed, config.endpoints) = (Some(seed), endpoints()));
        answered(&client, "x").await;
        first.extend(network.with(|world| world.dialed.first().copied()));
    }
    assert_eq!(first, [1, 2].into());
}

#[tokio::test(start_paused = true)]
async fn a_body_that_the_gateway_finds_too_large_is_posted_once() {
    let network = Network::default();
    network.with(|world| world.body_bytes_max = 1000);
    let client = network.client(|_| {});
    let large = CallRequest::http(http::Method::POST, "/pay", vec![b'x'; 2000]);
    let error = client.call(large.deadline(Duration::from_secs(30))).await.unwrap_err();
    assert_eq!((error.kind, network.with(|world| world.refused)), (RpcErrorKind::DeadlineExceeded, 1));
    assert!(error.message.contains("HTTP 413"), "{}", error.message);
    answered(&client, "small").await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_stays_unreadable_is_asked_for_a_few_times() {
    let network = Network::default();
    network.with(|world| world.is_unreadable = true);
    let client = network.client(|_| {});
    let error = client.call(post("x").deadline(Duration::from_secs(600))).await.unwrap_err();
    assert_eq!((error.kind, error.execution), (RpcErrorKind::UnknownDictionary, Execution::Ran));
    assert_eq!(network.with(|world| world.hellos.len()), 4, "one for the name");
}

#[tokio::test(start_paused = true)]
async fn a_post_that_gave_way_to_others_asks_again_under_its_number() {
    let network = Network::default();
    network.with(|world| world.gives_way = 3);
    let client = network.client(|_| {});
    answered(&client, "once").await;
    network.with(|world| assert_eq!(world.runs.values().sum::<u32>(), 1));
    // Not for ever.
    network.with(|world| world.gives_way = u32::MAX);
    let error = client.call(post("x").deadline(Duration::from_secs(600))).await.unwrap_err();
    assert_eq!((error.kind, error.execution), (RpcErrorKind::OutcomeExpired, Execution::MayHaveRun));
    network.with(|world| assert_eq!(world.runs.values().sum::<u32>(), 2));
}

#[tokio::test(start_paused = true)]
async fn another_network_is_tried_at_once_and_what_hung_in_the_old_one_is_asked_for_again() {
    let network = Network::default();
    network.with(|world| world.is_unreachable = true);
    let client = network.client(|_| {});
    let caller = client.clone();
    let call = tokio::spawn(async move { caller.call(post("x").deadline(Duration::from_secs(900))).await });
    tokio::time::sleep(Duration::from_secs(400)).await;
    network.with(|world| (world.is_unreachable, world.holds) = (false, true));
    for posts in [1, 2] {
        client.network_changed(crate::Network::default());
        tokio::time::sleep(Duration::from_millis(1)).await;
        network.with(|world| assert_eq!(world.hellos.len(), 1 + posts));
    }
    network.with(|world| world.holds = false);
    assert_eq!(call.await.unwrap().unwrap().messages.concat(), b"x");
    network.with(|world| assert_eq!(world.runs, BTreeMap::from([(1, 1)])));
}

#[tokio::test(start_paused = true)]
async fn the_gateway_hears_of_a_call_that_is_given_up_as_soon_as_it_can_be_reached() {
    let network = Network::default();
    network.with(|world| world.holds = true);
    let client = network.client(|_| {});
    let calls: Vec<_> = (0..2)
        .map(|_| {
            let caller = client.clone();
            tokio::spawn(async move { caller.call(post("slow")).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(5)).await;
    network.with(|world| {
        assert_eq!(world.runs.len(), 2);
        world.is_unreachable = true;
    });
    calls[1].abort();
    tokio::time::sleep(Duration::from_secs(5)).await;
    network.with(|world| {
        assert!(world.given_up.is_empty());
        (world.is_unreachable, world.holds) = (false, false);
    });
    tokio::time::sleep(Duration::from_secs(20)).await;
    network.with(|world| assert_eq!(world.given_up, [2], "once, and none that goes on"));
    assert!(calls.into_iter().next().unwrap().await.unwrap().is_ok());
}

/// A gateway that is reached and then dies is left for the next one earlier than one of which nothing is known.
#[tokio::test(start_paused = true)]
async fn limits_follow_what_the_network_was_seen_to_take() {
    let mut waited = Vec::new();
    for learns in [true, false] {
        let network = Network::default();
        let client = network.client(|config| {
            config.endpoints = ["edge:1", "edge:2"].map(|port| port.parse().unwrap()).to_vec();
            if !learns {
                config.strategies.timeouts.enabled = false;
            }
        });
        for _ in 0..4 {
            answered(&client, "x").await;
        }
        assert_eq!(*client.quality_levels().borrow(), Some(crate::QualityLevel::Poor), "the link fails");
        network.with(|world| world.is_mute = true);
        let start = Instant::now();
        let caller = client.clone();
        let call = tokio::spawn(async move { caller.call(post("y")).await });
        while network.with(|world| world.muted < 2) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        waited.push(start.elapsed().as_secs());
        network.with(|world| world.is_mute = false);
        assert!(call.await.unwrap().is_ok());
    }
    assert_eq!(waited, [4, 10]);
}

/// As the link does.
#[tokio::test(start_paused = true)]
async fn behind_a_lists_expiry_no_post_goes_to_whom_it_alone_has_named() {
    let key = towline_crypto::signing::SigningKey::generate().unwrap();
    let mut config = ClientConfig::plaintext(vec!["edge:443".parse().unwrap()]);
    config.endpoint_lists.keys = vec![key.public()];
    config.seed = Some(3);
    let shared = Arc::new(crate::core::Shared::new(&config).unwrap().0);
    let supervisor = crate::supervisor::Supervisor::new(Arc::clone(&shared), config.clone()).unwrap();
    let mut shorts = super::Shorts::new(Arc::clone(&shared), config, supervisor.link(), supervisor.http());
    let place = crate::endpoints::tests::entry("listed");
    shared.listed.take(&crate::endpoints::tests::signed(&key, 1, 0, vec![place]));
    shared.with(|core| core.link.home = Some("listed:443".parse().unwrap()));
    assert_eq!(shorts.gateway().to_string(), "listed:443");
    crate::endpoints::tests::expire(&shared.listed);
    assert_eq!(shorts.gateway().to_string(), "edge:443");
}
