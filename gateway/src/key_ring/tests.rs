//! Key files, and own keys over restarts.

use std::os::unix::fs::PermissionsExt as _;

use super::*;

const LIFE: Duration = Duration::from_secs(3600);

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn tokens(kept: &Path, now: SystemTime) -> KeyRing {
    let source = Source { shared: None, kept: Some(kept), life: LIFE };
    KeyRing::new(Purpose::SessionToken, source, now).unwrap()
}

#[test]
fn a_key_file_with_a_mistake_is_named_with_its_line_and_without_its_secret() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys");
    let line = key_line().unwrap();
    let refused = |text: &str, expected: &str| {
        fs::write(&path, text).unwrap();
        let error = check(&path).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains(expected), "{error}");
        assert!(!error.contains(&line[..20]));
    };
    refused("", "holds no key");
    refused("# none\n\n", "holds no key");
    refused(&format!("{}\n{}", *line, &line[4..]), "line 2 is not base64 of 48 bytes");
    refused(&format!("{}\n\n{}", *line, *line), "line 3 has the id of an earlier key");
    let many: Vec<_> = (0..17).map(|_| key_line().unwrap().to_string()).collect();
    refused(&many.join("\n"), "holds 17 keys");
}

#[test]
fn kept_keys_open_after_a_restart_what_they_sealed_and_are_their_owners_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys");
    let sealed = tokens(&path, now()).seal(b"a", b"plain").unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let again = tokens(&path, now() + LIFE / 2);
    assert_eq!(again.open(b"a", &sealed).as_deref(), Ok(&b"plain"[..]));
    again.tend(now() + LIFE);
    let later = tokens(&path, now() + LIFE + Duration::from_secs(1));
    assert_eq!((later.len(), later.open(b"a", &sealed).is_ok()), (2, true), "the old key is kept as well");
    let newer = later.seal(b"a", b"newer").unwrap();
    assert_ne!(newer[..4], sealed[..4]);
    // The process that was away for long finds that its keys are due.
    let much_later = tokens(&path, now() + 2 * LIFE + LIFE / 2);
    assert_eq!(much_later.open(b"a", &sealed), Err(Sealed::Unknown));
    assert!(much_later.open(b"a", &newer).is_ok());
    assert_eq!(tokens(&path, now() + 20 * LIFE).open(b"a", &newer), Err(Sealed::Unknown));
}

#[test]
fn own_keys_that_are_to_be_kept_from_now_on_are() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys");
    let source = Source { shared: None, kept: None, life: LIFE };
    let ring = KeyRing::new(Purpose::SessionToken, source, now()).unwrap();
    let sealed = ring.seal(b"", b"plain").unwrap();
    ring.install(ring.prepare(Source { kept: Some(&path), ..source }, now()).unwrap());
    assert!(tokens(&path, now()).open(b"", &sealed).is_ok());
}

#[test]
fn a_damaged_file_of_own_keys_is_named_with_a_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys");
    for text in ["", "since\n", "since x\nAAAA\n", "since 18446744073709551615\nAAAA\n"] {
        fs::write(&path, text).unwrap();
        let source = Source { shared: None, kept: Some(&path), life: LIFE };
        let error = KeyRing::new(Purpose::SessionToken, source, now()).err().unwrap().to_string();
        assert!(error.contains("remove the file"), "{text:?}: {error}");
    }
    fs::write(&path, "since 1800000000\nAAAA\n").unwrap();
    let source = Source { shared: None, kept: Some(&path), life: LIFE };
    let error = KeyRing::new(Purpose::SessionToken, source, now()).err().unwrap().to_string();
    assert!(error.contains("line 2 is not base64"), "{error}");
}

#[test]
fn what_is_sealed_for_one_purpose_does_not_open_for_another() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys");
    fs::write(&path, key_line().unwrap().as_str()).unwrap();
    let source = Source { shared: Some(&path), kept: None, life: LIFE };
    let ring = |purpose| KeyRing::new(purpose, source, now()).unwrap();
    let (tickets, tokens) = (ring(Purpose::TlsTicket), ring(Purpose::SessionToken));
    let ticket = tickets.seal(b"", b"plain").unwrap();
    let token = tokens.seal(b"", b"plain").unwrap();
    assert!(tickets.open(b"", &ticket).is_ok() && tokens.open(b"", &token).is_ok());
    // Each with the other's form of the key's id.
    let as_token = [&ticket[..4], &ticket[ID_BYTES..]].concat();
    let as_ticket = [&ticket[..ID_BYTES], &token[4..]].concat();
    assert_eq!(tokens.open(b"", &as_token), Err(Sealed::Forged));
    assert_eq!(tickets.open(b"", &as_ticket), Err(Sealed::Forged));
}
