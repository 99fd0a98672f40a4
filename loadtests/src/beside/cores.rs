//! One core for the server under test, another for everything that loads it.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Which core is whose; `None` where the machine has only one to give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cores {
    pub(super) server: Option<usize>,
    pub(super) load: Option<usize>,
}

impl Cores {
    /// The first and the second core that this process may use.
    pub(super) fn of_this_machine() -> Self {
        let Ok(allowed) = sched_getaffinity(None) else { return Self { server: None, load: None } };
        let mut usable = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core));
        match (usable.next(), usable.next()) {
            (Some(server), Some(load)) => Self { server: Some(server), load: Some(load) },
            _ => Self { server: None, load: None },
        }
    }
}

/// Runs `work` with this thread on `core`; threads and processes that `work` starts stay there.
pub(super) fn on<T>(core: Option<usize>, work: impl FnOnce() -> T) -> T {
    let before = sched_getaffinity(None);
    if let Some(core) = core {
        let mut only = CpuSet::new();
        only.set(core);
        // Where the kernel refuses, the run is noisier, not wrong.
        let _ = sched_setaffinity(None, &only);
    }
    let result = work();
    if let Ok(before) = before {
        let _ = sched_setaffinity(None, &before);
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_started_on_a_core_stay_there_and_the_caller_does_not() {
        let allowed = |set: &CpuSet| (0..CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).count();
        let before = sched_getaffinity(None).unwrap();
        let Cores { load, .. } = Cores::of_this_machine();
        let inside = on(load, || std::thread::spawn(|| sched_getaffinity(None).unwrap()).join().unwrap());
        if load.is_some() {
            assert_eq!(allowed(&inside), 1);
        }
        assert_eq!(allowed(&sched_getaffinity(None).unwrap()), allowed(&before));
    }
}
