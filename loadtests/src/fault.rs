//! What can go wrong with one connection or one operation, in kinds that a report can count.

use std::{collections::BTreeMap, io};

use serde::{Deserialize, Serialize};

/// Why a connection or an operation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultKind {
    /// Nobody listens.
    Refused,
    /// The connection was not ready in time.
    ConnectTimeout,
    /// This process has no file descriptor left.
    OpenFiles,
    /// No local port is left towards the target.
    Ports,
    /// The TLS or QUIC handshake failed.
    Handshake,
    /// The peer broke the protocol, or refused us in it.
    Protocol,
    /// The peer closed or reset the connection.
    Closed,
    /// No answer in time.
    Timeout,
    /// The answer says failure: an HTTP or gRPC status, a RESET, a reason code.
    Status,
    /// An open loop fell so far behind that the operation was not sent.
    Backlog,
    /// Anything else.
    Other,
}

/// One failure.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Its kind.
    pub kind: FaultKind,
    /// What happened.
    pub detail: String,
}

impl Fault {
    /// A failure with its words.
    pub fn new(kind: FaultKind, detail: impl ToString) -> Self {
        Self { kind, detail: detail.to_string() }
    }

    /// A failure of the socket.
    pub fn io(error: &io::Error) -> Self {
        use rustix::io::Errno;
        let kind = match Errno::from_io_error(error) {
            Some(Errno::MFILE | Errno::NFILE) => FaultKind::OpenFiles,
            Some(Errno::ADDRNOTAVAIL | Errno::ADDRINUSE) => FaultKind::Ports,
            _ => match error.kind() {
                io::ErrorKind::ConnectionRefused => FaultKind::Refused,
                io::ErrorKind::TimedOut => FaultKind::ConnectTimeout,
                io::ErrorKind::ConnectionReset
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::BrokenPipe
                | io::ErrorKind::UnexpectedEof
                | io::ErrorKind::WriteZero => FaultKind::Closed,
                io::ErrorKind::InvalidData => FaultKind::Handshake,
                _ => FaultKind::Other,
            },
        };
        Self::new(kind, error)
    }
}

/// Failures by kind, with the words of the first of each.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Faults(BTreeMap<FaultKind, Counted>);

/// How often, and one example.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Counted {
    /// How often.
    pub count: u64,
    /// The first one's words.
    pub example: String,
}

impl Faults {
    /// Counts one.
    pub fn add(&mut self, fault: Fault) {
        let example = fault.detail;
        self.0.entry(fault.kind).or_insert(Counted { count: 0, example }).count += 1;
    }

    /// Adds another process's.
    pub fn merge(&mut self, other: Self) {
        for (kind, counted) in other.0 {
            let entry = self.0.entry(kind).or_insert(Counted { count: 0, example: counted.example });
            entry.count += counted.count;
        }
    }

    /// How many of all kinds.
    pub fn total(&self) -> u64 {
        self.0.values().map(|counted| counted.count).sum()
    }

    /// How many of one kind.
    pub fn count(&self, kind: FaultKind) -> u64 {
        self.0.get(&kind).map_or(0, |counted| counted.count)
    }

    /// Kind, count and example, most serious for the machine first.
    pub fn iter(&self) -> impl Iterator<Item = (FaultKind, &Counted)> {
        self.0.iter().map(|(kind, counted)| (*kind, counted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_of_the_machine_is_told_from_a_fault_of_the_peer() {
        let kind = |errno: i32| Fault::io(&io::Error::from_raw_os_error(errno)).kind;
        assert_eq!(kind(24), FaultKind::OpenFiles);
        assert_eq!(kind(99), FaultKind::Ports);
        assert_eq!(kind(111), FaultKind::Refused);
        assert_eq!(kind(104), FaultKind::Closed);
    }

    #[test]
    fn merged_faults_keep_the_first_example() {
        let mut left = Faults::default();
        left.add(Fault::new(FaultKind::Status, "503"));
        let mut right = Faults::default();
        right.add(Fault::new(FaultKind::Status, "500"));
        right.add(Fault::new(FaultKind::Timeout, "late"));
        left.merge(right);
        let seen: Vec<_> = left.iter().map(|(kind, c)| (kind, c.count, c.example.as_str())).collect();
        assert_eq!(seen, [(FaultKind::Timeout, 1, "late"), (FaultKind::Status, 2, "503")]);
        assert_eq!(left.total(), 3);
    }
}
