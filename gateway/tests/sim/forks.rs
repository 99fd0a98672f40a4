//! A process for each seed, made by copying one that is ready: a fresh process would spend a third of a short
//! simulation on its start, most of it on gathering entropy for aws-lc.

#![allow(unsafe_code, reason = "processes are copied, and their ends waited for")]

use std::{
    fs, io,
    os::fd::AsRawFd as _,
    panic::{AssertUnwindSafe, catch_unwind},
};

/// This one, and the test harness's own, which waits for it.
const THREADS_MAX: usize = 2;

/// Runs each of `seeds` in a copy of this process, of which nothing is heard; hands those on that fail.
pub(crate) fn run_each(seeds: impl Iterator<Item = u64>, run: impl Fn(u64), mut on_failure: impl FnMut(u64)) {
    let threads = fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
    assert!(threads <= THREADS_MAX, "a copy has one thread: this process must have no others at work");
    aws_lc_rs::rand::fill(&mut [0]).unwrap();
    for seed in seeds {
        // SAFETY: the harness's thread holds no lock that the copy would find held for ever.
        let child = unsafe { libc::fork() };
        match child {
            0 => {
                silence();
                let outcome = catch_unwind(AssertUnwindSafe(|| run(seed)));
                // SAFETY: ends the copy without what the original has set up for its own end.
                unsafe { libc::_exit(i32::from(outcome.is_err())) }
            }
            child if child > 0 => {
                if !ends_well(child) {
                    on_failure(seed);
                }
            }
            _ => panic!("fork: {}", io::Error::last_os_error()),
        }
    }
}

fn silence() {
    let nothing = fs::OpenOptions::new().write(true).open("/dev/null").unwrap();
    for stream in [libc::STDOUT_FILENO, libc::STDERR_FILENO] {
        // SAFETY: both are descriptors of this process.
        assert!(unsafe { libc::dup2(nothing.as_raw_fd(), stream) } >= 0);
    }
}

fn ends_well(child: libc::pid_t) -> bool {
    let mut status = 0;
    // SAFETY: `child` is this process's, and was not waited for.
    let ended = unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!(ended, child, "waitpid: {}", io::Error::last_os_error());
    libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0
}
