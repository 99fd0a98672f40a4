//! Network namespaces with names that say who made them, so that what a killed laboratory left can be found.

use std::{
    fs::{self, File},
    io,
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::{self, Command},
    thread,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// `tlab-PID-NUMBER-ROLE`.
const PREFIX: &str = "tlab-";
/// Where iproute2 keeps names of namespaces.
const NAMED: &str = "/run/netns";
/// Where iproute2 keeps what a namespace sees in place of /etc.
const ETC: &str = "/etc/netns";

/// A namespace; its processes and itself go with the value.
#[derive(Debug)]
pub(in crate::lab) struct Namespace {
    name: String,
}

impl Namespace {
    /// A namespace of this process, with its loopback up.
    pub(in crate::lab) fn make(number: usize, role: &str) -> Result<Self, String> {
        let namespace = Self { name: format!("{PREFIX}{}-{number}-{role}", process::id()) };
        ip(&["netns", "add", &namespace.name])?;
        ip(&["-n", &namespace.name, "link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// Runs `ip` in it.
    pub(in crate::lab) fn ip(&self, arguments: &str) -> Result<(), String> {
        let arguments: Vec<&str> = ["-n", &self.name].into_iter().chain(arguments.split(' ')).collect();
        ip(&arguments)
    }

    /// What its processes ask for names.
    pub(in crate::lab) fn resolve_by(&self, resolver: std::net::Ipv4Addr) -> Result<(), String> {
        let folder = Path::new(ETC).join(&self.name);
        let file = folder.join("resolv.conf");
        fs::create_dir_all(&folder)
            .and_then(|()| fs::write(&file, format!("nameserver {resolver}\n")))
            .map_err(|error| format!("{}: {error}", file.display()))
    }

    /// A command whose process lives in it.
    pub(in crate::lab) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Runs `work` on a thread of its own, whose sockets and devices are the namespace's.
    pub(in crate::lab) fn inside<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, String> + Send + 'static,
    ) -> Result<thread::JoinHandle<Result<T, String>>, String> {
        let path = Path::new(NAMED).join(&self.name);
        let failed = move |error: io::Error| format!("{}: {error}", path.display());
        let handle = File::open(Path::new(NAMED).join(&self.name)).map_err(&failed)?;
        Ok(thread::spawn(move || {
            let entered = move_into_link_name_space(handle.as_fd(), Some(LinkNameSpaceType::Network));
            entered.map_err(|error| failed(error.into()))?;
            work()
        }))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

/// Says why a laboratory cannot be made here.
pub(in crate::lab) fn check() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("network namespaces and TUN devices need root: run this as root".to_owned());
    }
    if !Path::new("/dev/net/tun").exists() {
        return Err("/dev/net/tun is missing: load the kernel module `tun`".to_owned());
    }
    ip(&["-V"])
}

/// Removes the namespaces of laboratories that are not there any more, and returns their names.
pub(in crate::lab) fn remove_leftovers() -> Vec<String> {
    remove_where(|maker| !is_laboratory(maker))
}

/// Ends all processes in namespaces of this process: whoever waits for one goes on.
pub(in crate::lab) fn end_own() {
    named_where(|maker| maker == process::id()).iter().for_each(|name| end_processes(name));
}

/// Removes all namespaces of this process, whoever still uses them.
pub(in crate::lab) fn remove_own() {
    remove_where(|maker| maker == process::id());
}

fn remove_where(unwanted: impl Fn(u32) -> bool) -> Vec<String> {
    let names = named_where(unwanted);
    names.iter().for_each(|name| remove(name));
    names
}

fn named_where(is_wanted: impl Fn(u32) -> bool) -> Vec<String> {
    let named = |folder: &str| {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect::<Vec<_>>()
    };
    let mut names = [named(NAMED), named(ETC)].concat();
    names.sort();
    names.dedup();
    names.retain(|name| maker(name).is_some_and(&is_wanted));
    names
}

/// The process that made the namespace of this name.
fn maker(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.split('-').next()?.parse().ok()
}

/// Whether a process runs this program: ids of processes are used again.
fn is_laboratory(pid: u32) -> bool {
    let program = |pid: &str| fs::read_link(PathBuf::from("/proc").join(pid).join("exe"));
    let name = |path: io::Result<PathBuf>| path.ok().as_deref().and_then(program_name);
    let own = name(program("self"));
    own.is_some() && name(program(&pid.to_string())) == own
}

/// Of a program that was built again while it runs the kernel says that its file is deleted.
fn program_name(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    Some(name.strip_suffix(" (deleted)").unwrap_or(name).to_owned())
}

/// Ends the processes of a namespace and deletes it. What is gone already does no harm.
fn remove(name: &str) {
    end_processes(name);
    let _ = ip(&["netns", "delete", name]);
    let _ = fs::remove_dir_all(Path::new(ETC).join(name));
}

fn end_processes(name: &str) {
    let pids = Command::new("ip").args(["netns", "pids", name]).output();
    let pids = pids.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    for pid in pids.split_whitespace().filter_map(|pid| pid.parse().ok()).filter(|pid| *pid != own_pid()) {
        if let Some(pid) = rustix::process::Pid::from_raw(pid) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

/// A thread of this process may be inside.
fn own_pid() -> i32 {
    rustix::process::getpid().as_raw_nonzero().get()
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    let output = Command::new("ip").args(arguments).output();
    let output = output.map_err(|error| format!("iproute2 (`ip`) is needed: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("ip {}: {}", arguments.join(" "), said.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_who_made_them() {
        assert_eq!(maker("tlab-4711-3-phone"), Some(4711));
        for other in ["tlab-", "tlab-x-1-phone", "phone", "towline-phone-12"] {
            assert_eq!(maker(other), None, "{other}");
        }
        assert!(is_laboratory(process::id()));
        assert!(!is_laboratory(1), "this program is not init");
        let again = Path::new("/opt/towline-lab (deleted)");
        assert_eq!(program_name(again).as_deref(), Some("towline-lab"), "built again while it runs");
    }
}
