//! What all servers of a run share: a temporary folder, certificates, cores, and where programs are.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use super::{
    certificates::{Certificates, make},
    cores::Cores,
};
use crate::machine::Limits;

/// Where distributions put servers, beside PATH.
const SERVER_FOLDERS: [&str; 3] = ["/usr/sbin", "/usr/local/sbin", "/sbin"];

/// The ground that the servers of one run stand on; the folder goes with it.
pub(super) struct Ground {
    folder: TempDir,
    pub(super) certificates: Certificates,
    pub(super) cores: Cores,
    pub(super) limits: Limits,
    towline: PathBuf,
}

impl Ground {
    /// A fresh folder with fresh certificates; `towline` is the gateway's binary if it is not beside ours.
    pub(super) fn new(towline: Option<&Path>) -> Result<Self, String> {
        let folder = TempDir::with_prefix("towline-load-").map_err(|error| format!("no folder: {error}"))?;
        let certificates = make(folder.path())?;
        let own = std::env::current_exe().map_err(|error| format!("where is this program? {error}"))?;
        let towline = towline.map_or_else(|| own.with_file_name("towline"), Path::to_path_buf);
        let (cores, limits) = (Cores::of_this_machine(), Limits::of_this_machine());
        Ok(Self { folder, certificates, cores, limits, towline })
    }

    /// The folder of everything that servers read and write.
    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The gateway's binary.
    pub(super) fn towline(&self) -> Result<&Path, String> {
        let found = self.towline.exists().then_some(self.towline.as_path());
        found.ok_or_else(|| {
            let shown = self.towline.display();
            format!("{shown} is not there: cargo build --release -p towline-gateway, or --towline FILE")
        })
    }

    /// Writes a file of the folder.
    pub(super) fn write(&self, name: &str, text: &str) -> Result<PathBuf, String> {
        let path = self.folder().join(name);
        std::fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(path)
    }
}

/// A program of the system.
pub(super) fn program(name: &str) -> Result<PathBuf, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(SERVER_FOLDERS.map(PathBuf::from));
    let found = folders.map(|folder| folder.join(name)).find(|file| file.is_file());
    found.ok_or_else(|| format!("{name} is not installed"))
}

/// A program of the foreign TLS stacks that `.ci/peers` builds: `openssl` or `tongsuo`.
pub(super) fn foreign_openssl(peer: &str) -> Result<PathBuf, String> {
    let program =
        peers_folder().map(|folder| folder.join(peer).join("bin/openssl")).filter(|file| file.is_file());
    program.ok_or_else(|| format!("{peer} is not built: cargo run --manifest-path .ci/peers/Cargo.toml"))
}

/// Where programs lie that were built to be compared with.
pub(super) fn peers_folder() -> Option<PathBuf> {
    let cache = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/towline/peers"));
    std::env::var_os("TOWLINE_PEERS").map(PathBuf::from).or_else(cache)
}

/// An address on loopback that nobody uses at the moment.
pub(super) fn free_address() -> Result<SocketAddr, String> {
    let bound = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
    bound.map_err(|error| format!("no free port on loopback: {error}"))
}
