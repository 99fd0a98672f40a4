
use towline_protocols::tls::{ClientHello, hello_from_records};

// Records, and a message without them: both must be survived, and every list be as long as it was found.
pub(crate) fn run(bytes: &[u8]) {
    if let Ok(Some(message)) = hello_from_records(bytes) {
        walk(&message);
    }
    walk(bytes);
}

fn walk(message: &[u8]) {
    let Ok(hello) = ClientHello::parse(message) else { return };
    assert!(hello.alpn().map(|name| name.len() + 1).sum::<usize>() <= message.len());
    assert!(hello.psk_identities().map(|identity| identity.len() + 6).sum::<usize>() <= message.len());
    let numbers = hello.cipher_suites().count() + hello.named_groups().count();
    assert!(2 * (numbers + hello.signature_schemes().count()) <= message.len());
    let _ = (hello.versions().count(), hello.key_share_groups().count(), hello.server_name());
}
