//! Before CONNECT.

use std::time::Instant;

use bytes::BytesMut;

use super::Settings;
use crate::mqtt::{
    Auth, AuthProperties, Connack, ConnackProperties, Connect, FixedHeader, MqttError, Packet, PacketKind,
    ReasonCode, Secret, Text, Version, decode, encode,
};

/// What CONNACK takes of MQTT 5 without what may be left out.
const CONNACK_BYTES: u32 = 16;
/// The same with an identifier of the server's choice.
const CONNACK_WITH_ID_BYTES: u32 = 64;
/// What extended authentication adds, to AUTH too: a method's name, and what it has to say.
const PROOF_BYTES: u32 = 512;

/// What a client says to a challenge.
#[derive(Debug)]
pub enum Answer {
    /// Its authentication data.
    Data(Option<Secret>),
    /// It gives up.
    Left,
}

/// A connection whose first packet has not come yet.
#[derive(Debug)]
pub struct Greeting {
    deadline: Instant,
}

impl Greeting {
    /// The connection is up.
    pub fn new(settings: &Settings, now: Instant) -> Self {
        Self { deadline: now + settings.connect_timeout }
    }

    /// When [`Greeting::handle_timeout`] is to be called.
    pub fn poll_timeout(&self) -> Instant {
        self.deadline
    }

    /// Fails when CONNECT is late.
    pub fn handle_timeout(&self, now: Instant) -> Result<(), MqttError> {
        if now < self.deadline {
            return Ok(());
        }
        Err(MqttError::new(ReasonCode::KeepAliveTimeout, "3.1.0: CONNECT must come in reasonable time"))
    }

    /// The version that a CONNECT names, as far as it is there: whether it can be told what is wrong with it. A client of
    /// MQTT 3 cannot.
    pub fn version(input: &[u8], settings: &Settings) -> Option<Version> {
        let header = FixedHeader::parse(input, Version::V311, &settings.limits).ok()??;
        let is_v5 = header.kind == PacketKind::Connect && input[header.header_bytes..].starts_with(MQTT_5);
        is_v5.then_some(Version::V5)
    }

    /// Takes CONNECT off the input, once it is whole. What follows it stays: a client need not wait for
    /// CONNACK (3.1.4).
    pub fn handle_bytes(
        &self,
        input: &mut BytesMut,
        settings: &Settings,
    ) -> Result<Option<Box<Connect>>, MqttError> {
        let first = FixedHeader::parse(input, Version::V311, &settings.limits)?;
        if first.is_some_and(|header| header.kind != PacketKind::Connect) {
            return Err(MqttError::protocol("MQTT-3.1.0-1: the first packet must be CONNECT"));
        }
        let Some(Packet::Connect(connect)) = decode(input, Version::V311, &settings.limits)? else {
            return Ok(None);
        };
        check_client_id(&connect)?;
        check_packet_bytes_max(&connect)?;
        Ok(Some(connect))
    }

    /// Extended authentication goes on: AUTH with what the client is to answer (4.12).
    pub fn challenge(method: Text, data: Secret, out: &mut BytesMut) {
        let properties = AuthProperties {
            authentication_method: Some(method),
            authentication_data: Some(data),
            ..Default::default()
        };
        let auth = Auth { reason: ReasonCode::ContinueAuthentication, properties };
        // Before CONNECT is accepted the client's Maximum Packet Size is not asked for.
        let _ = encode(&Packet::Auth(auth), Version::V5, out);
    }

    /// Takes the client's answer off the input, once it is whole.
    pub fn handle_answer(
        &self,
        method: &Text,
        input: &mut BytesMut,
        settings: &Settings,
    ) -> Result<Option<Answer>, MqttError> {
        match decode(input, Version::V5, &settings.limits)? {
            None => Ok(None),
            Some(Packet::Auth(auth)) if auth.reason != ReasonCode::ContinueAuthentication => {
                Err(MqttError::protocol("3.15.2.1: before CONNACK a client sends AUTH with reason 0x18"))
            }
            Some(Packet::Auth(auth)) => {
                check_method(&auth, method)?;
                Ok(Some(Answer::Data(auth.properties.authentication_data)))
            }
            Some(Packet::Disconnect(_)) => Ok(Some(Answer::Left)),
            Some(_) => Err(MqttError::protocol(
                "MQTT-3.1.2-30: before CONNACK a client sends AUTH or DISCONNECT and nothing else",
            )),
        }
    }

    /// The CONNACK that refuses a client. `version` is that of its CONNECT; a client whose CONNECT did not
    /// parse is answered as MQTT 3.1.1, and only if its version is what is wrong: anything else is no MQTT.
    ///
    /// `reason_string` says more, and `server_reference` where else to go (4.11), to those whose version has a word for
    /// it.
    pub fn refuse(
        version: Option<Version>,
        reason: ReasonCode,
        reason_string: Option<Text>,
        server_reference: Option<Text>,
        out: &mut BytesMut,
    ) {
        let is_answered = version.is_some()
            || matches!(
                reason,
                ReasonCode::UnsupportedProtocolVersion | ReasonCode::ClientIdentifierNotValid
            );
        if !is_answered {
            return;
        }
        let reason =
            if reason.is_allowed_in(PacketKind::Connack) { reason } else { ReasonCode::UnspecifiedError };
        let connack = Connack {
            session_present: false,
            reason,
            properties: ConnackProperties { reason_string, server_reference, ..Default::default() },
        };
        // Before CONNECT is accepted the client's Maximum Packet Size is not asked for.
        let _ = encode(&Packet::Connack(Box::new(connack)), version.unwrap_or(Version::V311), out);
    }
}

/// Whether AUTH names the method of CONNECT.
pub(super) fn check_method(auth: &Auth, method: &Text) -> Result<(), MqttError> {
    match &auth.properties.authentication_method {
        Some(named) if named == method => Ok(()),
        Some(_) => Err(MqttError::new(
            ReasonCode::BadAuthenticationMethod,
            "MQTT-4.12.0-5, MQTT-4.12.1-1: AUTH names another method than CONNECT",
        )),
        None => Err(MqttError::protocol("3.15.2.2.2: AUTH names its authentication method")),
    }
}

/// Protocol name and version, as CONNECT begins.
const MQTT_5: &[u8] = b"\0\x04MQTT\x05";

fn check_client_id(connect: &Connect) -> Result<(), MqttError> {
    let rule = match connect.version {
        Version::V31 => "3.1, 3.1: a client identifier has at least one character",
        Version::V311 if !connect.clean_start => {
            "3.1.1, MQTT-3.1.3-8: an empty client identifier needs a clean session"
        }
        _ => return Ok(()),
    };
    if connect.client_id.is_empty() {
        return Err(MqttError::new(ReasonCode::ClientIdentifierNotValid, rule));
    }
    Ok(())
}

/// A client that does not even take CONNACK would wait for it for ever.
fn check_packet_bytes_max(connect: &Connect) -> Result<(), MqttError> {
    let named = if connect.client_id.is_empty() { CONNACK_WITH_ID_BYTES } else { CONNACK_BYTES };
    let proves = connect.properties.authentication_method.is_some();
    let needed = if proves { named + PROOF_BYTES } else { named };
    match connect.properties.packet_bytes_max {
        Some(max) if max.get() < needed => Err(MqttError::new(
            ReasonCode::PacketTooLarge,
            "MQTT-3.1.2-24: CONNACK is larger than Maximum Packet Size",
        )),
        _ => Ok(()),
    }
}
