//! How many bytes an exchange of the corpus costs, by protocol: real codecs, counted frame by frame.

mod http1;
mod http2;
mod link;

use std::{fs, path::PathBuf, sync::Arc};

use clap::Args;
use towline_dictionaries::{
    DictionaryFile, TrainOptions,
    headers::{HeaderOptions, HeaderSample, train_headers},
    train,
};
use towline_protocols::hpack::HeaderDictionary;

use self::{
    http1::Http1,
    http2::{Coding, Http2},
    link::{Dress, Link, Past},
};
use super::{
    CommonArgs,
    table::{Report, TOWLINE, Table},
};
use crate::corpus::{Client, Exchange, Part, clients};

/// `bytes`.
#[derive(Debug, Args)]
pub struct BytesArgs {
    /// A payload dictionary to use [default: one trained on the corpus's training part]
    #[arg(long, value_name = "FILE")]
    pub dictionary: Option<PathBuf>,
    /// A header dictionary to use [default: one trained on the corpus's training part]
    #[arg(long, value_name = "FILE")]
    pub header_dictionary: Option<PathBuf>,
    /// Size of the payload dictionary that is trained
    #[arg(long, default_value_t = 64 * 1024)]
    pub dictionary_bytes: usize,
    /// Level of zstd with the dictionary, on the link
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(i32).range(1..=19))]
    pub level: i32,
    /// Options of every comparison.
    #[command(flatten)]
    pub common: CommonArgs,
}

/// What both sides of the link hold.
struct Dictionaries {
    payload: DictionaryFile,
    headers: Arc<HeaderDictionary>,
}

/// Bytes of one exchange, below TLS. A DATA frame is body with its head; a message that stands in another
/// frame is body alone, and the rest of that frame header.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Sizes {
    request_header: usize,
    request_body: usize,
    response_header: usize,
    response_body: usize,
}

impl Sizes {
    fn total(self) -> usize {
        self.request_header + self.request_body + self.response_header + self.response_body
    }
}

/// One connection of a protocol, client and server, with the state that its codecs keep.
trait Wire {
    /// What the client sent before the first request: prefaces, settings, greetings.
    fn opening_bytes(&self) -> usize;

    fn exchange(&mut self, exchange: &Exchange) -> Result<Sizes, String>;
}

type Open<'a> = Box<dyn Fn(&Client) -> Result<Box<dyn Wire>, String> + 'a>;

/// Exchanges that are shown by themselves: the first, second and hundredth of each connection.
const SHOWN: [(&str, usize); 3] = [("1st", 0), ("2nd", 1), ("100th", 99)];

/// Measures every protocol on connections of the held-back clients, one each.
pub(super) fn run(args: &BytesArgs, report: &mut Report) -> Result<(), String> {
    let dictionaries = Dictionaries { payload: dictionary(args)?, headers: header_dictionary(args)? };
    let clients: Vec<_> = clients(Part::HeldBack).collect();
    let columns = ["total", "req header", "req body", "resp header", "resp body"];
    let mut table = Table::new("Bytes per exchange of the corpus, mean, below TLS", &columns);
    let columns = ["client sends", "before", "req header", "req body"];
    let mut opening = Table::new("First flight of a fresh connection, mean, below TLS", &columns);
    for (name, open) in protocols(&dictionaries, args.level) {
        args.common.say(&format!("bytes: {name}"));
        let taken: Vec<_> = clients.iter().map(|client| take(&open, client)).collect::<Result<_, _>>()?;
        let all = || taken.iter().flat_map(|taken| &taken.sizes);
        for (case, position) in SHOWN.into_iter().filter(|(case, _)| args.common.wants(case)) {
            let shown = taken.iter().filter_map(|taken| taken.sizes.get(position));
            table.row(case, name, Ok((mean(shown), String::new())));
        }
        if args.common.wants("mean") {
            table.row("mean", name, Ok((mean(all()), String::new())));
        }
        opening.row("cold", name, Ok((first_flight(&taken), String::new())));
    }
    table.row("goal", "anchors.md", Ok((vec![880.0, 16.0, 75.0, 5.0, 780.0], "of its own corpus".into())));
    table
        .note("20 connections with 120 exchanges each; link requests carry no x-request-id and traceparent,");
    table.note("but for `link, traced`. A link's response header includes the client's credit; the next request acknowledges.");
    opening.note(
        "`before`: preface and SETTINGS, or preface and HELLO. On a link's first connection HELLO has the",
    );
    opening.note(
        "session's header fields; `towline` and `link, traced` are a later connection of a session: HELLO",
    );
    opening.note("names them, and a header dictionary, by their hashes.");
    report.add(table);
    report.add(opening);
    Ok(())
}

fn dictionary(args: &BytesArgs) -> Result<DictionaryFile, String> {
    if let Some(path) = &args.dictionary {
        return DictionaryFile::load(path).map_err(|error| error.to_string());
    }
    args.common.say("bytes: training a dictionary");
    let messages: Vec<_> = clients(Part::Training)
        .flat_map(|client| client.exchanges)
        .flat_map(|exchange| [exchange.link.request.body, exchange.link.response.body])
        .collect();
    train(&messages, TrainOptions { size: args.dictionary_bytes }).map_err(|error| error.to_string())
}

fn header_dictionary(args: &BytesArgs) -> Result<Arc<HeaderDictionary>, String> {
    if let Some(path) = &args.header_dictionary {
        let text = fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let parsed = HeaderDictionary::parse(text);
        return parsed.map(Arc::new).map_err(|error| format!("{}: {error}", path.display()));
    }
    args.common.say("bytes: training a header dictionary");
    trained_headers().map(Arc::new)
}

fn trained_headers() -> Result<HeaderDictionary, String> {
    let lists = Part::Training.clients().zip(clients(Part::Training)).flat_map(|(seed, client)| {
        let halves = client.exchanges.into_iter().flat_map(|it| [it.link.request, it.link.response]);
        halves.map(move |half| HeaderSample::of(seed, &half.fields, |_| false)).collect::<Vec<_>>()
    });
    train_headers(&lists.collect::<Vec<_>>(), HeaderOptions::default()).map_err(|error| error.to_string())
}

fn protocols(dictionaries: &Dictionaries, level: i32) -> Vec<(&'static str, Open<'_>)> {
    let http2 = |coding| -> Open<'_> { Box::new(move |_| Ok(Box::new(Http2::open(coding)?))) };
    let link = |dress: Dress, past: Past, trained: bool| -> Open<'_> {
        let trained = trained.then_some(dictionaries);
        Box::new(move |client| Ok(Box::new(Link::open(client, dress, past, trained, level)?)))
    };
    vec![
        ("HTTP/1.1 + JSON", Box::new(|_| Ok(Box::new(Http1)))),
        ("HTTP/2 + JSON + gzip", http2(Coding::JsonGzip)),
        ("gRPC", http2(Coding::Grpc)),
        ("gRPC + zstd", http2(Coding::GrpcZstd)),
        ("link, no dictionary", link(Dress::Plain, Past::None, false)),
        ("link, 1st connection", link(Dress::Plain, Past::None, true)),
        ("link, traced", link(Dress::Traced, Past::Known, true)),
        (TOWLINE, link(Dress::Plain, Past::Known, true)),
    ]
}

/// One client's connection.
struct Taken {
    opening: usize,
    sizes: Vec<Sizes>,
}

fn take(open: &Open<'_>, client: &Client) -> Result<Taken, String> {
    let mut wire = open(client)?;
    let sizes = client.exchanges.iter().map(|exchange| wire.exchange(exchange)).collect::<Result<_, _>>()?;
    Ok(Taken { opening: wire.opening_bytes(), sizes })
}

fn mean<'a>(sizes: impl Iterator<Item = &'a Sizes> + Clone) -> Vec<f64> {
    let count = sizes.clone().count().max(1) as f64;
    let of = |part: fn(&Sizes) -> usize| sizes.clone().map(part).sum::<usize>() as f64 / count;
    vec![
        of(|sizes| sizes.total()),
        of(|sizes| sizes.request_header),
        of(|sizes| sizes.request_body),
        of(|sizes| sizes.response_header),
        of(|sizes| sizes.response_body),
    ]
}

fn first_flight(taken: &[Taken]) -> Vec<f64> {
    let first = mean(taken.iter().filter_map(|taken| taken.sizes.first()));
    let before = taken.iter().map(|taken| taken.opening).sum::<usize>() as f64 / taken.len().max(1) as f64;
    vec![before + first[1] + first[2], before, first[1], first[2]]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corpus::{SERVICES, client};

    fn first(wire: &mut dyn Wire) -> Vec<Sizes> {
        client(1).exchanges.iter().take(10).map(|exchange| wire.exchange(exchange).unwrap()).collect()
    }

    #[test]
    fn http1_sends_every_header_each_time_and_http2_does_not() {
        let http1 = first(&mut Http1);
        let http2 = first(&mut Http2::open(Coding::JsonGzip).unwrap());
        assert!(http1.iter().all(|sizes| sizes.request_header > 700));
        // Token, request id and trace are new or never indexed: they are sent each time there too.
        assert!(http2[9].request_header + 150 < http2[0].request_header, "{http2:?}");
        assert!(mean(http2.iter())[4] < mean(http1.iter())[4] / 2.0);
    }

    #[test]
    fn the_link_repeats_no_session_header() {
        let client = client(1);
        let mut link = Link::open(&client, Dress::Plain, Past::None, None, 3).unwrap();
        let sizes = first(&mut link);
        assert!(link.opening_bytes() > 300, "the session's fields are in HELLO");
        assert!(sizes[9].request_header < 60, "{sizes:?}");
    }

    #[test]
    fn a_later_connection_names_what_both_sides_hold() {
        let messages: Vec<String> = (0..500).map(|n| format!("message {}", n * 7919)).collect();
        let payload = train(&messages, TrainOptions { size: 1024 }).unwrap();
        let both = Dictionaries { payload, headers: Arc::new(trained_headers().unwrap()) };
        let client = client(1_000_001);
        let open = |past| Link::open(&client, Dress::Plain, past, Some(&both), 3).unwrap();
        let (mut cold, mut known) = (open(Past::None), open(Past::Known));
        assert!(cold.opening_bytes() > 300 && known.opening_bytes() < 120, "{}", known.opening_bytes());
        let [cold, known] = [first(&mut cold)[0], first(&mut known)[0]];
        assert!(known.request_header + 10 < cold.request_header, "{known:?}, {cold:?}");
    }

    #[test]
    fn every_service_is_smaller_on_the_link_than_as_grpc() {
        let client = client(2);
        let mut grpc = Http2::open(Coding::Grpc).unwrap();
        let mut link = Link::open(&client, Dress::Plain, Past::None, None, 3).unwrap();
        for exchange in client.exchanges.iter().take(4 * SERVICES.len()) {
            let (grpc, link) = (grpc.exchange(exchange).unwrap(), link.exchange(exchange).unwrap());
            assert!(link.total() < grpc.total(), "{:?}: {link:?}, {grpc:?}", exchange.service);
        }
    }
}
