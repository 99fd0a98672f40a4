//! Certificates and keys from PEM files.

use std::{fs, path::Path, sync::Arc};

use rustls::{
    crypto::aws_lc_rs,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
    sign::CertifiedKey,
};

use crate::{gateway::StartError, settings::CertificateFiles};

/// Reads a chain and its key, and checks that they belong together.
///
/// # Errors
/// Names the file, what is wrong with it and what it should hold.
pub fn read_certificate(files: &CertificateFiles) -> Result<Arc<CertifiedKey>, StartError> {
    let chain = read_certificates(&files.chain)?;
    let key = read_key(&files.key)?;
    let certified = CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider()).map_err(|error| {
        let problem = match error {
            rustls::Error::InconsistentKeys(_) => {
                format!("is not the key of the first certificate in {}", files.chain.display())
            }
            other => format!("cannot be used: {other}; write an RSA, ECDSA P-256/P-384 or Ed25519 key"),
        };
        StartError::Certificate { path: files.key.clone(), problem }
    })?;
    Ok(Arc::new(certified))
}

/// Every certificate of a PEM file, in its order; at least one.
///
/// # Errors
/// Names the file and what is wrong with it.
pub fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, StartError> {
    let text = read(path)?;
    let chain: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(&text).collect();
    match chain {
        Ok(chain) if chain.is_empty() => {
            let problem =
                "holds no certificate; write a PEM file with -----BEGIN CERTIFICATE-----, leaf first";
            Err(StartError::Certificate { path: path.into(), problem: problem.into() })
        }
        Ok(chain) => Ok(chain),
        Err(error) => {
            Err(StartError::Certificate { path: path.into(), problem: format!("is not a PEM file: {error}") })
        }
    }
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, StartError> {
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|error| {
        let problem = match error {
            pem::Error::NoItemsFound => {
                "holds no private key; write a PEM file with an unencrypted PKCS#8, SEC1 or PKCS#1 key"
                    .to_owned()
            }
            other => format!("is not a PEM file: {other}"),
        };
        StartError::Certificate { path: path.into(), problem }
    })
}

fn read(path: &Path) -> Result<Vec<u8>, StartError> {
    fs::read(path).map_err(|source| StartError::File { path: path.into(), source })
}
