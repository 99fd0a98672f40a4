//! The servers that are measured, each a process of its own.

mod haproxy;
mod mosquitto;
mod nghttpx;
mod nginx;
mod openssl;
mod own;
mod rumqttd;
mod towline;

use std::{
    fs::File,
    io::Read,
    net::{SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

pub(super) use self::{
    haproxy::haproxy,
    mosquitto::mosquitto,
    nghttpx::nghttpx,
    nginx::nginx,
    openssl::openssl_shangmi,
    own::{Own, own},
    rumqttd::rumqttd,
    towline::{Listener, Towline},
};
use super::{
    certificates::Files,
    cores,
    ground::{Ground, free_address},
};
use crate::procfs::{self, Sample};

/// Time that a server has to bind its sockets.
const START_TIMEOUT: Duration = Duration::from_secs(15);
const START_POLL: Duration = Duration::from_millis(20);
/// Idle connections must stay while others are opened and held.
const IDLE_TIMEOUT_S: u32 = 1200;

/// A running server; it is killed when this is dropped.
pub(super) struct Server {
    child: Child,
    pub(super) address: SocketAddr,
    /// Towline: its admin listener.
    pub(super) admin: Option<SocketAddr>,
}

/// What an HTTP server answers with.
#[derive(Clone, Copy, Debug)]
pub(super) enum Answer {
    /// By itself: an empty 200.
    Empty,
    /// With what the HTTP/1.1 backend at this address says.
    Backend(SocketAddr),
    /// With what the HTTP/2 backend at this address says, in plaintext.
    Http2Backend(SocketAddr),
}

impl Server {
    /// Starts `command` on `core` and waits until it accepts connections at `address`. What it says goes to
    /// a file of the folder, whose end explains a failure.
    fn start(
        ground: &Ground,
        name: &str,
        mut command: Command,
        core: Option<usize>,
        address: SocketAddr,
    ) -> Result<Self, String> {
        let log = ground.folder().join(format!("{name}-{}.log", address.port()));
        let failed = |error: std::io::Error| format!("cannot start {name}: {error}");
        let output = File::create(&log).map_err(failed)?;
        command.stdin(Stdio::null()).stdout(output.try_clone().map_err(failed)?).stderr(output);
        let child = cores::on(core, || command.spawn()).map_err(failed)?;
        let mut server = Self { child, address, admin: None };
        let deadline = Instant::now() + START_TIMEOUT;
        while TcpStream::connect(address).is_err() {
            let ended = server.child.try_wait().ok().flatten().is_some();
            if ended || Instant::now() > deadline {
                return Err(format!("{name} does not start: {}", last_line(&log)));
            }
            std::thread::sleep(START_POLL);
        }
        Ok(server)
    }

    /// The process.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended by itself.
    pub(super) fn has_exited(&mut self) -> bool {
        self.child.try_wait().ok().flatten().is_some()
    }

    /// CPU time so far.
    pub(super) fn cpu_ns(&self) -> Result<u64, String> {
        procfs::cpu_ns(self.pid())
    }

    /// Memory, files and CPU time.
    pub(super) fn sample(&self) -> Result<Sample, String> {
        Sample::of(self.pid())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The rest of a longer explanation would push the table apart.
const EXPLANATION_MAX: usize = 160;

fn last_line(log: &std::path::Path) -> String {
    let mut text = String::new();
    // A log that is not UTF-8 explains nothing.
    let _ = File::open(log).and_then(|mut file| file.read_to_string(&mut text));
    let line = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it says nothing");
    line.chars().take(EXPLANATION_MAX).collect()
}
