//! Traffic as a mobile app makes it, by seed: feed, payments, configuration, chat and telemetry.
//!
//! Every exchange exists in three forms that say the same: JSON over HTTP, gRPC, and the link. [`Part`]
//! keeps what may be trained on apart from what is measured with: other people with other devices, who read
//! the same authors and pay the same merchants.

mod device;
mod services;
mod value;
mod words;
mod write;

use std::ops::Range;

use bytes::Bytes;
use clap::ValueEnum;
use fastrand::Rng;
use towline_protocols::hpack::HeaderField;

use self::{
    device::{AUTHORITY, Device, field, tracing_fields},
    services::Call,
};
pub use self::{
    services::{SERVICES, Service},
    write::{CorpusArgs, run},
};

/// Exchanges of one client, in the order of time.
pub const EXCHANGES_PER_CLIENT: usize = 120;

/// The first client's first exchange: a morning in November 2026.
const BEGIN_UNIX_MS: u64 = 1_793_865_600_000;

/// Which clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// To train dictionaries on.
    Training,
    /// To measure with; never trained on.
    HeldBack,
}

impl Part {
    /// Seeds of the part's clients.
    pub fn clients(self) -> Range<u64> {
        match self {
            Self::Training => 0..40,
            Self::HeldBack => 1_000_000..1_000_020,
        }
    }
}

/// One app on one device, and what it asks in a day.
#[derive(Clone, Debug)]
pub struct Client {
    /// Fields of every request: on the link they are given once per session.
    pub session_fields: Vec<HeaderField>,
    /// In the order of time.
    pub exchanges: Vec<Exchange>,
}

/// One call in its three forms.
#[derive(Clone, Debug)]
pub struct Exchange {
    /// What it is about.
    pub service: Service,
    /// JSON over HTTP. Both fields and bodies are before compression.
    pub json: Form,
    /// gRPC; bodies are messages without their length prefix.
    pub grpc: Form,
    /// The link. Its requests have neither `x-request-id` nor `traceparent`: session and sequence number name
    /// them. [`Exchange::tracing`] has both for an app that sends them all the same.
    pub link: Form,
    /// The two fields that only HTTP's and gRPC's requests carry.
    pub tracing: Vec<HeaderField>,
}

/// Both halves.
#[derive(Clone, Debug)]
pub struct Form {
    /// What the client sends.
    pub request: Half,
    /// What it gets.
    pub response: Half,
}

/// Header fields, body, and gRPC's trailers.
#[derive(Clone, Debug, Default)]
pub struct Half {
    /// Pseudo-header fields first.
    pub fields: Vec<HeaderField>,
    /// May be empty.
    pub body: Bytes,
    /// Behind the body.
    pub trailers: Vec<HeaderField>,
}

/// The clients of a part.
pub fn clients(part: Part) -> impl Iterator<Item = Client> {
    part.clients().map(client)
}

/// The client of this seed, always the same.
pub fn client(seed: u64) -> Client {
    let random = &mut Rng::with_seed(seed);
    let device = Device::new(random);
    let mut now_ms = BEGIN_UNIX_MS + random.u64(..14 * 3_600_000);
    let exchanges = (0..EXCHANGES_PER_CLIENT)
        .map(|_| {
            now_ms += random.u64(200..120_000);
            let service = Service::draw(random);
            let call = service.call(random, &device, now_ms);
            exchange(service, &call, &device, random, now_ms)
        })
        .collect();
    Client { session_fields: device.session_fields(), exchanges }
}

fn exchange(service: Service, call: &Call, device: &Device, random: &mut Rng, now_ms: u64) -> Exchange {
    let tracing = tracing_fields(random);
    Exchange {
        service,
        json: json_form(call, device, &tracing, now_ms),
        grpc: grpc_form(call, device, &tracing),
        link: link_form(call),
        tracing,
    }
}

fn json_form(call: &Call, device: &Device, tracing: &[HeaderField], now_ms: u64) -> Form {
    let (method, target) = &call.http;
    let asks = *method == "GET";
    let body = if asks { String::new() } else { value::json(&call.request) };
    let mut fields = vec![
        field(":method", method),
        field(":scheme", "https"),
        field(":path", target),
        field(":authority", AUTHORITY),
    ];
    fields.extend(device.session_fields().into_iter().skip(1));
    fields.extend([field("accept", "application/json"), field("accept-encoding", "gzip, deflate, br")]);
    if !asks {
        fields.extend([field("content-type", "application/json; charset=utf-8"), length(&body)]);
    }
    fields.extend_from_slice(tracing);
    let answer = value::json(&call.response);
    let response_fields = vec![
        field(":status", "200"),
        field("content-type", "application/json; charset=utf-8"),
        length(&answer),
        field("date", &http_date(now_ms)),
        field("cache-control", "private, no-store"),
        field("vary", "Accept-Encoding"),
        field("server", "example"),
        tracing[0].clone(),
    ];
    Form {
        request: Half { fields, body: body.into(), trailers: Vec::new() },
        response: Half { fields: response_fields, body: answer.into(), trailers: Vec::new() },
    }
}

fn grpc_form(call: &Call, device: &Device, tracing: &[HeaderField]) -> Form {
    let mut fields = vec![
        field(":method", "POST"),
        field(":scheme", "https"),
        field(":path", call.grpc),
        field(":authority", AUTHORITY),
        field("content-type", "application/grpc"),
        field("te", "trailers"),
        field("grpc-accept-encoding", "identity,zstd,gzip"),
        field("grpc-timeout", "10S"),
    ];
    fields.extend(device.session_fields().into_iter().skip(1));
    fields.extend_from_slice(tracing);
    grpc_halves(call, fields)
}

fn link_form(call: &Call) -> Form {
    let fields = vec![
        field(":method", "POST"),
        field(":path", call.grpc),
        field("content-type", "application/grpc"),
        field("te", "trailers"),
    ];
    grpc_halves(call, fields)
}

fn grpc_halves(call: &Call, fields: Vec<HeaderField>) -> Form {
    let response = Half {
        fields: vec![field(":status", "200"), field("content-type", "application/grpc")],
        body: value::protobuf(&call.response).into(),
        trailers: vec![field("grpc-status", "0")],
    };
    let request = Half { fields, body: value::protobuf(&call.request).into(), trailers: Vec::new() };
    Form { request, response }
}

fn length(body: &str) -> HeaderField {
    field("content-length", &body.len().to_string())
}

/// `Thu, 05 Nov 2026 08:30:12 GMT`; the corpus is one day's traffic.
fn http_date(unix_ms: u64) -> String {
    format!("Thu, 05 Nov 2026 {} GMT", &value::rfc3339(unix_ms)[11..19])
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn bodies(part: Part) -> Vec<Bytes> {
        let exchanges = clients(part).flat_map(|client| client.exchanges);
        exchanges.flat_map(|exchange| [exchange.link.request.body, exchange.link.response.body]).collect()
    }

    #[test]
    fn a_seed_always_gives_the_same_client() {
        let (first, again) = (client(7), client(7));
        assert_eq!(first.session_fields, again.session_fields);
        for (one, other) in first.exchanges.iter().zip(&again.exchanges) {
            assert_eq!(one.json.request.fields, other.json.request.fields);
            assert_eq!(one.link.response.body, other.link.response.body);
        }
        assert_ne!(client(8).session_fields, first.session_fields);
    }

    #[test]
    fn there_are_thousands_of_messages_and_all_services_are_in_both_parts() {
        for (part, least) in [(Part::Training, 9000), (Part::HeldBack, 4000)] {
            assert!(bodies(part).len() >= least);
            let seen: HashSet<_> =
                clients(part).flat_map(|client| client.exchanges).map(|exchange| exchange.service).collect();
            assert_eq!(seen.len(), SERVICES.len());
        }
    }

    /// Short answers and requests ("2 events accepted") repeat; whatever holds a text or an id does not.
    #[test]
    fn no_longer_message_is_in_both_parts() {
        let training: HashSet<_> = bodies(Part::Training).into_iter().collect();
        let shared = bodies(Part::HeldBack).into_iter().filter(|body| training.contains(body));
        assert_eq!(shared.map(|body| body.len()).max().filter(|length| *length > 8), None);
    }

    #[test]
    fn the_forms_say_the_same() {
        let exchanges = client(3).exchanges;
        let chat = exchanges.iter().find(|exchange| exchange.service == Service::Chat).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&chat.json.request.body).unwrap();
        let said = json["text"].as_str().unwrap().as_bytes();
        let protobuf = &chat.link.request.body;
        assert!(protobuf.windows(said.len()).any(|window| window == said));
        assert_eq!(chat.grpc.request.body, *protobuf);
    }
}
