//! A side that does not hold a dictionary which it announced (rolled back, say) is spoken to without it.
//! On QUIC each request has a stream of its own, so what one learns must reach the next.

use std::{sync::Arc, time::Instant};

use bytes::BytesMut;
use quinn::{RecvStream, SendStream, crypto::rustls::QuicServerConfig};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use towline_client::{Client, Transports};
use towline_protocols::{
    compress::{Dictionary, Shelf},
    hpack::HeaderField,
    link::{
        Config, Control, Event, Execution, Hello, Place, RequestHead, RpcError, RpcErrorKind, StreamCodec,
        StreamSettings, Welcome,
    },
};

use crate::{
    bed::{Bed, answer, endpoint, online},
    raw_quic::{connect, control_event, flush, read_into},
};

/// Long enough to be compressed.
const TEXT: &str = "order 4711: 2 tickets, Berlin to Hamburg, seats 61 and 62; order 4712: 1 ticket";

fn announcing() -> Arc<Config> {
    let dictionaries = Shelf::from(towline_dictionaries::builtin_set(3).unwrap());
    dictionaries.insert(unknown()).unwrap();
    Arc::new(Config { dictionaries, ..Config::default() })
}

/// The same, and no dictionary is there when it is needed.
fn forgetful(mut settings: StreamSettings) -> StreamSettings {
    let dictionaries = Shelf::default();
    settings.config = Arc::new(Config { dictionaries, ..(*settings.config).clone() });
    settings
}

/// Reads a stream up to the whole message of its other side.
async fn message(codec: &mut StreamCodec, recv: &mut RecvStream) -> Result<Vec<u8>, RpcError> {
    let mut input = BytesMut::new();
    loop {
        while let Some(event) = codec.poll_event()? {
            match event {
                Event::MessagePart { bytes, end_of_message: true, .. } => return Ok(bytes.to_vec()),
                Event::Reset { error, .. } => return Err(error),
                _ => {}
            }
        }
        assert!(read_into(recv, &mut input).await, "the stream ended without a message");
        codec.handle_bytes(&mut input)?;
    }
}

/// Has a message echoed, and tells the gateway if the echo cannot be read.
async fn ask(control: &Control, connection: &quinn::Connection, seq: u64) -> Result<Vec<u8>, RpcError> {
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    let stream = send.id().index();
    let mut codec = StreamCodec::client(forgetful(control.stream_settings()), stream, seq);
    let fields = [(":method", "POST"), (":path", "/test/Chat"), ("content-type", "application/grpc")];
    let fields = fields.into_iter().map(|(name, value)| HeaderField::from_static(name, value)).collect();
    let mut out = BytesMut::new();
    codec.send_request(&RequestHead { fields, ..RequestHead::default() }, false, &mut out).unwrap();
    codec.send_message(TEXT.into(), false, &mut out).unwrap();
    send.write_all(&out).await.unwrap();
    // What cannot be read is an answer: the request ran.
    let ran = |error| RpcError { execution: Execution::Ran, ..error };
    let answered = message(&mut codec, &mut recv).await.map_err(ran);
    if let Err(error) = &answered {
        out.clear();
        codec.reset(error, &mut out);
        send.write_all(&out).await.unwrap();
    }
    send.finish().unwrap();
    answered
}

#[tokio::test]
async fn the_gateway_forgets_a_dictionary_that_a_quic_client_does_not_know() {
    let bed = Bed::start().await;
    let connection = connect(&bed, bed.address("edge")).await;
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    let hello =
        Hello { client_id: "raw".into(), session_secret: vec![7; 16].into(), epoch: 1, ..Hello::default() };
    let mut control = Control::client(announcing(), hello, Instant::now());
    flush(&mut control, &mut send).await;
    assert!(matches!(control_event(&mut control, &mut recv).await, Event::Welcome(_)));
    let first = ask(&control, &connection, 1).await;
    assert_eq!(first.unwrap_err().kind, RpcErrorKind::UnknownDictionary);
    // The streams are independent, so the news may come behind a request that was sent after it.
    let mut later = Vec::new();
    for seq in 2..20 {
        later.push(ask(&control, &connection, seq).await);
    }
    let text = later.pop().unwrap().unwrap();
    assert_eq!(text, TEXT.as_bytes());
}

#[tokio::test]
async fn the_client_sends_a_request_again_without_a_dictionary_that_a_gateway_does_not_know() {
    let bed = Bed::start().await;
    let server = listen(&bed);
    let address = server.local_addr().unwrap();
    let gateway = tokio::spawn(async move {
        let connection = server.accept().await.unwrap().await.unwrap();
        let (mut send, mut recv) = connection.accept_bi().await.unwrap();
        let mut control = Control::server(announcing(), Instant::now());
        assert!(matches!(control_event(&mut control, &mut recv).await, Event::Hello(_)));
        control.welcome(Welcome { session_id: 1, ..Welcome::default() });
        flush(&mut control, &mut send).await;
        let first = serve_one(&control, &connection).await;
        let second = serve_one(&control, &connection).await;
        connection.closed().await;
        (first, second)
    });
    let mut config = bed.config(Transports::Quic);
    config.endpoints = vec![endpoint(address)];
    let client = Client::start(config).unwrap();
    // Before WELCOME nothing is compressed.
    online(&client).await;
    assert_eq!(answer(&client, "Echo", TEXT).await, TEXT);
    client.close().await;
    let (first, second) = gateway.await.unwrap();
    assert_eq!(first.unwrap_err().kind, RpcErrorKind::UnknownDictionary);
    assert_eq!(second.unwrap(), TEXT.as_bytes());
}

/// The client says what it holds on another connection, and attaches to the answer there.
#[tokio::test]
async fn the_client_gets_an_answer_that_it_could_not_read_without_the_dictionary() {
    let bed = Bed::start().await;
    let server = listen(&bed);
    let address = server.local_addr().unwrap();
    let gateway = tokio::spawn(async move {
        let connection = server.accept().await.unwrap().await.unwrap();
        let mut first = greet(&connection, false).await;
        // The client never said so.
        let unknown = unknown_to_clients();
        first.0.peer_holds(unknown);
        first.0.prefer(&[unknown]);
        let (mut send, mut recv) = connection.accept_bi().await.unwrap();
        let mut codec = StreamCodec::server(first.0.stream_settings(), recv.id().index());
        message(&mut codec, &mut recv).await.unwrap();
        respond(&mut codec, &mut send).await;

        let connection = server.accept().await.unwrap().await.unwrap();
        let second = greet(&connection, true).await;
        assert!(!second.0.peer().dictionaries.contains(&unknown));
        let (mut send, mut recv) = connection.accept_bi().await.unwrap();
        let mut codec = StreamCodec::server(second.0.stream_settings(), recv.id().index());
        let mut input = BytesMut::new();
        read_into(&mut recv, &mut input).await;
        codec.handle_bytes(&mut input).unwrap();
        let attached = codec.poll_event().unwrap();
        assert_eq!(attached, Some(Event::Attach { seq: 1, received: Place::default(), continues: false }));
        respond(&mut codec, &mut send).await;
        connection.closed().await;
    });
    let mut config = bed.config(Transports::Quic);
    config.endpoints = vec![endpoint(address)];
    let client = Client::start(config).unwrap();
    online(&client).await;
    assert_eq!(answer(&client, "Echo", TEXT).await, TEXT);
    client.close().await;
    gateway.await.unwrap();
}

/// The gateway's side of an introduction. The control stream is kept open.
async fn greet(connection: &quinn::Connection, resumed: bool) -> (Control, SendStream, RecvStream) {
    let (mut send, mut recv) = connection.accept_bi().await.unwrap();
    let mut control = Control::server(announcing(), Instant::now());
    assert!(matches!(control_event(&mut control, &mut recv).await, Event::Hello(_)));
    control.welcome(Welcome { session_id: 1, resumed, ..Welcome::default() });
    flush(&mut control, &mut send).await;
    (control, send, recv)
}

async fn respond(codec: &mut StreamCodec, send: &mut SendStream) {
    let mut out = BytesMut::new();
    let fields = [(":status", "200"), ("content-type", "application/grpc")];
    let fields = fields.map(|(name, value)| HeaderField::from_static(name, value));
    codec.send_response(&fields, false, &mut out).unwrap();
    codec.send_message(TEXT.into(), false, &mut out).unwrap();
    codec.send_trailers(&[HeaderField::from_static("grpc-status", "0")], &mut out).unwrap();
    send.write_all(&out).await.unwrap();
    send.finish().unwrap();
}

/// The id of a dictionary that only gateways of this test hold.
fn unknown_to_clients() -> u32 {
    unknown().id()
}

fn unknown() -> Dictionary {
    let samples: Vec<String> = (0..500).map(|n| format!("{TEXT} {}", n * 7919)).collect();
    let options = towline_dictionaries::TrainOptions { size: 2048 };
    towline_dictionaries::train(&samples, options).unwrap().prepare(3).unwrap()
}

/// Echoes a request's message, or refuses it.
async fn serve_one(control: &Control, connection: &quinn::Connection) -> Result<Vec<u8>, RpcError> {
    let (mut send, mut recv) = connection.accept_bi().await.unwrap();
    let mut codec = StreamCodec::server(forgetful(control.stream_settings()), recv.id().index());
    let mut out = BytesMut::new();
    // Nothing is handed on before it is whole.
    let not_run = |error| RpcError { execution: Execution::NotRun, ..error };
    let asked = message(&mut codec, &mut recv).await.map_err(not_run);
    match &asked {
        Err(error) => codec.reset(error, &mut out),
        Ok(text) => {
            let fields = [(":status", "200"), ("content-type", "application/grpc")];
            let fields = fields.map(|(name, value)| HeaderField::from_static(name, value));
            codec.send_response(&fields, false, &mut out).unwrap();
            codec
                .send_message(text.clone().into(), false, &mut out)
                .unwrap_or_else(|error| panic!("{error}"));
            codec.send_trailers(&[HeaderField::from_static("grpc-status", "0")], &mut out).unwrap();
        }
    }
    send.write_all(&out).await.unwrap();
    send.finish().unwrap();
    asked
}

/// A QUIC server with the gateway's certificate.
fn listen(bed: &Bed) -> quinn::Endpoint {
    let chain = CertificateDer::pem_file_iter(&bed.certificates.chain).unwrap();
    let chain = chain.map(|certificate| certificate.unwrap()).collect();
    let key = bed.certificates.key.read().unwrap();
    let mut tls =
        rustls::ServerConfig::builder_with_provider(rustls::crypto::aws_lc_rs::default_provider().into())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
    tls.alpn_protocols = vec![b"towline/1".to_vec()];
    let config =
        quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(Arc::new(tls)).unwrap()));
    quinn::Endpoint::server(config, ([127, 0, 0, 1], 0).into()).unwrap()
}
