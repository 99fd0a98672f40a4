//! Enhanced authentication (MQTT 5, section 4.12): what a client and the gateway say to each other beyond user and
//! password, at CONNECT and again whenever the client wants.

use std::time::SystemTime;

use crate::{
    auth::{
        By, Credentials, Identity,
        jwt::{self, TokenRefused},
        scram,
    },
    gateway::Gateway,
    request::Origin,
    settings::Authentication,
    snapshot::Snapshot,
};
use towline_protocols::mqtt::ReasonCode;

/// An exchange by one method.
pub(super) enum Exchange {
    /// SCRAM-SHA-256; with the challenge, once the client has one.
    Scram(Option<(Box<str>, Box<scram::Challenge>)>),
    /// A token of the issuer, which is all that there is to say.
    Token,
}

/// What the gateway says to the client's data.
pub(super) enum Step {
    /// More is wanted.
    Continue(Vec<u8>),
    /// The client is who it says it is; the method's last word.
    Done(Identity, Option<Vec<u8>>),
}

impl Exchange {
    /// Begins by `method`.
    ///
    /// # Errors
    /// The client's listener does not know the method.
    pub(super) fn begin(gateway: &Gateway, origin: &Origin, method: &str) -> Result<Self, ReasonCode> {
        let snapshot = gateway.snapshot();
        let listener = snapshot.listener(&origin.listener);
        let takes_passwords =
            listener.is_some_and(|listener| listener.settings.authentication == Authentication::Password);
        match method {
            scram::METHOD if takes_passwords && takes_scram(&snapshot) => Ok(Self::Scram(None)),
            jwt::METHOD if takes_passwords && snapshot.issuer.is_some() => Ok(Self::Token),
            _ => Err(ReasonCode::BadAuthenticationMethod),
        }
    }

    /// Follows what the client says.
    ///
    /// # Errors
    /// It is not admitted. Why is not for it to know.
    pub(super) fn step(
        &mut self,
        gateway: &Gateway,
        origin: &Origin,
        data: &[u8],
    ) -> Result<Step, ReasonCode> {
        let step = match self {
            Self::Scram(challenge) => step_scram(challenge, gateway, origin, data),
            Self::Token => step_token(gateway, origin, data).map_err(Refused::Token),
        };
        let outcome = match &step {
            Ok(Step::Continue(_)) => None,
            Ok(Step::Done(..)) => Some("ok"),
            Err(error) => {
                tracing::debug!(peer = %origin.peer, %error, "enhanced authentication failed");
                Some("refused")
            }
        };
        if let Some(outcome) = outcome {
            gateway.metrics.logins.with_label_values(&[&*origin.listener, outcome]).inc();
        }
        step.map_err(|refused| match refused {
            Refused::TooManyGuesses => ReasonCode::ServerBusy,
            Refused::Scram(_) | Refused::Token(_) => ReasonCode::NotAuthorized,
        })
    }
}

/// Why somebody was not admitted, for the log.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error(transparent)]
    Scram(scram::Refused),
    #[error(transparent)]
    Token(TokenRefused),
    #[error("too many wrong passwords")]
    TooManyGuesses,
}

/// A proof shows no password that a hook could be asked about.
fn takes_scram(snapshot: &Snapshot) -> bool {
    snapshot.users.has_scram() && snapshot.hook.is_none()
}

/// With the keys that there are: a connection does not stand still for others.
fn step_token(gateway: &Gateway, origin: &Origin, data: &[u8]) -> Result<Step, TokenRefused> {
    let snapshot = gateway.snapshot();
    let issuer = snapshot.issuer.as_ref().ok_or(TokenRefused::UnknownKey)?;
    let client_id = origin.client_id.as_deref().unwrap_or_default();
    let credentials = Credentials { client_id, user: None, password: data };
    let identity = issuer.verify(&gateway.issuer_keys, credentials, SystemTime::now())?;
    Ok(Step::Done(identity, None))
}

fn step_scram(
    challenge: &mut Option<(Box<str>, Box<scram::Challenge>)>,
    gateway: &Gateway,
    origin: &Origin,
    data: &[u8],
) -> Result<Step, Refused> {
    let snapshot = gateway.snapshot();
    // A reload may have taken the method away since the exchange began.
    if !takes_scram(&snapshot) {
        return Err(Refused::Scram(scram::Refused::Wrong));
    }
    if let Some((user, challenge)) = challenge.take() {
        let finished = challenge.finish(data).inspect_err(|_| gateway.note_wrong(origin, &user));
        let (user, message) = finished.map_err(Refused::Scram)?;
        gateway.guesses.forget(origin.peer.ip(), &user);
        let identity = Identity::by(By::PasswordFile, user.into());
        return Ok(Step::Done(identity, Some(message.into_bytes())));
    }
    let first = scram::First::parse(data).map_err(Refused::Scram)?;
    if gateway.guesses_too_much(origin, &first.user) {
        return Err(Refused::TooManyGuesses);
    }
    let found = snapshot.users.scram(&first.user, snapshot.decoys());
    let (verifier, is_known) = found.ok_or(Refused::Scram(scram::Refused::Wrong))?;
    let user = first.user.as_str().into();
    let (next, message) = scram::Challenge::new(first, verifier, is_known).map_err(Refused::Scram)?;
    *challenge = Some((user, Box::new(next)));
    Ok(Step::Continue(message.into_bytes()))
}
