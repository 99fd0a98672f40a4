use std::time::{Duration, UNIX_EPOCH};

use aws_lc_rs::{
    hmac,
    rand::SystemRandom,
    rsa::{KeyPair as RsaKeyPair, KeySize},
    signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64_URL};
use serde_json::{Value, json};

use super::*;
use crate::metrics::Metrics;

/// An issuer's private keys, one of each kind.
struct Signer {
    ec: EcdsaKeyPair,
    ed: Ed25519KeyPair,
    rsa: RsaKeyPair,
}

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
const NOW_S: u64 = 1_800_000_000;

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOW_S)
}

fn encode(value: &Value) -> String {
    BASE64_URL.encode(value.to_string())
}

impl Signer {
    fn new() -> Self {
        Self {
            ec: EcdsaKeyPair::generate(&signature::ECDSA_P256_SHA256_FIXED_SIGNING).unwrap(),
            ed: Ed25519KeyPair::generate().unwrap(),
            rsa: RsaKeyPair::generate(KeySize::Rsa2048).unwrap(),
        }
    }

    fn jwks(&self) -> Value {
        let point = self.ec.public_key().as_ref();
        let rsa = self.rsa.public_key();
        let (n, e) = (rsa.modulus().big_endian_without_leading_zero(), rsa.exponent());
        json!({"keys": [
            {"kty": "EC", "crv": "P-256", "kid": "ec", "use": "sig",
             "x": BASE64_URL.encode(&point[1..33]), "y": BASE64_URL.encode(&point[33..])},
            {"kty": "OKP", "crv": "Ed25519", "kid": "ed", "x": BASE64_URL.encode(self.ed.public_key())},
            {"kty": "RSA", "kid": "rsa", "n": BASE64_URL.encode(n),
             "e": BASE64_URL.encode(e.big_endian_without_leading_zero())},
            {"kty": "EC", "crv": "P-521", "kid": "other", "x": "", "y": ""},
            {"kty": "oct", "kid": "public", "k": BASE64_URL.encode(SECRET)},
        ]})
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        let signed = format!("{}.{}", encode(header), encode(claims));
        let (random, bytes) = (SystemRandom::new(), signed.as_bytes());
        let rsa = |algorithm| {
            let mut out = vec![0; self.rsa.public_modulus_len()];
            self.rsa.sign(algorithm, &random, bytes, &mut out).unwrap();
            out
        };
        let signature = match header["alg"].as_str().unwrap() {
            "ES256" => self.ec.sign(&random, bytes).unwrap().as_ref().to_vec(),
            "EdDSA" => self.ed.sign(bytes).as_ref().to_vec(),
            "RS256" => rsa(&signature::RSA_PKCS1_SHA256),
            "PS256" => rsa(&signature::RSA_PSS_SHA256),
            "HS256" => hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET), bytes).as_ref().to_vec(),
            _ => Vec::new(),
        };
        format!("{signed}.{}", BASE64_URL.encode(signature))
    }

    fn issuer(&self, settings: settings::Jwt) -> Issuer {
        Issuer { settings, keys: KeySet::parse(self.jwks().to_string().as_bytes()).unwrap() }
    }
}

fn claims() -> Value {
    json!({"sub": "ada", "exp": NOW_S + 100, "role": ["reader", "writer"]})
}

fn credentials(token: &str) -> Credentials<'_> {
    Credentials { client_id: "m1", user: None, password: token.as_bytes() }
}

fn verify(issuer: &Issuer, token: &str) -> Result<Identity, TokenRefused> {
    issuer.verify(&Remote::new(Metrics::new().jwks_fetches), credentials(token), now())
}

#[test]
fn tokens_of_each_algorithm_are_verified_with_the_key_that_they_name() {
    let signer = Signer::new();
    let issuer = signer.issuer(settings::Jwt::default());
    for (algorithm, key) in [("ES256", "ec"), ("EdDSA", "ed"), ("RS256", "rsa"), ("PS256", "rsa")] {
        let token = signer.sign(&json!({"alg": algorithm, "kid": key}), &claims());
        let identity = verify(&issuer, &token).unwrap();
        assert_eq!(identity.user.as_deref(), Some("ada"));
        assert_eq!(identity.claims.unwrap().all("role").len(), 2);
        assert_eq!(identity.until, Some(now() + Duration::from_secs(130)), "with the leeway");
        let unnamed = signer.sign(&json!({"alg": algorithm}), &claims());
        assert!(verify(&issuer, &unnamed).is_ok(), "{algorithm} without a kid");
        let unknown = signer.sign(&json!({"alg": algorithm, "kid": "new"}), &claims());
        assert_eq!(verify(&issuer, &unknown), Err(TokenRefused::UnknownKey));
        let other = Signer::new().sign(&json!({"alg": algorithm, "kid": key}), &claims());
        assert_eq!(verify(&issuer, &other), Err(TokenRefused::Signature));
        let (signed, mac) = token.rsplit_once('.').unwrap();
        let (header, _) = signed.split_once('.').unwrap();
        let changed = format!("{header}.{}.{mac}", encode(&json!({"sub": "eve", "exp": NOW_S + 100})));
        assert_eq!(verify(&issuer, &changed), Err(TokenRefused::Signature));
    }
}

#[test]
fn nothing_unsigned_and_nothing_signed_by_a_public_key_as_a_secret() {
    let signer = Signer::new();
    let issuer = signer.issuer(settings::Jwt::default());
    for (algorithm, expected) in [
        ("none", TokenRefused::Algorithm),
        ("None", TokenRefused::Algorithm),
        ("ES384", TokenRefused::Algorithm),
        ("HS256", TokenRefused::Algorithm),
    ] {
        let token = signer.sign(&json!({"alg": algorithm}), &claims());
        assert_eq!(verify(&issuer, &token), Err(expected), "{algorithm}");
    }
    // Allowed, and with a symmetric key in the set that anybody may have read.
    let algorithms = vec![Algorithm::Hs256];
    let mut issuer = signer.issuer(settings::Jwt { algorithms, ..settings::Jwt::default() });
    let token = signer.sign(&json!({"alg": "HS256", "kid": "public"}), &claims());
    assert_eq!(verify(&issuer, &token), Err(TokenRefused::UnknownKey));
    issuer.keys.add_secret(SECRET);
    assert!(verify(&issuer, &token).is_ok());
    let token = signer.sign(&json!({"alg": "ES256", "kid": "ec"}), &claims());
    assert_eq!(verify(&issuer, &token), Err(TokenRefused::Algorithm));
    let critical = signer.sign(&json!({"alg": "HS256", "crit": ["x"], "x": 1}), &claims());
    assert_eq!(verify(&issuer, &critical), Err(TokenRefused::Malformed));
}

#[test]
fn times_issuer_and_audience_are_held_to() {
    let signer = Signer::new();
    let issuer = signer.issuer(settings::Jwt {
        issuer: Some("https://id".to_owned()),
        audience: vec!["towline".to_owned(), "edge".to_owned()],
        ..settings::Jwt::default()
    });
    let check = |change: Value, expected: Option<TokenRefused>| {
        let mut claims = json!({"sub": "ada", "exp": NOW_S + 1, "iss": "https://id", "aud": "towline"});
        for (name, value) in change.as_object().unwrap() {
            claims[name] = value.clone();
        }
        let token = signer.sign(&json!({"alg": "EdDSA"}), &claims);
        assert_eq!(verify(&issuer, &token).err(), expected, "{change}");
    };
    check(json!({}), None);
    check(json!({"aud": ["x", "edge"]}), None);
    check(json!({"exp": NOW_S - 29}), None);
    check(json!({"exp": NOW_S - 30}), Some(TokenRefused::Expired));
    check(json!({"exp": null}), Some(TokenRefused::Malformed));
    check(json!({"exp": "soon"}), Some(TokenRefused::Malformed));
    check(json!({"exp": 1e300}), Some(TokenRefused::Malformed));
    check(json!({"nbf": NOW_S + 30}), None);
    check(json!({"nbf": NOW_S + 31}), Some(TokenRefused::Early));
    check(json!({"iss": "https://other"}), Some(TokenRefused::Issuer));
    check(json!({"aud": "other"}), Some(TokenRefused::Audience));
    check(json!({"aud": []}), Some(TokenRefused::Audience));
    check(json!({"aud": 7}), Some(TokenRefused::Audience));
    let endless = signer.sign(&json!({"alg": "EdDSA"}), &json!({"sub": "ada", "iss": "https://id"}));
    assert_eq!(verify(&issuer, &endless), Err(TokenRefused::Expired));
}

#[test]
fn user_and_client_id_are_bound_to_claims() {
    let signer = Signer::new();
    let issuer = signer.issuer(settings::Jwt {
        user_claim: "name".to_owned(),
        client_id_claim: Some("device".to_owned()),
        ..settings::Jwt::default()
    });
    let remote = Remote::new(Metrics::new().jwks_fetches);
    let check = |claims: Value, client_id: &str, user: Option<&str>, expected: Option<TokenRefused>| {
        let token = signer.sign(&json!({"alg": "EdDSA"}), &claims);
        let credentials = Credentials { client_id, user, password: token.as_bytes() };
        assert_eq!(
            issuer.verify(&remote, credentials, now()).err(),
            expected,
            "{claims} {client_id} {user:?}"
        );
    };
    let claims = |name: Value| json!({"name": name, "device": "m1", "exp": NOW_S + 1});
    check(claims(json!("ada")), "m1", None, None);
    check(claims(json!("ada")), "m1", Some(""), None);
    check(claims(json!("ada")), "m1", Some("ada"), None);
    check(claims(json!("ada")), "m1", Some("bob"), Some(TokenRefused::User));
    check(claims(json!("ada")), "m2", None, Some(TokenRefused::ClientId));
    check(claims(json!("ada")), "", None, Some(TokenRefused::ClientId));
    check(claims(json!("")), "m1", None, Some(TokenRefused::User));
    check(claims(json!(["ada", "bob"])), "m1", None, Some(TokenRefused::User));
    check(json!({"name": "ada", "exp": NOW_S + 1}), "m1", None, Some(TokenRefused::ClientId));
}

#[test]
fn a_password_is_no_token_and_what_looks_like_one_is_taken_apart_with_care() {
    for text in ["", "secret", "a.b.c", "..", "e30.e30.", "{}.{}.{}", "e30.e30.e30.e30", "\u{fc}.e30.e30"] {
        assert!(!Issuer::is_token(text.as_bytes()), "{text}");
    }
    let long = format!("{}.e30.e30", encode(&json!({"alg": "ES256", "x": "y".repeat(9000)})));
    assert!(!Issuer::is_token(long.as_bytes()));
    assert!(!Issuer::is_token(format!("{}.e30.", encode(&json!({"alg": "ES256", "kid": 7}))).as_bytes()));
    assert!(Issuer::is_token(format!("{}.e30.", encode(&json!({"alg": "ES256"}))).as_bytes()));
}

#[test]
fn a_set_of_keys_that_is_none_is_refused() {
    for (text, said) in [
        ("x", "not JSON"),
        ("[]", "not a JWK Set"),
        (r#"{"keys": []}"#, "no key"),
        (r#"{"keys": [{"kty": "EC", "crv": "P-256", "x": "AAAA", "y": "AAAA"}]}"#, "no key"),
        (r#"{"keys": [{"kty": "RSA", "n": "AQAB", "e": "AQAB"}]}"#, "no key"),
    ] {
        let error = KeySet::parse(text.as_bytes()).err().unwrap();
        assert!(error.contains(said), "{text}: {error}");
    }
    let many = json!({"keys": vec![json!({}); 65]}).to_string();
    assert!(KeySet::parse(many.as_bytes()).err().unwrap().contains("64"));
}
