//! HAProxy, with one thread.

use std::process::Command;

use super::{Answer, Files, Ground, IDLE_TIMEOUT_S, Server, free_address};
use crate::beside::ground::program;

/// Its own.
const FILES_RESERVED: u64 = 200;

const CONFIG: &str = r"
global
    no strict-limits
    maxconn @CONNECTIONS@
    nbthread 1
    ssl-default-bind-options ssl-min-ver TLSv1.3
    @EXTRA@
defaults
    mode http
    timeout connect 5s
    timeout client @IDLE@s
    timeout server @IDLE@s
    timeout http-request @IDLE@s
    timeout http-keep-alive @IDLE@s
frontend front
    bind @ADDRESS@ ssl crt @PEM@ alpn h2,http/1.1 backlog 4096 @BIND@
    @ANSWER@
";

/// HTTPS with HTTP/1.1 and HTTP/2; `extra` are lines of the global section, `bind`
/// options of the listener.
pub(in crate::beside) fn haproxy(
    ground: &Ground,
    files: &Files,
    answer: Answer,
    extra: &str,
    bind: &str,
) -> Result<Server, String> {
    let program = program("haproxy")?;
    let address = free_address()?;
    let answer = match answer {
        Answer::Empty => "http-request return status 200".to_owned(),
        Answer::Backend(backend) => back(&format!("{backend}")),
        Answer::Http2Backend(backend) => back(&format!("{backend} proto h2")),
    };
    // HAProxy wants two files for each, though only a busy one has a connection to the backend.
    let connections =
        (ground.limits.open_files.clamp(2 * FILES_RESERVED, 20_000) - FILES_RESERVED).to_string();
    let text = CONFIG
        .replace("@CONNECTIONS@", &connections)
        .replace("@EXTRA@", extra)
        .replace("@BIND@", bind)
        .replace("@IDLE@", &IDLE_TIMEOUT_S.to_string())
        .replace("@ADDRESS@", &address.to_string())
        .replace("@PEM@", &files.both.to_string_lossy())
        .replace("@ANSWER@", &answer);
    let file = ground.write(&format!("haproxy-{}.cfg", address.port()), &text)?;
    let mut command = Command::new(program);
    command.arg("-db").arg("-f").arg(file);
    Server::start(ground, "haproxy", command, ground.cores.server, address)
}

fn back(server: &str) -> String {
    format!("default_backend back\nbackend back\n    http-reuse always\n    server one {server}\n")
}
