//! `towline`: the gateway and its tools.

use std::process::ExitCode;

use clap::Parser;
use towline_gateway::cli::{self, Command};

#[cfg(feature = "count-allocations")]
#[global_allocator]
static ALLOCATOR: towline_gateway::allocations::Counting = towline_gateway::allocations::Counting;

#[cfg(all(feature = "jemalloc", not(feature = "count-allocations")))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[derive(Parser)]
#[command(name = "towline", version, about = "The mobile-edge access gateway", propagate_version = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

fn main() -> ExitCode {
    let Arguments { command } = Arguments::parse();
    match cli::run(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_arguments_of_every_command_go_together() {
        Arguments::command().debug_assert();
    }
}
