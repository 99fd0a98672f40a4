//! The SDK at `openssl s_server`.

use std::{fs, path::Path, process::Stdio, sync::Arc};

use prost::Message as _;
use tokio::{
    io::{copy_bidirectional, join},
    net::{TcpListener, TcpStream, UnixStream},
};
use towline_client::{
    CallRequest, Client, ClientConfig, Endpoint, International, Provider, Security, ShangMi, Tls, Transports,
};
use towline_gateway::proto::demo::{EchoReply, EchoRequest};

use crate::{
    bed::Bed,
    peer::{Peer, check, eventually},
    sm2,
};

/// One kind of cryptography at one peer.
struct Side {
    peer: Peer,
    words: Vec<&'static str>,
    certificate: [&'static str; 2],
    /// What the SDK trusts and offers.
    ca: &'static str,
    crypto: Arc<dyn Provider>,
    /// What the peer says of a handshake.
    shown: [&'static str; 2],
}

/// Every peer that is built, with every kind.
fn sides() -> impl Iterator<Item = Side> {
    let international = Peer::built().map(|peer| Side {
        peer,
        words: vec!["-tls1_3"],
        certificate: ["dev-cert.pem", "dev-key.pem"],
        ca: "dev-ca.pem",
        crypto: Arc::new(International::default()),
        shown: ["CIPHER is TLS_AES_", "X25519MLKEM768"],
    });
    let shangmi = sm2::peers().into_iter().map(|(peer, words)| Side {
        peer,
        words: [&sm2::STRICTLY[..], words, &["-tls1_3", "-ciphersuites", sm2::SUITES[0]]].concat(),
        certificate: ["leaf.pem", "leaf.key"],
        ca: "ca.pem",
        crypto: Arc::new(ShangMi::default()),
        shown: ["CIPHER is TLS_SM4_GCM_SM3", "curveSM2"],
    });
    international.chain(shangmi)
}

impl Side {
    /// s_server's command line, behind a socket in the bed's folder.
    fn server<'a>(&'a self, bed: &Bed, more: &[&'a str]) -> Vec<&'a str> {
        // A socket that an earlier server left would be taken for this one's.
        let _ = fs::remove_file(bed.path().join("door"));
        let [chain, key] = self.certificate;
        let all = ["s_server", "-unix", "door", "-alpn", "towline/1", "-cert", chain, "-key", key];
        [&all[..], &self.words, more].concat()
    }

    fn client(&self, bed: &Bed, endpoint: Endpoint) -> Client {
        let mut tls = Tls::new(fs::read(bed.path().join(self.ca)).unwrap());
        tls.crypto = vec![Arc::clone(&self.crypto)];
        let mut config = ClientConfig::new(vec![endpoint], Vec::new());
        config.security = Security::Tls(tls);
        config.transports = Transports::Tcp;
        Client::start(config).unwrap()
    }
}

/// A TCP port before s_server's socket: the kernel chooses a free one, which s_server would not tell.
async fn door(folder: &Path) -> Endpoint {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let socket = folder.join("door");
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut server = eventually(|| async { UnixStream::connect(&socket).await.ok() }).await;
            // Either side may end it in its own way.
            let _ = copy_bidirectional(&mut client, &mut server).await;
        }
    });
    format!("localhost:{}", address.port()).parse().unwrap()
}

#[tokio::test]
async fn the_sdk_makes_itself_known_and_resumes() {
    let bed = Bed::start().await;
    for side in sides() {
        let mut server = side.peer.start(bed.path(), &side.server(&bed, &[]));
        let _client = side.client(&bed, door(bed.path()).await);
        // The link's preface is the first that a client says.
        let said = server.hear("TWL").await;
        check(&said, &["ALPN protocols selected: towline/1"]);
        check(&said, &side.shown);
        server.say("q\n").await;
        server.hear("Reused session-id").await;
        server.hear_times(2, "TWL").await;
    }
}

#[tokio::test]
async fn the_sdk_calls_through_an_s_server_that_ends_its_tls() {
    let bed = Bed::start().await;
    for side in sides() {
        serve_behind(&side, &bed).await;
        let client = side.client(&bed, door(bed.path()).await);
        for bytes in [0, 100, 300_000] {
            let request = EchoRequest { payload: vec![7; bytes].into(), ..EchoRequest::default() };
            let call = CallRequest::grpc("/towline.demo.v1.Echo/Unary", request.encode_to_vec());
            let answer = client.call(call).await.unwrap().into_grpc().unwrap();
            assert_eq!(EchoReply::decode(answer).unwrap().payload, request.payload);
        }
    }
}

/// s_server's plaintext side, joined to the gateway's plaintext listener:
///
/// ```text
/// SDK ==TLS==> door ==TLS==> s_server --pipes--> gateway, listener "plain"
/// ```
async fn serve_behind(side: &Side, bed: &Bed) {
    let mut command = side.peer.command(bed.path(), &side.server(bed, &["-quiet"]));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    let mut server = command.spawn().unwrap();
    let mut gateway = TcpStream::connect(bed.address("plain")).await.unwrap();
    tokio::spawn(async move {
        let pipes = (server.stdout.take().unwrap(), server.stdin.take().unwrap());
        let mut pipes = join(pipes.0, pipes.1);
        // Lives as long as the test's runtime, and `server` with it.
        let _ = copy_bidirectional(&mut pipes, &mut gateway).await;
        drop(server);
    });
}
