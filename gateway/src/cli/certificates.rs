//! The development CA and certificate of `towline dev`.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use super::Failure;

/// Apple's clients refuse leaves that live longer than 825 days.
const LEAF_LIFE: Duration = Duration::from_secs(820 * 86_400);
const CA_LIFE: Duration = Duration::from_secs(3650 * 86_400);
/// Clocks of two machines differ.
const BACKDATE: Duration = Duration::from_secs(86_400);

/// Where the certificates of `towline dev` are.
#[derive(Clone, Debug)]
pub struct DevelopmentCertificates {
    /// What clients trust.
    pub ca: PathBuf,
    /// The gateway's chain.
    pub chain: PathBuf,
    /// The gateway's key.
    pub key: PathBuf,
}

/// The certificates of `folder`, made there if they are missing.
pub(super) fn ensure(folder: &Path) -> Result<DevelopmentCertificates, Failure> {
    let files = DevelopmentCertificates {
        ca: folder.join("dev-ca.pem"),
        chain: folder.join("dev-cert.pem"),
        key: folder.join("dev-key.pem"),
    };
    let all_there = [&files.ca, &files.chain, &files.key].into_iter().all(|file| file.exists());
    if !all_there {
        make(folder, &files)?;
    }
    Ok(files)
}

fn make(folder: &Path, files: &DevelopmentCertificates) -> Result<(), Failure> {
    let unmade = |error: rcgen::Error| Failure::Other(format!("cannot make a certificate: {error}"));
    let unwritten = |path: &Path, error: io::Error| Failure::Other(format!("{}: {error}", path.display()));
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|error| unwritten(folder, error))?;

    let ca_key = KeyPair::generate().map_err(unmade)?;
    let ca_params = ca_params().map_err(unmade)?;
    let ca = ca_params.self_signed(&ca_key).map_err(unmade)?;
    let issuer = Issuer::new(ca_params, ca_key);
    let leaf_key = KeyPair::generate().map_err(unmade)?;
    let leaf = leaf_params().and_then(|leaf| leaf.signed_by(&leaf_key, &issuer)).map_err(unmade)?;

    // The CA's own key is not kept: nothing but this leaf is ever signed with it.
    for (path, text, mode) in [
        (&files.ca, ca.pem(), 0o644),
        (&files.chain, leaf.pem(), 0o644),
        (&files.key, leaf_key.serialize_pem(), 0o600),
    ] {
        write(path, &text, mode).map_err(|error| unwritten(path, error))?;
    }
    Ok(())
}

fn ca_params() -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, "Towline development CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_life(&mut params, CA_LIFE);
    Ok(params)
}

fn leaf_params() -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(["localhost", "127.0.0.1", "::1"].map(String::from))?;
    params.distinguished_name.push(DnType::CommonName, "Towline development gateway");
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    set_life(&mut params, LEAF_LIFE);
    Ok(params)
}

fn set_life(params: &mut CertificateParams, life: Duration) {
    let now = SystemTime::now();
    params.not_before = (now - BACKDATE).into();
    params.not_after = (now + life).into();
}

/// Writes aside and renames, so that a crash leaves no half of a file. A key is never readable by others,
/// not even for a moment.
fn write(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let aside = path.with_extension("new");
    let _ = fs::remove_file(&aside);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&aside)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(aside, path)
}
