//! The client process on the phone: does what the laboratory orders, one order at a time, on standard input.

use std::{io::Write, time::Duration};

use clap::Args;
use tokio::{
    io::{AsyncBufReadExt, BufReader, stdin},
    sync::mpsc,
};

use super::{
    orders::{Done, Order, Setup},
    subject::{Moves, Subject},
};

/// `client`.
#[derive(Debug, Args)]
pub struct ClientArgs {
    /// What it is, as JSON
    #[arg(long)]
    pub setup: String,
}

/// Orders that wait; the laboratory gives one at a time.
const ORDERS_MAX: usize = 4;

/// Runs until standard input ends.
pub(in crate::lab) async fn client(args: &ClientArgs) -> Result<(), String> {
    let setup: Setup = serde_json::from_str(&args.setup).map_err(|error| format!("the setup: {error}"))?;
    let mut subject = match Subject::new(setup) {
        Ok(subject) => subject,
        Err(failure) => return say(&Done { failure: Some(failure), ..Done::default() }),
    };
    let (orders, mut due) = mpsc::channel(ORDERS_MAX);
    tokio::spawn(listen(orders, subject.moves()));
    say(&Done::default())?;
    while let Some(order) = due.recv().await {
        let samples = match order {
            Order::Cold { name, start } => vec![subject.cold(&name, start).await],
            Order::Calls { prefix, millis, interval_ms } => {
                let [time, interval] = [millis, interval_ms].map(Duration::from_millis);
                subject.calls(&prefix, time, interval).await
            }
            Order::Idle { millis } => {
                tokio::time::sleep(Duration::from_millis(millis)).await;
                Vec::new()
            }
            Order::Moved => continue,
        };
        say(&Done { samples, states: subject.take_states(), failure: None })?;
    }
    Ok(())
}

/// A move is told at once, whatever is being done.
async fn listen(orders: mpsc::Sender<Order>, moves: Moves) {
    let mut lines = BufReader::new(stdin()).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        match serde_json::from_str(&line) {
            Ok(Order::Moved) => moves.tell(),
            Ok(order) => {
                if orders.send(order).await.is_err() {
                    return;
                }
            }
            Err(error) => eprintln!("not an order: {line}: {error}"),
        }
    }
}

fn say(done: &Done) -> Result<(), String> {
    let line = serde_json::to_string(done).map_err(|error| error.to_string())?;
    let mut output = std::io::stdout().lock();
    writeln!(output, "{line}").and_then(|()| output.flush()).map_err(|error| error.to_string())
}
