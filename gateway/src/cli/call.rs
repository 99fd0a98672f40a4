//! `towline call`: one request through the client library, its answer and how it went.

pub mod connect;
mod dump;

use std::{
    io::{self, Write as _},
    path::PathBuf,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use towline_client::{
    CallRequest, CallResponse, Client, MessageBytes, Priority, ShortCalls, StreamReceiver, StreamSender,
    Timeline,
};
use towline_protocols::policy::units::parse_duration;

pub use self::{connect::ConnectArgs, dump::describe};

/// Longer than anybody waits at a terminal.
const DEADLINE_MAX: Duration = Duration::from_secs(86_400);

/// Sends one request to a gateway and prints the answer.
///
/// A method path such as /towline.demo.v1.Echo/Unary is called as gRPC; with --http METHOD it is plain HTTP.
/// The answer's messages are printed as text where they are text, else field by field as far as the
/// protobuf wire format tells without a schema; the last line says how the call went.
#[derive(clap::Args, Debug)]
pub struct CallArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// Path of the method, such as /towline.demo.v1.Echo/Unary
    path: String,
    #[command(flatten)]
    payload: PayloadArgs,
    /// Header field, `name: value`; repeat it to name several
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", value_parser = header)]
    headers: Vec<(HeaderName, HeaderValue)>,
    /// Plain HTTP with this method instead of gRPC
    #[arg(long, value_name = "METHOD", conflicts_with = "stream")]
    http: Option<Method>,
    /// Stream: each line of standard input is a message (encoded as by --text where --text is given)
    #[arg(long)]
    stream: bool,
    /// Send it by HTTPS POST, over a short connection; the link is made beside it
    #[arg(long, conflicts_with = "stream")]
    short: bool,
    /// How long to wait for the answer: "500ms", "2s", "1m", or a number of seconds
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = deadline)]
    deadline: Duration,
    /// Urgency, 0 (first) to 7 (last)
    #[arg(long, default_value = "3", value_parser = clap::value_parser!(u8).range(0..=7))]
    urgency: u8,
    /// Running it twice does no harm
    #[arg(long)]
    idempotent: bool,
    /// How many times to send it, one after the other
    #[arg(long, default_value = "1", conflicts_with = "stream", value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,
    /// Write the messages to standard output as they are
    #[arg(long)]
    raw: bool,
}

/// The message of the request; empty when none of these is given.
#[derive(clap::Args, Debug)]
#[group(multiple = false)]
struct PayloadArgs {
    /// The message's bytes, as text
    #[arg(short = 'd', long, value_name = "TEXT")]
    data: Option<String>,
    /// File with the message's bytes
    #[arg(long, value_name = "FILE")]
    data_file: Option<PathBuf>,
    /// The message's bytes, in hex
    #[arg(long, value_name = "HEX")]
    hex: Option<String>,
    /// A protobuf message whose field 1 is this string, as towline.demo.v1.Echo takes it
    #[arg(long, value_name = "TEXT", num_args = 0..=1, default_missing_value = "")]
    text: Option<String>,
}

/// Runs the command.
///
/// # Errors
/// What went wrong, for people.
pub async fn run(args: CallArgs) -> Result<(), String> {
    let mut config = args.connect.config()?;
    if args.short {
        config.short_calls = ShortCalls::Always;
    }
    let client = Client::start(config).map_err(|error| error.to_string())?;
    let outcome = if args.stream { stream(&client, &args).await } else { unary(&client, &args).await };
    client.close().await;
    outcome
}

async fn unary(client: &Client, args: &CallArgs) -> Result<(), String> {
    let message = args.payload.message()?;
    for _ in 0..args.repeat {
        let request = args.request(message.clone());
        let response = client.call(request).await.map_err(|failed| {
            eprintln!("{}", describe_timeline(&failed.timeline));
            failed.to_string()
        })?;
        show(args, &response).map_err(|error| format!("standard output: {error}"))?;
        eprintln!("{}", describe_timeline(&response.timeline));
        check_status(args, &response)?;
    }
    Ok(())
}

/// Prints the messages to standard output.
fn show(args: &CallArgs, response: &CallResponse) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for message in &response.messages {
        print_message(&mut out, args.raw, message)?;
    }
    out.flush()
}

/// The way of the call, in one line. What travelled smaller than it is shows both.
fn describe_timeline(timeline: &Timeline) -> String {
    let ms = |span: Duration| format!("{:.1} ms", span.as_secs_f64() * 1e3);
    let weight = |bytes: MessageBytes| match bytes.plain == bytes.wire {
        true => format!("{} bytes", bytes.plain),
        false => format!("{} bytes as {}", bytes.plain, bytes.wire),
    };
    let spans = [
        ("queue", Some(timeline.queue)),
        ("dns", timeline.dns),
        ("connect", timeline.connect),
        ("tls", timeline.tls),
        ("send", timeline.send),
        ("first byte", timeline.first_byte),
    ];
    let spans: Vec<String> =
        spans.iter().filter_map(|(name, span)| Some(format!("{name} {}", ms((*span)?)))).collect();
    format!(
        "-- {}, {} {}, {} ({}), {} sent, {} received",
        timeline.transport.map_or_else(|| "not sent".to_owned(), |transport| transport.to_string()),
        timeline.attempts,
        if timeline.attempts == 1 { "attempt" } else { "attempts" },
        ms(timeline.elapsed),
        spans.join(", "),
        weight(timeline.request),
        weight(timeline.response),
    )
}

fn print_message(out: &mut impl io::Write, raw: bool, message: &Bytes) -> io::Result<()> {
    if raw { out.write_all(message) } else { writeln!(out, "{}", describe(message)) }
}

/// A status that is no success is this command's failure too.
fn check_status(args: &CallArgs, response: &CallResponse) -> Result<(), String> {
    if args.http.is_some() {
        let ok = (200..400).contains(&response.status);
        return if ok { Ok(()) } else { Err(format!("HTTP status {}", response.status)) };
    }
    match response.grpc_status() {
        Some(status) if status.code == 0 => Ok(()),
        Some(status) => Err(status.to_string()),
        None => Err(format!("HTTP status {} without a grpc-status", response.status)),
    }
}

async fn stream(client: &Client, args: &CallArgs) -> Result<(), String> {
    let started = Instant::now();
    let (sender, receiver) = client.stream(args.request(Bytes::new()));
    let (sent, received) = tokio::join!(send_lines(sender, args), print_stream(receiver, args));
    let count = received?;
    eprintln!(
        "-- {} messages sent, {count} received, {:.1} ms",
        sent?,
        started.elapsed().as_secs_f64() * 1e3
    );
    Ok(())
}

/// Each line of standard input becomes a message; the end of input ends the request.
async fn send_lines(mut sender: StreamSender, args: &CallArgs) -> Result<usize, String> {
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let mut count = 0;
    while let Some(line) = lines.next_line().await.map_err(|error| format!("standard input: {error}"))? {
        let message = if args.payload.text.is_some() { string_field_1(&line) } else { line.into() };
        // The receiver tells why the stream ended.
        if sender.send(message).await.is_err() {
            return Ok(count);
        }
        count += 1;
    }
    let _ = sender.finish().await;
    Ok(count)
}

async fn print_stream(mut receiver: StreamReceiver, args: &CallArgs) -> Result<usize, String> {
    let mut count = 0;
    while let Some(message) = receiver.message().await.map_err(|error| error.to_string())? {
        let mut out = io::stdout().lock();
        print_message(&mut out, args.raw, &message)
            .and_then(|()| out.flush())
            .map_err(|error| format!("standard output: {error}"))?;
        count += 1;
    }
    match receiver.grpc_status() {
        Some(status) if status.code != 0 => Err(status.to_string()),
        _ => Ok(count),
    }
}

impl CallArgs {
    fn request(&self, message: Bytes) -> CallRequest {
        let mut request = match &self.http {
            Some(method) => CallRequest::http(method.clone(), &self.path, message),
            None => CallRequest::grpc(&self.path, message),
        };
        request.headers.extend(self.headers.iter().cloned());
        request.deadline = Some(self.deadline);
        request.priority = Priority::new(self.urgency);
        request.idempotent |= self.idempotent;
        request
    }
}

impl PayloadArgs {
    fn message(&self) -> Result<Bytes, String> {
        if let Some(text) = &self.data {
            return Ok(Bytes::copy_from_slice(text.as_bytes()));
        }
        if let Some(path) = &self.data_file {
            return connect::read(path).map(Bytes::from);
        }
        if let Some(digits) = &self.hex {
            return unhex(digits).ok_or_else(|| "--hex takes an even number of hex digits".to_owned());
        }
        Ok(self.text.as_deref().map(string_field_1).unwrap_or_default())
    }
}

/// `string field = 1` of a protobuf message: key 0x0a, length, UTF-8.
fn string_field_1(text: &str) -> Bytes {
    let mut out = vec![0x0a];
    let mut length = text.len();
    while length >= 0x80 {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend_from_slice(text.as_bytes());
    out.into()
}

fn unhex(digits: &str) -> Option<Bytes> {
    if !digits.is_ascii() || !digits.len().is_multiple_of(2) {
        return None;
    }
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok()).collect()
}

fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("write `name: value`")?;
    let name = HeaderName::try_from(name.trim()).map_err(|error| error.to_string())?;
    let value = HeaderValue::try_from(value.trim()).map_err(|error| error.to_string())?;
    Ok((name, value))
}

fn deadline(text: &str) -> Result<Duration, String> {
    let seconds = || text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    match parse_duration(text).or_else(seconds) {
        Some(duration) if !duration.is_zero() && duration <= DEADLINE_MAX => Ok(duration),
        Some(_) => Err("write more than 0 and at most 1d".to_owned()),
        None => Err("write a duration, as \"500ms\", \"2s\" or \"1m\", or a number of seconds".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_becomes_field_1() {
        assert_eq!(string_field_1("hi"), &b"\x0a\x02hi"[..]);
        assert_eq!(string_field_1(&"x".repeat(300))[..3], [0x0a, 0xac, 0x02]);
        assert_eq!(describe(&string_field_1("hi")), "1: \"hi\"");
    }

    #[test]
    fn arguments_are_checked() {
        assert_eq!(unhex("0aFF").unwrap(), &[0x0a, 0xff][..]);
        assert!(unhex("0").is_none() && unhex("zz").is_none() && unhex("é").is_none());
        assert!(header("x-a: b").is_ok() && header("x-a").is_err() && header("x a: b").is_err());
    }

    #[test]
    fn a_deadline_is_written_as_in_the_configuration_or_in_seconds() {
        for (text, milliseconds) in
            [("500ms", 500), ("2s", 2000), ("1m", 60_000), ("1d", 86_400_000), ("0.5", 500), ("30", 30_000)]
        {
            assert_eq!(deadline(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["0", "0s", "-1", "-1s", "NaN", "inf", "1e30", "2d", "", "2 s", "2 seconds"] {
            assert!(deadline(text).is_err(), "{text}");
        }
    }
}
