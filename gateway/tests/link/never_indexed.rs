//! Secret fields are never-indexed literals on every hop, by name or because they came so: seen in the HPACK that
//! the gateway writes to an HTTP/2 backend and to an HTTP/2 client, and by a client on the link.

use std::net::SocketAddr;

use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use towline_client::Client;
use towline_gateway::settings::{Backend, BackendKind};
use towline_protocols::hpack::{Decoder, Encoder, HeaderField, NeverIndexed, StaticTable};

use crate::bed::{BOTH, Bed, call};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const END_STREAM: u8 = 0x1;
const ACK: u8 = 0x1;
const END_HEADERS: u8 = 0x4;

/// One side of an HTTP/2 connection, as far as one request needs it: header blocks are seen as they are written.
struct Http2 {
    tcp: TcpStream,
    decoder: Decoder,
    encoder: Encoder,
}

impl Http2 {
    async fn begin(tcp: TcpStream) -> Self {
        let table = StaticTable::rfc7541();
        let mut http2 =
            Self { tcp, decoder: Decoder::new(table, 4096, 1 << 16), encoder: Encoder::new(table, 0) };
        http2.send(SETTINGS, 0, 0, &[]).await;
        http2
    }

    async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = (payload.len() as u32).to_be_bytes();
        let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
        self.tcp.write_all(&[&head, payload].concat()).await.unwrap();
    }

    async fn send_fields(&mut self, flags: u8, stream: u32, fields: &[HeaderField]) {
        let mut block = Vec::new();
        self.encoder.encode(fields, &mut block);
        self.send(HEADERS, flags | END_HEADERS, stream, &block).await;
    }

    /// The next header block, and its stream.
    async fn fields(&mut self) -> (u32, Vec<HeaderField>) {
        loop {
            let mut head = [0; 9];
            self.tcp.read_exact(&mut head).await.unwrap();
            let [a, b, c, kind, flags, stream @ ..] = head;
            let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
            self.tcp.read_exact(&mut payload).await.unwrap();
            match kind {
                HEADERS => {
                    assert_eq!(flags & !END_STREAM, END_HEADERS, "no padding, priority or continuation");
                    return (u32::from_be_bytes(stream), self.decoder.decode(&payload).unwrap());
                }
                SETTINGS if flags & ACK == 0 => self.send(SETTINGS, ACK, 0, &[]).await,
                _ => {}
            }
        }
    }
}

fn field(name: &'static str) -> HeaderField {
    HeaderField::from_static(name, "1234")
}

/// The names of those that were never-indexed literals, in order of names.
fn never_indexed(fields: &[HeaderField]) -> Vec<&str> {
    let marked = fields.iter().filter(|field| field.sensitive);
    let mut names: Vec<&str> = marked.map(|field| str::from_utf8(&field.name).unwrap()).collect();
    names.sort_unstable();
    names
}

fn sensitive(headers: &HeaderMap) -> Vec<&str> {
    let mut names: Vec<&str> =
        headers.iter().filter(|(_, value)| value.is_sensitive()).map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    names
}

/// A backend that answers each request with fields and trailers, and tells which fields of it were secret.
async fn backend() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            tokio::spawn(async move {
                tcp.read_exact(&mut [0; PREFACE.len()]).await.unwrap();
                let mut http2 = Http2::begin(tcp).await;
                loop {
                    let (stream, request) = http2.fields().await;
                    let seen = never_indexed(&request).join(" ");
                    let head = [
                        HeaderField::from_static(":status", "200"),
                        HeaderField::from_static("content-type", "application/grpc"),
                        HeaderField::new("x-seen", seen),
                        field("set-cookie"),
                        field("x-pin"),
                    ];
                    http2.send_fields(0, stream, &head).await;
                    http2.send(DATA, 0, stream, &[0; 5]).await;
                    let trailers =
                        [HeaderField::from_static("grpc-status", "0"), field("x-pin"), field("x-b")];
                    http2.send_fields(END_STREAM, stream, &trailers).await;
                }
            });
        }
    });
    address
}

async fn bed() -> Bed {
    let address = backend().await.to_string();
    Bed::with(|settings| {
        settings.backends = vec![Backend::new("test", BackendKind::Grpc, address)];
        settings.session.never_indexed = NeverIndexed::new(&["x-pin"]).unwrap();
    })
    .await
}

#[tokio::test]
async fn over_the_link() {
    let bed = bed().await;
    for transports in BOTH {
        let mut config = bed.config(transports);
        config.never_indexed = vec!["x-mine".to_owned()];
        let client = Client::start(config).unwrap();
        let mut request = call("Echo", "");
        for name in ["authorization", "x-mine", "x-marked", "x-pin", "x-open"] {
            let mut value = HeaderValue::from_static("1234");
            value.set_sensitive(name == "x-marked");
            request = request.header(HeaderName::from_static(name), value);
        }
        let response = client.call(request).await.unwrap();
        // What the gateway says of one client among many is not for the backend's table either.
        let seen = "authorization x-forwarded-for x-marked x-mine x-pin x-towline-client";
        assert_eq!(response.headers["x-seen"], seen, "{transports:?}");
        assert_eq!(sensitive(&response.headers), ["set-cookie", "x-pin"], "{transports:?}");
        assert_eq!(sensitive(&response.trailers), ["x-pin"], "{transports:?}");
    }
}

#[tokio::test]
async fn over_http_2() {
    let bed = bed().await;
    let mut tcp = TcpStream::connect(bed.address("plain")).await.unwrap();
    tcp.write_all(PREFACE).await.unwrap();
    let mut http2 = Http2::begin(tcp).await;
    let request = [
        HeaderField::from_static(":method", "POST"),
        HeaderField::from_static(":scheme", "http"),
        HeaderField::from_static(":authority", "shop.example"),
        HeaderField::from_static(":path", "/test/Echo"),
        HeaderField::from_static("content-type", "application/grpc"),
        HeaderField::from_static("te", "trailers"),
        field("authorization"),
        field("x-pin"),
        field("x-open"),
    ];
    http2.send_fields(END_STREAM, 1, &request).await;
    let (_, head) = http2.fields().await;
    let seen = head.iter().find(|field| &*field.name == b"x-seen").unwrap();
    assert_eq!(&*seen.value, b"authorization x-forwarded-for x-pin");
    assert_eq!(never_indexed(&head), ["set-cookie", "x-pin"]);
    let (_, trailers) = http2.fields().await;
    assert_eq!(never_indexed(&trailers), ["x-pin"]);
}
