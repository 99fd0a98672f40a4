//! HTTP Basic (RFC 7617) and Bearer (RFC 6750), checked once per connection, credential and configuration.

use std::{
    sync::{Arc, OnceLock, Weak},
    time::SystemTime,
};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use http::{HeaderMap, HeaderValue, Response, header::AUTHORIZATION};
use parking_lot::Mutex;

use super::problem;
use crate::{
    auth::{By, Credentials, DenyReason, Identity, Refusal},
    gateway::Gateway,
    request::{Body, Origin},
    settings::Authentication,
    snapshot::Snapshot,
};

/// What a connection's listener demands, and who has proved to be whom on it.
pub(super) struct Gate {
    demanded: Authentication,
    /// The credential that was found right last: a check costs a thousand hashes.
    known: Mutex<Option<Known>>,
    /// With the user whom the certificate names.
    by_certificate: OnceLock<Arc<Origin>>,
}

struct Known {
    credential: HeaderValue,
    origin: Arc<Origin>,
    /// Whose users admitted it: after a reload it is checked again.
    snapshot: Weak<Snapshot>,
    /// When it is no longer right.
    until: Option<SystemTime>,
    by: By,
}

impl Known {
    /// Whether it is known by a hook that left it to others, and is to be asked whether it still does.
    fn is_beside_hook(&self, snapshot: &Snapshot) -> bool {
        snapshot.hook.is_some() && self.by == By::PasswordFile
    }
}

impl Gate {
    pub(super) fn new(gateway: &Gateway, origin: &Origin) -> Self {
        let snapshot = gateway.snapshot();
        let listener = snapshot.settings.listeners.iter().find(|each| each.name == origin.listener);
        // A listener that a reload took away admits nobody new.
        let demanded = listener.map_or(Authentication::Password, |each| each.authentication);
        Self { demanded, known: Mutex::new(None), by_certificate: OnceLock::new() }
    }

    /// Whether a password has to be checked, which costs too much for what may be a repeat.
    pub(super) fn demands_password(&self) -> bool {
        self.demanded == Authentication::Password
    }

    /// The origin with its user. Takes the credential out of the headers, so that no backend sees it.
    pub(super) async fn admit(
        &self,
        gateway: &Gateway,
        origin: &Arc<Origin>,
        headers: &mut HeaderMap,
    ) -> Result<Arc<Origin>, Refusal> {
        // The connection may be older than the reload that took the authority out.
        if !gateway.snapshot().trusts(origin) {
            return Err(Refusal::Unauthorized);
        }
        if self.demanded == Authentication::None {
            return Ok(origin.clone());
        }
        if self.demanded == Authentication::Certificate {
            return self.admit_by_certificate(gateway, origin).await;
        }
        let credential = headers.remove(AUTHORIZATION).ok_or(Refusal::Unauthorized)?;
        let snapshot = gateway.snapshot.load_full();
        let known = self.known(&credential, &snapshot);
        if let Some((known, false)) = known {
            return Ok(known);
        }
        let (user, password) = parse(&credential).ok_or(Refusal::Unauthorized)?;
        let credentials = Credentials { client_id: "", user: user.as_deref(), password: &password };
        if let Some((known, true)) = known
            && gateway.hook_stands_back(&snapshot, origin, credentials).await?
        {
            return Ok(known);
        }
        let Identity { user, claims, until, by } = gateway.authenticate(origin, credentials).await?;
        let admitted = Arc::new(Origin { user, claims, by: by.clone(), ..Origin::clone(origin) });
        if !matches!(by, By::Hook(_)) {
            let snapshot = Arc::downgrade(&snapshot);
            *self.known.lock() = Some(Known { credential, origin: admitted.clone(), snapshot, until, by });
        }
        Ok(admitted)
    }

    /// Whom a credential was found to be, and whether the hook is to be asked about that.
    fn known(&self, credential: &HeaderValue, snapshot: &Arc<Snapshot>) -> Option<(Arc<Origin>, bool)> {
        let known = self.known.lock();
        let known = known.as_ref().filter(|known| {
            known.credential == credential
                && known.snapshot.as_ptr() == Arc::as_ptr(snapshot)
                && known.until.is_none_or(|until| SystemTime::now() < until)
        })?;
        Some((known.origin.clone(), known.is_beside_hook(snapshot)))
    }
}

impl Gate {
    /// What a client is told that is not admitted.
    pub(super) fn refusal(&self, refusal: &Refusal, grpc: bool) -> Response<Body> {
        match refusal {
            Refusal::Unauthorized | Refusal::Denied(DenyReason::Credentials, _) => {}
            refusal => return problem::not_admitted(refusal, grpc),
        }
        match self.demanded {
            Authentication::Certificate => problem::nameless(grpc),
            Authentication::None | Authentication::Password => problem::unauthorized(grpc),
        }
    }

    /// Once per connection, as far as no hook is asked about that: its certificate does not change. What the client says in
    /// Authorization is between it and the backend.
    async fn admit_by_certificate(
        &self,
        gateway: &Gateway,
        origin: &Arc<Origin>,
    ) -> Result<Arc<Origin>, Refusal> {
        if let Some(admitted) = self.by_certificate.get()
            && !gateway.snapshot().judges_certificates()
        {
            return Ok(Arc::clone(admitted));
        }
        let identity = gateway.authenticate(origin, Credentials::default()).await?;
        let Identity { user, claims, by, .. } = identity;
        let admitted = Arc::new(Origin { user, claims, by, ..Origin::clone(origin) });
        match gateway.snapshot().judges_certificates() {
            true => Ok(admitted),
            false => Ok(Arc::clone(self.by_certificate.get_or_init(|| admitted))),
        }
    }
}

/// User and password of `Basic base64(user:password)`, or the token of `Bearer token` (RFC 6750), which names its user.
fn parse(credential: &HeaderValue) -> Option<(Option<String>, Vec<u8>)> {
    let bytes = credential.as_bytes();
    if let Some((scheme, token)) = bytes.split_at_checked("bearer ".len())
        && scheme.eq_ignore_ascii_case(b"bearer ")
    {
        return Some((None, token.trim_ascii().to_vec()));
    }
    let (scheme, encoded) = credential.as_bytes().split_at_checked("basic ".len())?;
    if !scheme.eq_ignore_ascii_case(b"basic ") {
        return None;
    }
    let mut decoded = BASE64.decode(encoded.trim_ascii()).ok()?;
    let colon = decoded.iter().position(|byte| *byte == b':')?;
    let password = decoded.split_off(colon + 1);
    decoded.truncate(colon);
    Some((Some(String::from_utf8(decoded).ok()?), password))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bearer_names_nobody() {
        let value = HeaderValue::from_static("bearer a.b.c");
        assert_eq!(parse(&value), Some((None, b"a.b.c".to_vec())));
    }

    #[test]
    fn a_credential_is_split_at_its_first_colon() {
        let value = |text| HeaderValue::from_static(text);
        let aladdin = Some((Some("Aladdin".to_owned()), b"open sesame".to_vec()));
        assert_eq!(parse(&value("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==")), aladdin);
        assert_eq!(parse(&value("basic YTpiOmM=")), Some((Some("a".to_owned()), b"b:c".to_vec())));
        for malformed in ["Basic", "Basic !!!", "Basic YWJj", "Digest YTpi", ""] {
            assert_eq!(parse(&value(malformed)), None, "{malformed}");
        }
    }
}
