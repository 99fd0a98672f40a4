//! `towline listen`: prints pushes and the state of the line as they come.

use std::io::{self, Write as _};

use towline_client::{Client, Push};

use super::call::{ConnectArgs, describe};

/// Prints what the gateway pushes to this client, until interrupted.
///
/// Pushes go to standard output, the state of the line to standard error.
#[derive(clap::Args, Debug)]
pub struct ListenArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// Topic filter to subscribe to; `+` and `#` are wildcards; repeat it to name several
    #[arg(long = "topic", value_name = "FILTER")]
    topics: Vec<String>,
    /// Leave after this many pushes
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
}

/// Runs the command.
///
/// # Errors
/// What went wrong, for people.
pub async fn run(args: ListenArgs) -> Result<(), String> {
    let mut config = args.connect.config()?;
    config.topics = args.topics.clone();
    let client = Client::start(config).map_err(|error| error.to_string())?;
    eprintln!("-- client {}", client.client_id());
    let outcome = tokio::select! {
        reason = print_states(&client) => Err(reason),
        outcome = print_pushes(&client, args.count) => outcome,
        _ = tokio::signal::ctrl_c() => Ok(()),
    };
    client.close().await;
    outcome
}

async fn print_pushes(client: &Client, count: Option<u64>) -> Result<(), String> {
    let mut pushes = client.pushes();
    let mut seen = 0;
    while Some(seen) != count {
        // Where none will come any more, the state of the line says why.
        let Some(push) = pushes.next().await else { return std::future::pending().await };
        print(&push).map_err(|error| format!("standard output: {error}"))?;
        seen += 1;
    }
    pushes.done();
    Ok(())
}

fn print(push: &Push) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{} [{}] {}", push.id, push.topic, describe(&push.payload))?;
    out.flush()
}

/// Ends with the reason when the client is closed for good.
async fn print_states(client: &Client) -> String {
    let mut states = client.states();
    loop {
        let state = states.borrow_and_update().clone();
        eprintln!("-- {state}");
        if let towline_client::ConnectionState::Closed { reason } = state {
            return reason;
        }
        if states.changed().await.is_err() {
            return "the client ended".to_owned();
        }
    }
}
