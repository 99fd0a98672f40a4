//! `towline dict train-headers`.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use clap::Args;
use serde::Deserialize;
use towline_dictionaries::{
    DictError,
    headers::{
        CLIENTS_MIN_DEFAULT, HEADER_FIELDS_DEFAULT, HEADER_SIZE_DEFAULT, HeaderGain, HeaderOptions,
        TrainedHeaders, read_header_samples, train_and_measure_headers,
    },
};
use towline_protocols::hpack::{HeaderDictionary, NeverIndexed};

use crate::{
    cli::{Failure, admin::Admin},
    dictionaries::shown_hash,
};

#[derive(Debug, Args)]
pub(super) struct TrainHeadersArgs {
    /// A file of header lists, one a line as JSON: {"client":"a1","fields":[[":path","/shop.Orders/Get"],...]}
    ///
    /// `client` tells clients apart. Without a file, a running gateway trains on what its routes with
    /// `sample_headers` sampled, within the bounds of its configuration.
    samples: Option<PathBuf>,
    /// The folder to write to; the file is named by the dictionary's hash.
    #[arg(short, long, value_name = "FOLDER", default_value = ".")]
    output: PathBuf,
    /// The most bytes that the dictionary may have.
    #[arg(long, default_value_t = HEADER_SIZE_DEFAULT, requires = "samples")]
    size: usize,
    /// The most fields that it may have.
    #[arg(long, default_value_t = HEADER_FIELDS_DEFAULT, requires = "samples")]
    fields: usize,
    /// How many clients must have shown a value before all others are shown it.
    #[arg(long, default_value_t = CLIENTS_MIN_DEFAULT, requires = "samples")]
    clients_min: usize,
    /// Name of a header field to leave out, beside those of credentials; repeat it to name several
    #[arg(long, value_name = "NAME", requires = "samples")]
    leave_out: Vec<String>,
    #[command(flatten)]
    admin: Admin,
}

/// What a gateway answers.
#[derive(Deserialize)]
struct Answer {
    samples: usize,
    gain: HeaderGain,
    text: String,
}

/// Trains, writes the file, and says what it is worth.
pub(super) fn train(args: &TrainHeadersArgs) -> Result<String, Failure> {
    let trained = match &args.samples {
        Some(path) => from_file(path, args)?,
        None => from_gateway(&args.admin)?,
    };
    let path = args.output.join(format!("{}.headers", shown_hash(&trained.dictionary.hash())));
    fs::create_dir_all(&args.output).map_err(|error| failed(&args.output.display(), &error))?;
    fs::write(&path, trained.dictionary.text()).map_err(|error| failed(&path.display(), &error))?;
    Ok(report(&trained, &path))
}

fn from_file(path: &Path, args: &TrainHeadersArgs) -> Result<TrainedHeaders, Failure> {
    let left_out = NeverIndexed::new(&args.leave_out).map_err(|error| failed(&"--leave-out", &error))?;
    let options = HeaderOptions { size: args.size, fields: args.fields, clients_min: args.clients_min };
    let trained = read_header_samples(path, |name| left_out.holds(name))
        .and_then(|samples| train_and_measure_headers(samples, options));
    trained.map_err(|error: DictError| Failure::Other(error.to_string()))
}

fn from_gateway(admin: &Admin) -> Result<TrainedHeaders, Failure> {
    let answer = admin.ask("POST", "/dictionaries/train-headers", Bytes::new())?;
    let Answer { samples, gain, text } =
        serde_json::from_str(&answer).map_err(|error| failed(&"the gateway's answer", &error))?;
    let dictionary =
        HeaderDictionary::parse(text).map_err(|error| failed(&"the gateway's dictionary", &error))?;
    Ok(TrainedHeaders { dictionary: Arc::new(dictionary), samples, gain })
}

fn failed(what: &dyn std::fmt::Display, error: &dyn std::fmt::Display) -> Failure {
    Failure::Other(format!("{what}: {error}"))
}

fn report(trained: &TrainedHeaders, path: &Path) -> String {
    let TrainedHeaders { dictionary, samples, gain } = trained;
    format!(
        "trained on  {samples} header lists, {} held back\nwritten to  {}\n{}\n\
         gain        {:.1} % fewer bytes: the lists held back, each the first of its connection, take {} without it, {} \
         with it\n            {:.1} % in order on one connection for each client: {} without it, {} with it",
        gain.lists,
        path.display(),
        describe(dictionary),
        gain.first_percent(),
        gain.first_without,
        gain.first_with,
        gain.in_order_percent(),
        gain.in_order_without,
        gain.in_order_with,
    )
}

/// A header dictionary's id, version and size.
pub(super) fn describe(dictionary: &HeaderDictionary) -> String {
    format!(
        "id          {}\nsha256      {}\nsize        {} bytes, {} fields",
        shown_hash(&dictionary.hash()[..8]),
        shown_hash(&dictionary.hash()),
        dictionary.text().len(),
        dictionary.fields().len()
    )
}

#[cfg(test)]
mod tests {
    use towline_protocols::hpack::HeaderField;

    use super::*;
    use crate::{control::admin::Admin as Listener, gateway::Gateway, settings::Settings};

    fn args(samples: Option<PathBuf>, output: &Path, admin: &str) -> TrainHeadersArgs {
        TrainHeadersArgs {
            samples,
            output: output.into(),
            size: 4096,
            fields: 64,
            clients_min: 3,
            leave_out: vec!["x-nick".to_owned()],
            admin: Admin::at(admin),
        }
    }

    /// The fields of the `n`th list.
    fn list(n: usize) -> [(&'static str, String); 4] {
        [
            (":path", "/shop.Orders/Get".to_owned()),
            ("x-app-version", "7.1 beta".to_owned()),
            ("x-nick", "same of all".to_owned()),
            ("x-mine", format!("of client {}", n % 20)),
        ]
    }

    /// What the files in a folder hold.
    fn written(folder: &Path) -> Vec<(String, String)> {
        let files = fs::read_dir(folder).unwrap().map(|file| file.unwrap());
        files
            .map(|file| (file.file_name().into_string().unwrap(), fs::read_to_string(file.path()).unwrap()))
            .collect()
    }

    #[track_caller]
    fn check(folder: &Path, report: &str) {
        let [(name, text)] = &written(folder)[..] else { panic!("one file: {report}") };
        let dictionary = HeaderDictionary::parse(text.clone()).unwrap();
        assert_eq!(*name, format!("{}.headers", shown_hash(&dictionary.hash())));
        assert!(text.contains("\n:path: /shop.Orders/Get\n") && text.contains("\nx-mine: \n"), "{text}");
        assert!(!text.contains("client") && !text.contains("same of all"), "{text}");
        assert!(report.contains("trained on  180 header lists, 20 held back"), "{report}");
        assert!(report.contains("% fewer bytes: the lists held back"), "{report}");
    }

    #[test]
    fn from_a_file_of_lists() {
        let folder = tempfile::tempdir().unwrap();
        let lists = folder.path().join("lists.jsonl");
        let line = |n: usize| serde_json::json!({ "client": format!("c{}", n % 20), "fields": list(n) });
        let text: String = (0..200).map(|n| format!("{}\n", line(n))).collect();
        fs::write(&lists, text).unwrap();
        let output = folder.path().join("out");
        check(&output, &train(&args(Some(lists.clone()), &output, "")).unwrap());

        fs::write(&lists, "{}\n").unwrap();
        let refused = train(&args(Some(lists), &output, "")).unwrap_err().to_string();
        assert!(refused.contains("lists.jsonl:1: missing field"), "{refused}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn from_what_a_gateway_sampled() {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = Settings { data_dir: folder.path().join("data"), ..Settings::side_by_side() };
        settings.dictionaries.header_clients_min = 3;
        settings.dictionaries.header_names_left_out = NeverIndexed::new(&["x-nick"]).unwrap();
        let gateway = Gateway::build(settings.clone()).unwrap();
        let listener = Listener::bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let admin = listener.address.to_string();
        listener.serve(Arc::clone(&gateway));
        let output = folder.path().join("out");
        let ask = args(None, &output, &admin);
        let ask = Arc::new(ask);
        let again = Arc::clone(&ask);
        let refused = tokio::task::spawn_blocking(move || train(&again).map_err(|error| error.to_string()));
        let refused = refused.await.unwrap().unwrap_err();
        assert!(refused.contains("0 header lists are too few"), "{refused}");

        for n in 0..200 {
            let fields = list(n).map(|(name, value)| HeaderField::new(name, value));
            gateway.dictionaries.headers.keep(&format!("c{}", n % 20), &fields, &settings);
        }
        let report = tokio::task::spawn_blocking(move || train(&ask).map_err(|error| error.to_string()));
        check(&output, &report.await.unwrap().unwrap());
    }
}
