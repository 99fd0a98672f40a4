//! Own keys in a file of the data folder, so that what they sealed opens after a restart.
//!
//! The first line says since when the first key seals (`since`, seconds of 1970); a key file's lines follow.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use zeroize::Zeroizing;

use super::{Key, Purpose, parse_keys, seconds};
use crate::gateway::StartError;

/// Keys, and since when the first of them seals; `None` without a file.
pub(super) type Found = Option<(Vec<Arc<Key>>, SystemTime)>;

pub(super) fn read(purpose: Purpose, path: &Path) -> Result<Found, StartError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => Zeroizing::new(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(StartError::File { path: path.into(), source }),
    };
    let since = text.split_once('\n').and_then(|(first, rest)| {
        let seconds = first.strip_prefix("since ")?.trim().parse().ok()?;
        // A year that a clock can show.
        let since = UNIX_EPOCH.checked_add(Duration::from_secs(seconds))?;
        Some((since, rest))
    });
    let Some((since, rest)) = since else {
        let problem = "does not begin with `since` and a number of seconds; remove the file, and the gateway \
                       makes another (clients then log in with their passwords)";
        return Err(StartError::Certificate { path: path.into(), problem: problem.to_owned() });
    };
    Ok(Some((parse_keys(purpose, path, rest, 2)?, since)))
}

/// Beside and renamed, so that a crash leaves the old keys or the new ones.
pub(super) fn write(path: &Path, keys: &[Arc<Key>], since: SystemTime) -> Result<(), StartError> {
    let mut text = Zeroizing::new(format!("since {}\n", seconds(since)));
    for key in keys {
        text.push_str(&Zeroizing::new(BASE64.encode(key.line.as_ref())));
        text.push('\n');
    }
    replace(path, text.as_bytes()).map_err(|source| StartError::File { path: path.into(), source })
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("new");
    // What a crash left may have another mode.
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&beside, path)
}
