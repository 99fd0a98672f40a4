//! What gateway and SDK share of cryptography, on rustls' traits.
//!
//! A *provider* is a family of cryptography under one name: its TLS suites, groups and signatures, how it loads
//! private keys, and whether QUIC can use it. The configuration chooses providers by name ([`Providers`]);
//! an operator's own module, an HSM for instance, is one type that implements [`Provider`].

pub mod delegated;
mod der;
#[cfg(test)]
mod fixtures;
mod key;
mod providers;
pub mod shangmi;
pub mod signing;
#[cfg(test)]
mod testing;
mod verify;
pub mod x509;

pub use der::Malformed;
pub use key::{KeyError, KeyReference};
pub use providers::{International, Offer, Provider, Providers};
pub use shangmi::ShangMi;
pub use verify::{MalformedPin, NotPinned, Pin, ServerVerifier, offer_of};
