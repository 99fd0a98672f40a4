//! TLCP (GB/T 38636), for clients that know nothing newer. Tongsuo speaks it, behind the cargo feature
//! `tlcp`; without the feature the same types exist and have no values, so that nothing else asks for it.

#[cfg(not(feature = "tlcp"))]
#[path = "absent.rs"]
mod speaker;
#[cfg(feature = "tlcp")]
#[path = "tongsuo.rs"]
mod speaker;

pub use speaker::{TlcpServer, TlcpStream};

/// The name that a listener's `crypto` calls it by.
pub const NAME: &str = "tlcp";

/// Whether this build speaks TLCP.
pub const BUILT_IN: bool = cfg!(feature = "tlcp");

/// What an operator is told whose build does not.
pub const NOT_BUILT_IN: &str =
    "TLCP is not in this build; make one with `cargo build --release --features tlcp`";

/// A fatal alert protocol_version in TLCP's own record version, for clients that a listener does not serve
/// (GB/T 38636, section 6.3.3).
pub const ALERT_PROTOCOL_VERSION: [u8; 7] = [21, 1, 1, 0, 2, 2, 70];
