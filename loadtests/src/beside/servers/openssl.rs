//! OpenSSL 4's `s_server`, for what other servers do not speak. It serves one connection at a time.

use std::process::Command;

use super::{Files, Ground, Server, free_address};
use crate::beside::ground::foreign_openssl;

/// TLS 1.3 by RFC 8998 alone.
pub(in crate::beside) fn openssl_shangmi(ground: &Ground, files: &Files) -> Result<Server, String> {
    let address = free_address()?;
    let mut command = Command::new(foreign_openssl("openssl")?);
    command.args(["s_server", "-quiet", "-www", "-accept", &address.to_string()]);
    command.args(["-tls1_3", "-ciphersuites", "TLS_SM4_GCM_SM3", "-groups", "curveSM2"]);
    command.arg("-cert").arg(&files.chain).arg("-key").arg(&files.key);
    Server::start(ground, "openssl", command, ground.cores.server, address)
}
