//! The gateway, with the listeners that a case needs.

use std::{net::SocketAddr, process::Command};

use super::{Files, Ground, IDLE_TIMEOUT_S, Server, free_address};

/// A gateway's configuration as it grows.
#[derive(Debug, Default)]
pub(in crate::beside) struct Towline {
    /// Keys outside of all tables, which TOML wants first.
    root: String,
    text: String,
    first: Option<SocketAddr>,
}

/// One listener.
#[derive(Clone, Copy, Debug)]
pub(in crate::beside) struct Listener<'a> {
    pub(in crate::beside) name: &'a str,
    /// `None` speaks plaintext.
    pub(in crate::beside) files: Option<&'a Files>,
    /// QUIC beside TCP.
    pub(in crate::beside) quic: bool,
    /// More keys of the listener's table, a line each.
    pub(in crate::beside) extra: &'a str,
}

impl Towline {
    /// Adds a listener for every protocol and returns its address.
    pub(in crate::beside) fn listen(&mut self, listener: Listener<'_>) -> Result<SocketAddr, String> {
        let address = free_address()?;
        let Listener { name, files, quic, extra } = listener;
        let tls = files.map_or("tls = \"off\"".to_owned(), |Files { chain, key, .. }| {
            format!("certificate = {{ chain = {chain:?}, key = {key:?} }}")
        });
        self.text += &format!(
            "[[listeners]]\nname = \"{name}\"\nbind = \"{address}\"\nquic = {quic}\n\
             authentication = \"none\"\n{tls}\n{extra}\n"
        );
        self.first.get_or_insert(address);
        Ok(address)
    }

    /// Sets keys that stand outside of all tables.
    pub(in crate::beside) fn set(&mut self, lines: &str) {
        self.root += lines;
        self.root.push('\n');
    }

    /// Adds a table.
    pub(in crate::beside) fn append(&mut self, lines: &str) {
        self.text += lines;
    }

    /// Sends every request to a backend of this kind, which has room for a thousand of them.
    pub(in crate::beside) fn forward_to(&mut self, kind: &str, backend: SocketAddr) {
        self.text += &format!(
            "[[backends]]\nname = \"light\"\nkind = \"{kind}\"\naddress = \"{backend}\"\n\
             connections_max = 1000\n[[routes]]\nname = \"all\"\nbackend = \"light\"\n"
        );
    }

    /// Sends every request to an HTTP/1.1 backend that has room for a thousand of them; none may be repeated.
    pub(in crate::beside) fn forward_once(&mut self, backend: SocketAddr) {
        self.text += &format!(
            "[[backends]]\nname = \"once\"\nkind = \"http1\"\naddress = \"{backend}\"\nconnections_max = 1000\n\
             [[routes]]\nname = \"all\"\nbackend = \"once\"\n"
        );
    }

    /// Sends every request to an HTTP/1.1 backend; all of them may be repeated, so early data may hold them.
    pub(in crate::beside) fn forward(&mut self, backend: SocketAddr) {
        self.text += &format!(
            "[[backends]]\nname = \"echo\"\nkind = \"http1\"\naddress = \"{backend}\"\n\
             [[routes]]\nname = \"all\"\nbackend = \"echo\"\nidempotent = true\n"
        );
    }

    /// Starts the gateway, which leaves answers as they are, as its peers do. Its address is that of the first
    /// listener.
    pub(in crate::beside) fn start(&self, ground: &Ground) -> Result<Server, String> {
        let first = self.first.ok_or("a gateway without listeners")?;
        let admin = free_address()?;
        let name = format!("towline-{}", first.port());
        let data = ground.folder().join(&name);
        let text = format!(
            "data_dir = {data:?}\n{}{}\n[admin]\nbind = \"{admin}\"\n[log]\nfilter = \"error\"\n\
             [compression]\nenabled = false\n[limits]\nidle_timeout = \"{IDLE_TIMEOUT_S}s\"\n\
             # Connections without a request are what is measured.\nfirst_message_timeout = \"2m\"\n",
            self.root, self.text
        );
        let file = ground.write(&format!("{name}.toml"), &text)?;
        let mut command = Command::new(ground.towline()?);
        command.arg("serve").arg("--config").arg(file);
        let mut server = Server::start(ground, "towline", command, ground.cores.server, first)?;
        server.admin = Some(admin);
        Ok(server)
    }
}
