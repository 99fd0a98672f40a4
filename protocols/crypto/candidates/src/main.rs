//! Prints what each candidate does in a second of one thread's processor time: the best of several short runs, since
//! others may want the machine too.

use std::{hint::black_box, time::Duration};

use rustix::time::{ClockId, clock_gettime};
use rustls::{NamedGroup, crypto::CryptoProvider, pki_types::PrivateKeyDer};
use sm2::dsa::signature::{Signer as _, Verifier as _};
use sm3::Digest as _;
use sm4::cipher::{BlockCipherEncrypt as _, KeyInit as _};
use towline_crypto::{
    Provider as _, ShangMi,
    shangmi::{RecordKey, SM4_CCM_SM3, SM4_GCM_SM3, engines},
};

const SIZES: [usize; 3] = [64, 1024, 16_384];
const RUN: Duration = Duration::from_millis(20);
const RUNS: usize = 20;
const KEY: [u8; 16] = [7; 16];

fn main() {
    sm4_gcm();
    sm4_ccm();
    sm3_hash();
    sm2_operations();
}

/// Seconds per call, of the fastest run.
fn seconds(mut work: impl FnMut()) -> f64 {
    let run = |work: &mut dyn FnMut()| {
        let (start, mut calls) = (used(), 0u32);
        loop {
            (0..8).for_each(|_| work());
            calls += 8;
            let took = used() - start;
            if took > RUN {
                return took.as_secs_f64() / f64::from(calls);
            }
        }
    };
    (0..RUNS).map(|_| run(&mut work)).fold(f64::INFINITY, f64::min)
}

/// Processor time of this thread.
fn used() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn bulk(what: &str, mut work: impl FnMut(&mut [u8])) {
    let figures = SIZES.map(|size| {
        let mut data = vec![0x5a; size];
        let took = seconds(|| work(black_box(&mut data)));
        format!("{:>8.0}", size as f64 / took / 1e6)
    });
    println!("{what:<44}{}", figures.join(""));
}

fn single(what: &str, work: impl FnMut()) {
    let took = seconds(work);
    println!("{what:<44}{:>8.0} /s {:>8.1} us", 1.0 / took, took * 1e6);
}

fn title(text: &str) {
    println!("\n{text:<44}{}", SIZES.map(|size| format!("{size:>8}")).join(""));
}

fn sm4_gcm() {
    title("SM4-GCM, seal, MB/s");
    let suite = SM4_GCM_SM3.tls13().unwrap();
    for engine in engines() {
        let key = RecordKey::with_engine(suite, &KEY, engine).unwrap();
        bulk(&format!("ours, {engine}"), |data| {
            black_box(key.seal(&[1; 12], &[23, 3, 3, 0, 0], data).unwrap());
        });
        bulk(&format!("ours, {engine}, open (refused)"), |data| {
            black_box(key.open(&[1; 12], &[23, 3, 3, 0, 0], data, &[0; 16]).unwrap_err());
        });
    }
    bulk("libsmx", |data| {
        black_box(libsmx::sm4::sm4_encrypt_gcm(&KEY, &[1; 12], &[23, 3, 3, 0, 0], data));
    });
    let cipher = sm4::Sm4::new(&KEY.into());
    bulk("RustCrypto sm4, blocks alone", |data| {
        for block in data.as_chunks_mut::<16>().0 {
            cipher.encrypt_block(block.into());
        }
    });
    let aes = aws_lc_rs::aead::UnboundKey::new(&aws_lc_rs::aead::AES_128_GCM, &KEY).unwrap();
    let aes = aws_lc_rs::aead::LessSafeKey::new(aes);
    bulk("AES-128-GCM of aws-lc-rs, for comparison", |data| {
        let nonce = aws_lc_rs::aead::Nonce::assume_unique_for_key([1; 12]);
        let aad = aws_lc_rs::aead::Aad::from([23, 3, 3, 0, 0]);
        let _ = black_box(aes.seal_in_place_separate_tag(nonce, aad, data).unwrap());
    });
    single("ours, expanding a GCM key", || {
        black_box(RecordKey::new(suite, &KEY));
    });
}

fn sm4_ccm() {
    title("SM4-CCM, seal, MB/s");
    for engine in engines() {
        let key = RecordKey::with_engine(SM4_CCM_SM3.tls13().unwrap(), &KEY, engine).unwrap();
        bulk(&format!("ours, {engine}"), |data| {
            black_box(key.seal(&[1; 12], &[23, 3, 3, 0, 0], data).unwrap());
        });
    }
    bulk("libsmx", |data| {
        let _ = black_box(libsmx::sm4::sm4_encrypt_ccm(&KEY, &[1; 12], &[23, 3, 3, 0, 0], data, 16));
    });
}

fn sm3_hash() {
    title("SM3, MB/s");
    let crypto = ShangMi::default().crypto();
    let ours = crypto.cipher_suites[0].tls13().unwrap().common.hash_provider;
    bulk("ours", |data| {
        black_box(ours.hash(data));
    });
    bulk("RustCrypto sm3", |data| {
        black_box(sm3::Sm3::digest(data));
    });
    bulk("libsmx", |data| {
        black_box(libsmx::sm3::Sm3Hasher::digest(data));
    });
}

fn sm2_operations() {
    println!("\nSM2");
    ours(&ShangMi::default().crypto());
    rustcrypto();
    libsmx_sm2();
    efficient();
}

fn secret() -> sm2::SecretKey {
    sm2::SecretKey::from_slice(&[0x39; 32]).unwrap()
}

fn ours(crypto: &CryptoProvider) {
    let pkcs8 = [PKCS8_HEAD, &[0x39; 32]].concat();
    let key = crypto.key_provider.load_private_key(PrivateKeyDer::Pkcs8(pkcs8.into())).unwrap();
    let scheme = rustls::SignatureScheme::Unknown(0x0708);
    let signer = key.choose_scheme(&[scheme]).unwrap();
    single("ours, sign", || {
        black_box(signer.sign(b"message").unwrap());
    });
    let signature = signer.sign(b"message").unwrap();
    let spki = key.public_key().unwrap();
    let point = spki[spki.len() - 65..].to_vec();
    let (_, algorithms) = crypto.signature_verification_algorithms.mapping[0];
    single("ours, verify", || {
        black_box(algorithms[0].verify_signature(&point, b"message", &signature).unwrap());
    });
    let group = crypto.kx_groups[0];
    assert_eq!(group.name(), NamedGroup::Unknown(41));
    single("ours, key exchange (both steps of a server)", || {
        black_box(group.start_and_complete(&point).unwrap());
    });
}

/// PKCS#8 of an SM2 key without its public half, up to the 32 octets of the key.
const PKCS8_HEAD: &[u8] = b"\x30\x41\x02\x01\x00\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x81\x1c\xcf\
    \x55\x01\x82\x2d\x04\x27\x30\x25\x02\x01\x01\x04\x20";

fn rustcrypto() {
    let key = sm2::dsa::SigningKey::new("1234567812345678", &secret()).unwrap();
    single("RustCrypto, sign", || {
        black_box(key.sign(b"message"));
    });
    let signature: sm2::dsa::Signature = key.sign(b"message");
    let verifying = key.verifying_key().clone();
    single("RustCrypto, verify", || verifying.verify(b"message", &signature).unwrap());
    let peer = secret().public_key();
    single("RustCrypto, key exchange without a fresh key", || {
        let point = sm2::ProjectivePoint::from(*peer.as_affine()) * *secret().to_nonzero_scalar();
        black_box(point.to_affine());
    });
}

fn libsmx_sm2() {
    let key = libsmx::sm2::PrivateKey::from_bytes(&[0x39; 32]).unwrap();
    let public = key.public_key();
    let e = libsmx::sm2::get_e(&libsmx::sm2::get_z(b"1234567812345678", &public), b"message");
    let nonce = crypto_bigint::U256::from_be_slice(&[0x47; 32]);
    single("libsmx, sign", || {
        black_box(libsmx::sm2::sign_with_k(&e, &key, &nonce).unwrap());
    });
    let signature = libsmx::sm2::sign_with_k(&e, &key, &nonce).unwrap();
    single("libsmx, verify", || libsmx::sm2::verify(&e, &public, &signature).unwrap());
    single("libsmx, key exchange without a fresh key", || {
        black_box(libsmx::sm2::key_exchange::ecdh(&key, &public).unwrap());
    });
}

fn efficient() {
    let key = efficient_sm2::KeyPair::new(&[0x39; 32]).unwrap();
    single("efficient-sm2, sign", || {
        black_box(key.sign(b"message").unwrap());
    });
    let (signature, public) = (key.sign(b"message").unwrap(), key.public_key());
    single("efficient-sm2, verify", || signature.verify(&public, b"message").unwrap());
}
