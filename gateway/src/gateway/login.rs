//! Who clients are, and whether they are admitted.

use std::{
    sync::Arc,
    time::{Instant, SystemTime},
};

use super::Gateway;
use crate::{
    auth::{
        Attempt, By, Checked, Credentials, DenyReason, Identity, Refusal, TooMany,
        hook::{Allowed, Hook, Question, Verdict},
        jwt::{Issuer, TokenRefused},
    },
    mqtt,
    request::Origin,
    settings::Authentication,
    snapshot::Snapshot,
};

impl Gateway {
    /// Decides whether a client may use the gateway, and as whom. A listener without authentication admits
    /// everybody without a user, whatever they claim to be; one that goes by certificates asks nobody for
    /// a password.
    ///
    /// # Errors
    /// Why it may not, and whether it may come again.
    pub async fn authenticate(
        &self,
        origin: &Origin,
        credentials: Credentials<'_>,
    ) -> Result<Identity, Refusal> {
        let snapshot = self.snapshot.load_full();
        let listener = &*origin.listener;
        let proven = match snapshot.listener(listener).map(|listener| listener.settings.authentication) {
            Some(Authentication::None) => return Ok(Identity::default()),
            Some(Authentication::Password) => self.check_password(&snapshot, origin, credentials).await,
            Some(Authentication::Certificate) => self.check_certificate(&snapshot, origin, credentials).await,
            None => return Err(Refusal::Unauthorized),
        };
        let outcome = match &proven {
            Ok(_) => "ok",
            Err(refusal) if refusal.is_temporary() => "unavailable",
            Err(_) => "refused",
        };
        self.metrics.logins.with_label_values(&[listener, outcome]).inc();
        if let Err(Refusal::Denied(reason, text)) = &proven
            && !self.login_denials.log_login(*reason, text.as_deref(), origin, credentials)
        {
            self.metrics.limit_hit("denials_logged");
        }
        proven
    }

    async fn check_certificate(
        &self,
        snapshot: &Snapshot,
        origin: &Origin,
        credentials: Credentials<'_>,
    ) -> Result<Identity, Refusal> {
        let user = origin.identity.as_ref().and_then(|identity| identity.user());
        let user = user.ok_or(Refusal::Unauthorized)?;
        // A password is nobody's business here.
        let credentials = Credentials { user: Some(user), password: &[], ..credentials };
        if let Some(hook) = snapshot.hook.as_ref().filter(|hook| hook.judges_certificates())
            && let Some(identity) = ask_who(hook, origin, credentials).await?
        {
            return Ok(identity);
        }
        Ok(Identity::by(By::Certificate, user.clone()))
    }

    async fn check_token(&self, issuer: &Issuer, credentials: Credentials<'_>) -> Result<Identity, Refusal> {
        self.issuer_keys.ensure_started();
        let verify = || issuer.verify(&self.issuer_keys, credentials, SystemTime::now());
        let mut verified = verify();
        if verified == Err(TokenRefused::UnknownKey) && self.issuer_keys.look_again().await {
            verified = verify();
        }
        verified.map_err(|error| {
            tracing::debug!(client_id = ?credentials.client_id, %error, "a token was refused");
            Refusal::Unauthorized
        })
    }

    /// A token is its issuer's, and nobody guesses one; everything else is looked at unless too much was wrong before.
    async fn check_password(
        &self,
        snapshot: &Snapshot,
        origin: &Origin,
        credentials: Credentials<'_>,
    ) -> Result<Identity, Refusal> {
        if let Some(issuer) = &snapshot.issuer
            && Issuer::is_token(credentials.password)
        {
            return self.check_token(issuer, credentials).await;
        }
        if credentials.user.is_none() && credentials.password.is_empty() {
            // Who shows nothing guesses nothing.
            return self.look_at_password(snapshot, origin, credentials).await;
        }
        let attempt = self.begin_attempt(origin, credentials.user).await?;
        let checked = self.look_at_password(snapshot, origin, credentials).await;
        match &checked {
            Ok(_) => attempt.right(),
            Err(Refusal::Unauthorized | Refusal::Denied(DenyReason::Credentials, _)) => {
                self.note_wrong(origin, attempt);
            }
            Err(_) => {}
        }
        checked
    }

    /// Begins to look at a password, or at the proof of one.
    ///
    /// # Errors
    /// Too many passwords of the user from there were wrong lately, or are looked at for too long.
    pub(crate) async fn begin_attempt(
        &self,
        origin: &Origin,
        user: Option<&str>,
    ) -> Result<Attempt<'_>, Refusal> {
        let settings = self.snapshot().settings.auth.guesses;
        let begun = self.guesses.begin(&settings, origin.peer.ip(), user).await;
        begun.map_err(|too_many| match too_many {
            TooMany::Wrong(_) => Refusal::TooManyGuesses,
            TooMany::AtOneTime(limit) => {
                self.metrics.limit_hit(limit);
                Refusal::Unavailable
            }
        })
    }

    /// Whether passwords of a user from there were wrong too often lately.
    pub(crate) fn guesses_too_much(&self, origin: &Origin, user: &str) -> bool {
        self.guesses.refused_for(origin.peer.ip(), Some(user), mqtt::now()).is_some()
    }

    /// A password was wrong, or not proven.
    pub(crate) fn note_wrong(&self, origin: &Origin, attempt: Attempt<'_>) {
        let settings = self.snapshot().settings.auth.guesses;
        let met = attempt.wrong(&settings, mqtt::now());
        for &limit in &met {
            self.metrics.limit_hit(limit);
        }
        if !met.is_empty()
            && let Some(held_back) = self.refusals.pass(Instant::now())
        {
            let (peer, listener) = (origin.peer.ip(), &*origin.listener);
            tracing::warn!(%peer, listener, ?met, held_back, "too many wrong passwords");
        }
    }

    /// Whether the hook still leaves a client to others, whose password they have found right. It is asked again within
    /// what it lets be kept.
    ///
    /// # Errors
    /// It does not say, and the client is refused as by [`Self::authenticate`].
    pub(crate) async fn hook_stands_back(
        &self,
        snapshot: &Snapshot,
        origin: &Origin,
        credentials: Credentials<'_>,
    ) -> Result<bool, Refusal> {
        let Some(hook) = &snapshot.hook else { return Ok(true) };
        match ask_who(hook, origin, credentials).await {
            Ok(identity) => Ok(identity.is_none()),
            Err(refusal @ Refusal::Unavailable) => {
                self.metrics.logins.with_label_values(&[&*origin.listener, "unavailable"]).inc();
                Err(refusal)
            }
            Err(_) => Ok(false),
        }
    }

    /// The hook is asked before the password file.
    async fn look_at_password(
        &self,
        snapshot: &Snapshot,
        origin: &Origin,
        credentials: Credentials<'_>,
    ) -> Result<Identity, Refusal> {
        let Credentials { user, password, .. } = credentials;
        if let Some(hook) = &snapshot.hook
            && let Some(identity) = ask_who(hook, origin, credentials).await?
        {
            return Ok(identity);
        }
        let user = user.ok_or(Refusal::Unauthorized)?;
        let wait = || self.metrics.limit_hit("auth.password_checks_max");
        match snapshot.users.verify(user, password, &self.password_checks, wait).await {
            Checked::Right => Ok(Identity::by(By::PasswordFile, user.into())),
            Checked::Wrong => Err(Refusal::Unauthorized),
            Checked::NoTurn => Err(Refusal::Unavailable),
        }
    }
}

/// Who a client is by the hook; `None` if another is to say.
async fn ask_who(
    hook: &Arc<Hook>,
    origin: &Origin,
    credentials: Credentials<'_>,
) -> Result<Option<Identity>, Refusal> {
    // Counted and logged there.
    let answer = hook.ask(&Question::Connect(origin, credentials)).await.map_err(|_| Refusal::Unavailable)?;
    match answer.verdict {
        Verdict::Allow(allowed) => {
            let Allowed { user, claims, until } = Allowed::clone(&allowed);
            if until.is_some_and(|until| until <= SystemTime::now()) {
                return Err(Refusal::Denied(DenyReason::Credentials, None));
            }
            let came_as = credentials.user.filter(|said| user.as_deref().is_some_and(|user| user != *said));
            let by = By::Hook(came_as.map(|user| Box::new(user.to_owned())));
            let user = user.or_else(|| credentials.user.map(Into::into));
            Ok(Some(Identity { user, claims, until, by }))
        }
        Verdict::Deny(reason, text) => Err(Refusal::Denied(reason, text)),
        Verdict::NotMine => Ok(None),
    }
}
