//! What Linux tells of a process under /proc: memory, files, CPU time.

use std::{fs, io};

use serde::{Deserialize, Serialize};

/// One look at a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Anonymous resident memory (heap and stacks), KiB: `RssAnon` of `status`.
    pub anonymous_kib: u64,
    /// All resident memory, KiB: `VmRSS`.
    pub resident_kib: u64,
    /// Proportional set size of anonymous memory, KiB: `Pss_Anon` of `smaps_rollup`.
    pub pss_anonymous_kib: u64,
    /// Open file descriptors.
    pub files: u64,
    /// Of them sockets.
    pub sockets: u64,
    /// CPU time used so far, user and system, in nanoseconds (to the clock tick).
    pub cpu_ns: u64,
}

impl Sample {
    /// Looks at process `pid`.
    pub fn of(pid: u32) -> Result<Self, String> {
        let read = |name: &str| {
            let path = format!("/proc/{pid}/{name}");
            fs::read_to_string(&path).map_err(|error| explain(pid, &path, &error))
        };
        let status = read("status")?;
        let (files, sockets) = descriptors(pid).map_err(|error| explain(pid, "its fd folder", &error))?;
        Ok(Self {
            anonymous_kib: kib(&status, "RssAnon").unwrap_or(0),
            resident_kib: kib(&status, "VmRSS").unwrap_or(0),
            pss_anonymous_kib: read("smaps_rollup").ok().and_then(|text| kib(&text, "Pss_Anon")).unwrap_or(0),
            files,
            sockets,
            cpu_ns: cpu_ns(pid)?,
        })
    }
}

/// CPU time of process `pid` so far, user and system.
pub fn cpu_ns(pid: u32) -> Result<u64, String> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).map_err(|error| explain(pid, &path, &error))?;
    let ticks = cpu_ticks(&text).ok_or_else(|| format!("{path} has an unexpected form"))?;
    Ok(ticks * (crate::clock::SECOND / rustix::param::clock_ticks_per_second().max(1)))
}

/// The soft limit on open files of process `pid`; `None` if it cannot be read or is unlimited.
pub fn open_files_max(pid: u32) -> Option<u64> {
    open_files_limit(&fs::read_to_string(format!("/proc/{pid}/limits")).ok()?)
}

fn explain(pid: u32, what: &str, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => format!("process {pid} is not running (--pid)"),
        io::ErrorKind::PermissionDenied => {
            format!("process {pid} belongs to another user: {what} cannot be read; run as that user or root")
        }
        _ => format!("{what}: {error}"),
    }
}

fn descriptors(pid: u32) -> io::Result<(u64, u64)> {
    let (mut files, mut sockets) = (0, 0);
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        files += 1;
        // A descriptor may be closed between the listing and the look.
        let Ok(target) = fs::read_link(entry?.path()) else { continue };
        sockets += u64::from(target.to_string_lossy().starts_with("socket:"));
    }
    Ok((files, sockets))
}

/// The value of a `Name:   123 kB` line.
fn kib(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

/// utime + stime of proc_pid_stat(5), fields 14 and 15. Field 2 is the command in parentheses and may
/// itself hold spaces and parentheses, so counting begins after the last one.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace().skip(11);
    let (user, system): (u64, u64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some(user + system)
}

fn open_files_limit(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_lines() {
        let status = "Name:\ttowline\nVmRSS:\t  104120 kB\nRssAnon:\t   98304 kB\nRssFile:\t 5 kB\n";
        assert_eq!(kib(status, "RssAnon"), Some(98304));
        assert_eq!(kib(status, "VmRSS"), Some(104120));
        assert_eq!(kib(status, "Rss"), None, "a prefix of a name is not the name");
        assert_eq!(kib("RssAnon: many kB", "RssAnon"), None);
    }

    #[test]
    fn cpu_ticks_survive_a_command_with_parentheses() {
        let stat = "42 (a) b (c)) S 1 42 42 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 1 0 100 0 0";
        assert_eq!(cpu_ticks(stat), Some(300));
        assert_eq!(cpu_ticks("42 (cut) S 1"), None);
        assert_eq!(cpu_ticks(""), None);
    }

    #[test]
    fn open_files_line() {
        let text = "Limit                     Soft Limit           Hard Limit           Units\n\
                    Max open files            20000                20000                files\n";
        assert_eq!(open_files_limit(text), Some(20000));
        assert_eq!(open_files_limit("Max open files   unlimited   unlimited   files"), None);
    }

    #[test]
    fn this_process_has_memory_and_files() {
        let sample = Sample::of(std::process::id()).unwrap();
        assert!(sample.resident_kib > 0 && sample.files > 2, "{sample:?}");
    }

    #[test]
    fn a_process_that_is_gone_is_named() {
        // Linux caps process ids at 2^22.
        let error = Sample::of(u32::MAX / 2).unwrap_err();
        assert!(error.contains("is not running"), "{error}");
    }
}
