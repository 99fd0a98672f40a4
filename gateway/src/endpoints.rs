//! The signed endpoint list that the gateway passes on to its clients (PROTOCOL.md, section 22). It cannot make one: the
//! key is with the operator, and clients believe the signature alone. What is checked here is what clients would refuse.

use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use towline_crypto::signing::PublicKey;
use towline_dictionaries::sha256;
use towline_protocols::{
    endpoints::{ENDPOINT_LIST_BYTES_MAX, EndpointList, NotCurrent, SignedEndpoints},
    link::{DictionaryKind, OfferedDictionary},
};

use crate::settings;

/// A list that clients are offered while it is current.
#[derive(Debug)]
pub struct PublishedList {
    list: EndpointList,
    hash: [u8; 32],
    bytes: Bytes,
}

/// A list's text, read and verified.
///
/// # Errors
/// Says what is wrong with it, or that none of `keys` has signed it.
pub fn verify(bytes: &[u8], keys: &[PublicKey]) -> Result<EndpointList, String> {
    let signed = SignedEndpoints::parse(bytes).map_err(|error| error.to_string())?;
    let names: Vec<_> = signed.signatures().iter().map(|signature| shown_id(&signature.key)).collect();
    let verified = signed.verified(bytes, |signature, message| {
        PublicKey::any_signed(keys, &signature.key, message, &signature.bytes)
    });
    verified.ok_or_else(|| {
        let known: Vec<_> = keys.iter().map(|key| shown_id(&key.id())).collect();
        match names.iter().any(|name| known.contains(name)) {
            true => "bad signature: it was changed after it was signed".to_owned(),
            false => format!(
                "bad signature: it is by key {}, and the keys to go by are {}",
                names.join(", "),
                known.join(", ")
            ),
        }
    })
}

/// At most so much of a file is read that one that is too long is seen to be.
///
/// # Errors
/// The file cannot be read.
pub fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(ENDPOINT_LIST_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// What names a key, as lists and people write it.
pub fn shown_id(id: &[u8]) -> String {
    crate::dictionaries::shown_hash(id)
}

/// The wall clock, from 1970.
pub fn since_1970(now: SystemTime) -> Duration {
    now.duration_since(UNIX_EPOCH).unwrap_or_default()
}

impl PublishedList {
    /// The list that the configuration names. One that is not current is a list all the same: a gateway that is started
    /// with it serves, and offers it to nobody.
    ///
    /// # Errors
    /// What to tell the operator.
    pub fn load(settings: &settings::EndpointList) -> Result<Self, String> {
        let bytes = read(&settings.file);
        let bytes = bytes.map_err(|error| format!("{}: {error}", settings.file.display()))?;
        let list = verify(&bytes, &settings.keys);
        let list = list.map_err(|problem| format!("{}: {problem}", settings.file.display()))?;
        Ok(Self { list, hash: sha256(&bytes), bytes: bytes.into() })
    }

    /// Why clients would refuse it now.
    pub fn problem(&self, now: SystemTime) -> Option<NotCurrent> {
        self.list.check_time(since_1970(now)).err()
    }

    /// What it says.
    pub fn list(&self) -> &EndpointList {
        &self.list
    }

    /// The file.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// SHA-256 of the file: its name.
    pub fn hash(&self) -> &[u8; 32] {
        &self.hash
    }

    /// How OFFER names it.
    pub fn offered(&self) -> OfferedDictionary {
        OfferedDictionary {
            hash: self.hash.to_vec().into(),
            kind: DictionaryKind::Endpoints.into(),
            bytes: u32::try_from(self.bytes.len()).unwrap_or(u32::MAX),
            version: self.list.serial,
            ..OfferedDictionary::default()
        }
    }
}
