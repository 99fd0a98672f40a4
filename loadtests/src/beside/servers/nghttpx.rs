//! nghttpx, with one worker.

use std::process::Command;

use super::{Answer, Files, Ground, IDLE_TIMEOUT_S, Server, free_address};
use crate::beside::ground::program;

/// HTTPS with HTTP/1.1 and HTTP/2.
pub(in crate::beside) fn nghttpx(ground: &Ground, files: &Files, answer: Answer) -> Result<Server, String> {
    let program = program("nghttpx")?;
    let (backend, protocol) = match answer {
        Answer::Empty => return Err("nghttpx has no answers of its own".into()),
        Answer::Backend(backend) => (backend, "http/1.1"),
        Answer::Http2Backend(backend) => (backend, "h2"),
    };
    let address = free_address()?;
    let mut command = Command::new(program);
    command.arg("--conf=/dev/null").arg("--workers=1").arg("--single-process");
    command.arg(format!("--frontend={},{}", address.ip(), address.port()));
    command.arg(format!("--backend={},{};;proto={protocol}", backend.ip(), backend.port()));
    command.arg(format!("--frontend-http2-read-timeout={IDLE_TIMEOUT_S}"));
    command.arg("--errorlog-file=/dev/stderr").arg("--log-level=ERROR").arg("--no-ocsp");
    command.arg(&files.key).arg(&files.chain);
    Server::start(ground, "nghttpx", command, ground.cores.server, address)
}
