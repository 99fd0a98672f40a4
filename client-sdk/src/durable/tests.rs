//! Two runs of an app, the first of which is killed at some write, beside a gateway that runs each number once.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::pending,
    path::Path,
};

use parking_lot::Mutex;
use tokio::{runtime::Handle, task::yield_now, time::timeout};
use towline_protocols::{
    hpack::HeaderField,
    link::{Event, Hello, Welcome},
};

use super::*;
use crate::{
    call::CallRequest,
    config::{ClientConfig, Endpoint},
    core::RequestSink,
    state::Transport,
};

/// The session's id at the gateway.
const SESSION: u64 = 5;

/// A disk in memory.
#[derive(Default)]
struct Disk {
    files: Mutex<BTreeMap<String, Vec<u8>>>,
    plan: Mutex<Plan>,
}

#[derive(Default)]
struct Plan {
    writes: usize,
    /// At which write, or removal, the app is killed, and whether that write is done.
    kill: Option<(usize, bool)>,
    is_full: bool,
    /// It removes nothing, and takes a while to say so.
    keeps: bool,
    /// Once killed, nothing is written any more.
    is_dead: bool,
}

impl Disk {
    /// `None`: the app is dead and hears of nothing.
    fn write(
        &self,
        change: impl FnOnce(&mut BTreeMap<String, Vec<u8>>),
        grows: bool,
    ) -> Option<io::Result<()>> {
        let mut plan = self.plan.lock();
        if plan.is_dead {
            return None;
        }
        if plan.is_full && grows {
            return Some(Err(io::ErrorKind::StorageFull.into()));
        }
        let kill = plan.kill.filter(|(at, _)| *at == plan.writes);
        plan.writes += 1;
        plan.is_dead = kill.is_some();
        if kill.is_none_or(|(_, is_done)| is_done) {
            change(&mut self.files.lock());
        }
        kill.is_none().then_some(Ok(()))
    }
}

/// The disk as the SDK has it.
struct Mounted(Arc<Disk>);

impl Storage for Mounted {
    fn load(&self, _: usize) -> io::Result<Vec<StoredFile>> {
        let files = self.0.files.lock().clone();
        Ok(files.into_iter().map(|(name, content)| StoredFile { name, content: Ok(content) }).collect())
    }

    fn put(&self, name: String, content: Vec<u8>) -> Storing {
        let done = self.0.write(|files| drop(files.insert(name, content)), true);
        Box::pin(async {
            match done {
                Some(done) => done,
                None => pending().await,
            }
        })
    }

    fn remove(&self, name: String) -> Storing {
        if self.0.plan.lock().keeps {
            return Box::pin(async {
                yield_now().await;
                Err(io::ErrorKind::ReadOnlyFilesystem.into())
            });
        }
        let done = self.0.write(|files| drop(files.remove(&name)), false);
        Box::pin(async {
            match done {
                Some(done) => done,
                None => pending().await,
            }
        })
    }
}

/// Runs each number once, and keeps outcomes until they are acknowledged.
#[derive(Default)]
struct Gateway {
    runs: BTreeMap<u64, u32>,
    kept: BTreeSet<u64>,
}

/// What the line gives it.
#[derive(Default)]
struct Sent(Vec<u64>);

impl RequestSink for Sent {
    fn request(&mut self, seq: u64, _: RequestHead, _: bool) -> Result<(), RpcError> {
        self.0.push(seq);
        Ok(())
    }

    fn message(&mut self, _: u64, message: Bytes, _: bool) -> Result<usize, RpcError> {
        Ok(message.len())
    }

    fn end(&mut self, _: u64) -> Result<(), RpcError> {
        Ok(())
    }

    fn capacity(&mut self, _: u64) -> usize {
        1 << 20
    }

    fn credit(&mut self, _: u64, _: usize) {}
}

/// One run of the app.
struct Run {
    shared: Arc<Shared>,
}

fn config(folder: &Path, disk: &Arc<Disk>) -> ClientConfig {
    let mut config = ClientConfig::plaintext(vec![Endpoint { host: "edge".into(), port: 443 }]);
    config.identity_file = Some(folder.join("identity"));
    config.durable_storage = Some(Arc::new(Mounted(Arc::clone(disk))));
    config
}

impl Run {
    fn start(config: &ClientConfig) -> Self {
        let (shared, waiting) = Shared::new(config).unwrap();
        let shared = Arc::new(shared);
        take_up(&shared, &Handle::current(), waiting, true);
        Self { shared }
    }

    /// A connection: the gateway goes on with the session that it has if HELLO names it.
    fn connect(&self, gateway: &mut Gateway) {
        self.meet(gateway).into_iter().for_each(|seq| self.answer(seq));
    }

    /// The same, without the answers; the numbers that are asked for.
    fn meet(&self, gateway: &mut Gateway) -> Vec<u64> {
        self.shared.with(|core| {
            let hello = core.begin_line(Transport::Tcp, Hello::default()).unwrap();
            core.link_up(&Endpoint { host: "edge".into(), port: 443 });
            gateway.kept.retain(|seq| hello.waiting.iter().any(|waiting| waiting.seq == *seq));
            let waiting = hello.waiting.iter().map(|waiting| waiting.seq);
            let unknown = waiting.filter(|seq| !gateway.runs.contains_key(seq)).collect();
            let resumed = hello.session_id == SESSION;
            let welcome =
                Welcome { session_id: SESSION, push_line: 1, resumed, unknown, ..Welcome::default() };
            let kept = core.welcomed(&hello, &welcome);
            kept.iter().filter_map(|kept| Some(core.call(kept.key)?.seq)).collect()
        })
    }

    /// Lets everybody go on until nobody can: what is sent is run and answered, and what is taken forgotten.
    async fn settle(&self, gateway: &mut Gateway, answers: bool) {
        for _ in 0..50 {
            yield_now().await;
            let mut sent = Sent::default();
            self.shared.with(|core| {
                while let Some(key) = core.next_dirty() {
                    core.pump(key, &mut sent, true, now());
                }
                while let Some(ack) = core.session.take_ack() {
                    gateway.kept.retain(|seq| *seq > ack.floor && !ack.seqs.contains(seq));
                }
            });
            for seq in sent.0 {
                *gateway.runs.entry(seq).or_default() += 1;
                gateway.kept.insert(seq);
                if answers {
                    self.answer(seq);
                }
            }
        }
    }

    fn answer(&self, seq: u64) {
        let fields = vec![HeaderField::new(":status", "200")];
        self.shared.on_event(Event::Response { seq, fields, end: false });
        let (bytes, message_bytes) = (Bytes::from_static(b"done"), Some(4));
        self.shared.on_event(Event::MessagePart {
            seq,
            message_bytes,
            bytes,
            wire_bytes: 4,
            end_of_message: true,
            end: true,
        });
    }

    /// Whether the call was taken in; `None` where nobody was told before the app died.
    async fn submit(&self, key: &str, gateway: &mut Gateway, answers: bool) -> Option<Result<(), RpcError>> {
        let request = CallRequest::grpc("/shop.Orders/Pay", "pay").durable(key, "tag");
        let asked = Asked {
            durable: request.durable.unwrap(),
            deadline: None,
            head: RequestHead::default(),
            message: request.message,
            bodiless: false,
            needs_encryption: false,
        };
        let runtime = Handle::current();
        let submitting = async { timeout(SOON, begin(&self.shared, &runtime, asked, false)).await.ok() };
        let (submitted, ()) = tokio::join!(submitting, self.settle(gateway, answers));
        submitted.map(|taken| taken.map(drop))
    }

    /// The outcomes that are handed out, without acknowledgement.
    async fn outcomes(&self, gateway: &mut Gateway) -> Vec<DurableOutcome> {
        self.settle(gateway, true).await;
        let mut listener = DurableOutcomes::new(Arc::clone(&self.shared));
        let mut outcomes = Vec::new();
        while let Ok(Some(outcome)) = timeout(SOON, listener.next()).await {
            outcomes.push(outcome);
        }
        outcomes
    }

    async fn acknowledge(&self, key: &str) -> Option<Result<(), DurableError>> {
        timeout(SOON, acknowledge(&self.shared, &Handle::current(), key.to_owned())).await.ok()
    }
}

/// Nothing here takes any time.
const SOON: Duration = Duration::from_millis(10);

fn is_done(outcome: &DurableOutcome) -> bool {
    outcome.result.as_ref().is_ok_and(|answer| answer.body() == "done") && outcome.tag == "tag"
}

/// Kills the first run at write `at`, with that write done or not. Says whether the first run came to its end.
async fn killed_at(at: usize, written: bool) -> bool {
    let folder = tempfile::tempdir().unwrap();
    let disk = Arc::new(Disk::default());
    disk.plan.lock().kill = Some((at, written));
    let config = config(folder.path(), &disk);
    let mut gateway = Gateway::default();

    let first = Run::start(&config);
    first.connect(&mut gateway);
    let taken_in = first.submit("a", &mut gateway, true).await;
    let handed = first.outcomes(&mut gateway).await.len();
    let acknowledged = if handed > 0 { first.acknowledge("a").await } else { None };
    first.settle(&mut gateway, true).await;
    let lived = !std::mem::take(&mut *disk.plan.lock()).is_dead;
    drop(first);

    let second = Run::start(&config);
    second.connect(&mut gateway);
    let outcomes = second.outcomes(&mut gateway).await;
    let context = format!("write {at}, done: {written}");
    assert!(outcomes.iter().all(is_done), "{context}: {outcomes:?}");
    assert!(gateway.runs.values().all(|runs| *runs == 1), "{context}: {:?}", gateway.runs);
    assert!(gateway.runs.len() <= 1, "{context}: under two numbers, {:?}", gateway.runs);
    let expected = match (&taken_in, &acknowledged) {
        (_, Some(Ok(()))) => 0..=0,
        // Nobody was told what became of it.
        (None, _) | (_, None) if taken_in.is_none() || handed > 0 => 0..=1,
        _ => 1..=1,
    };
    assert!(
        expected.contains(&outcomes.len()),
        "{context}: {outcomes:?} after {taken_in:?}, {acknowledged:?}"
    );
    if let [_] = &*outcomes {
        second.acknowledge("a").await.unwrap().unwrap();
    }
    second.settle(&mut gateway, true).await;
    assert!(disk.files.lock().is_empty(), "{context}");
    assert_eq!(gateway.kept, BTreeSet::new(), "{context}: the gateway keeps what was taken");
    lived
}

#[tokio::test(start_paused = true)]
async fn a_call_survives_a_kill_at_each_write_and_runs_once() {
    let mut at = 0;
    loop {
        killed_at(at, false).await;
        if killed_at(at, true).await {
            break;
        }
        at += 1;
    }
    assert!(at >= 3, "the call, its outcome, its removal: {at}");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_runs_when_the_app_dies_is_asked_for_and_not_run_again() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Arc::new(Disk::default());
    let config = config(folder.path(), &disk);
    let mut gateway = Gateway::default();
    let first = Run::start(&config);
    first.connect(&mut gateway);
    first.submit("a", &mut gateway, false).await.unwrap().unwrap();
    assert_eq!(gateway.runs.len(), 1);
    // Its second call would wait for a place on disk for ever.
    disk.plan.lock().is_dead = true;
    drop(first);
    disk.plan.lock().is_dead = false;

    let second = Run::start(&config);
    second.connect(&mut gateway);
    let outcomes = second.outcomes(&mut gateway).await;
    assert!(outcomes.len() == 1 && is_done(&outcomes[0]), "{outcomes:?}");
    assert_eq!(gateway.runs.into_values().collect::<Vec<_>>(), [1]);
}

#[tokio::test(start_paused = true)]
async fn no_byte_leaves_before_the_disk_has_the_call() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Arc::new(Disk::default());
    disk.plan.lock().kill = Some((0, true));
    let mut gateway = Gateway::default();
    let run = Run::start(&config(folder.path(), &disk));
    run.connect(&mut gateway);
    // The write is done, and nobody has heard so.
    assert!(run.submit("a", &mut gateway, true).await.is_none());
    assert_eq!(gateway.runs, BTreeMap::new());
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_refuses_the_call_and_loses_no_outcome() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Arc::new(Disk::default());
    let config = config(folder.path(), &disk);
    let mut gateway = Gateway::default();
    let first = Run::start(&config);
    first.connect(&mut gateway);
    first.submit("a", &mut gateway, false).await.unwrap().unwrap();
    disk.plan.lock().is_full = true;
    let refused = first.submit("b", &mut gateway, true).await.unwrap().unwrap_err();
    assert_eq!((refused.kind, refused.execution), (RpcErrorKind::LimitExceeded, Execution::NotRun));
    assert_eq!(gateway.runs.len(), 1, "what was refused was not sent");

    let seq = *gateway.runs.keys().next().unwrap();
    first.answer(seq);
    let outcomes = first.outcomes(&mut gateway).await;
    assert!(outcomes.len() == 1 && is_done(&outcomes[0]), "{outcomes:?}");
    assert!(gateway.kept.contains(&seq), "the gateway keeps what the disk did not take");
    drop(first);

    let second = Run::start(&config);
    second.connect(&mut gateway);
    assert_eq!(second.outcomes(&mut gateway).await.len(), 1);
    second.acknowledge("a").await.unwrap().unwrap();
    second.settle(&mut gateway, true).await;
    assert!(gateway.kept.is_empty() && disk.files.lock().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_damaged_record_is_reported_and_the_others_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Arc::new(Disk::default());
    let config = config(folder.path(), &disk);
    let mut gateway = Gateway::default();
    let first = Run::start(&config);
    first.connect(&mut gateway);
    for key in ["a", "b"] {
        first.submit(key, &mut gateway, true).await.unwrap().unwrap();
    }
    let name_of_b = first.shared.book.as_ref().map(|book| book.name("b")).unwrap();
    drop(first);
    let whole = disk.files.lock()[&name_of_b].clone();
    let rotten = (0..whole.len()).map(|at| {
        let mut rotten = whole.clone();
        rotten[at] ^= 0x10;
        rotten
    });
    let torn = (0..whole.len()).map(|end| whole[..end].to_vec());
    for damaged in rotten.chain(torn) {
        disk.files.lock().insert(name_of_b.clone(), damaged);
        let run = Run::start(&config);
        let names: Vec<String> =
            run.shared.book.as_ref().unwrap().damaged().into_iter().map(|damaged| damaged.name).collect();
        assert_eq!(names, [&*name_of_b]);
        let (outcome, _, more) = run.shared.book.as_ref().unwrap().take().unwrap();
        assert!(outcome.key == "a" && is_done(&outcome) && !more);
    }

    let run = Run::start(&config);
    run.connect(&mut gateway);
    let refused = run.submit("b", &mut gateway, true).await.unwrap().unwrap_err();
    assert_eq!((refused.kind, refused.execution), (RpcErrorKind::OutcomeExpired, Execution::MayHaveRun));
    run.acknowledge("b").await.unwrap().unwrap();
    run.submit("b", &mut gateway, true).await.unwrap().unwrap();
}

/// It may have been acknowledged that an attempt had not run, and the app have died before the next one was on disk. That is
/// so also where it was noted since that the number is another session's.
#[tokio::test(start_paused = true)]
async fn what_an_earlier_run_acknowledged_is_not_said_to_have_run() {
    for is_noted_again in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let disk = Arc::new(Disk::default());
        let config = config(folder.path(), &disk);
        let mut gateway = Gateway::default();
        let first = Run::start(&config);
        first.connect(&mut gateway);
        first.submit("a", &mut gateway, false).await.unwrap().unwrap();
        disk.plan.lock().is_dead = true;
        drop(first);
        disk.plan.lock().is_dead = false;

        let second = Run::start(&config);
        let [seq] = second.meet(&mut gateway)[..] else { panic!("one is asked for") };
        if is_noted_again {
            second.shared.with(|core| {
                let hello = core.begin_line(Transport::Tcp, Hello::default()).unwrap();
                let (session_id, resumed) = (SESSION + 1, true);
                core.welcomed(&hello, &Welcome { session_id, resumed, push_line: 1, ..Welcome::default() });
            });
            second.settle(&mut gateway, false).await;
        }
        let error = RpcError::new(RpcErrorKind::OutcomeExpired, Execution::Ran, "acknowledged");
        second.shared.on_event(Event::Reset { seq, error });
        let outcomes = second.outcomes(&mut gateway).await;
        let told = outcomes[0].result.as_ref().unwrap_err();
        assert_eq!(
            (told.error.kind, told.error.execution),
            (RpcErrorKind::OutcomeExpired, Execution::MayHaveRun),
            "noted again: {is_noted_again}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn bounds_are_kept_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path(), &Arc::new(Disk::default()));
    let mut gateway = Gateway::default();
    config.strategies.durable.count_max = 2;
    config.strategies.durable.bytes_max = 4 << 10;
    let run = Run::start(&config);
    run.connect(&mut gateway);
    run.submit("a", &mut gateway, true).await.unwrap().unwrap();
    let check = |refused: Option<Result<(), RpcError>>, named: &str| {
        let error = refused.unwrap().unwrap_err();
        assert_eq!(error.execution, Execution::NotRun);
        assert!(error.message.contains(named), "{error}");
    };
    check(run.submit("a", &mut gateway, true).await, "not acknowledged");
    check(run.submit("", &mut gateway, true).await, "1 to 256");
    run.submit("b", &mut gateway, true).await.unwrap().unwrap();
    check(run.submit("c", &mut gateway, true).await, "durable.count_max");
    for key in ["a", "b"] {
        run.acknowledge(key).await.unwrap().unwrap();
    }
    let book = run.shared.book.as_ref().unwrap();
    let refused = book.admit("c", b"", 4 << 10, None).unwrap_err();
    assert!(refused.message.contains("durable.bytes_max: 0 bytes"), "{refused}");
    assert!(matches!(run.acknowledge("c").await, Some(Err(DurableError::Unknown))));
}

#[tokio::test(start_paused = true)]
async fn an_outcome_goes_to_the_caller_that_waits_and_else_to_a_listener() {
    let folder = tempfile::tempdir().unwrap();
    let mut gateway = Gateway::default();
    let run = Run::start(&config(folder.path(), &Arc::new(Disk::default())));
    run.connect(&mut gateway);
    let asked = |key: &str| Asked {
        durable: Durable { key: key.to_owned(), tag: Bytes::from_static(b"tag") },
        deadline: None,
        head: RequestHead::default(),
        message: Bytes::new(),
        bodiless: false,
        needs_encryption: false,
    };
    let runtime = Handle::current();
    let (caller, ()) =
        tokio::join!(begin(&run.shared, &runtime, asked("a"), true), run.settle(&mut gateway, true));
    assert_eq!(caller.unwrap().unwrap().outcome().await.unwrap().body(), "done");
    assert!(run.outcomes(&mut gateway).await.is_empty(), "the caller has it");

    let (caller, ()) =
        tokio::join!(begin(&run.shared, &runtime, asked("b"), true), run.settle(&mut gateway, true));
    drop(caller);
    let outcomes = run.outcomes(&mut gateway).await;
    assert!(outcomes.len() == 1 && outcomes[0].key == "b", "{outcomes:?}");
    assert_eq!(
        run.outcomes(&mut gateway).await.len(),
        1,
        "the next listener has what the first did not acknowledge"
    );
}

#[tokio::test(start_paused = true)]
async fn whoever_had_an_outcome_gives_none_back_of_a_later_call_of_its_key() {
    let folder = tempfile::tempdir().unwrap();
    let mut gateway = Gateway::default();
    let run = Run::start(&config(folder.path(), &Arc::new(Disk::default())));
    run.connect(&mut gateway);
    let mut next = async |listener: &mut DurableOutcomes| {
        run.submit("a", &mut gateway, true).await.unwrap().unwrap();
        listener.next().await.unwrap()
    };
    let mut earlier = DurableOutcomes::new(Arc::clone(&run.shared));
    assert!(is_done(&next(&mut earlier).await));
    run.acknowledge("a").await.unwrap().unwrap();
    let mut later = DurableOutcomes::new(Arc::clone(&run.shared));
    assert!(is_done(&next(&mut later).await));
    drop(earlier);
    let mut third = DurableOutcomes::new(Arc::clone(&run.shared));
    assert!(timeout(SOON, third.next()).await.is_err(), "the second one has it");
    drop(later);
    assert!(is_done(&third.next().await.unwrap()));
}

#[tokio::test(start_paused = true)]
async fn an_outcome_that_cannot_be_taken_off_the_disk_is_handed_out_again() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Arc::new(Disk::default());
    let mut gateway = Gateway::default();
    let run = Run::start(&config(folder.path(), &disk));
    run.connect(&mut gateway);
    run.submit("a", &mut gateway, true).await.unwrap().unwrap();
    let mut listener = DurableOutcomes::new(Arc::clone(&run.shared));
    listener.next().await.unwrap();
    disk.plan.lock().keeps = true;
    let book = run.shared.book.as_ref().unwrap();
    let mut acknowledging = std::pin::pin!(book.acknowledge("a"));
    // It has begun, and the disk has not answered.
    assert!(
        std::future::poll_fn(|cx| std::task::Poll::Ready(acknowledging.as_mut().poll(cx))).await.is_pending()
    );
    drop(listener);
    assert!(matches!(acknowledging.await, Err(DurableError::Storage(_))));
    assert_eq!(run.outcomes(&mut gateway).await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_too_long_ends_at_its_deadline_also_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path(), &Arc::new(Disk::default()));
    config.strategies.durable.age_max = Duration::from_secs(3600);
    let mut gateway = Gateway::default();
    let first = Run::start(&config);
    first.submit("a", &mut gateway, true).await.unwrap().unwrap();
    drop(first);
    let second = Run::start(&config);
    tokio::time::sleep(Duration::from_secs(3601)).await;
    let outcomes = second.outcomes(&mut gateway).await;
    let error = outcomes[0].result.as_ref().unwrap_err();
    assert_eq!((error.kind, error.execution), (RpcErrorKind::DeadlineExceeded, Execution::NotRun));
}

#[tokio::test]
async fn the_folder_keeps_what_was_put_and_forgets_what_came_to_no_end() {
    let folder = tempfile::tempdir().unwrap();
    let storage = storage::Folder::beside(&folder.path().join("identity"));
    assert!(storage.load(100).unwrap().is_empty());
    storage.put("a".into(), b"one".to_vec()).await.unwrap();
    storage.put("a".into(), b"two".to_vec()).await.unwrap();
    storage.put("b".into(), vec![0; 101]).await.unwrap();
    std::fs::write(folder.path().join("identity.durable/c.new"), "half").unwrap();
    let files = storage.load(100).unwrap();
    assert_eq!(files[0].content.as_ref().unwrap(), b"two");
    assert!(files[1].content.as_ref().is_err_and(|error| error.to_string().contains("100 bytes")));
    assert_eq!(files.len(), 2);
    storage.remove("a".into()).await.unwrap();
    storage.remove("a".into()).await.unwrap();
    assert_eq!(storage.load(100).unwrap().len(), 1);
}
