//! ShangMi's primitives: Towline's own, RustCrypto's, OpenSSL's and Tongsuo's, on one core.

mod openssl;

use aes_gcm::{AeadInOut, AesGcm, KeyInit, aead::consts::U12};
use clap::Args;
use rustix::time::{ClockId, clock_gettime};
use rustls::{
    crypto::CryptoProvider,
    pki_types::{PrivateKeyDer, pem::PemObject},
    sign::Signer,
};
use towline_crypto::{
    Provider, ShangMi,
    shangmi::{RecordKey, SM4_GCM_SM3, issue::Sm2KeyPair},
};

use super::{
    CommonArgs, cores,
    ground::Ground,
    table::{Report, TOWLINE, Table},
};
use crate::clock;

/// `shangmi`.
#[derive(Debug, Args)]
pub struct ShangMiArgs {
    /// Options of every comparison.
    #[command(flatten)]
    pub common: CommonArgs,
}

/// Octets of a record: a packet's worth and a full one.
const SIZES: [usize; 2] = [1024, 16 * 1024];
const NONCE: [u8; 12] = [7; 12];
/// Octets of a TLS record's header.
const AAD: [u8; 5] = [23, 3, 3, 64, 16];
/// What a CertificateVerify signs is about as long (RFC 8446, section 4.4.3).
const SIGNED: [u8; 130] = [32; 130];

/// Per second of CPU time.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Signatures {
    sign: f64,
    verify: f64,
}

fn seconds() -> u64 {
    1
}

/// Measures everything, one after another on the server's core.
pub(super) fn run(args: &ShangMiArgs, ground: &Ground, report: &mut Report) -> Result<(), String> {
    let core = ground.cores.server;
    let provider = ShangMi::default().crypto();
    args.common.say("shangmi: SM4-GCM, SM3");
    let mut bulk = Table::new("Bulk, sealing in place", &["us/MB", "MB/s"]);
    for size in SIZES {
        let case = format!("SM4-GCM, {size} B");
        bulk.row(&case, TOWLINE, cores::on(core, || sm4_gcm(size)).map(megabytes));
        bulk.row(&case, "rustcrypto", cores::on(core, || sm4_gcm_rustcrypto(size)).map(megabytes));
        for peer in openssl::PEERS {
            bulk.row(&case, peer, openssl::bulk(peer, "SM4-GCM", size, core).map(megabytes));
        }
    }
    for size in SIZES {
        let case = format!("SM3, {size} B");
        bulk.row(&case, TOWLINE, cores::on(core, || sm3(&provider, size)).map(megabytes));
        for peer in openssl::PEERS {
            bulk.row(&case, peer, openssl::bulk(peer, "SM3", size, core).map(megabytes));
        }
    }
    report.add(bulk);
    args.common.say("shangmi: SM2");
    report.add(sm2(&provider, core)?);
    Ok(())
}

fn sm2(provider: &CryptoProvider, core: Option<usize>) -> Result<Table, String> {
    let mut table = Table::new("SM2 on one core", &["us", "per second"]);
    let ours = cores::on(core, || signatures(provider));
    let peers: Vec<_> = openssl::PEERS.map(|peer| (peer, openssl::signatures(peer, core))).into();
    let all: Vec<_> = std::iter::once((TOWLINE, ours)).chain(peers).collect();
    let sign: fn(&Signatures) -> f64 = |signatures| signatures.sign;
    for (case, of) in [("sm2sig_sm3, sign", sign), ("sm2sig_sm3, verify", |signatures| signatures.verify)] {
        for (name, signatures) in &all {
            table.row(case, name, signatures.as_ref().map(|rates| each(of(rates))).map_err(String::clone));
        }
    }
    table.row("curveSM2, key exchange", TOWLINE, cores::on(core, || exchange(provider)).map(each));
    table.note("Towline's SM3 is RustCrypto's. The key exchange is a server's:");
    table.note(
        "a fresh key and the shared secret. openssl speed has none for SM2, and signs digests, not messages.",
    );
    Ok(table)
}

fn megabytes(bytes_per_second: f64) -> (Vec<f64>, String) {
    (vec![1e12 / bytes_per_second, bytes_per_second / 1e6], String::new())
}

fn each(per_second: f64) -> (Vec<f64>, String) {
    (vec![1e6 / per_second, per_second], String::new())
}

fn sm4_gcm(size: usize) -> Result<f64, String> {
    let suite = SM4_GCM_SM3.tls13().ok_or("no suite of TLS 1.3")?;
    let key = RecordKey::new(suite, &[5; RecordKey::KEY_BYTES]).ok_or("no key of SM4")?;
    let mut data = vec![1; size];
    rate(|| key.seal(&NONCE, &AAD, &mut data).map(drop).map_err(|error| error.to_string()))
        .map(|per_second| per_second * size as f64)
}

fn sm4_gcm_rustcrypto(size: usize) -> Result<f64, String> {
    let key = AesGcm::<sm4::Sm4, U12>::new(&[5; 16].into());
    let mut data = vec![1; size];
    let seal = || key.encrypt_inout_detached(&NONCE.into(), &AAD, data.as_mut_slice().into()).map(drop);
    rate(wrap(seal)).map(|per_second| per_second * size as f64)
}

fn wrap<E: ToString>(mut work: impl FnMut() -> Result<(), E>) -> impl FnMut() -> Result<(), String> {
    move || work().map_err(|error| error.to_string())
}

fn sm3(provider: &CryptoProvider, size: usize) -> Result<f64, String> {
    let suite = provider.cipher_suites.first().and_then(|suite| suite.tls13()).ok_or("no suite")?;
    let data = vec![1; size];
    let hash = || {
        std::hint::black_box(suite.common.hash_provider.hash(&data));
        Ok(())
    };
    rate(hash).map(|per_second| per_second * size as f64)
}

fn signatures(provider: &CryptoProvider) -> Result<Signatures, String> {
    let text = |error: &dyn ToString| error.to_string();
    let pair = Sm2KeyPair::generate().map_err(|error| text(&error))?;
    let pem = pair.to_pem().map_err(|error| text(&error))?;
    let der = PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|error| text(&error))?;
    let key = provider.key_provider.load_private_key(der).map_err(|error| text(&error))?;
    let (scheme, algorithms) =
        *provider.signature_verification_algorithms.mapping.first().ok_or("no scheme")?;
    let algorithm = *algorithms.first().ok_or("no algorithm")?;
    let signer: Box<dyn Signer> = key.choose_scheme(&[scheme]).ok_or("no signer")?;
    let signature = signer.sign(&SIGNED).map_err(|error| text(&error))?;
    let spki = key.public_key().ok_or("no public key")?;
    let public = public_key(spki.as_ref())?;
    let verify = || algorithm.verify_signature(public, &SIGNED, &signature).map_err(|_| "refused".to_owned());
    Ok(Signatures { sign: rate(wrap(|| signer.sign(&SIGNED).map(drop)))?, verify: rate(verify)? })
}

/// The point at the end of a SubjectPublicKeyInfo: uncompressed, 65 octets.
fn public_key(spki: &[u8]) -> Result<&[u8], String> {
    spki.len().checked_sub(65).and_then(|at| spki.get(at..)).ok_or_else(|| "a short public key".into())
}

fn exchange(provider: &CryptoProvider) -> Result<f64, String> {
    let group = *provider.kx_groups.first().ok_or("no group")?;
    let peer = group.start().map_err(|error| error.to_string())?;
    let share = peer.pub_key().to_vec();
    rate(wrap(|| group.start_and_complete(&share).map(drop)))
}

/// How often `work` can be done in a second of this thread's CPU time.
fn rate(mut work: impl FnMut() -> Result<(), String>) -> Result<f64, String> {
    const BATCH: u32 = 16;
    let begun = cpu_time();
    let (mut done, mut spent) = (0_u64, 0);
    while spent < seconds() * clock::SECOND {
        (0..BATCH).try_for_each(|_| work())?;
        done += u64::from(BATCH);
        spent = cpu_time() - begun;
    }
    Ok(done as f64 * clock::SECOND as f64 / spent as f64)
}

fn cpu_time() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as u64 * clock::SECOND + time.tv_nsec as u64
}
