//! Issues the delegated ECDSA certificates of RSA certificates, and keeps them young.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwap;
use aws_lc_rs::{
    rand::{SecureRandom, SystemRandom},
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair},
};
use rustls::{
    SignatureScheme,
    crypto::aws_lc_rs::sign::any_ecdsa_type,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    sign::CertifiedKey,
};
use towline_crypto::{
    delegated::{BACKDATED, Leaf},
    x509::Certificate,
};

/// What an RSA certificate vouches for at the moment.
pub(super) struct Delegated {
    issuer: Arc<CertifiedKey>,
    life: Duration,
    current: ArcSwap<Issued>,
}

struct Issued {
    key: Arc<CertifiedKey>,
    /// Half of its life is over; the other half is for trying again.
    renew_at: SystemTime,
    not_after: SystemTime,
}

impl Delegated {
    /// Issues the first one. It lives for `life`, but not longer than its issuer.
    ///
    /// # Errors
    /// Says in words why the RSA certificate cannot vouch for another.
    pub(super) fn new(issuer: Arc<CertifiedKey>, life: Duration, now: SystemTime) -> Result<Self, String> {
        let current = ArcSwap::from_pointee(issue(&issuer, life, now)?);
        Ok(Self { issuer, life, current })
    }

    /// The chain with its key; `None` if nothing valid could be made lately.
    pub(super) fn current(&self, now: SystemTime) -> Option<Arc<CertifiedKey>> {
        let current = self.current.load();
        (now < current.not_after).then(|| Arc::clone(&current.key))
    }

    /// Issues the next one when it is time.
    ///
    /// # Errors
    /// As [`Delegated::new`]; the current one stays.
    pub(super) fn tend(&self, now: SystemTime) -> Result<(), String> {
        if now >= self.current.load().renew_at {
            self.current.store(Arc::new(issue(&self.issuer, self.life, now)?));
        }
        Ok(())
    }
}

/// Keys stay out.
impl fmt::Debug for Delegated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Delegated(for {:?})", self.life)
    }
}

fn issue(issuer: &CertifiedKey, life: Duration, now: SystemTime) -> Result<Issued, String> {
    let rsa = issuer.cert.first().ok_or("there is no RSA certificate")?;
    let bounds = Certificate::parse(rsa).map_err(|error| error.to_string())?.validity();
    let now_s = seconds(now);
    let not_after = now_s.saturating_add(life.as_secs() as i64).min(bounds.1);
    let not_before = (now_s - BACKDATED as i64).max(bounds.0);
    let random = SystemRandom::new();
    let no_random = |_| "the system has no random numbers".to_owned();
    let mut serial = [0; 16];
    random.fill(&mut serial).map_err(no_random)?;
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).map_err(no_random)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pkcs8.as_ref().to_vec()));
    let key = any_ecdsa_type(&key).map_err(|error| error.to_string())?;
    let public_key = key.public_key().ok_or("the new key has no public half")?;
    let leaf = Leaf { issuer: rsa, public_key: &public_key, serial, not_before, not_after };
    let to_be_signed = leaf.to_be_signed().map_err(|_| "it has no subjectAltName to take over")?;
    let signature = sign(issuer, &to_be_signed)?;
    let mut chain = vec![Leaf::signed(&to_be_signed, &signature)];
    chain.extend(issuer.cert.iter().cloned());
    Ok(Issued {
        key: Arc::new(CertifiedKey::new(chain, key)),
        renew_at: now + life / 2,
        not_after: UNIX_EPOCH + Duration::from_secs(not_after.max(0) as u64),
    })
}

fn sign(issuer: &CertifiedKey, message: &[u8]) -> Result<Vec<u8>, String> {
    let signer = issuer.key.choose_scheme(&[SignatureScheme::RSA_PKCS1_SHA256]);
    let signer = signer.ok_or("its key signs nothing by RSASSA-PKCS1-v1_5 with SHA-256")?;
    signer.sign(message).map_err(|error| error.to_string())
}

fn seconds(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() as i64
}
