//! SCRAM-SHA-256 (RFC 5802, RFC 7677), the server's side, without I/O.
//!
//! ```text
//!  client                                        server
//!    | n,,n=user,r=NONCE                            |
//!    |--------------------------------------------->| Challenge::new
//!    |                      r=NONCE+OURS,s=salt,i=n |
//!    |<---------------------------------------------|
//!    | c=biws,r=NONCE+OURS,p=proof                  |
//!    |--------------------------------------------->| Challenge::finish
//!    |                                  v=signature |
//!    |<---------------------------------------------|
//! ```

use std::num::NonZeroU32;

use aws_lc_rs::{
    constant_time::verify_slices_are_equal,
    digest, hmac, pbkdf2,
    rand::{SecureRandom, SystemRandom},
};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};

/// The method's name in MQTT's Authentication Method.
pub const METHOD: &str = "SCRAM-SHA-256";
/// "The iteration-count […] SHOULD be at least 4096" (RFC 7677, section 4). The client pays for them, a device too.
pub(super) const ITERATIONS: NonZeroU32 = NonZeroU32::new(4096).unwrap();
pub(super) const SALT_BYTES: usize = 16;
/// A message of the client; names and nonces are far below that.
const MESSAGE_BYTES_MAX: usize = 4096;
const NONCE_BYTES: usize = 18;
const KEY_BYTES: usize = 32;

/// What the server knows of a password: enough to check a proof, too little to make one.
#[derive(Clone)]
pub struct Verifier {
    pub(super) salt: Vec<u8>,
    pub(super) iterations: NonZeroU32,
    pub(super) stored_key: [u8; KEY_BYTES],
    pub(super) server_key: [u8; KEY_BYTES],
}

impl Verifier {
    /// Of a password.
    pub fn new(password: &[u8], salt: Vec<u8>, iterations: NonZeroU32) -> Self {
        let mut salted = [0; KEY_BYTES];
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, &salt, password, &mut salted);
        let client_key = mac(&salted, b"Client Key");
        let server_key = mac(&salted, b"Server Key");
        Self { salt, iterations, stored_key: hash(&client_key), server_key }
    }

    /// Whether it is the verifier of `password`.
    pub fn check(&self, password: &[u8]) -> bool {
        let found = Self::new(password, self.salt.clone(), self.iterations);
        verify_slices_are_equal(&found.stored_key, &self.stored_key).is_ok()
    }
}

/// Why an exchange ended without a user. Which it is, is not for the client to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// A message is not what RFC 5802 writes.
    #[error("a SCRAM message is malformed: {0}")]
    Malformed(&'static str),
    /// The proof is not that of the user's password, or there is no such user.
    #[error("the SCRAM proof is wrong, or the user is unknown")]
    Wrong,
    /// The system gave no random bytes.
    #[error("no random bytes")]
    Random,
}

/// The client's first message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct First {
    /// The user that it claims to be.
    pub user: String,
    /// What stands before the bare message, which the client has to repeat.
    gs2_header: String,
    bare: String,
    nonce: String,
}

impl First {
    /// Reads `n,,n=user,r=nonce`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(message: &[u8]) -> Result<Self, Refused> {
        let text = text(message)?;
        let mut fields = text.splitn(3, ',');
        let (Some(flag), Some(authzid), Some(bare)) = (fields.next(), fields.next(), fields.next()) else {
            return Err(Refused::Malformed("no GS2 header"));
        };
        // "y": the client could bind to a channel and believes that the server cannot, which is so.
        if !matches!(flag, "n" | "y") {
            return Err(Refused::Malformed("channel binding is not offered"));
        }
        if !authzid.is_empty() {
            return Err(Refused::Malformed("nobody acts for another user"));
        }
        let mut fields = bare.split(',');
        let user = fields.next().and_then(|field| field.strip_prefix("n="));
        let user = user.and_then(name).ok_or(Refused::Malformed("no user name"))?;
        let nonce = fields.next().and_then(|field| field.strip_prefix("r="));
        let nonce = nonce.filter(|nonce| is_nonce(nonce)).ok_or(Refused::Malformed("no nonce"))?;
        let (gs2_header, nonce) = (format!("{flag},,"), nonce.to_owned());
        Ok(Self { user, gs2_header, bare: bare.to_owned(), nonce })
    }
}

/// An exchange that waits for the client's proof.
pub struct Challenge {
    first: First,
    /// What both sides sign, up to the client's final message.
    signed: String,
    nonce: String,
    verifier: Verifier,
    is_known: bool,
}

impl Challenge {
    /// Begins. Returns the server's first message. For a user who is not there, `verifier` is a decoy.
    ///
    /// # Errors
    /// The system gave no random bytes.
    pub fn new(first: First, verifier: Verifier, is_known: bool) -> Result<(Self, String), Refused> {
        let mut random = [0; NONCE_BYTES];
        SystemRandom::new().fill(&mut random).map_err(|_| Refused::Random)?;
        Ok(Self::with_nonce(first, verifier, is_known, &BASE64.encode(random)))
    }

    fn with_nonce(first: First, verifier: Verifier, is_known: bool, ours: &str) -> (Self, String) {
        let nonce = format!("{}{ours}", first.nonce);
        let message = format!("r={nonce},s={},i={}", BASE64.encode(&verifier.salt), verifier.iterations);
        let signed = format!("{},{message},", first.bare);
        (Self { first, signed, nonce, verifier, is_known }, message)
    }

    /// Checks the client's proof. Returns the user, and the server's final message.
    ///
    /// # Errors
    /// The client has not proved that it knows the password.
    pub fn finish(self, message: &[u8]) -> Result<(String, String), Refused> {
        let text = text(message)?;
        let (without_proof, proof) = text.rsplit_once(",p=").ok_or(Refused::Malformed("no proof"))?;
        let mut fields = without_proof.split(',');
        let header = fields.next().and_then(|field| field.strip_prefix("c="));
        if header != Some(BASE64.encode(&self.first.gs2_header).as_str()) {
            return Err(Refused::Malformed("another GS2 header than in the first message"));
        }
        if fields.next().and_then(|field| field.strip_prefix("r=")) != Some(self.nonce.as_str()) {
            return Err(Refused::Malformed("another nonce than the server's"));
        }
        let proof = BASE64.decode(proof).ok().and_then(|proof| <[u8; KEY_BYTES]>::try_from(proof).ok());
        let proof = proof.ok_or(Refused::Malformed("a proof that is not base64 of 32 bytes"))?;
        let signed = format!("{}{without_proof}", self.signed);
        let signature = mac(&self.verifier.stored_key, signed.as_bytes());
        let mut client_key = proof;
        client_key.iter_mut().zip(signature).for_each(|(byte, mask)| *byte ^= mask);
        let is_right = verify_slices_are_equal(&hash(&client_key), &self.verifier.stored_key).is_ok();
        if !is_right || !self.is_known {
            return Err(Refused::Wrong);
        }
        let signature = mac(&self.verifier.server_key, signed.as_bytes());
        Ok((self.first.user, format!("v={}", BASE64.encode(signature))))
    }
}

fn text(message: &[u8]) -> Result<&str, Refused> {
    if message.len() > MESSAGE_BYTES_MAX {
        return Err(Refused::Malformed("more than 4096 bytes"));
    }
    std::str::from_utf8(message).map_err(|_| Refused::Malformed("not UTF-8"))
}

/// `saslname`: `=2C` is a comma, `=3D` an equals sign, and no other `=` is allowed.
fn name(text: &str) -> Option<String> {
    let mut parts = text.split('=');
    let mut name = parts.next()?.to_owned();
    for part in parts {
        let (sign, rest) = if let Some(rest) = part.strip_prefix("2C") {
            (',', rest)
        } else {
            ('=', part.strip_prefix("3D")?)
        };
        name.push(sign);
        name.push_str(rest);
    }
    (!name.is_empty()).then_some(name)
}

/// Printable ASCII but for the comma.
fn is_nonce(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b',')
}

fn mac(key: &[u8; KEY_BYTES], message: &[u8]) -> [u8; KEY_BYTES] {
    let mut bytes = [0; KEY_BYTES];
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    bytes.copy_from_slice(hmac::sign(&key, message).as_ref());
    bytes
}

fn hash(bytes: &[u8]) -> [u8; KEY_BYTES] {
    let mut hash = [0; KEY_BYTES];
    hash.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The exchange of RFC 7677, section 3.
    const FIRST: &[u8] = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
    const OURS: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    const SERVER_FIRST: &str =
        "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
    const FINAL: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                         p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
    const SERVER_FINAL: &str = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";

    fn challenge(is_known: bool) -> (Challenge, String) {
        let salt = BASE64.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let verifier = Verifier::new(b"pencil", salt, ITERATIONS);
        assert!(verifier.check(b"pencil") && !verifier.check(b"Pencil"));
        Challenge::with_nonce(First::parse(FIRST).unwrap(), verifier, is_known, OURS)
    }

    #[test]
    fn the_example_of_rfc_7677() {
        let (challenge, message) = challenge(true);
        assert_eq!(message, SERVER_FIRST);
        let (user, message) = challenge.finish(FINAL.as_bytes()).unwrap();
        assert_eq!((user.as_str(), message.as_str()), ("user", SERVER_FINAL));
    }

    #[test]
    fn a_proof_is_refused_unless_all_of_it_is_right() {
        let check = |message: &str, is_known: bool, expected| {
            assert_eq!(challenge(is_known).0.finish(message.as_bytes()).unwrap_err(), expected, "{message}");
        };
        check(FINAL, false, Refused::Wrong);
        check(&FINAL.replace("p=dH", "p=eH"), true, Refused::Wrong);
        let malformed = [
            FINAL.replace("biws", "eSws"),
            FINAL.replace("$k0,p", "$k1,p"),
            FINAL.replace(",p=", ",q="),
            FINAL.replace("VQ=", ""),
            String::new(),
        ];
        for message in malformed {
            let error = challenge(true).0.finish(message.as_bytes()).unwrap_err();
            assert!(matches!(error, Refused::Malformed(_)), "{message}");
        }
        assert!(challenge(true).0.finish(&vec![b'a'; 5000]).is_err());
    }

    #[test]
    fn first_messages_are_read_as_rfc_5802_writes_them() {
        assert_eq!(First::parse(b"y,,n=a=2Cb=3Dc,r=x,ext=1").unwrap().user, "a,b=c");
        for message in [
            "",
            "n",
            "n,,",
            "n,,r=x",
            "n,,n=,r=x",
            "n,,n=a",
            "n,,n=a,r=",
            "n,,n=a=2c,r=x",
            "n,,n=a=,r=x",
            "p=tls-unique,,n=a,r=x",
            "n,a=b,n=a,r=x",
            "n,,m=x,n=a,r=x",
            "x,,n=a,r=x",
            "n,,n=a,r=\u{7f}",
        ] {
            assert!(First::parse(message.as_bytes()).is_err(), "{message}");
        }
    }
}
