use std::path::Path;

use bytes::BytesMut;
use quinn::crypto::ServerConfig as _;
use rustls::{
    ClientConfig, RootCertStore,
    quic::{ClientConnection, PacketKeySet},
};

use super::*;
use crate::{cli::development_certificates, gateway::Gateway, settings::*, transport::tls};

/// A listener's cryptography, and a client that trusts its certificate.
fn sides(folder: &Path, alpn: &[u8]) -> (Arc<Crypto>, ClientConnection) {
    let files = development_certificates(folder).unwrap();
    let mut listener = Listener::plain("a", ([127, 0, 0, 1], 0).into());
    listener.certificates = vec![CertificateFiles::pem(&files.chain, &files.key)];
    listener.quic = true;
    let gateway = Gateway::build(Settings { listeners: vec![listener], ..Settings::default() }).unwrap();
    let crypto = Crypto::new(gateway.snapshot().listener("a").unwrap().tls.clone().unwrap()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(tls::read_certificates(&files.ca).unwrap());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    let name = "localhost".try_into().unwrap();
    (crypto, ClientConnection::new(Arc::new(config), Version::V1, name, Vec::new()).unwrap())
}

fn session(crypto: &Arc<Crypto>) -> Box<dyn crypto::Session> {
    let params = TransportParameters::read(Side::Client, &mut &b""[..]).unwrap();
    Arc::clone(crypto).start_session(QUIC_V1, &params)
}

/// Speaks until nobody has anything to say; yields the secrets of the client's next keys.
fn shake_hands(server: &mut dyn crypto::Session, client: &mut ClientConnection, piece: usize) -> Secrets {
    let mut secrets = None;
    for _ in 0..8 {
        let mut said = Vec::new();
        while let Some(change) = client.write_hs(&mut said) {
            if let KeyChange::OneRtt { next, .. } = change {
                secrets = Some(next);
            }
        }
        said.chunks(piece).for_each(|piece| _ = server.read_handshake(piece).unwrap());
        // Messages of different keys come in different packets.
        loop {
            let mut answered = Vec::new();
            let changed = server.write_handshake(&mut answered).is_some();
            if !answered.is_empty() {
                client.read_hs(&answered).unwrap();
            }
            if !changed {
                break;
            }
        }
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    secrets.unwrap()
}

/// One packet each way.
fn assert_agree(server: &KeyPair<Box<dyn PacketKey>>, client: &PacketKeySet, packet: u64) {
    let (header, plain) = (b"header", b"plaintext");
    let mut sealed = [&header[..], plain, &[0; 16]].concat();
    server.local.encrypt(packet, &mut sealed, header.len());
    let opened = client.remote.decrypt_in_place(packet, header, &mut sealed[header.len()..]).unwrap();
    assert_eq!(opened, plain);
    let mut sealed = plain.to_vec();
    let tag = client.local.encrypt_in_place(packet, header, &mut sealed).unwrap();
    sealed.extend_from_slice(tag.as_ref());
    let mut opened = BytesMut::from(&sealed[..]);
    server.remote.decrypt(packet, header, &mut opened).unwrap();
    assert_eq!(&opened[..], plain);
}

#[test]
fn a_client_hello_may_come_in_pieces_and_keys_are_updated_without_rustls() {
    let folder = tempfile::tempdir().unwrap();
    for piece in [1, 3, 500, 1 << 20] {
        let (crypto, mut client) = sides(folder.path(), tls::ALPN_LINK);
        let mut server = session(&crypto);
        assert!(server.handshake_data().is_none());
        let mut next = shake_hands(&mut *server, &mut client, piece);
        let agreed = server.handshake_data().unwrap().downcast::<Agreed>().unwrap();
        assert_eq!(agreed.protocol.as_deref(), Some(tls::ALPN_LINK));
        for packet in 0..3 {
            assert_agree(&server.next_1rtt_keys().unwrap(), &next.next_packet_keys(), packet);
        }
        assert_eq!(alert(server.read_handshake(b"\x18\x00\x00\x01\x00")), Alert::UnexpectedMessage as u64);
    }
}

/// The alert that an error is.
fn alert(result: Result<bool, TransportError>) -> u64 {
    u64::from(result.unwrap_err().code) - 0x100
}

#[test]
fn what_is_no_client_hello_gets_the_alert_that_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let (crypto, mut client) = sides(folder.path(), tls::ALPN_HTTP1);
    let check = |bytes: &[u8], expected: u64| {
        assert_eq!(alert(session(&crypto).read_handshake(bytes)), expected, "{bytes:?}");
    };
    check(b"\x02\x00\x00\x01\x00", Alert::UnexpectedMessage as u64);
    check(b"\x01\x00\x40\x01\x03", Alert::DecodeError as u64);
    check(b"\x01\x00\x00\x03\x03\x03\x00", Alert::DecodeError as u64);
    let mut hello = Vec::new();
    client.write_hs(&mut hello);
    check(&hello, Alert::NoApplicationProtocol as u64);
    let mut random = fastrand::Rng::with_seed(3);
    for _ in 0..2000 {
        let mut damaged = hello.clone();
        for _ in 0..random.usize(1..4) {
            damaged[random.usize(4..hello.len())] = random.u8(..);
        }
        let _ = session(&crypto).read_handshake(&damaged);
        let _ = session(&crypto).read_handshake(&damaged[..random.usize(..hello.len())]);
    }
}
