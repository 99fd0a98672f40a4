//! `towline outbox`: queues in the store of a running gateway.

use bytes::Bytes;
use clap::{Args, Subcommand};

use super::{Failure, admin::Admin};

/// Looks at messages that wait in the store, and sends dead letters again.
#[derive(Debug, Args)]
pub struct OutboxArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the queues: `upstream.BACKEND` waits for a broker, `dead.ROUTE` holds what a backend did not take.
    List(Admin),
    /// Show the messages of a queue, 1000 at most.
    Show {
        /// Its name.
        queue: String,
        /// Only messages behind this number.
        #[arg(long, default_value_t = 0)]
        after: u64,
        #[command(flatten)]
        admin: Admin,
    },
    /// Send dead letters to their route's backend again, in their order, until it does not take one.
    Replay {
        /// Its name, as `dead.ROUTE`.
        queue: String,
        /// How many at the most.
        #[arg(long, default_value_t = 1000)]
        count: usize,
        #[command(flatten)]
        admin: Admin,
    },
    /// Give up the messages of a queue.
    Purge {
        /// Its name.
        queue: String,
        #[command(flatten)]
        admin: Admin,
    },
}

pub(super) fn run(arguments: OutboxArgs) -> Result<(), Failure> {
    let text = match arguments.command {
        Command::List(admin) => admin.ask("GET", "/outbox", Bytes::new()),
        Command::Show { queue, after, admin } => {
            admin.ask("GET", &format!("/outbox/{queue}?after={after}"), Bytes::new())
        }
        Command::Replay { queue, count, admin } => {
            admin.ask("POST", &format!("/outbox/{queue}/replay?count={count}"), Bytes::new())
        }
        Command::Purge { queue, admin } => admin.ask("DELETE", &format!("/outbox/{queue}"), Bytes::new()),
    };
    println!("{}", text?);
    Ok(())
}
