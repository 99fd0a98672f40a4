//! Runs seeds, each in a process of its own, as many at a time as there are processors. A seed that fails is run
//! again to hear what it says.

use std::{
    io::{BufRead as _, BufReader},
    ops::Range,
    path::Path,
    process::{Command, Output, Stdio},
    sync::Mutex,
    thread,
    time::Duration,
};

use crate::forks;

/// Seeds of a plain run: each takes about 0.15 s of a processor.
const SEEDS: u64 = 1000;
/// Names the seed of [`crate::one_seed`].
const SEED: &str = "TOWLINE_SIM_SEED";
/// Says how many seeds, or which.
const RANGE: &str = "TOWLINE_SIM_SEEDS";
/// How many processes share the seeds out, and which of them this one is.
const SHARE: &str = "TOWLINE_SIM_SHARE";
/// Failures that are shown; more would only say it again.
const SHOWN_MAX: usize = 5;
/// What a seed may take; most take a fraction of a second.
const REAL_TIME_MAX: Duration = Duration::from_secs(100);
/// Stands before a run's fingerprint.
pub(crate) const FINGERPRINT: &str = "fingerprint ";
/// Stands before a seed that failed.
const FAILED: &str = "failed ";

/// The seed that this process is to run.
pub(crate) fn seed() -> Option<u64> {
    std::env::var(SEED).ok()?.parse().ok()
}

/// Ends this process if it takes too long.
pub(crate) fn watch() {
    thread::spawn(|| {
        thread::sleep(REAL_TIME_MAX);
        eprintln!("not over after {REAL_TIME_MAX:?} of the machine's time");
        std::process::exit(3);
    });
}

/// A folder whose files need no disk, where there is one.
pub(crate) fn scratch() -> std::path::PathBuf {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() }
}

pub(crate) fn run_all() {
    let shares = thread::available_parallelism().map_or(1, usize::from);
    let failed = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for share in 0..shares {
            let failed = &failed;
            scope.spawn(move || start_share(share, shares, |seed| failed.lock().unwrap().push(seed)));
        }
    });
    let mut failed = failed.into_inner().unwrap();
    failed.sort_unstable();
    assert!(failed.is_empty(), "{}", report(&failed, &range()));
}

/// Runs every so many seeds in a process.
fn start_share(share: usize, shares: usize, on_failure: impl Fn(u64)) {
    let mut process = this_test("one_share");
    process.env(SHARE, format!("{share}/{shares}")).stdout(Stdio::piped());
    let mut process = process.spawn().unwrap();
    let said = BufReader::new(process.stdout.take().unwrap());
    for line in said.lines().map_while(Result::ok) {
        if let Some((_, seed)) = line.split_once(FAILED) {
            // At once, for who watches a long run.
            eprintln!("seed {seed} failed");
            on_failure(seed.parse().unwrap());
        }
    }
    assert!(process.wait().unwrap().success(), "the process of share {share} of {shares} broke");
}

/// What [`start_share`] started.
pub(crate) fn run_share(run: impl Fn(u64)) {
    let Ok(share) = std::env::var(SHARE) else { return };
    let (share, shares) = share.split_once('/').unwrap();
    let seeds = range().skip(share.parse().unwrap()).step_by(shares.parse().unwrap());
    forks::run_each(seeds, run, |seed| println!("{FAILED}{seed}"));
}

/// Runs each of `seeds` twice.
pub(crate) fn check_repeats(seeds: Range<u64>) {
    for seed in seeds {
        let fingerprint = || {
            let said = said(&run_one(seed));
            said.lines().find_map(|line| line.split_once(FINGERPRINT)).map(|(_, print)| print.to_owned())
        };
        let (first, second) = (fingerprint(), fingerprint());
        assert!(first.is_some(), "seed {seed} left no fingerprint");
        assert_eq!(first, second, "seed {seed}");
    }
}

fn run_one(seed: u64) -> Output {
    this_test("one_seed").env(SEED, seed.to_string()).output().unwrap()
}

fn this_test(name: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", name, "--nocapture", "--test-threads=1"]).stdin(Stdio::null());
    command
}

fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

fn report(failed: &[u64], range: &Range<u64>) -> String {
    let mut text = format!("{} of {} seeds failed", failed.len(), range.end - range.start);
    for seed in failed.iter().take(SHOWN_MAX) {
        let said = said(&run_one(*seed));
        text += &format!(
            "\n\n{said}\nto run it again, with all that happens:\n  {SEED}={seed} TOWLINE_SIM_TRACE=1 cargo test -p \
             towline-gateway --test sim one_seed -- --nocapture"
        );
    }
    text + &format!("\n\nall that failed: {failed:?}")
}

fn range() -> Range<u64> {
    let Ok(text) = std::env::var(RANGE) else { return 0..SEEDS };
    let number = |text: &str| text.parse().expect("a number of seeds, or two with .. between");
    match text.split_once("..") {
        Some((first, end)) => number(first)..number(end),
        None => 0..number(&text),
    }
}
