//! mosquitto.

use std::process::Command;

use super::{Files, Ground, Server, free_address};
use crate::beside::ground::program;

/// MQTT, in TLS if there is a certificate.
pub(in crate::beside) fn mosquitto(ground: &Ground, files: Option<&Files>) -> Result<Server, String> {
    let program = program("mosquitto")?;
    let address = free_address()?;
    let mut text = format!(
        "user root\npersistence false\nlog_dest stderr\nlog_type error\nallow_anonymous true\n\
         max_queued_messages 1000\nlistener {} {}\n",
        address.port(),
        address.ip()
    );
    if let Some(Files { chain, key, .. }) = files {
        let (chain, key) = (chain.display(), key.display());
        text += &format!("certfile {chain}\nkeyfile {key}\ntls_version tlsv1.3\n");
    }
    let file = ground.write(&format!("mosquitto-{}.conf", address.port()), &text)?;
    let mut command = Command::new(program);
    command.arg("-c").arg(file);
    Server::start(ground, "mosquitto", command, ground.cores.server, address)
}
