//! `towline-load corpus`: the corpus as files, for `towline dict` and for other people's tools.

use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use clap::Args;
use towline_protocols::hpack::HeaderField;

use super::{Part, clients};

/// `corpus`.
#[derive(Debug, Args)]
pub struct CorpusArgs {
    /// Folder to write into; it is made if it is not there
    #[arg(long, value_name = "FOLDER")]
    pub out: PathBuf,
    /// Which clients' traffic
    #[arg(long, value_enum, default_value = "training")]
    pub part: Part,
}

/// Writes `messages/NUMBER-KIND.bin`, one message each, and the header lists of requests, answers and trailers
/// as JSON lines: an array of `[name, value]` pairs. `headers.jsonl` has those of requests and answers by turns, with
/// their client, as `towline dict train-headers` reads them.
pub fn run(args: &CorpusArgs) -> Result<(), String> {
    let messages = args.out.join("messages");
    fs::create_dir_all(&messages).map_err(|error| format!("{}: {error}", messages.display()))?;
    let mut lists = Lists::create(&args.out)?;
    let mut number = 0;
    for (name, client) in args.part.clients().zip(clients(args.part)) {
        lists.sessions.put(&client.session_fields)?;
        for exchange in &client.exchanges {
            let link = &exchange.link;
            for (kind, half) in [("request", &link.request), ("response", &link.response)] {
                let file = messages.join(format!("{number:06}-{kind}.bin"));
                fs::write(&file, &half.body).map_err(|error| format!("{}: {error}", file.display()))?;
            }
            lists.requests.put(&link.request.fields)?;
            lists.responses.put(&link.response.fields)?;
            lists.headers.put_of(name, &link.request.fields)?;
            lists.headers.put_of(name, &link.response.fields)?;
            lists.trailers.put(&link.response.trailers)?;
            number += 1;
        }
    }
    lists.finish()?;
    println!("{number} exchanges in {}", args.out.display());
    Ok(())
}

struct Lists {
    sessions: Lines,
    requests: Lines,
    responses: Lines,
    trailers: Lines,
    headers: Lines,
}

impl Lists {
    fn create(folder: &Path) -> Result<Self, String> {
        let lines = |name: &str| Lines::create(folder.join(name));
        Ok(Self {
            sessions: lines("sessions.jsonl")?,
            requests: lines("requests.jsonl")?,
            responses: lines("responses.jsonl")?,
            trailers: lines("trailers.jsonl")?,
            headers: lines("headers.jsonl")?,
        })
    }

    fn finish(self) -> Result<(), String> {
        let all = [self.sessions, self.requests, self.responses, self.trailers, self.headers];
        all.into_iter().try_for_each(Lines::finish)
    }
}

/// A file of header lists, one a line.
struct Lines {
    path: PathBuf,
    file: BufWriter<File>,
}

impl Lines {
    fn create(path: PathBuf) -> Result<Self, String> {
        let file = File::create(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Self { path, file: BufWriter::new(file) })
    }

    fn put(&mut self, fields: &[HeaderField]) -> Result<(), String> {
        self.line(serde_json::json!(pairs(fields)))
    }

    /// The list as one of a client.
    fn put_of(&mut self, client: u64, fields: &[HeaderField]) -> Result<(), String> {
        self.line(serde_json::json!({ "client": client.to_string(), "fields": pairs(fields) }))
    }

    fn line(&mut self, line: serde_json::Value) -> Result<(), String> {
        writeln!(self.file, "{line}").map_err(|error| format!("{}: {error}", self.path.display()))
    }

    fn finish(mut self) -> Result<(), String> {
        self.file.flush().map_err(|error| format!("{}: {error}", self.path.display()))
    }
}

fn pairs(fields: &[HeaderField]) -> Vec<[String; 2]> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    fields.iter().map(|field| [text(&field.name), text(&field.value)]).collect()
}

#[cfg(test)]
mod tests {
    use towline_dictionaries::headers::{HeaderOptions, read_header_samples, train_and_measure_headers};

    use super::*;

    #[test]
    fn the_header_lists_train_a_dictionary_that_is_worth_it() {
        let folder = tempfile::tempdir().unwrap();
        run(&CorpusArgs { out: folder.path().to_owned(), part: Part::HeldBack }).unwrap();
        let samples = read_header_samples(&folder.path().join("headers.jsonl"), |_| false).unwrap();
        let trained = train_and_measure_headers(samples, HeaderOptions::default()).unwrap();
        assert!(trained.gain.first_percent() > 60.0, "{:?}", trained.gain);
    }

    #[test]
    fn each_exchange_is_two_messages_and_a_line_in_each_list() {
        let folder = tempfile::tempdir().unwrap();
        run(&CorpusArgs { out: folder.path().to_owned(), part: Part::HeldBack }).unwrap();
        let exchanges = Part::HeldBack.clients().count() * super::super::EXCHANGES_PER_CLIENT;
        assert_eq!(fs::read_dir(folder.path().join("messages")).unwrap().count(), 2 * exchanges);
        let requests = fs::read_to_string(folder.path().join("requests.jsonl")).unwrap();
        assert_eq!(requests.lines().count(), exchanges);
        let first: Vec<[String; 2]> = serde_json::from_str(requests.lines().next().unwrap()).unwrap();
        assert_eq!(first[0], [":method", "POST"].map(str::to_owned));
    }
}
