//! The client's side of SCRAM-SHA-256 (RFC 5802) in AUTH packets.

use std::num::NonZeroU32;

use aws_lc_rs::{digest, hmac, pbkdf2};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use towline_protocols::mqtt::*;

use super::{connect, text};

pub const METHOD: &str = "SCRAM-SHA-256";
const NONCE: &str = "rOprNGfwEbeRWgbNEkqO";

pub fn data(text: &str) -> Option<Secret> {
    Some(Secret(Binary::new(text.to_owned()).unwrap()))
}

pub fn auth(reason: ReasonCode, method: &str, said: &str) -> Packet {
    let properties = AuthProperties {
        authentication_method: Some(text(method)),
        authentication_data: data(said),
        ..Default::default()
    };
    Packet::Auth(Auth { reason, properties })
}

/// The client's first message.
pub fn first(user: &str) -> String {
    format!("n,,n={user},r={NONCE}")
}

pub fn connect_by(method: &str, id: &str, first: &str) -> Connect {
    let mut connect = connect(Version::V5, id);
    connect.properties.authentication_method = Some(text(method));
    connect.properties.authentication_data = data(first);
    connect
}

/// The client's final message, and what the server's has to be.
pub fn answer(user: &str, password: &str, server_first: &str) -> (String, String) {
    let field = |name: &str| server_first.split(',').find_map(|field| field.strip_prefix(name)).unwrap();
    let iterations: NonZeroU32 = field("i=").parse().unwrap();
    let mut salted = [0; 32];
    let salt = BASE64.decode(field("s=")).unwrap();
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, &salt, password.as_bytes(), &mut salted);
    let mac =
        |key: &[u8], text: &[u8]| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text).as_ref().to_vec();
    let client_key = mac(&salted, b"Client Key");
    let stored_key = digest::digest(&digest::SHA256, &client_key);
    let without_proof = format!("c=biws,r={}", field("r="));
    let signed = format!("n={user},r={NONCE},{server_first},{without_proof}");
    let signature = mac(stored_key.as_ref(), signed.as_bytes());
    let proof: Vec<_> = client_key.iter().zip(signature).map(|(key, mask)| key ^ mask).collect();
    let server = mac(&mac(&salted, b"Server Key"), signed.as_bytes());
    (format!("{without_proof},p={}", BASE64.encode(proof)), format!("v={}", BASE64.encode(server)))
}
