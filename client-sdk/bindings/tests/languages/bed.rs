//! A gateway on loopback with the demo backend, and programs to run against it.

use std::{
    env,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use tempfile::TempDir;
use tokio::runtime::Runtime;
use towline_gateway::{
    demo::{self, Demo},
    gateway::Gateway,
    run::{self, Serving},
    settings::{Backend, BackendKind, CertificateFiles, Listener, Route, Settings, TlsMode},
};

pub(crate) struct Bed {
    pub(crate) folder: TempDir,
    pub(crate) ca: PathBuf,
    serving: Serving,
    _demo: Demo,
    _runtime: Runtime,
}

impl Bed {
    pub(crate) fn start() -> Self {
        let runtime = Runtime::new().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let certificates = towline_gateway::cli::development_certificates(folder.path()).unwrap();
        let (serving, demo) = runtime.block_on(async {
            let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
            let demo = demo::start(loopback).await.unwrap();
            let address = demo.address.to_string();
            let edge = Listener {
                quic: true,
                tls: TlsMode::Required,
                certificates: vec![CertificateFiles::pem(&certificates.chain, &certificates.key)],
                ..Listener::plain("edge", loopback)
            };
            let settings = Settings {
                listeners: vec![edge, Listener::plain("plain", loopback)],
                backends: vec![
                    Backend::new("grpc", BackendKind::Grpc, address.clone()),
                    Backend::new("http", BackendKind::Http1, address),
                ],
                routes: vec![
                    Route { path: Some("/towline.demo.v1.*".into()), ..Route::new("grpc", "grpc") },
                    Route { path: Some("/*".into()), ..Route::new("http", "http") },
                ],
                ..Settings::side_by_side()
            };
            (run::serve(Gateway::build(settings).unwrap()).await.unwrap(), demo)
        });
        Self { folder, ca: certificates.ca, serving, _demo: demo, _runtime: runtime }
    }

    /// Where a listener is, as an option says it.
    pub(crate) fn endpoint(&self, listener: &str) -> String {
        self.serving.address(listener).unwrap().to_string()
    }
}

/// This package's folder.
pub(crate) fn package() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The folder of `libtowline_ffi.so`, which cargo has built beside this test.
pub(crate) fn library_folder() -> PathBuf {
    let test = env::current_exe().unwrap();
    let deps = test.parent().unwrap();
    assert!(library_in(deps).is_file(), "{} is not there", library_in(deps).display());
    deps.to_owned()
}

/// The library's file in that folder.
pub(crate) fn library_in(folder: &Path) -> PathBuf {
    folder.join(format!("{}towline_ffi{}", env::consts::DLL_PREFIX, env::consts::DLL_SUFFIX))
}

/// Whether a tool answers `--version`; the test says that it is skipped if not.
pub(crate) fn has(tool: &str) -> bool {
    let found = Command::new(tool).arg("--version").output().is_ok_and(|output| output.status.success());
    if !found {
        eprintln!("skipped: there is no {tool} on this machine");
    }
    found
}

/// Runs a program to its end, and shows what it said if it failed.
pub(crate) fn run(command: &mut Command) -> String {
    let Output { status, stdout, stderr } =
        command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (said, complained) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{command:?}: {status}\n{said}\n{complained}");
    said.into_owned()
}
