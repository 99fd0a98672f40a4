//! What a backend is asked, in JSON and in protobuf.

use aws_lc_rs::hmac;
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use serde::Serialize;

use super::Failure;
use crate::{access::Action, auth::Credentials, backend, proto::auth as proto, request::Origin};

/// Names a question in the cache: a keyed hash, so that nothing is read back from it, passwords least of all.
pub(super) type Key = [u8; 32];

/// A question about one client.
#[derive(Clone, Copy, Debug)]
pub enum Question<'q> {
    /// Whether it may connect, and as whom.
    Connect(&'q Origin, Credentials<'q>),
    /// Whether it may do that with a topic; a topic filter for subscriptions, without `$share/GROUP/`.
    Access(&'q Origin, Action, &'q str),
}

/// A client, as JSON has it.
#[derive(Serialize)]
struct Client<'q> {
    listener: &'q str,
    protocol: &'static str,
    peer_address: String,
    encrypted: bool,
    client_id: &'q str,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'q str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate: Option<Certificate<'q>>,
}

#[derive(Serialize)]
struct Certificate<'q> {
    common_name: &'q str,
    names: Vec<&'q str>,
    sha256: String,
}

#[derive(Serialize)]
struct Shown<'q> {
    #[serde(flatten)]
    client: Client<'q>,
    /// Text, as nearly all passwords are.
    #[serde(skip_serializing_if = "Option::is_none")]
    password: Option<&'q str>,
    /// In place of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    password_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    action: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    topic: Option<&'q str>,
}

impl<'q> Question<'q> {
    /// What follows the path of an HTTP hook, the method of a gRPC one, and metrics' `question` label.
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Connect(..) => "connect",
            Self::Access(..) => "access",
        }
    }

    pub(super) fn origin(&self) -> &'q Origin {
        match self {
            Self::Connect(origin, _) | Self::Access(origin, ..) => origin,
        }
    }

    /// The user that the client says it is, or was found to be.
    pub(super) fn user(&self) -> Option<&'q str> {
        match self {
            Self::Connect(_, credentials) => credentials.user,
            Self::Access(origin, ..) => origin.user.as_deref(),
        }
    }

    fn client_id(&self) -> &'q str {
        match self {
            Self::Connect(_, credentials) => credentials.client_id,
            Self::Access(origin, ..) => origin.client_id.as_deref().unwrap_or_default(),
        }
    }

    /// Equal for questions that have the same answer: of everything that the backend is told.
    pub(super) fn key(&self, key: &hmac::Key) -> Key {
        let mut context = hmac::Context::with_key(key);
        let mut update = |part: &[u8]| {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        };
        let origin = self.origin();
        update(self.name().as_bytes());
        update(origin.listener.as_bytes());
        update(origin.protocol.label().as_bytes());
        update(origin.peer.ip().to_canonical().to_string().as_bytes());
        update(&[u8::from(origin.encrypted), u8::from(self.user().is_some())]);
        update(self.client_id().as_bytes());
        update(self.user().unwrap_or_default().as_bytes());
        update(origin.identity.as_ref().map_or(&[], |identity| &identity.fingerprint_sha256[..]));
        match self {
            Self::Connect(_, credentials) => update(credentials.password),
            Self::Access(_, action, topic) => {
                update(action.label().as_bytes());
                update(topic.as_bytes());
            }
        }
        let mut key = Key::default();
        key.copy_from_slice(context.sign().as_ref());
        key
    }

    pub(super) fn json(&self) -> Result<Bytes, Failure> {
        let origin = self.origin();
        let certificate = origin.identity.as_ref().map(|identity| Certificate {
            common_name: identity.common_name.as_deref().unwrap_or_default(),
            names: identity.names.iter().map(|name| &**name).collect(),
            sha256: identity.fingerprint_sha256.iter().map(|byte| format!("{byte:02x}")).collect(),
        });
        let client = Client {
            listener: &origin.listener,
            protocol: origin.protocol.label(),
            peer_address: origin.peer.ip().to_canonical().to_string(),
            encrypted: origin.encrypted,
            client_id: self.client_id(),
            user: self.user(),
            certificate,
        };
        let mut shown = Shown { client, password: None, password_base64: None, action: None, topic: None };
        match *self {
            Self::Connect(_, credentials) => match str::from_utf8(credentials.password) {
                Ok(text) => shown.password = Some(text),
                Err(_) => shown.password_base64 = Some(BASE64.encode(credentials.password)),
            },
            Self::Access(_, action, topic) => {
                (shown.action, shown.topic) = (Some(action.label()), Some(topic));
            }
        }
        // The error would be about a map's keys, of which there are none; it holds no values.
        serde_json::to_vec(&shown).map(Into::into).map_err(|_| Failure::of("unusable question"))
    }

    pub(super) fn framed(&self) -> Bytes {
        let origin = self.origin();
        let certificate = origin.identity.as_ref().map(|identity| proto::Certificate {
            common_name: identity.common_name.as_deref().unwrap_or_default().to_owned(),
            names: identity.names.iter().map(ToString::to_string).collect(),
            sha256: Bytes::copy_from_slice(&identity.fingerprint_sha256),
        });
        let client = Some(proto::Client {
            listener: origin.listener.to_string(),
            protocol: origin.protocol.label().to_owned(),
            peer_address: origin.peer.ip().to_canonical().to_string(),
            encrypted: origin.encrypted,
            client_id: self.client_id().to_owned(),
            user: self.user().map(str::to_owned),
            certificate,
        });
        match *self {
            Self::Connect(_, Credentials { password, .. }) => {
                let password = Bytes::copy_from_slice(password);
                backend::framed(&proto::ConnectRequest { client, password })
            }
            Self::Access(_, action, topic) => {
                let action = match action {
                    Action::Publish => proto::Action::Publish,
                    Action::Subscribe => proto::Action::Subscribe,
                };
                backend::framed(&proto::AccessRequest {
                    client,
                    action: action.into(),
                    topic: topic.to_owned(),
                })
            }
        }
    }
}
