//! System calls of a server, counted by strace.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use super::ground::program;

pub(super) const SENDS: [&str; 5] = ["sendmsg", "sendmmsg", "sendto", "writev", "write"];
pub(super) const RECEIVES: [&str; 5] = ["recvmsg", "recvmmsg", "recvfrom", "readv", "read"];
/// strace attaches to every thread before it counts.
const ATTACH: Duration = Duration::from_millis(500);

/// A running `strace -c`.
pub(super) struct Strace(Child);

impl Strace {
    pub(super) fn attach(pid: u32, file: &Path) -> Result<Self, String> {
        let mut command = Command::new(program("strace")?);
        command.args(["-f", "-c", "-p", &pid.to_string(), "-o"]).arg(file);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().map_err(|error| format!("strace: {error}"))?;
        std::thread::sleep(ATTACH);
        Ok(Self(child))
    }

    /// An interrupt makes it write its table and leave the server alone.
    pub(super) fn detach(mut self) -> Result<(), String> {
        let pid = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw).ok_or("no process")?;
        kill_process(pid, Signal::INT).map_err(|error| format!("strace: {error}"))?;
        self.0.wait().map(drop).map_err(|error| format!("strace: {error}"))
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The count of one system call in a table of `strace -c`: `% time, seconds, usecs/call, calls, [errors,] name`.
pub(super) fn calls(table: &str, name: &str) -> Option<u64> {
    let mut lines = table.lines().map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    let line = lines.find(|line| line.last() == Some(&name))?;
    line.get(3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_of_strace() {
        let table = "% time     seconds  usecs/call     calls    errors syscall\n\
                     ------ ----------- ----------- --------- --------- ----------------\n\
                     \x20 60.00    0.012000          12      1000           sendmsg\n\
                     \x20 40.00    0.008000          10       800        12 recvmmsg\n\
                     100.00    0.020000          11      1800        12 total\n";
        assert_eq!(calls(table, "sendmsg"), Some(1000));
        assert_eq!(calls(table, "recvmmsg"), Some(800));
        assert_eq!(calls(table, "write"), None);
    }
}
