//! curl, a process for each app that is started.

use std::{
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use tokio::task::spawn_blocking;

use super::{PATIENCE, body, path};
use crate::{
    clock,
    lab::run::orders::{Sample, Setup, Who},
};

/// What it says of each call, where it does not gather what it says.
const SAYS: &str = concat!(
    "%{stderr}%{http_code} %{exitcode} %{time_appconnect} %{time_total} ",
    "%{num_connects} %{http_version}\\n"
);
/// What a name's resolution may take beyond curl's own limit.
const GRACE: Duration = Duration::from_secs(5);
const HOUR: Duration = Duration::from_secs(3600);

/// curl.
pub(in crate::lab::run) struct Curl {
    setup: Setup,
    program: PathBuf,
    body: PathBuf,
}

impl Curl {
    pub(super) fn new(setup: Setup) -> Result<Self, String> {
        let program = setup.curl.clone().ok_or("curl is not installed")?;
        let file = setup.folder.join("body");
        std::fs::write(&file, body(&setup, "curl"))
            .map_err(|error| format!("{}: {error}", file.display()))?;
        Ok(Self { setup, program, body: file })
    }

    pub(super) async fn cold(&mut self, name: &str) -> Sample {
        let mut samples = self.run(&path(&self.setup, name), None, None).await;
        samples.pop().unwrap_or_else(|| failed("curl said nothing".to_owned()))
    }

    pub(super) async fn calls(&mut self, prefix: &str, time: Duration, interval: Duration) -> Vec<Sample> {
        // More than there can be: it is ended when the time is over.
        let count = time.as_millis() / interval.as_millis().max(1) + 1;
        let names = path(&self.setup, &format!("{prefix}-[0-{count}]"));
        let rate = HOUR.as_millis() / interval.as_millis().max(1);
        self.run(&names, Some(rate), Some(time)).await
    }

    async fn run(&self, path: &str, per_hour: Option<u128>, time: Option<Duration>) -> Vec<Sample> {
        let mut command = Command::new(&self.program);
        let version = if self.setup.who == Who::H2 { "--http2" } else { "--http1.1" };
        command.args(["--silent", version, "--max-time", &PATIENCE.as_secs().to_string()]);
        command.arg("--cacert").arg(&self.setup.ca).args(["--output", "/dev/null", "--write-out", SAYS]);
        command.arg("--data-binary").arg(format!("@{}", self.body.display()));
        command.args(["--header", "content-type: application/octet-stream"]);
        if let Some(per_hour) = per_hour {
            command.args(["--rate", &format!("{per_hour}/h")]);
        }
        command.arg(format!("https://{}{path}", self.setup.server));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let followed = spawn_blocking(move || match command.spawn() {
            Ok(child) => follow(child, time),
            Err(error) => vec![failed(format!("curl: {error}"))],
        });
        followed.await.unwrap_or_else(|error| vec![failed(format!("curl: {error}"))])
    }
}

/// Takes what curl says until it ends, or until the first word after `time`, which is not waited for for ever.
fn follow(mut child: Child, time: Option<Duration>) -> Vec<Sample> {
    let began = Instant::now();
    let mut samples = Vec::new();
    let Some(output) = child.stderr.take() else { return samples };
    let (say, words) = mpsc::channel();
    let reader = thread::spawn(move || {
        let lines = BufReader::new(output).lines().map_while(Result::ok);
        let said = lines.filter_map(|line| sample(&line, clock::now()));
        said.map(|sample| say.send(sample)).take_while(Result::is_ok).for_each(drop);
    });
    let bound = time.unwrap_or_default() + PATIENCE + GRACE;
    while let Ok(sample) = words.recv_timeout(bound.saturating_sub(began.elapsed())) {
        samples.push(sample);
        if time.is_some_and(|time| began.elapsed() >= time) {
            break;
        }
    }
    // It may have ended already.
    let _ = child.kill();
    let _ = child.wait();
    drop(words);
    let _ = reader.join();
    samples
}

fn sample(line: &str, now: u64) -> Option<Sample> {
    let mut words = line.split(' ');
    let mut word = || words.next();
    let (status, code) = (word()?, word()?);
    let connect = seconds(word()?)?;
    let took = seconds(word()?)?;
    let is_new = word()? != "0";
    let by = format!("h{}", word()?);
    let error = (status != "200" || code != "0").then(|| format!("status {status}, curl's code {code}"));
    let connect = Some(connect).filter(|connect| is_new && *connect > 0);
    Some(Sample { start: now.saturating_sub(took), took, error, connect, by, timeline: None })
}

fn seconds(text: &str) -> Option<u64> {
    let seconds: f64 = text.parse().ok()?;
    Some((seconds.max(0.0) * 1e9) as u64)
}

fn failed(error: String) -> Sample {
    let (start, by) = (clock::now(), String::new());
    Sample { start, took: 0, error: Some(error), connect: None, by, timeline: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_curl_says_is_read() {
        const NOW: u64 = 50_000_000_000;
        let check = |line: &str, took, connect, error: Option<&str>| {
            let sample = sample(line, NOW).unwrap();
            assert_eq!((sample.took, sample.connect), (took, connect), "{line}");
            assert_eq!(sample.error.as_deref(), error);
            assert_eq!(sample.end(), NOW);
        };
        check("200 0 0.150000 0.226000 1 2", 226_000_000, Some(150_000_000), None);
        check("200 0 0.000000 0.074000 0 1.1", 74_000_000, None, None);
        check("000 28 0.000000 10.000000 1 0", 10_000_000_000, None, Some("status 000, curl's code 28"));
        assert_eq!(sample("curl: (6) no such host", 0), None);
    }
}
