//! Waiting for what no event tells of.

use std::{path::Path, time::Duration};

/// Waits for what is looked at again and again, `what` says for what.
pub async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("in vain: {what}"));
}

/// Far more than anything here takes, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until the client of that identity file keeps a fetched dictionary of that `kind`, `payload` or `headers`.
pub async fn fetched(identity: &Path, kind: &str) {
    let mut folder = identity.as_os_str().to_owned();
    folder.push(".dictionaries");
    until("a dictionary to be fetched", || {
        std::fs::read_dir(&folder).is_ok_and(|mut files| {
            files.any(|file| file.unwrap().path().extension().is_some_and(|it| it == kind))
        })
    })
    .await;
}
