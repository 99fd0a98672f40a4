//! An app's process that is killed again and again (SIGKILL), whose durable calls run once and whose outcomes come
//! until they are acknowledged.

use std::{collections::BTreeMap, path::Path, process::Stdio, time::Duration};

use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
    time::timeout,
};
use towline_client::{Client, ClientConfig};

use crate::bed::{Bed, call, endpoint};

/// Tells the app's process where the gateway is, where its identity, and which call is its next.
const APP: &str = "TOWLINE_TEST_DURABLE_APP";
const KILLS: u64 = 12;
/// Calls of one life, of which most are under way when it ends.
const CALLS: u64 = 6;
/// Fewer than a life says of its calls.
const LINES: usize = 16;

/// What the app's process said.
#[derive(Debug, Default)]
struct Said {
    taken_in: bool,
    handed: u32,
    acknowledged: u32,
    handed_since: bool,
}

#[tokio::test]
async fn calls_outlive_a_process_that_is_killed_and_run_once() {
    let bed = Bed::start().await;
    let mut said = BTreeMap::new();
    for life in 0..KILLS {
        let mut app = start(&bed, life * CALLS);
        // Each life is killed at another place of its work.
        hear(&mut app, &mut said, Some(1 + life as usize * 5 % LINES)).await;
        app.start_kill().unwrap();
        // What it said before it died was said.
        hear(&mut app, &mut said, None).await;
        app.wait().await.unwrap();
    }
    let mut last = start(&bed, KILLS * CALLS);
    // The last word of a life may have been cut: what is acknowledged there comes no more.
    let is_over = |said: &BTreeMap<u64, Said>| {
        let in_last = (KILLS * CALLS..).take(CALLS as usize);
        let mut in_last = in_last.map(|number| said.get(&number).is_some_and(|said| said.acknowledged > 0));
        in_last.all(|is_over| is_over) && said.values().all(|said| !said.taken_in || said.handed > 0)
    };
    timeout(Duration::from_secs(60), async {
        loop {
            hear(&mut last, &mut said, Some(1)).await;
            if is_over(&said) {
                break;
            }
        }
    })
    .await
    .unwrap_or_else(|_| panic!("outcomes that never came: {said:?}"));
    last.kill().await.unwrap();
    let left = std::fs::read_dir(bed.folder.path().join("app.durable")).unwrap().count();
    assert_eq!(left, 0, "records of calls whose outcome is acknowledged");
    for (number, said) in &said {
        let runs = bed.backend.counts(&format!("pay-{number}")).started;
        assert!(runs <= 1, "call {number} ran {runs} times");
        assert!(!said.taken_in || runs == 1, "call {number} was taken in and never ran");
        assert!(!said.handed_since, "call {number} was handed out again: {said:?}");
        assert!(said.acknowledged <= 1, "call {number}: {said:?}");
    }
}

fn start(bed: &Bed, first: u64) -> Child {
    let identity = bed.folder.path().join("app");
    let told = format!("{}\n{}\n{first}", bed.address("plain"), identity.display());
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "killed::the_app", "--nocapture", "--test-threads=1"]);
    command.env(APP, told).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap()
}

/// Reads so many lines, or all.
async fn hear(app: &mut Child, said: &mut BTreeMap<u64, Said>, lines: Option<usize>) {
    let mut output = BufReader::with_capacity(1, app.stdout.as_mut().unwrap());
    let (mut heard, mut line) = (0, String::new());
    while lines.is_none_or(|lines| heard < lines) {
        line.clear();
        if output.read_line(&mut line).await.unwrap() == 0 || !line.ends_with('\n') {
            return;
        }
        let mut words = line.split_whitespace().rev();
        let (number, what) = (words.next().and_then(|it| it.parse().ok()), words.next());
        let (Some(number), Some(what)) = (number, what) else { continue };
        let it: &mut Said = said.entry(number).or_default();
        match what {
            "taken" => it.taken_in = true,
            "handed" => {
                it.handed += 1;
                it.handed_since |= it.acknowledged > 0;
            }
            "acknowledged" => it.acknowledged += 1,
            _ => continue,
        }
        heard += 1;
    }
}

/// What [`start`] starts.
#[tokio::test]
async fn the_app() {
    let Ok(told) = std::env::var(APP) else { return };
    let mut told = told.lines();
    let gateway = told.next().unwrap().parse().unwrap();
    let identity = told.next().unwrap().to_owned();
    let first: u64 = told.next().unwrap().parse().unwrap();
    let mut config = ClientConfig::plaintext(vec![endpoint(gateway)]);
    config.identity_file = Some(Path::new(&identity).to_owned());
    let client = Client::start(config).unwrap();
    let calling = client.clone();
    tokio::spawn(async move {
        for number in first..first + CALLS {
            let request = call(&format!("pay-{number}"), "pay").durable(number.to_string(), "");
            calling.submit(request).await.unwrap();
            say("taken", number);
        }
    });
    let mut outcomes = client.durable_outcomes();
    while let Some(outcome) = outcomes.next().await {
        let number = outcome.key.parse().unwrap();
        assert_eq!(outcome.result.unwrap().into_grpc().unwrap(), "pay");
        say("handed", number);
        client.acknowledge(outcome.key).await.unwrap();
        say("acknowledged", number);
    }
}

/// In one write, so that a kill cuts no line that matters.
fn say(what: &str, number: u64) {
    use std::io::Write as _;
    let mut out = std::io::stdout();
    out.write_all(format!("{what} {number}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}
