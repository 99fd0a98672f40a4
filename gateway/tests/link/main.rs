//! The link from end to end: the client library, a gateway in this process, and a backend that can be
//! seen into.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]
#![allow(unreachable_pub, reason = "a test has no outside")]

mod access;
mod backend;
mod bed;
mod beside;
mod blocked;
mod chaos;
mod closed;
mod compensation;
mod dictionaries;
mod dictionary_life;
mod displaced;
mod drain;
mod durable;
mod early_data;
mod early_quic;
mod endpoint_lists;
mod faults;
mod flights;
mod header_dictionaries;
mod header_sampling;
mod hooks;
mod key_exchange;
mod killed;
mod later;
mod lengths;
mod limits;
mod metered;
mod networks;
mod never_indexed;
#[path = "../access/oracle.rs"]
mod oracle;
mod policies;
mod posts;
mod priority;
mod pushes;
mod racing;
mod rates;
mod raw_quic;
mod requests;
mod restarts;
mod rests;
mod session_headers;
mod short_calls;
mod slow_readers;
mod stalls;
mod tape;
mod tokens;
mod transports;
mod uploads;
mod waits;

/// Connections do not get quiet for so long here; `link_parked` has the same tests with ones that park.
const PARK_AFTER: std::time::Duration = std::time::Duration::from_secs(2);
