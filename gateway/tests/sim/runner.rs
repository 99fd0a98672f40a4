//! Runs seeds, each in a process of its own, as many at a time as there are processors.

use std::{
    ops::Range,
    path::Path,
    process::{Command, Output, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

/// Seeds of a plain run: each takes about 0.1 s of a processor.
const SEEDS: u64 = 1000;
/// Names the seed of [`crate::one_seed`].
const SEED: &str = "TOWLINE_SIM_SEED";
/// Says how many seeds, or which.
const RANGE: &str = "TOWLINE_SIM_SEEDS";
/// Failures that are shown; more would only say it again.
const SHOWN_MAX: usize = 5;
/// What a seed may take; most take a fraction of a second.
const REAL_TIME_MAX: Duration = Duration::from_secs(100);
/// Stands before a run's fingerprint.
pub(crate) const FINGERPRINT: &str = "fingerprint ";

/// The seed that this process is to run.
pub(crate) fn seed() -> Option<u64> {
    let seed = std::env::var(SEED).ok()?.parse().ok()?;
    thread::spawn(|| {
        thread::sleep(REAL_TIME_MAX);
        eprintln!("not over after {REAL_TIME_MAX:?} of the machine's time");
        std::process::exit(3);
    });
    Some(seed)
}

/// A folder whose files need no disk, where there is one.
pub(crate) fn scratch() -> std::path::PathBuf {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() }
}

pub(crate) fn run_all() {
    let range = range();
    let (next, failures) = (AtomicU64::new(range.start), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= range.end {
                        return;
                    }
                    let output = run_one(seed);
                    if !output.status.success() {
                        failures.lock().unwrap().push((seed, said(&output)));
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{}", report(&failures, &range));
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
    let program = std::env::current_exe().unwrap();
    let mut command = Command::new(program);
    command.args(["--exact", "one_seed", "--nocapture", "--test-threads=1"]);
    command.env(SEED, seed.to_string()).stdin(Stdio::null()).output().unwrap()
}

fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

fn report(failures: &[(u64, String)], range: &Range<u64>) -> String {
    let mut text = format!("{} of {} seeds failed", failures.len(), range.end - range.start);
    for (seed, said) in failures.iter().take(SHOWN_MAX) {
        text += &format!(
            "\n\n{said}\nto run it again, with all that happens:\n  {SEED}={seed} TOWLINE_SIM_TRACE=1 cargo test -p \
             towline-gateway --test sim one_seed -- --nocapture"
        );
    }
    let seeds: Vec<u64> = failures.iter().map(|(seed, _)| *seed).collect();
    text + &format!("\n\nall that failed: {seeds:?}")
}

fn range() -> Range<u64> {
    let Ok(text) = std::env::var(RANGE) else { return 0..SEEDS };
    let number = |text: &str| text.parse().expect("a number of seeds, or two with .. between");
    match text.split_once("..") {
        Some((first, end)) => number(first)..number(end),
        None => 0..number(&text),
    }
}
