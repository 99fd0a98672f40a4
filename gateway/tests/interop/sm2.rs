//! What tests of ShangMi share: how peers are told to speak it, and certificates of both sides' making.

use std::{fs, path::Path, process::Command};

use crate::peer::Peer;

pub const SUITES: [&str; 2] = ["TLS_SM4_GCM_SM3", "TLS_SM4_CCM_SM3"];
/// What RFC 8998 allows and nothing else.
pub const STRICTLY: [&str; 4] = ["-groups", "curveSM2", "-sigalgs", "sm2sig_sm3"];
/// The peers that are built, with what they need to be told to speak RFC 8998 to the letter.
pub fn peers() -> Vec<(Peer, &'static [&'static str])> {
    let tongsuo = Peer::tongsuo().map(|peer| (peer, &["-enable_sm_tls13_strict"][..]));
    Peer::openssl().map(|peer| (peer, &[][..])).into_iter().chain(tongsuo).collect()
}

/// An authority and a leaf for `localhost`, made by Towline.
pub fn certificates(folder: &Path) {
    for line in
        ["ca --kind sm2 --out ca", "leaf --kind sm2 --ca ca.pem --ca-key ca.key --name localhost --out leaf"]
    {
        let mut towline = Command::new(env!("CARGO_BIN_EXE_towline"));
        let made = towline.current_dir(folder).arg("cert").args(line.split(' ')).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }
}

/// The same files, made by the peer.
pub async fn foreign_certificates(peer: &Peer, folder: &Path) {
    let fresh_key = ["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:SM2", "-out"];
    for key in ["ca.key", "leaf.key"] {
        peer.run(folder, &[&fresh_key[..], &[key]].concat()).await;
    }
    let ca = ["req", "-new", "-x509", "-sm3", "-key", "ca.key", "-subj", "/CN=CA", "-days", "30"];
    let usages = ["-addext", "basicConstraints=critical,CA:true", "-addext", "keyUsage=keyCertSign"];
    peer.run(folder, &[&ca[..], &usages, &["-out", "ca.pem"]].concat()).await;
    let request = ["req", "-new", "-sm3", "-key", "leaf.key", "-subj", "/CN=localhost", "-out", "leaf.csr"];
    peer.run(folder, &request).await;
    fs::write(folder.join("names"), "subjectAltName=DNS:localhost\nkeyUsage=digitalSignature\n").unwrap();
    let sign = ["x509", "-req", "-sm3", "-in", "leaf.csr", "-CA", "ca.pem", "-CAkey", "ca.key"];
    let rest = ["-CAcreateserial", "-days", "30", "-extfile", "names", "-out", "leaf.pem"];
    peer.run(folder, &[&sign[..], &rest].concat()).await;
}
