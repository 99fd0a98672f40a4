//! The machine's limits, and how connections are spread so as not to meet them.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};

/// Connections of one worker unless told otherwise: one thread serves so many idle ones with ease.
const CONNECTIONS_PER_WORKER: usize = 5000;
/// Worker processes at the most: more only compete with the server for the cores.
pub const PROCESSES_MAX: usize = 64;
/// Files that a worker needs beside its connections: standard streams, epoll, eventfd, room to spare.
const FILES_RESERVED: u64 = 64;
/// Ports left to everybody else when sources are counted out.
const PORTS_RESERVED: usize = 4000;

/// What the machine allows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Open files per process.
    pub open_files: u64,
    /// Ephemeral ports per source address and target.
    pub ports: usize,
}

/// The part of a run that one worker process has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Share {
    /// Its first connection, counted over all workers.
    pub first: usize,
    /// How many connections.
    pub count: usize,
    /// Source addresses, used in turn; empty leaves the choice to the kernel.
    pub sources: Vec<IpAddr>,
}

impl Limits {
    /// Raises the soft limit on open files to the hard one, and reads what holds then.
    pub fn of_this_machine() -> Self {
        let limit = getrlimit(Resource::Nofile);
        // A failure leaves the soft limit, which the next line reads.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
        let open_files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
        Self { open_files, ports: port_count(&range).unwrap_or(28_232) }
    }

    /// Connections that fit in one process, `files_each` descriptors for each of them.
    fn connections_per_process(&self, files_each: usize) -> usize {
        let free = self.open_files.saturating_sub(FILES_RESERVED) / files_each.max(1) as u64;
        usize::try_from(free).unwrap_or(usize::MAX).max(1)
    }

    /// Divides `connections` among worker processes: `processes` of them, or as many as it takes.
    ///
    /// `files_each` is how many files one connection holds in its worker.
    pub fn spread(
        &self,
        connections: usize,
        processes: Option<usize>,
        files_each: usize,
        target: SocketAddr,
    ) -> Result<Vec<Share>, String> {
        let fit = self.connections_per_process(files_each);
        let default = connections.div_ceil(fit.min(CONNECTIONS_PER_WORKER)).max(1);
        let workers = processes.unwrap_or(default).min(connections.max(1));
        if workers > PROCESSES_MAX {
            return Err(format!(
                "{connections} connections need {workers} processes, and {PROCESSES_MAX} is the most: lower -c, \
                 or raise the limit on open files ({}; ulimit -n)",
                self.open_files
            ));
        }
        if connections.div_ceil(workers) > fit {
            return Err(format!(
                "the machine's limit of {} open files per process is met: {workers} processes hold {} connections, \
                 not {connections}; use --processes {default} or raise ulimit -n",
                self.open_files,
                fit * workers
            ));
        }
        let sources = self.sources(connections, target)?;
        Ok(shares(connections, workers)
            .map(|(first, count)| Share { first, count, sources: sources.clone() })
            .collect())
    }

    /// Loopback source addresses 127.0.0.1, .2, ... when one address has too few ports.
    fn sources(&self, connections: usize, target: SocketAddr) -> Result<Vec<IpAddr>, String> {
        let usable = self.ports.saturating_sub(PORTS_RESERVED).max(1);
        let needed = connections.div_ceil(usable);
        match target.ip() {
            _ if needed <= 1 => Ok(Vec::new()),
            IpAddr::V4(ip) if ip.is_loopback() && needed <= 250 => {
                Ok((1..=needed as u8).map(|last| IpAddr::V4(Ipv4Addr::new(127, 0, 0, last))).collect())
            }
            ip => Err(format!(
                "the machine's {} ephemeral ports allow about {usable} connections to {ip}; lower -c, widen \
                 net.ipv4.ip_local_port_range, or target an IPv4 loopback address, where several source addresses \
                 are used",
                self.ports
            )),
        }
    }
}

/// `first, count` of each worker; the first ones have one more when it does not come out even.
pub fn shares(connections: usize, workers: usize) -> impl Iterator<Item = (usize, usize)> {
    let (each, rest) = (connections / workers, connections % workers);
    (0..workers).map(move |worker| (worker * each + worker.min(rest), each + usize::from(worker < rest)))
}

fn port_count(range: &str) -> Option<usize> {
    let mut ends = range.split_ascii_whitespace().map(str::parse::<usize>);
    let (low, high) = (ends.next()?.ok()?, ends.next()?.ok()?);
    (high + 1).checked_sub(low)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACHINE: Limits = Limits { open_files: 20_000, ports: 28_232 };

    fn spread(connections: usize, processes: Option<usize>) -> Result<Vec<Share>, String> {
        MACHINE.spread(connections, processes, 1, "127.0.0.1:7443".parse().unwrap())
    }

    #[test]
    fn shares_cover_every_connection_once() {
        assert_eq!(shares(10, 3).collect::<Vec<_>>(), [(0, 4), (4, 3), (7, 3)]);
        assert_eq!(shares(2, 2).collect::<Vec<_>>(), [(0, 1), (1, 1)]);
        assert_eq!(shares(1, 1).collect::<Vec<_>>(), [(0, 1)]);
    }

    #[test]
    fn few_connections_need_one_process_and_no_source_address() {
        assert_eq!(spread(100, None).unwrap(), [Share { first: 0, count: 100, sources: vec![] }]);
    }

    #[test]
    fn many_connections_are_spread_over_processes_and_sources() {
        let shares = spread(60_000, None).unwrap();
        assert_eq!(shares.len(), 12);
        assert_eq!(shares.iter().map(|share| share.count).sum::<usize>(), 60_000);
        assert_eq!(shares[0].sources.len(), 3);
    }

    #[test]
    fn too_few_processes_name_the_limit_and_the_remedy() {
        let error = spread(30_000, Some(1)).unwrap_err();
        assert!(error.contains("20000 open files") && error.contains("--processes 6"), "{error}");
    }

    #[test]
    fn a_target_without_spare_sources_names_the_ports() {
        let error = MACHINE.spread(50_000, None, 1, "[::1]:7443".parse().unwrap()).unwrap_err();
        assert!(error.contains("28232 ephemeral ports"), "{error}");
    }

    #[test]
    fn port_range() {
        assert_eq!(port_count("32768\t60999\n"), Some(28_232));
        assert_eq!(port_count("garbage"), None);
    }
}
