//! What `openssl speed` says of ShangMi, OpenSSL's or Tongsuo's.

use std::{path::Path, process::Command};

use super::{Signatures, seconds};
use crate::beside::{cores, ground::foreign_openssl};

/// The peers that `.ci/peers` builds, with the names of their folders.
pub(super) const PEERS: [&str; 2] = ["openssl", "tongsuo"];

/// Bytes per second of CPU time of a cipher or hash, in pieces of `bytes`.
pub(super) fn bulk(peer: &str, algorithm: &str, bytes: usize, core: Option<usize>) -> Result<f64, String> {
    let bytes = bytes.to_string();
    let text = speed(&foreign_openssl(peer)?, &["-evp", algorithm, "-bytes", &bytes], core)?;
    bytes_per_second(&text).ok_or_else(|| format!("{peer} knows no {algorithm}"))
}

/// Signatures per second of CPU time.
pub(super) fn signatures(peer: &str, core: Option<usize>) -> Result<Signatures, String> {
    let program = foreign_openssl(peer)?;
    // OpenSSL 4 takes the name of the algorithm, Tongsuo that of the older list.
    let found =
        ["SM2", "sm2"].iter().find_map(|name| signs_per_second(&speed(&program, &[name], core).ok()?));
    found.ok_or_else(|| format!("{peer} knows no SM2"))
}

fn speed(program: &Path, what: &[&str], core: Option<usize>) -> Result<String, String> {
    let seconds = seconds().to_string();
    let mut command = Command::new(program);
    command.args(["speed", "-mr", "-seconds", &seconds]).args(what);
    let output = cores::on(core, || command.output()).map_err(|error| error.to_string())?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// `+F:22:SM4-GCM:132300800.00`.
fn bytes_per_second(text: &str) -> Option<f64> {
    let line = text.lines().find(|line| line.starts_with("+F:"))?;
    line.rsplit(':').next()?.parse().ok()
}

/// `+F4:16:256:2733.3:3533.3`, or with the curve's name before the two figures: signs and verifies.
fn signs_per_second(text: &str) -> Option<Signatures> {
    let line = text.lines().find(|line| line.starts_with("+F") && !line.starts_with("+F:"))?;
    let mut from_the_end = line.rsplit(':');
    let (verify, sign) = (from_the_end.next()?.parse().ok()?, from_the_end.next()?.parse().ok()?);
    Some(Signatures { sign, verify })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_machine_readable_output() {
        let bulk = "+DT:SM4-GCM:1:16384\n+R:323:SM4-GCM:0.04\n+H:16384\n+F:25:SM4-GCM:132300800.00\n";
        assert_eq!(bytes_per_second(bulk), Some(132_300_800.0));
        let expected = Some(Signatures { sign: 2733.3, verify: 3533.3 });
        assert_eq!(signs_per_second("+R8:106:SM2:0.03\n+F4:16:256:2733.3:3533.3\n"), expected);
        assert_eq!(signs_per_second("+F7:0:256:CurveSM2:2733.3:3533.3\n"), expected);
        assert_eq!(signs_per_second("speed: Unknown algorithm SM2\n"), None);
    }
}
