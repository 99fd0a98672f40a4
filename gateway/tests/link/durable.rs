//! A gateway that is killed (SIGKILL) at every step of a request whose route is durable, and started again. The
//! gateway is a process of its own: this test program, which halts at a step so that the kill falls there.

use std::{env, net::SocketAddr, path::Path, process::Stdio};

use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStdout, Command},
};
use towline_client::{Client, ClientConfig, ConnectionState, RpcError, ShortCalls};
use towline_gateway::{
    gateway::Gateway,
    run,
    settings::{Backend as BackendSettings, BackendKind, Listener, Route, Settings},
};
use towline_protocols::link::{Execution, RpcErrorKind};
use tracing::field::{Field, Visit};
use tracing_subscriber::{Layer, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use crate::{
    backend::{Backend, Counts},
    bed::{answer, call, endpoint, online, state},
    chaos::{Chaos, Weather},
};

/// What the process is told: address, data folder, backend and the step to halt at, in one variable.
const ORDERS: &str = "TOWLINE_TEST_GATEWAY";

/// Not a test of its own: the process that the tests below kill.
#[test]
#[ignore = "the tests of this file run it as a process"]
fn gateway_process() {
    let Ok(orders) = env::var(ORDERS) else { return };
    let [address, folder, backend, halt] = *orders.split('|').collect::<Vec<_>>() else { panic!("{orders}") };
    tracing_subscriber::registry().with(Steps { halt: halt.to_owned() }).init();
    let route = Route { path: Some("/test/*".into()), durable: true, ..Route::new("test", "test") };
    let settings = Settings {
        data_dir: folder.into(),
        listeners: vec![Listener::plain("plain", address.parse().unwrap())],
        backends: vec![BackendSettings::new("test", BackendKind::Grpc, backend)],
        routes: vec![route],
        ..Settings::side_by_side()
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let _serving = run::serve(Gateway::open(settings).unwrap()).await.unwrap();
        println!("\nlistening");
        std::future::pending::<()>().await;
    });
}

/// Says each step of each request, and never returns from the one to halt at.
struct Steps {
    halt: String,
}

impl<S: tracing::Subscriber> Layer<S> for Steps {
    fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        if event.metadata().target() != "towline::outcome" {
            return;
        }
        let mut step = Step::default();
        event.record(&mut step);
        // The first request is the one that makes the client known; the second one is killed.
        println!("\nstep {} {}", step.seq, step.name);
        if step.seq == 2 && step.name == self.halt {
            loop {
                std::thread::park();
            }
        }
    }
}

#[derive(Default)]
struct Step {
    seq: u64,
    name: String,
}

impl Visit for Step {
    fn record_u64(&mut self, _: &Field, value: u64) {
        self.seq = value;
    }

    fn record_str(&mut self, _: &Field, value: &str) {
        value.clone_into(&mut self.name);
    }

    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}
}

/// The gateway's process.
struct Process {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Process {
    async fn start(address: SocketAddr, folder: &Path, backend: &Backend, halt: &str) -> Self {
        let orders = format!("{address}|{}|{}|{halt}", folder.display(), backend.address());
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["durable::gateway_process", "--exact", "--ignored", "--nocapture"])
            .env(ORDERS, orders)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut process = Self { child, lines };
        process.says("listening").await;
        process
    }

    /// Waits until it has said so.
    async fn says(&mut self, wanted: &str) {
        while let Some(line) = self.lines.next_line().await.unwrap() {
            if line == wanted {
                return;
            }
        }
        panic!("the gateway ended before it said {wanted:?}");
    }

    /// SIGKILL.
    async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }
}

/// A client that has a session, behind a network that may hold back what is said, and a process that will halt
/// when the client's next request is at a step.
struct World {
    address: SocketAddr,
    folder: tempfile::TempDir,
    backend: Backend,
    network: Chaos,
    client: Client,
    process: Process,
}

impl World {
    async fn halting_at(step: &str) -> Self {
        Self::with(step, ShortCalls::default()).await
    }

    async fn with(step: &str, short_calls: ShortCalls) -> Self {
        // Nobody else takes a port that was just free.
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (folder, backend) = (tempfile::tempdir().unwrap(), Backend::start().await);
        let process = Process::start(address, folder.path(), &backend, step).await;
        let network = Chaos::start(address).await;
        let config = ClientConfig::plaintext(vec![endpoint(network.address())]);
        let client = Client::start(ClientConfig { seed: Some(7), short_calls, ..config }).unwrap();
        assert_eq!(answer(&client, "Echo", "hello").await, "hello");
        Self { address, folder, backend, network, client, process }
    }

    /// The request whose gateway is going to die.
    fn pay(&self) -> tokio::task::JoinHandle<Result<String, RpcError>> {
        let client = self.client.clone();
        tokio::spawn(async move {
            let paid = client.call(call("Hold", "paid")).await.map_err(|failed| failed.error)?;
            Ok(String::from_utf8(paid.into_grpc().unwrap().to_vec()).unwrap())
        })
    }

    /// Kills the gateway and starts it again on what is on the disk; the network is clear then. How often the
    /// payment has run until the client has had its word, and another request.
    async fn killed(
        self,
        paying: tokio::task::JoinHandle<Result<String, RpcError>>,
    ) -> (Result<String, (RpcErrorKind, Execution)>, Counts) {
        let Self { address, folder, backend, network, client, process } = self;
        process.kill().await;
        network.cut();
        network.set(Weather::Clear);
        backend.release();
        let _process = Process::start(address, folder.path(), &backend, "").await;
        let paid = paying.await.unwrap().map_err(|error| (error.kind, error.execution));
        assert_eq!(answer(&client, "Echo", "and on").await, "and on");
        assert_eq!(backend.counts("Echo").started, 2, "what was finished before is not run again");
        (paid, backend.counts("Hold"))
    }
}

const UNKNOWN: (RpcErrorKind, Execution) = (RpcErrorKind::OutcomeExpired, Execution::MayHaveRun);

#[tokio::test]
async fn killed_before_it_is_forwarded_a_request_may_have_run_and_has_not() {
    let mut world = World::halting_at("forwarded").await;
    let paying = world.pay();
    world.process.says("step 2 forwarded").await;
    let (paid, runs) = world.killed(paying).await;
    assert_eq!((paid, runs.started), (Err(UNKNOWN), 0));
}

#[tokio::test]
async fn killed_while_the_backend_works_a_request_may_have_run_and_is_not_run_again() {
    let world = World::halting_at("").await;
    let paying = world.pay();
    world.backend.wait("Hold", |counts| counts.started == 1).await;
    let (paid, runs) = world.killed(paying).await;
    assert_eq!((paid, runs.started), (Err(UNKNOWN), 1));
}

#[tokio::test]
async fn killed_between_answer_and_record_a_request_may_have_run_and_is_not_run_again() {
    let mut world = World::halting_at("answered").await;
    world.backend.release();
    let paying = world.pay();
    world.process.says("step 2 answered").await;
    let (paid, runs) = world.killed(paying).await;
    assert_eq!((paid, runs.started), (Err(UNKNOWN), 1));
}

#[tokio::test]
async fn killed_behind_the_record_a_request_gets_its_outcome_and_is_not_run_again() {
    let mut world = World::halting_at("recorded").await;
    world.backend.release();
    let paying = world.pay();
    world.process.says("step 2 recorded").await;
    let (paid, runs) = world.killed(paying).await;
    assert_eq!((paid, runs.started), (Ok("paid".to_owned()), 1));
}

#[tokio::test]
async fn killed_when_the_answer_is_under_way_a_request_gets_its_outcome_and_is_not_run_again() {
    let mut world = World::halting_at("").await;
    let paying = world.pay();
    world.backend.wait("Hold", |counts| counts.started == 1).await;
    world.network.set(Weather::Deaf);
    let before = world.network.server_bytes();
    world.backend.release();
    world.process.says("step 2 recorded").await;
    world.network.more_server_bytes(before).await;
    let (paid, runs) = world.killed(paying).await;
    assert_eq!((paid, runs.started), (Ok("paid".to_owned()), 1));
}

#[tokio::test]
async fn killed_before_the_acknowledgement_a_request_is_not_run_again() {
    let world = World::halting_at("").await;
    let paying = world.pay();
    world.backend.wait("Hold", |counts| counts.started == 1).await;
    world.network.set(Weather::Mute);
    world.backend.release();
    let paid = paying.await.unwrap().unwrap();
    let (_, runs) = world.killed(tokio::spawn(async { Ok(paid) })).await;
    assert_eq!(runs.started, 1);
}

#[tokio::test]
async fn a_request_that_waits_for_a_gateway_that_was_killed_is_run_once_by_the_next() {
    // By POST as well the call would go out twice, and nobody could say that it has not run.
    let world = World::with("", ShortCalls::Off).await;
    let World { address, folder, backend, network, client, process } = world;
    process.kill().await;
    network.cut();
    state(&client, |state| !matches!(state, ConnectionState::Online { .. })).await;
    backend.release();
    // While nobody listens the call would go out on several connections likewise.
    let _process = Process::start(address, folder.path(), &backend, "").await;
    // Numbered below what the next gateway knows nothing of, and sent before it can say so.
    let caller = client.clone();
    let paying = tokio::spawn(async move { caller.call(call("Hold", "paid")).await });
    assert_eq!(paying.await.unwrap().unwrap().into_grpc().unwrap(), "paid");
    online(&client).await;
    assert_eq!(backend.counts("Hold").started, 1);
}
