//! What makes a run the same each time: this process takes its time from the simulation and its chance from the
//! seed, in the standard library and in every crate that asks the C library for them. So the order of maps, the
//! ids of sessions and the branches that tokio's `select!` tries first follow from the seed too, and code under
//! test may ask `Instant::now()` as it likes.

#![allow(unsafe_code, reason = "symbols of the C library are replaced, in this test's own process only")]

use std::{
    ffi::{c_int, c_uint, c_void},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

static SIMULATED: AtomicBool = AtomicBool::new(false);
/// Since the clock's zero.
static NOW_NS: AtomicU64 = AtomicU64::new(0);
static CHANCE: AtomicU64 = AtomicU64::new(0);

/// 2026-01-01, so that dates before the start exist.
pub(crate) const START: Duration = Duration::from_secs(1_767_225_600);

/// Runs `simulation` on a thread of its own, with a runtime whose time jumps to the next thing that is due.
/// Once in a process.
pub(crate) fn run<F>(seed: u64, simulation: impl FnOnce() -> F + Send + 'static)
where
    F: Future<Output = ()>,
{
    NOW_NS.store(nanos(START), Ordering::SeqCst);
    CHANCE.store(seed, Ordering::SeqCst);
    SIMULATED.store(true, Ordering::SeqCst);
    // The maps of a new thread have keys of its own.
    let running = std::thread::Builder::new().stack_size(16 << 20).spawn(move || {
        fastrand::seed(seed);
        let base = std::time::Instant::now();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .on_thread_unpark(move || follow(base))
            .build()
            .unwrap();
        runtime.block_on(simulation());
        // What still runs is of no interest.
        runtime.shutdown_background();
    });
    if let Err(panic) = running.unwrap().join() {
        std::panic::resume_unwind(panic);
    }
}

/// Tokio has moved its time: the process's clock goes with it.
fn follow(base: std::time::Instant) {
    let elapsed = tokio::time::Instant::now().into_std().saturating_duration_since(base);
    NOW_NS.store(nanos(START + elapsed), Ordering::SeqCst);
}

/// Since the simulation began.
pub(crate) fn elapsed() -> Duration {
    Duration::from_nanos(NOW_NS.load(Ordering::SeqCst)).saturating_sub(START)
}

/// Since 1970.
pub(crate) fn wall() -> Duration {
    START + elapsed()
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// SplitMix64.
fn next_word() -> u64 {
    let mut word = CHANCE.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::SeqCst);
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// All clocks are one.
#[unsafe(no_mangle)]
unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, time: *mut libc::timespec) -> c_int {
    if !SIMULATED.load(Ordering::SeqCst) {
        // SAFETY: the caller's own arguments, as the kernel takes them.
        return unsafe { libc::syscall(libc::SYS_clock_gettime, clock, time) } as c_int;
    }
    let now = Duration::from_nanos(NOW_NS.load(Ordering::SeqCst));
    let value = libc::timespec { tv_sec: now.as_secs() as libc::time_t, tv_nsec: now.subsec_nanos().into() };
    // SAFETY: the caller points to a timespec to be written.
    unsafe { time.write(value) };
    0
}

#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(buffer: *mut c_void, length: usize, flags: c_uint) -> isize {
    if !SIMULATED.load(Ordering::SeqCst) {
        // SAFETY: the caller's own arguments, as the kernel takes them.
        return unsafe { libc::syscall(libc::SYS_getrandom, buffer, length, flags) } as isize;
    }
    // SAFETY: the caller points to so many bytes to be written.
    let bytes = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), length) };
    for chunk in bytes.chunks_mut(8) {
        chunk.copy_from_slice(&next_word().to_le_bytes()[..chunk.len()]);
    }
    length as isize
}

/// Copies of this process keep the root of aws-lc's generators, which would be wiped in them otherwise and gathered
/// anew from jitter, and that takes a sixth of a simulation. They do not draw alike: the generator of a thread mixes
/// in what the processor gives.
#[unsafe(no_mangle)]
unsafe extern "C" fn madvise(start: *mut c_void, length: usize, advice: c_int) -> c_int {
    if advice == libc::MADV_WIPEONFORK {
        return 0;
    }
    // SAFETY: the caller's own arguments, as the kernel takes them.
    unsafe { libc::syscall(libc::SYS_madvise, start, length, advice) as c_int }
}
