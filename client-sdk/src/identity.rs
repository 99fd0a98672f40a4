//! Who this installation is: client id, the secret that proves ownership of its session, and counters
//! that must never go backwards, in a small file.
//!
//! The counters are reserved in blocks: the file says from where the *next* start may count, so that it
//! is written once a block and not once a request, and a crash skips numbers but never repeats one.

use std::{
    fmt, fs, io,
    io::Write as _,
    path::{Path, PathBuf},
};

use aws_lc_rs::rand::{SecureRandom, SystemRandom};

use crate::{
    config::{ClientConfig, check_client_id},
    error::StartError,
};

/// Connections between two writes of the file.
const EPOCH_BLOCK: u64 = 64;
/// Requests between two writes of the file.
const SEQUENCE_BLOCK: u64 = 1 << 12;
/// The file holds five short lines; anything longer is not ours.
const FILE_BYTES_MAX: u64 = 1024;
const FIRST_LINE: &str = "towline-identity 1";

/// The identity of a running client.
pub(crate) struct Identity {
    pub(crate) client_id: String,
    pub(crate) secret: [u8; 16],
    epoch: u64,
    epoch_reserved: u64,
    /// The first sequence number that this process may use.
    pub(crate) first_sequence: u64,
    sequence_reserved: u64,
    path: Option<PathBuf>,
}

impl Identity {
    /// Reads the configured file, or makes a new identity and writes it there.
    pub(crate) fn open(config: &ClientConfig) -> Result<Self, StartError> {
        let Some(path) = &config.identity_file else {
            return Self::fresh(config.client_id.clone(), None);
        };
        let failed = |source| StartError::Identity { path: path.clone(), source };
        let mut identity = match read(path) {
            Ok(text) => Self::parse(&text, path).map_err(failed)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Self::fresh(config.client_id.clone(), Some(path.clone()))?
            }
            Err(error) => return Err(failed(error)),
        };
        if let Some(id) = &config.client_id
            && *id != identity.client_id
        {
            let text = format!("belongs to client `{}`, the configuration says `{id}`", identity.client_id);
            return Err(failed(io::Error::new(io::ErrorKind::InvalidData, text)));
        }
        identity.reserve().map_err(failed)?;
        Ok(identity)
    }

    fn fresh(client_id: Option<String>, path: Option<PathBuf>) -> Result<Self, StartError> {
        let mut random = [0u8; 32];
        SystemRandom::new().fill(&mut random).map_err(|_| StartError::NoRandomness)?;
        let mut secret = [0u8; 16];
        secret.copy_from_slice(&random[..16]);
        let client_id = client_id.unwrap_or_else(|| format!("client-{}", hex(&random[16..28])));
        Ok(Self {
            client_id,
            secret,
            epoch: 0,
            epoch_reserved: 0,
            first_sequence: 1,
            sequence_reserved: 1,
            path,
        })
    }

    fn parse(text: &str, path: &Path) -> io::Result<Self> {
        let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
        let mut lines = text.lines();
        if lines.next() != Some(FIRST_LINE) {
            return Err(wrong("does not begin with `towline-identity 1`"));
        }
        let mut field = |name: &str| {
            let line = lines.next().unwrap_or_default();
            let value = line.strip_prefix(name).and_then(|rest| rest.strip_prefix(' '));
            value.map(str::to_owned).ok_or_else(|| wrong(&format!("lacks its line `{name} …`")))
        };
        let client_id = field("client-id")?;
        let secret =
            unhex(&field("session-secret")?).ok_or_else(|| wrong("session-secret is not 32 hex digits"))?;
        let number =
            |text: String| text.parse::<u64>().map_err(|_| wrong("holds a counter that is no number"));
        let epoch = number(field("epoch")?)?;
        let sequence = number(field("sequence")?)?.max(1);
        check_client_id(&client_id).map_err(|error| wrong(&error.to_string()))?;
        Ok(Self {
            client_id,
            secret,
            epoch,
            epoch_reserved: epoch,
            first_sequence: sequence,
            sequence_reserved: sequence,
            path: Some(path.to_owned()),
        })
    }

    /// The epoch of the newest connection.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The epoch of the next connection.
    pub(crate) fn next_epoch(&mut self) -> io::Result<u64> {
        if self.epoch + 1 >= self.epoch_reserved {
            self.reserve()?;
        }
        self.epoch += 1;
        Ok(self.epoch)
    }

    /// Tells that `sequence` was given to a request; reserves more before the block is used up.
    pub(crate) fn used_sequence(&mut self, sequence: u64) -> io::Result<()> {
        if sequence + SEQUENCE_BLOCK / 4 < self.sequence_reserved {
            return Ok(());
        }
        self.sequence_reserved = sequence;
        self.reserve()
    }

    /// Writes counters ahead of those in use.
    fn reserve(&mut self) -> io::Result<()> {
        self.epoch_reserved = self.epoch + EPOCH_BLOCK;
        self.sequence_reserved += SEQUENCE_BLOCK;
        let Some(path) = &self.path else { return Ok(()) };
        let text = format!(
            "{FIRST_LINE}\nclient-id {}\nsession-secret {}\nepoch {}\nsequence {}\n",
            self.client_id,
            hex(&self.secret),
            self.epoch_reserved,
            self.sequence_reserved
        );
        replace(path, text.as_bytes())
    }
}

/// The secret is not shown.
impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("client_id", &self.client_id)
            .field("epoch", &self.epoch)
            .finish_non_exhaustive()
    }
}

fn read(path: &Path) -> io::Result<String> {
    let length = fs::metadata(path)?.len();
    if length > FILE_BYTES_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("has {length} bytes, not an identity file"),
        ));
    }
    fs::read_to_string(path)
}

/// Writes beside and renames, so that a crash leaves the old file or the new one. For its owner only.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&beside, path)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<[u8; 16]> {
    let mut out = [0u8; 16];
    if text.len() != 32 || !text.is_ascii() {
        return None;
    }
    for (index, byte) in out.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(index * 2..index * 2 + 2)?, 16).ok()?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(path: &Path) -> ClientConfig {
        let mut config = ClientConfig::plaintext(Vec::new());
        config.identity_file = Some(path.to_owned());
        config
    }

    #[test]
    fn a_restart_keeps_the_secret_and_never_repeats_a_number() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("identity");
        let mut first = Identity::open(&config(&path)).unwrap();
        let epochs: Vec<u64> = (0..200).map(|_| first.next_epoch().unwrap()).collect();
        assert!(epochs.is_sorted_by(|a, b| a < b));
        let last_sequence = first.first_sequence + 10_000;
        (first.first_sequence..=last_sequence).for_each(|sequence| first.used_sequence(sequence).unwrap());

        let mut second = Identity::open(&config(&path)).unwrap();
        assert_eq!((&second.client_id, second.secret), (&first.client_id, first.secret));
        assert!(second.next_epoch().unwrap() > *epochs.last().unwrap());
        assert!(second.first_sequence > last_sequence);
    }

    #[test]
    fn a_file_of_another_client_or_form_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("identity");
        let check = |text: &str, reason: &str| {
            fs::write(&path, text).unwrap();
            let mut config = config(&path);
            config.client_id = Some("me".into());
            let error = Identity::open(&config).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        };
        let secret = "00112233445566778899aabbccddeeff";
        check("", "does not begin");
        check("towline-identity 1\nclient-id me\n", "session-secret");
        check("towline-identity 1\nclient-id me\nsession-secret 12\n", "32 hex digits");
        check(
            &format!("{FIRST_LINE}\nclient-id me\nsession-secret {secret}\nepoch x\nsequence 1\n"),
            "no number",
        );
        check(
            &format!("{FIRST_LINE}\nclient-id you\nsession-secret {secret}\nepoch 1\nsequence 1\n"),
            "belongs to",
        );
        check(&"x".repeat(2000), "2000 bytes");
    }

    #[cfg(unix)]
    #[test]
    fn the_file_is_for_its_owner_only() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("identity");
        Identity::open(&config(&path)).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
