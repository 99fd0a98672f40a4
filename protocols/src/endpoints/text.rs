//! How a list is written.

use std::fmt::Write as _;

use super::{EndpointList, FIRST_LINE, ListSignature, ListedEndpoint};

impl EndpointList {
    /// What is signed: all lines but those of signatures.
    pub fn text(&self) -> String {
        let mut text = format!("{FIRST_LINE}\n");
        // Writing to a string cannot fail.
        let _ =
            writeln!(text, "serial {}\nissued {}\nexpires {}", self.serial, self.issued_s, self.expires_s);
        self.entries.iter().for_each(|entry| entry.write(&mut text));
        text
    }
}

impl ListedEndpoint {
    fn write(&self, text: &mut String) {
        let transports = match (self.quic, self.tcp) {
            (true, false) => "quic",
            (false, _) => "tcp",
            (true, true) => "quic,tcp",
        };
        let (address, priority, weight) = (self.address(), self.priority, self.weight);
        let _ = write!(text, "endpoint {address} {transports} {priority} {weight}");
        if let Some(name) = &self.name {
            let _ = write!(text, " name={name}");
        }
        if let Some(region) = &self.region {
            let _ = write!(text, " region={region}");
        }
        text.push('\n');
    }
}

impl ListSignature {
    /// Its line, which goes behind the text.
    pub fn line(&self) -> String {
        format!("signature {} {}\n", hex(&self.key), hex(&self.bytes))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}
