use std::os::unix::fs::PermissionsExt as _;

use super::*;

struct Desk {
    folder: tempfile::TempDir,
}

impl Desk {
    fn new(document: &str) -> Self {
        let desk = Self { folder: tempfile::tempdir().unwrap() };
        fs::write(desk.at("endpoints.toml"), document).unwrap();
        desk
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn key(&self, name: &str) -> PublicKey {
        keygen(&self.at(name)).unwrap().parse().unwrap()
    }

    fn sign(&self, key: &str, now: SystemTime) -> Result<String, String> {
        let (file, output) = (self.at("endpoints.toml"), self.at("endpoints.signed"));
        let arguments = SignArgs { file, key: vec![self.at(key)], output, serial: Some(3), days: 30 };
        sign(&arguments, now).map_err(|error| error.to_string())
    }

    fn read(&self, key: PublicKey) -> ReadArgs {
        ReadArgs { file: self.at("endpoints.signed"), key: vec![key] }
    }
}

const DOCUMENT: &str = r#"
[[endpoints]]
host = "edge-1.example"
port = 443

[[endpoints]]
host = "192.0.2.7"
port = 8443
transports = ["tcp"]
priority = 10
weight = 3
name = "edge.example"
region = "eu"
"#;

fn at(days: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000 + days * DAY)
}

#[test]
fn a_list_is_signed_shown_and_checked() {
    let desk = Desk::new(DOCUMENT);
    let (key, other_key) = (desk.key("private"), desk.key("other"));
    assert_eq!(fs::metadata(desk.at("private")).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(keygen(&desk.at("private")).is_err(), "a key is never overwritten");
    assert!(desk.sign("private", at(0)).unwrap().contains("serial 3, 2 endpoints, expires in 30 days"));
    let shown = show(&desk.read(key), at(1)).unwrap();
    for part in [
        "(1 days ago)",
        "(in 29 days)",
        "(verified)",
        "edge-1.example:443 (quic and tcp), priority 0, weight 1, certificate of edge-1.example",
        "192.0.2.7:8443 (tcp), priority 10, weight 3, certificate of edge.example, for region eu",
    ] {
        assert!(shown.contains(part), "{shown}");
    }
    let check = |key, now| check(&desk.read(key), now).map_err(|error| error.to_string());
    assert!(check(key, at(1)).unwrap().contains("good for 29 more days"));
    let refused = |key, now, part: &str| {
        let error = check(key, now).unwrap_err();
        assert!(error.contains(part), "{error}");
    };
    refused(key, at(30), "expired");
    refused(key, at(0) - Duration::from_secs(DAY + 1), "ahead of the clock");
    refused(other_key, at(1), "bad signature: it is by key");
    let text = fs::read_to_string(desk.at("endpoints.signed")).unwrap();
    fs::write(desk.at("endpoints.signed"), text.replacen("edge-1", "evil-1", 1)).unwrap();
    refused(key, at(1), "was changed after it was signed");
    assert!(show(&desk.read(key), at(1)).unwrap().contains("was changed after it was signed"));
}

#[test]
fn what_is_wrong_with_a_document_is_named() {
    #[track_caller]
    fn refused(document: &str, part: &str) {
        let desk = Desk::new(document);
        desk.key("private");
        let error = desk.sign("private", at(0)).unwrap_err();
        assert!(error.contains(part), "{error}");
        assert!(!desk.at("endpoints.signed").exists());
    }
    refused("endpoints = []", "names no endpoint");
    refused("[[endpoints]]\nhost = \"a\"\n", "port");
    refused("[[endpoints]]\nhost = \"a\"\nport = 1\ncolour = \"red\"\n", "colour");
    refused("[[endpoints]]\nhost = \"a b\"\nport = 1\n", "a b:1 has a host");
    refused("[[endpoints]]\nhost = \"a\"\nport = 1\ntransports = []\n", "a:1: `transports` names none");
    refused(&DOCUMENT.replace("192.0.2.7\"\nport = 8443", "edge-1.example\"\nport = 443"), "is there twice");
}
