//! RFC 8998 between Towline's provider and two other implementations of it.

use std::{fs, path::Path, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::{TcpListener, UnixStream},
};
use tokio_rustls::{TlsAcceptor, TlsConnector, client::TlsStream};
use towline_crypto::{Provider as _, ShangMi};

use crate::{
    peer::{Peer, Talk, check, eventually},
    sm2,
};

const TICKETS: usize = 2;
/// As `-msg` shows one.
const KEY_UPDATE: &str = "TLS 1.3, Handshake [length 0005], KeyUpdate";

#[tokio::test]
async fn foreign_clients_shake_hands_resume_and_exchange_data() {
    for (peer, words) in sm2::peers() {
        for suite in sm2::SUITES {
            let folder = certificates();
            let address = serve(folder.path()).await;
            let connect = |more: &[&str]| {
                let arguments = ["-connect", &address, "-ciphersuites", suite];
                s_client(&peer, folder.path(), &[&arguments, &sm2::STRICTLY[..], words, more].concat())
            };
            let mut talk = connect(&["-sess_out", "session.pem"]);
            let said = talk.hear("Verify return code: 0 (ok)").await;
            check(&said, &[&format!("New, TLSv1.3, Cipher is {suite}"), "sm2sig_sm3"]);
            exchange(&mut talk).await;
            let mut talk = connect(&["-sess_in", "session.pem"]);
            talk.hear(&format!("Reused, TLSv1.3, Cipher is {suite}")).await;
            exchange(&mut talk).await;
        }
    }
}

#[tokio::test]
async fn foreign_servers_shake_hands_resume_and_exchange_data() {
    for (peer, words) in sm2::peers() {
        for suite in sm2::SUITES {
            let folder = certificates();
            let arguments = ["-tls1_3", "-msg", "-ciphersuites", suite];
            let mut server =
                s_server(&peer, folder.path(), &[&arguments, &sm2::STRICTLY[..], words].concat());
            let client = client(&fs::read(folder.path().join("ca.pem")).unwrap());
            for (round, first_words) in ["CIPHER is", "Reused session-id"].iter().enumerate() {
                let mut stream = connect(&client, folder.path()).await;
                stream.write_all(b"said by Towline\n").await.unwrap();
                let said = server.hear_times(round + 1, "said by Towline").await;
                check(&said, &[first_words, suite]);
                server.say("said by the peer\n").await;
                hear(&mut stream, "said by the peer").await;
                server.say("K\n").await;
                server.hear_times(round + 1, &format!(">>> {KEY_UPDATE}")).await;
                server.say("under new keys\n").await;
                hear(&mut stream, "under new keys").await;
                stream.write_all(b"also under new keys\n").await.unwrap();
                server.hear_times(round + 1, "also under new keys").await;
                server.hear_times(round + 1, &format!("<<< {KEY_UPDATE}")).await;
                stream.shutdown().await.unwrap();
            }
        }
    }
}

#[tokio::test]
async fn keys_are_updated_by_foreign_clients() {
    for (peer, words) in sm2::peers() {
        let folder = certificates();
        let address = serve(folder.path()).await;
        let arguments = ["-connect", &address, "-ciphersuites", sm2::SUITES[0]];
        let mut talk = s_client(&peer, folder.path(), &[&arguments, &sm2::STRICTLY[..], words].concat());
        talk.hear("Verify return code: 0 (ok)").await;
        for (round, command) in ["k\n", "K\n", "K\n"].into_iter().enumerate() {
            talk.say(command).await;
            talk.hear_times(round + 1, "KEYUPDATE").await;
            talk.say(format!("round {round}\n")).await;
            talk.hear(&format!("you said round {round}")).await;
        }
        talk.finish().await;
    }
}

#[tokio::test]
async fn certificates_of_each_are_verified_by_the_other() {
    for (peer, words) in sm2::peers() {
        let folder = certificates();
        let said = peer.run(folder.path(), &["verify", "-CAfile", "ca.pem", "leaf.pem"]).await;
        check(&said, &["leaf.pem: OK"]);
        let said = peer.run(folder.path(), &["x509", "-in", "leaf.pem", "-noout", "-text"]).await;
        check(&said, &["SM2-with-SM3", "DNS:localhost"]);
        // A request signed with Towline's key, under the same identifier.
        let request = ["req", "-new", "-key", "leaf.key", "-subj", "/CN=localhost", "-out", "leaf.csr"];
        peer.run(folder.path(), &[&request[..], &["-sm3"]].concat()).await;
        sm2::foreign_certificates(&peer, folder.path()).await;
        let arguments = ["-tls1_3", "-ciphersuites", sm2::SUITES[0]];
        let _server = s_server(&peer, folder.path(), &[&arguments, &sm2::STRICTLY[..], words].concat());
        let client = client(&fs::read(folder.path().join("ca.pem")).unwrap());
        connect(&client, folder.path()).await;
        // And the peer's files serve Towline.
        let address = serve(folder.path()).await;
        let arguments = ["-connect", &address, "-ciphersuites", sm2::SUITES[0]];
        let talk = s_client(&peer, folder.path(), &[&arguments, &sm2::STRICTLY[..], words].concat());
        talk.hear("Verify return code: 0 (ok)").await;
    }
}

fn s_client(peer: &Peer, folder: &Path, arguments: &[&str]) -> Talk {
    let all = ["s_client", "-servername", "localhost", "-CAfile", "ca.pem", "-verify_return_error"];
    peer.start(folder, &[&all[..], &["-verify_hostname", "localhost"], arguments].concat())
}

fn s_server(peer: &Peer, folder: &Path, arguments: &[&str]) -> Talk {
    // A socket that an earlier server left would be taken for this one's.
    let _ = fs::remove_file(folder.join("door"));
    let all = ["s_server", "-unix", "door", "-cert", "leaf.pem", "-key", "leaf.key"];
    peer.start(folder, &[&all[..], arguments].concat())
}

/// One line there and back; then the client goes.
async fn exchange(talk: &mut Talk) {
    talk.say("hello\n").await;
    talk.hear("you said hello").await;
    talk.say("Q\n").await;
    talk.hear("DONE").await;
}

async fn hear(stream: &mut TlsStream<UnixStream>, wanted: &str) {
    let mut heard = Vec::new();
    while !String::from_utf8_lossy(&heard).contains(wanted) {
        assert_ne!(stream.read_buf(&mut heard).await.unwrap(), 0, "waited for {wanted:?}");
    }
}

/// Says every line back, at an address that it returns.
async fn serve(folder: &Path) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let acceptor = TlsAcceptor::from(Arc::new(server(folder)));
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move { say_back(acceptor.accept(tcp).await.unwrap()).await });
        }
    });
    address
}

async fn say_back(stream: impl AsyncRead + AsyncWrite + Unpin) {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    while stream.read_line(&mut line).await.is_ok_and(|count| count > 0) {
        stream.write_all(format!("you said {line}").as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        line.clear();
    }
}

fn server(folder: &Path) -> ServerConfig {
    let chain = CertificateDer::pem_file_iter(folder.join("leaf.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(folder.join("leaf.key")).unwrap();
    let mut config = ServerConfig::builder_with_provider(ShangMi::default().crypto())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain.map(Result::unwrap).collect(), key)
        .unwrap();
    config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().unwrap();
    config.send_tls13_tickets = TICKETS;
    config
}

fn client(ca: &[u8]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(ShangMi::default().crypto())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

async fn connect(client: &Arc<ClientConfig>, folder: &Path) -> TlsStream<UnixStream> {
    let door = folder.join("door");
    let socket = eventually(|| async { UnixStream::connect(&door).await.ok() }).await;
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::clone(client)).connect(name, socket).await.unwrap()
}

fn certificates() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    sm2::certificates(folder.path());
    folder
}
