//! Where a private key is, as a configuration writes it.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use rustls::pki_types::{
    PrivateKeyDer,
    pem::{self, PemObject as _},
};
use zeroize::Zeroizing;

/// What stands behind `key = "..."`: a file, or the name of a key that a module holds and never shows.
#[derive(Clone, PartialEq, Eq)]
pub enum KeyReference {
    /// A PEM file with an unencrypted PKCS#8, SEC1 or PKCS#1 key.
    File(PathBuf),
    /// The text of such a file, from an app that keeps its key elsewhere.
    Pem(Vec<u8>),
    /// A URI such as `pkcs11:token=edge;object=tls` (RFC 7512), for a provider that knows its scheme.
    Uri(String),
}

impl KeyReference {
    /// Reads what an operator wrote: `scheme:...` is a URI, everything else a file, relative to `folder`.
    pub fn parse(text: &str, folder: &Path) -> Self {
        if has_scheme(text) { Self::Uri(text.to_owned()) } else { Self::File(folder.join(text)) }
    }

    /// The key itself, where it can be read.
    ///
    /// # Errors
    /// [`KeyError`] says what is wrong with the file; [`KeyError::Uri`] if only a module could read it.
    pub fn read(&self) -> Result<PrivateKeyDer<'static>, KeyError> {
        match self {
            Self::File(path) => from_pem(&Zeroizing::new(fs::read(path).map_err(KeyError::Read)?)),
            Self::Pem(text) => from_pem(text),
            Self::Uri(_) => Err(KeyError::Uri),
        }
    }
}

/// The key's text stays out of logs.
impl fmt::Debug for KeyReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Pem(_) => f.write_str("Pem"),
            // A PIN may stand in the query (RFC 7512, section 2.4).
            Self::Uri(uri) => f.debug_tuple("Uri").field(&uri.split('?').next()).finish(),
        }
    }
}

/// Why a private key cannot be used. Always the operator's to mend; a retry does not help, except for
/// [`KeyError::Read`] and [`KeyError::Module`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The file cannot be read.
    #[error("cannot be read: {0}")]
    Read(#[source] io::Error),
    /// No PEM.
    #[error("is not a PEM file: {0}")]
    Pem(pem::Error),
    /// PEM without a private key.
    #[error("holds no private key; write a PEM file with an unencrypted PKCS#8, SEC1 or PKCS#1 key")]
    NoKey,
    /// A URI for a provider that reads files only.
    #[error("is a URI, which this provider does not know; write the path of a PEM file")]
    Uri,
    /// The provider has no use for a key of this kind.
    #[error("cannot be used: {0}")]
    Unusable(#[source] rustls::Error),
    /// The key is another certificate's.
    #[error("is not the key of the first certificate of the chain")]
    OtherCertificate,
    /// An operator's module failed, in its own words.
    #[error("{0}")]
    Module(String),
}

fn from_pem(text: &[u8]) -> Result<PrivateKeyDer<'static>, KeyError> {
    let text = with_known_label(text);
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| match error {
        pem::Error::NoItemsFound => KeyError::NoKey,
        other => KeyError::Pem(other),
    })
}

/// OpenSSL 3 writes SEC1 keys of SM2 under a label of their own.
fn with_known_label(text: &[u8]) -> Zeroizing<Vec<u8>> {
    const SM2: &str = "SM2 PRIVATE KEY-----";
    match str::from_utf8(text) {
        Ok(text) if text.contains(SM2) => {
            Zeroizing::new(text.replace(SM2, "EC PRIVATE KEY-----").into_bytes())
        }
        _ => Zeroizing::new(text.to_vec()),
    }
}

/// RFC 3986, section 3.1; of at least two characters, so that `C:\key.pem` stays a file.
fn has_scheme(text: &str) -> bool {
    let Some((scheme, _)) = text.split_once(':') else { return false };
    scheme.len() >= 2
        && scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: KeyReference) {
        assert_eq!(KeyReference::parse(text, Path::new("/etc/towline")), expected);
    }

    #[test]
    fn a_scheme_makes_a_uri_and_everything_else_is_a_file() {
        check("key.pem", KeyReference::File("/etc/towline/key.pem".into()));
        check("/keys/a:b.pem", KeyReference::File("/keys/a:b.pem".into()));
        check("C:\\key.pem", KeyReference::File("/etc/towline/C:\\key.pem".into()));
        check("pkcs11:object=tls", KeyReference::Uri("pkcs11:object=tls".into()));
        check("sdf://0/3", KeyReference::Uri("sdf://0/3".into()));
    }

    #[test]
    fn neither_key_nor_pin_is_shown() {
        let shown = format!("{:?}", KeyReference::Pem(b"secret".to_vec()));
        assert_eq!(shown, "Pem");
        let shown = format!("{:?}", KeyReference::Uri("pkcs11:object=tls?pin-value=1234".into()));
        assert!(!shown.contains("1234"), "{shown}");
    }
}
