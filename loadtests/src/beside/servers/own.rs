//! Stand-ins that this program serves itself, in a process of their own ([`stand`](crate::beside::stand)).

use std::process::Command;

use super::{Files, Ground, Server, free_address};

/// Which stand-in.
#[derive(Clone, Copy, Debug)]
pub(in crate::beside) enum Own<'a> {
    /// An HTTP backend.
    Backend,
    /// A backend that gives one answer and costs next to nothing.
    Light,
    /// The same for gRPC.
    LightGrpc,
    /// quinn, and nothing on its connections.
    Quinn(&'a Files),
    /// tokio-rustls, and nothing on its connections.
    TokioRustls(&'a Files),
}

/// Starts a stand-in on `core`.
pub(in crate::beside) fn own(ground: &Ground, which: Own<'_>, core: Option<usize>) -> Result<Server, String> {
    let address = free_address()?;
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut command = Command::new(program);
    let (name, files) = match which {
        Own::Backend => ("backend", None),
        Own::Light => ("light", None),
        Own::LightGrpc => ("light-grpc", None),
        Own::Quinn(files) => ("quinn", Some(files)),
        Own::TokioRustls(files) => ("tokio-rustls", Some(files)),
    };
    command.arg("stand").arg("--bind").arg(address.to_string());
    if let Some(Files { chain, key, .. }) = files {
        command.arg("--chain").arg(chain).arg("--key").arg(key);
    }
    command.arg(name);
    Server::start(ground, name, command, core, address)
}
