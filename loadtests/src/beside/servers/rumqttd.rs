//! rumqttd.

use std::{path::PathBuf, process::Command};

use super::{Ground, Server, free_address};
use crate::beside::ground::{peers_folder, program};

/// MQTT 3.1.1 in plaintext.
pub(in crate::beside) fn rumqttd(ground: &Ground) -> Result<Server, String> {
    let address = free_address()?;
    let text = format!(
        "id = 0\n[router]\nid = 0\nmax_connections = 10010\nmax_outgoing_packet_count = 200\n\
         max_segment_size = 104857600\nmax_segment_count = 10\n[v4.1]\nname = \"v4-1\"\n\
         listen = \"{address}\"\nnext_connection_delay_ms = 1\n[v4.1.connections]\n\
         connection_timeout_ms = 60000\nmax_payload_size = 20480\nmax_inflight_count = 100\n\
         dynamic_filters = true\n"
    );
    let file = ground.write(&format!("rumqttd-{}.toml", address.port()), &text)?;
    let mut command = Command::new(installed()?);
    command.arg("--config").arg(file).arg("-q");
    Server::start(ground, "rumqttd", command, ground.cores.server, address)
}

/// In the PATH, or beside the peers of the interoperability tests.
fn installed() -> Result<PathBuf, String> {
    let own = peers_folder().map(|folder| folder.join("rumqttd/bin/rumqttd")).filter(|file| file.is_file());
    own.map_or_else(|| program("rumqttd"), Ok)
        .map_err(|why| format!("{why}: cargo install rumqttd --no-default-features"))
}
