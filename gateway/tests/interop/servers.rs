//! The SDK at `openssl s_server`.

use std::{path::Path, process::Stdio};

use prost::Message as _;
use tokio::{
    io::{copy_bidirectional, join},
    net::{TcpListener, TcpStream, UnixStream},
};
use towline_client::{CallRequest, Client, ClientConfig, Endpoint, Transports};
use towline_gateway::proto::demo::{EchoReply, EchoRequest};

use crate::{
    bed::Bed,
    peer::{Peer, Talk, check, eventually},
};

/// s_server behind a socket in `folder`, with the development certificate and `arguments`.
fn s_server(peer: &Peer, folder: &Path, arguments: &[&str]) -> Talk {
    let mut all = vec!["s_server", "-unix", "door", "-alpn", "towline/1"];
    all.extend(["-cert", "dev-cert.pem", "-key", "dev-key.pem"]);
    all.extend(arguments);
    peer.start(folder, &all)
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

fn client(bed: &Bed, endpoint: Endpoint) -> Client {
    let mut config = ClientConfig::new(vec![endpoint], std::fs::read(&bed.certificates.ca).unwrap());
    config.transports = Transports::Tcp;
    Client::start(config).unwrap()
}

#[tokio::test]
async fn the_sdk_makes_itself_known_and_resumes() {
    let Some(openssl) = Peer::openssl() else { return };
    let bed = Bed::start().await;
    let mut server = s_server(&openssl, bed.path(), &["-tls1_3"]);
    let _client = client(&bed, door(bed.path()).await);
    // The link's preface is the first that a client says.
    let said = server.hear("TWL").await;
    check(&said, &["ALPN protocols selected: towline/1", "CIPHER is TLS_", "X25519MLKEM768"]);
    server.say("q\n").await;
    server.hear("Reused session-id").await;
    server.hear_times(2, "TWL").await;
}

#[tokio::test]
async fn the_sdk_calls_through_an_s_server_that_ends_its_tls() {
    let Some(openssl) = Peer::openssl() else { return };
    let bed = Bed::start().await;
    serve_behind(&openssl, &bed, &["-tls1_3"]).await;
    let client = client(&bed, door(bed.path()).await);
    for bytes in [0, 100, 300_000] {
        let request = EchoRequest { payload: vec![7; bytes].into(), ..EchoRequest::default() };
        let call = CallRequest::grpc("/towline.demo.v1.Echo/Unary", request.encode_to_vec());
        let answer = client.call(call).await.unwrap().into_grpc().unwrap();
        assert_eq!(EchoReply::decode(answer).unwrap().payload, request.payload);
    }
}

/// s_server's plaintext side, joined to the gateway's plaintext listener:
///
/// ```text
/// SDK ==TLS==> door ==TLS==> s_server --pipes--> gateway, listener "plain"
/// ```
async fn serve_behind(peer: &Peer, bed: &Bed, arguments: &[&str]) {
    let mut all = vec!["s_server", "-unix", "door", "-alpn", "towline/1", "-quiet"];
    all.extend(["-cert", "dev-cert.pem", "-key", "dev-key.pem"]);
    all.extend(arguments);
    let mut command = peer.command(bed.path(), &all);
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
