//! `towline-lab`: weak networks on one machine, and what clients make of them.
//!
//! ```text
//!  namespace "phone"                        this process                  namespace "edge"
//!  client under test -- TUN device --> [`model`]: delay, loss, ... <-- TUN device -- gateway, peers
//! ```

mod check;
pub mod cli;
mod ground;
pub mod model;
pub mod profiles;
mod run;
mod shell;
mod stand;

pub use check::CheckArgs;
pub use run::{ClientArgs, RunArgs, Who};
pub use shell::ShellArgs;
pub use stand::{BackendArgs, PortalArgs};
