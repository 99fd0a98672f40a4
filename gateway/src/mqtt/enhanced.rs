//! Enhanced authentication (MQTT 5, section 4.12): what a client and the gateway say to each other beyond user and
//! password, at CONNECT and again whenever the client wants.

use crate::{
    auth::{By, Credentials, Identity, Refusal, jwt, scram},
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
    /// A token, which is all that there is to say.
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
        // A hook may know tokens of its own.
        let takes_tokens = snapshot.issuer.is_some() || snapshot.hook.is_some();
        match method {
            scram::METHOD if takes_passwords && takes_scram(&snapshot) => Ok(Self::Scram(None)),
            jwt::METHOD if takes_passwords && takes_tokens => Ok(Self::Token),
            _ => Err(ReasonCode::BadAuthenticationMethod),
        }
    }

    /// Follows what the client says. Whoever is asked about it takes its time.
    ///
    /// # Errors
    /// It is not admitted, or nobody can say now.
    pub(super) async fn step(
        &mut self,
        gateway: &Gateway,
        origin: &Origin,
        client_id: &str,
        data: &[u8],
    ) -> Result<Step, Refusal> {
        let challenge = match self {
            Self::Scram(challenge) => challenge,
            Self::Token => {
                let credentials = Credentials { client_id, user: None, password: data };
                let identity = gateway.authenticate(origin, credentials).await?;
                return Ok(Step::Done(identity, None));
            }
        };
        let step = step_scram(challenge, gateway, origin, data).await;
        let outcome = match &step {
            Ok(Step::Continue(_)) => None,
            Ok(Step::Done(..)) => Some("ok"),
            Err(refusal) if refusal.is_temporary() => Some("unavailable"),
            Err(_) => Some("refused"),
        };
        if let Some(outcome) = outcome {
            gateway.metrics.logins.with_label_values(&[&*origin.listener, outcome]).inc();
        }
        step
    }
}

/// A proof shows no password that a hook could be asked about.
fn takes_scram(snapshot: &Snapshot) -> bool {
    snapshot.users.has_scram() && snapshot.hook.is_none()
}

async fn step_scram(
    challenge: &mut Option<(Box<str>, Box<scram::Challenge>)>,
    gateway: &Gateway,
    origin: &Origin,
    data: &[u8],
) -> Result<Step, Refusal> {
    let snapshot = gateway.snapshot.load_full();
    // A reload may have taken the method away since the exchange began.
    if !takes_scram(&snapshot) {
        return Err(Refusal::Unauthorized);
    }
    let refused = |why: scram::Refused| {
        tracing::debug!(peer = %origin.peer, %why, "enhanced authentication failed");
        Refusal::Unauthorized
    };
    if let Some((user, challenge)) = challenge.take() {
        let attempt = gateway.begin_attempt(origin, Some(&user)).await?;
        let (user, message) = match challenge.finish(data) {
            Ok(finished) => finished,
            Err(why) => {
                gateway.note_wrong(origin, attempt);
                return Err(refused(why));
            }
        };
        attempt.right();
        let identity = Identity::by(By::PasswordFile, user.into());
        return Ok(Step::Done(identity, Some(message.into_bytes())));
    }
    let first = scram::First::parse(data).map_err(refused)?;
    if gateway.guesses_too_much(origin, &first.user) {
        return Err(Refusal::TooManyGuesses);
    }
    let found = snapshot.users.scram(&first.user, snapshot.decoys());
    let (verifier, is_known) = found.ok_or(Refusal::Unauthorized)?;
    let user = first.user.as_str().into();
    let (next, message) = scram::Challenge::new(first, verifier, is_known).map_err(refused)?;
    *challenge = Some((user, Box::new(next)));
    Ok(Step::Continue(message.into_bytes()))
}
