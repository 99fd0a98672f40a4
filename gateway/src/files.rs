//! What the files of certificates and keys look like from outside, to notice when one has changed.
//!
//! They are looked at time and again, which works wherever a file can be: on network file systems, behind the
//! symbolic links that Kubernetes swaps, in folders that are renamed. A few calls of stat each five seconds cost
//! nothing.

use std::{collections::BTreeMap, fs, os::unix::fs::MetadataExt, path::PathBuf};

use towline_crypto::KeyReference;

use crate::settings::{CertificateFiles, Settings};

/// Identity, size and times of every file that TLS is made from; `None` for one that cannot be looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stamps(BTreeMap<PathBuf, Option<Stamp>>);

/// The change time is set by a replacement that keeps the modification time, and by a repaired permission.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified_ns: (i64, i64),
    changed_ns: (i64, i64),
}

impl Stamps {
    /// Of this moment.
    pub(crate) fn of(settings: &Settings) -> Self {
        let listeners = settings.listeners.iter().flat_map(|listener| {
            let pairs = listener.certificates.iter().flat_map(|files| [Some(&files.chain), key_file(files)]);
            let tlcp = listener.tlcp_certificate.iter().flat_map(|tlcp| {
                [&tlcp.sign, &tlcp.encrypt]
                    .map(|files| [Some(&files.chain), key_file(files)])
                    .into_iter()
                    .flatten()
            });
            pairs.chain(tlcp).chain([listener.client_ca.as_ref()])
        });
        let files = listeners.chain([settings.tls.ticket_keys.as_ref()]).flatten();
        Self(files.map(|path| (path.clone(), stamp(path))).collect())
    }
}

fn key_file(files: &CertificateFiles) -> Option<&PathBuf> {
    match &files.key {
        KeyReference::File(path) => Some(path),
        KeyReference::Pem(_) | KeyReference::Uri(_) => None,
    }
}

fn stamp(path: &PathBuf) -> Option<Stamp> {
    let found = fs::metadata(path).ok()?;
    Some(Stamp {
        device: found.dev(),
        inode: found.ino(),
        bytes: found.size(),
        modified_ns: (found.mtime(), found.mtime_nsec()),
        changed_ns: (found.ctime(), found.ctime_nsec()),
    })
}
