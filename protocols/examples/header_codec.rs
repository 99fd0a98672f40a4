//! HPACK and QPACK by lines of text, so that other people's codecs can be held against them:
//! `tests/header_judges.py` does that.
//!
//! ```text
//! new hpack|qpack TABLE_BYTES BLOCKED_STREAMS     both sides anew
//! size BYTES                                      HPACK: another table size
//! encode STREAM [NAME=VALUE[!] ...]               answers: INSTRUCTIONS SECTION; ! is never indexed
//! decode STREAM SECTION                           answers: blocked, or NAME=VALUE[!] ...
//! to-decoder INSTRUCTIONS                         QPACK's encoder stream
//! to-encoder INSTRUCTIONS                         QPACK's decoder stream
//! acks                                            answers: what the decoder has to say
//! ```
//!
//! Octets are in hex, and `-` stands for none. An answer that begins with `error` names what was refused.

use std::io::{self, BufRead as _, Write as _};

use towline_protocols::{
    hpack::{self, HeaderField, StaticTable},
    qpack::{self, Decoded},
};

const LIST_BYTES_MAX: usize = 1 << 20;

enum Codec {
    Hpack(Box<hpack::Encoder>, Box<hpack::Decoder>),
    Qpack(Box<qpack::Encoder>, Box<qpack::Decoder>),
}

fn main() -> io::Result<()> {
    let mut codec = None;
    let mut answers = io::stdout().lock();
    for line in io::stdin().lock().lines() {
        let answer = answer(&mut codec, &line?).unwrap_or_else(|error| format!("error {error}"));
        writeln!(answers, "{answer}")?;
        answers.flush()?;
    }
    Ok(())
}

fn answer(codec: &mut Option<Codec>, line: &str) -> Result<String, String> {
    let mut words = line.split_whitespace();
    let command = words.next().ok_or("an empty line")?;
    let words: Vec<&str> = words.collect();
    if command == "new" {
        *codec = Some(Codec::new(&words)?);
        return Ok("ok".to_owned());
    }
    let codec = codec.as_mut().ok_or("`new` comes first")?;
    let (&first, rest) = words.split_first().unwrap_or((&"0", &[]));
    match command {
        "size" => codec.resize(number(first)?).map(|()| "ok".to_owned()),
        "encode" => codec.encode(number(first)? as u64, rest),
        "decode" => codec.decode(number(first)? as u64, &octets(rest.first().ok_or("no section")?)?),
        "to-decoder" => codec.feed_decoder(&octets(first)?),
        "to-encoder" => codec.feed_encoder(&octets(first)?),
        "acks" => codec.acks(),
        _ => Err(format!("no command {command}")),
    }
}

impl Codec {
    fn new(words: &[&str]) -> Result<Self, String> {
        let &[kind, table, blocked] = words else { return Err("new needs three words".to_owned()) };
        let (table, blocked) = (number(table)?, number(blocked)?);
        if kind == "hpack" {
            let encoder = hpack::Encoder::new(StaticTable::rfc7541(), table);
            let decoder = hpack::Decoder::new(StaticTable::rfc7541(), table, LIST_BYTES_MAX);
            return Ok(Self::Hpack(Box::new(encoder), Box::new(decoder)));
        }
        let mut encoder = qpack::Encoder::new(StaticTable::rfc9204());
        encoder.set_limits(table, table, blocked);
        let decoder = qpack::Decoder::new(StaticTable::rfc9204(), table, blocked, LIST_BYTES_MAX);
        Ok(Self::Qpack(Box::new(encoder), Box::new(decoder)))
    }

    fn resize(&mut self, bytes: usize) -> Result<(), String> {
        let Self::Hpack(encoder, decoder) = self else { return Err("only HPACK's size changes".to_owned()) };
        encoder.set_table_size(bytes);
        decoder.set_table_size_max(bytes);
        Ok(())
    }

    fn encode(&mut self, stream: u64, words: &[&str]) -> Result<String, String> {
        let fields: Vec<HeaderField> = words.iter().map(|word| field(word)).collect::<Result<_, _>>()?;
        let mut section = Vec::new();
        let instructions = match self {
            Self::Hpack(encoder, _) => {
                encoder.encode(&fields, &mut section);
                Vec::new()
            }
            Self::Qpack(encoder, _) => {
                encoder.encode(stream, &fields, &mut section);
                encoder.take_instructions().to_vec()
            }
        };
        Ok(format!("{} {}", hex(&instructions), hex(&section)))
    }

    fn decode(&mut self, stream: u64, section: &[u8]) -> Result<String, String> {
        let fields = match self {
            Self::Hpack(_, decoder) => decoder.decode(section).map_err(|error| error.to_string())?,
            Self::Qpack(_, decoder) => match decoder.decode(stream, section) {
                Ok(Decoded::Fields(fields)) => fields,
                Ok(Decoded::Blocked(_)) => return Ok("blocked".to_owned()),
                Err(error) => return Err(error.to_string()),
            },
        };
        let word = |field: &HeaderField| {
            let mark = if field.sensitive { "!" } else { "" };
            format!("{}={}{mark}", hex(&field.name), hex(&field.value))
        };
        Ok(fields.iter().map(word).collect::<Vec<_>>().join(" "))
    }

    fn feed_decoder(&mut self, instructions: &[u8]) -> Result<String, String> {
        let Self::Qpack(_, decoder) = self else { return Err("HPACK has no instructions".to_owned()) };
        decoder.handle_instructions(instructions).map_err(|error| error.to_string())?;
        Ok("ok".to_owned())
    }

    fn feed_encoder(&mut self, instructions: &[u8]) -> Result<String, String> {
        let Self::Qpack(encoder, _) = self else { return Err("HPACK has no instructions".to_owned()) };
        encoder.handle_instructions(instructions).map_err(|error| error.to_string())?;
        Ok("ok".to_owned())
    }

    fn acks(&mut self) -> Result<String, String> {
        let Self::Qpack(_, decoder) = self else { return Err("HPACK has no instructions".to_owned()) };
        Ok(hex(&decoder.take_instructions()))
    }
}

fn field(word: &str) -> Result<HeaderField, String> {
    let (word, sensitive) = match word.strip_suffix('!') {
        Some(word) => (word, true),
        None => (word, false),
    };
    let (name, value) = word.split_once('=').ok_or("a field is NAME=VALUE")?;
    Ok(HeaderField { name: octets(name)?.into(), value: octets(value)?.into(), sensitive })
}

fn number(word: &str) -> Result<usize, String> {
    word.parse().map_err(|_| format!("{word} is no number"))
}

fn octets(word: &str) -> Result<Vec<u8>, String> {
    let word = word.trim_start_matches('-');
    let octet = |at: usize| word.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
    let octets = (0..word.len()).step_by(2).map(octet).collect::<Option<_>>();
    octets.ok_or_else(|| format!("{word} is not hex"))
}

fn hex(octets: &[u8]) -> String {
    match octets {
        [] => "-".to_owned(),
        _ => octets.iter().map(|octet| format!("{octet:02x}")).collect(),
    }
}
