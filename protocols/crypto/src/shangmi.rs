//! ShangMi, the national cryptography of China, in TLS 1.3 and QUIC (RFC 8998).
//!
//! ```text
//! sm3   hash, HMAC, HKDF          tls   suites and records        issue  certificates
//! sm4   block cipher              quic  packets and headers
//!   aead  GCM, CCM with ghash     exchange  the group curveSM2
//! sm2   keys, signatures          keys  certificates' keys, verification
//!                                 record  the AEADs alone
//! ```

mod aead;
mod exchange;
mod ghash;
#[cfg(feature = "issue")]
pub mod issue;
mod keys;
mod quic;
mod record;
mod sm2;
mod sm3;
mod sm4;
mod tls;

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};

use crate::Provider;

pub use record::{RecordKey, engines};
pub use tls::{CCM as SM4_CCM_SM3, GCM as SM4_GCM_SM3};

/// TLS_SM4_GCM_SM3 and TLS_SM4_CCM_SM3, curveSM2, sm2sig_sm3; TLS 1.3 alone. Random numbers are aws-lc-rs'.
#[derive(Clone, Debug)]
pub struct ShangMi {
    crypto: Arc<CryptoProvider>,
}

impl ShangMi {
    /// Its name in configurations.
    pub const NAME: &'static str = "shangmi";
}

impl Default for ShangMi {
    fn default() -> Self {
        let crypto = CryptoProvider {
            cipher_suites: vec![tls::GCM, tls::CCM],
            kx_groups: vec![&exchange::CurveSm2],
            signature_verification_algorithms: keys::VERIFICATION,
            secure_random: aws_lc_rs::default_provider().secure_random,
            key_provider: &keys::Keys,
        };
        Self { crypto: Arc::new(crypto) }
    }
}

impl Provider for ShangMi {
    fn name(&self) -> &str {
        Self::NAME
    }

    fn crypto(&self) -> Arc<CryptoProvider> {
        Arc::clone(&self.crypto)
    }
}
