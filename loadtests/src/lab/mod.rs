//! `towline-lab`: weak networks on one machine, and what clients make of them.
//!
//! ```text
//!  namespace "phone"                        this process                  namespace "edge"
//!  client under test -- TUN device --> [`model`]: delay, loss, ... <-- TUN device -- gateway, peers
//! ```

pub mod model;
pub mod profiles;
