//! The far end: gateway, nginx for the peers, a backend behind both that counts what it runs, and a captive portal.

use std::{
    fs::File,
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde::Deserialize;
use tempfile::TempDir;

use super::{certificates::Certificates, certificates::make, wire::Wire};
use crate::lab::model::{EDGE, PEER, PORTAL};

/// Where the backend listens, on the edge's loopback.
const BACKEND: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 7000);
/// Time that a server has to bind its sockets.
const START_TIMEOUT: Duration = Duration::from_secs(30);
const START_POLL: Duration = Duration::from_millis(50);
/// Where distributions put servers, beside PATH.
const SERVER_FOLDERS: [&str; 3] = ["/usr/sbin", "/usr/local/sbin", "/sbin"];

const GATEWAY: &str = r#"data_dir = "@DIR@/gateway"
[[listeners]]
name = "edge"
bind = "@EDGE@:443"
quic = true
certificate = { chain = "@CHAIN@", key = "@KEY@" }
authentication = "none"
open_to_network = true
[[listeners]]
name = "peer"
bind = "@PEER@:8443"
quic = true
certificate = { chain = "@CHAIN@", key = "@KEY@" }
authentication = "none"
open_to_network = true
[admin]
bind = "127.0.0.1:7001"
[log]
filter = "error"
[[backends]]
name = "back"
kind = "http1"
address = "@BACKEND@"
connections_max = 1000
[[routes]]
name = "all"
backend = "back"
"#;

const NGINX: &str = r#"user root;
daemon off;
master_process off;
error_log stderr error;
pid @DIR@/nginx.pid;
events { worker_connections 1024; }
http {
    access_log off;
    client_body_temp_path @DIR@/nginx-body;
    proxy_temp_path @DIR@/nginx-proxy;
    fastcgi_temp_path @DIR@/nginx-fastcgi;
    uwsgi_temp_path @DIR@/nginx-uwsgi;
    scgi_temp_path @DIR@/nginx-scgi;
    keepalive_timeout 1200s;
    keepalive_requests 1000000;
    upstream backend { server @BACKEND@; keepalive 64; }
    server {
        listen @PEER@:443 ssl http2;
        ssl_certificate @CHAIN@;
        ssl_certificate_key @KEY@;
        ssl_protocols TLSv1.3;
        location / {
            proxy_pass http://backend;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            # A request that may have run is not run again.
            proxy_next_upstream off;
        }
    }
}
"#;

/// Programs that a run starts.
#[derive(Clone, Debug)]
pub(in crate::lab) struct Programs {
    own: PathBuf,
    towline: PathBuf,
    nginx: Option<PathBuf>,
    pub(in crate::lab) curl: Option<PathBuf>,
}

impl Programs {
    /// `towline` is the gateway's binary if it is not beside this program.
    pub(in crate::lab) fn find(towline: Option<&Path>) -> Result<Self, String> {
        let own = std::env::current_exe().map_err(|error| format!("where is this program? {error}"))?;
        let towline = towline.map_or_else(|| own.with_file_name("towline"), Path::to_path_buf);
        if !towline.is_file() {
            let shown = towline.display();
            return Err(format!("{shown} is not there: cargo build -p towline-gateway, or --towline FILE"));
        }
        Ok(Self { own, towline, nginx: installed("nginx"), curl: installed("curl") })
    }

    /// This program.
    pub(in crate::lab) fn own(&self) -> &Path {
        &self.own
    }

    /// What the peers' server is.
    pub(in crate::lab) fn peer(&self) -> &'static str {
        if self.nginx.is_some() { "nginx" } else { "towline (nginx is not installed)" }
    }

    /// Port and name of the peers' server.
    pub(in crate::lab) fn peer_port(&self) -> u16 {
        if self.nginx.is_some() { 443 } else { 8443 }
    }
}

/// Files that all links of a run share.
#[derive(Debug)]
pub(in crate::lab) struct Ground {
    folder: TempDir,
    pub(in crate::lab) certificates: Certificates,
    pub(in crate::lab) programs: Programs,
}

impl Ground {
    pub(in crate::lab) fn new(programs: Programs) -> Result<Self, String> {
        let folder = TempDir::with_prefix("towline-lab-").map_err(|error| format!("no folder: {error}"))?;
        let certificates = make(folder.path())?;
        Ok(Self { folder, certificates, programs })
    }

    /// A folder of this name within the run's.
    pub(in crate::lab) fn folder(&self, name: &str) -> Result<PathBuf, String> {
        let path = self.folder.path().join(name);
        std::fs::create_dir_all(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(path)
    }
}

/// Running servers; they are ended when this is dropped.
#[derive(Debug)]
pub(in crate::lab) struct Servers {
    children: Vec<Child>,
}

/// What the backend says that it has run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, serde::Serialize)]
pub(in crate::lab) struct Runs {
    /// Requests that ran.
    pub(in crate::lab) calls: u64,
    /// Requests that ran more than once.
    pub(in crate::lab) twice: Vec<String>,
}

impl Servers {
    /// Starts them at the edge of `wire`, with files in `folder`.
    pub(in crate::lab) fn start(
        ground: &Ground,
        wire: &Wire,
        folder: &Path,
        portal: bool,
    ) -> Result<Self, String> {
        // Where the kernel has BBR, servers of both sides use it.
        let _ = wire
            .edge
            .command(Path::new("sysctl"))
            .args(["-qw", "net.ipv4.tcp_congestion_control=bbr"])
            .output();
        let mut servers = Self { children: Vec::new() };
        let programs = &ground.programs;
        let mut backend = wire.edge.command(programs.own());
        backend.args(["backend", "--bind", &BACKEND.to_string()]);
        servers.begin(wire, folder, "backend", backend, BACKEND)?;
        let file = write(folder, "gateway.toml", &filled(GATEWAY, ground, folder))?;
        let mut gateway = wire.edge.command(&programs.towline);
        gateway.arg("serve").arg("--config").arg(file);
        servers.begin(wire, folder, "gateway", gateway, (EDGE, 443).into())?;
        if let Some(nginx) = &programs.nginx {
            let file = write(folder, "nginx.conf", &filled(NGINX, ground, folder))?;
            let mut command = wire.edge.command(nginx);
            command.arg("-p").arg(folder).arg("-c").arg(file).args(["-e", "stderr"]);
            servers.begin(wire, folder, "nginx", command, (PEER, 443).into())?;
        }
        if portal {
            let Certificates { portal_chain, portal_key, .. } = &ground.certificates;
            let mut command = wire.edge.command(programs.own());
            command.args(["portal", "--address", &PORTAL.to_string()]);
            command.arg("--chain").arg(portal_chain).arg("--key").arg(portal_key);
            servers.begin(wire, folder, "portal", command, (PORTAL, 443).into())?;
        }
        Ok(servers)
    }

    /// What the backend has run so far.
    pub(in crate::lab) fn runs(&self, wire: &Wire) -> Result<Runs, String> {
        let asked =
            wire.edge.inside(|| ask_runs().map_err(|error| format!("the backend's count: {error}")))?;
        asked.join().map_err(|_| "the thread that asks the backend ended".to_owned())?
    }

    fn begin(
        &mut self,
        wire: &Wire,
        folder: &Path,
        name: &str,
        mut command: Command,
        address: SocketAddr,
    ) -> Result<(), String> {
        let log = folder.join(format!("{name}.log"));
        let failed = |error: io::Error| format!("cannot start {name}: {error}");
        let output = File::create(&log).map_err(failed)?;
        command.stdin(Stdio::null()).stdout(output.try_clone().map_err(failed)?).stderr(output);
        self.children.push(command.spawn().map_err(failed)?);
        let waited = wire.edge.inside(move || Ok(listens(address)))?.join();
        if matches!(waited, Ok(Ok(true))) {
            return Ok(());
        }
        let said = std::fs::read_to_string(&log).unwrap_or_default();
        let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it says nothing");
        Err(format!("{name} does not listen at {address}: {last}"))
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn filled(text: &str, ground: &Ground, folder: &Path) -> String {
    let Certificates { chain, key, .. } = &ground.certificates;
    text.replace("@DIR@", &folder.to_string_lossy())
        .replace("@EDGE@", &EDGE.to_string())
        .replace("@PEER@", &PEER.to_string())
        .replace("@BACKEND@", &BACKEND.to_string())
        .replace("@CHAIN@", &chain.to_string_lossy())
        .replace("@KEY@", &key.to_string_lossy())
}

fn write(folder: &Path, name: &str, text: &str) -> Result<PathBuf, String> {
    let path = folder.join(name);
    std::fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(path)
}

fn listens(address: SocketAddr) -> bool {
    let deadline = Instant::now() + START_TIMEOUT;
    while Instant::now() < deadline {
        if TcpStream::connect(address).is_ok() {
            return true;
        }
        std::thread::sleep(START_POLL);
    }
    false
}

fn ask_runs() -> io::Result<Runs> {
    let mut stream = TcpStream::connect(BACKEND)?;
    stream.write_all(b"GET /runs HTTP/1.1\r\nhost: backend\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    serde_json::from_str(body).map_err(io::Error::other)
}

fn installed(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(SERVER_FOLDERS.map(PathBuf::from));
    folders.map(|folder| folder.join(name)).find(|file| file.is_file())
}
