//! Who a client is by its HELLO: by session token, password or certificate.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use towline_protocols::link::{CloseCode, Hello, LinkError, Welcome};

use crate::{
    auth::{By, Credentials, Identity, Refusal},
    gateway::Gateway,
    request::Origin,
    session::Login,
    session_token::Bearer,
    settings::Authentication,
    snapshot::Snapshot,
};

/// A client whose credentials were found right, or whose listener asks for none.
pub(super) struct Proven {
    pub(super) identity: Identity,
    /// Of a password, so that early data needs no check of it.
    pub(super) login: Option<Login>,
    token: Token,
    /// Whose users the credentials were found right by, or later ones: a token speaks of these. One made of later
    /// users would outlive the change of a password that it was given for.
    snapshot: Arc<Snapshot>,
    /// What had been withdrawn when it began.
    pub(super) as_of: u64,
}

/// What a client is told of the token that it has.
enum Token {
    /// Nothing: there is none here.
    None,
    /// To be given one.
    Due,
    /// Its own opens for so long.
    Kept(Duration),
}

/// Checks HELLO's credentials. A token goes before the password, which is costly.
///
/// # Errors
/// CLOSE UNAUTHORIZED, or UNAVAILABLE if nobody could say. A client that sent a token alone is told to send its password.
pub(super) async fn prove(gateway: &Gateway, origin: &Origin, hello: &Hello) -> Result<Proven, LinkError> {
    let as_of = gateway.withdrawals.count();
    let snapshot = gateway.snapshot.load_full();
    if let Some(proven) = by_token(&snapshot, origin, hello, as_of) {
        gateway.metrics.logins.with_label_values(&[&*origin.listener, "ok"]).inc();
        return Ok(proven);
    }
    if !hello.token.is_empty() && hello.password.is_empty() && asks_for_password(&snapshot, origin) {
        gateway.metrics.logins.with_label_values(&[&*origin.listener, "refused"]).inc();
        return Err(LinkError::new(CloseCode::Unauthorized, TOKEN_REFUSED));
    }
    let user = Some(&*hello.user).filter(|user| !user.is_empty());
    let credentials = Credentials { client_id: &hello.client_id, user, password: hello.password.as_bytes() };
    let identity = gateway.authenticate(origin, credentials).await;
    let identity = identity.map_err(refused)?;
    let by_password = identity.by == By::PasswordFile;
    // Early data that goes by it would go round the hook.
    let may_remember = by_password && snapshot.hook.is_none();
    let login = may_remember.then(|| Login::of(hello, &snapshot));
    let token = if by_password { Token::Due } else { Token::None };
    Ok(Proven { identity, login, token, snapshot, as_of })
}

fn refused(refusal: Refusal) -> LinkError {
    let code = match refusal.is_temporary() {
        true => CloseCode::Unavailable,
        false => CloseCode::Unauthorized,
    };
    LinkError::new(code, refusal.to_string())
}

/// The client, if nothing costly has to be checked for that, and nobody has to be asked: passwords are not checked for what
/// may be a repeat.
pub(super) fn prove_cheaply(gateway: &Gateway, origin: &Origin, hello: &Hello) -> Option<Proven> {
    let as_of = gateway.withdrawals.count();
    let snapshot = gateway.snapshot.load_full();
    let proven = |identity: Identity, token| {
        Some(Proven { identity, login: None, token, snapshot: Arc::clone(&snapshot), as_of })
    };
    match snapshot.listener(&origin.listener)?.settings.authentication {
        Authentication::None => proven(Identity::default(), Token::None),
        Authentication::Certificate if snapshot.judges_certificates() => None,
        // The ticket vouches for the certificate that was shown when the TLS session began.
        Authentication::Certificate => {
            let user = origin.identity.as_ref()?.user()?;
            proven(Identity::by(By::Certificate, user.clone()), Token::None)
        }
        Authentication::Password => by_token(&snapshot, origin, hello, as_of).or_else(|| {
            let login = Login::of(hello, &snapshot);
            let known = gateway.sessions.knows_login(&hello.client_id, &login);
            known.then(|| proven(Identity::by(By::PasswordFile, hello.user.as_str().into()), Token::Due))?
        }),
    }
}

impl Proven {
    /// Where the client's HELLO came from, with who the client is.
    pub(super) fn origin(&self, origin: &Origin, hello: &Hello) -> Origin {
        let Identity { user, claims, .. } = self.identity.clone();
        Origin { client_id: Some(hello.client_id.as_str().into()), user, claims, ..origin.clone() }
    }

    /// Gives the client a token for the next time, if one is due.
    pub(super) fn give_token(&self, gateway: &Gateway, hello: &Hello, welcome: &mut Welcome) {
        let snapshot = gateway.snapshot();
        // The next time the hook would not be asked.
        if snapshot.hook.is_some() {
            return;
        }
        let tokens = snapshot.tokens();
        let life = match (&self.token, self.identity.user.as_deref()) {
            (Token::Kept(left), _) => *left,
            (Token::Due, Some(user)) => {
                let token = tokens.issue(hello, user, &self.snapshot.users, SystemTime::now());
                let Some(token) = token else { return };
                welcome.token = token;
                tokens.life()
            }
            _ => return,
        };
        welcome.token_life_s = u32::try_from(life.as_secs()).unwrap_or(u32::MAX);
    }
}

const TOKEN_REFUSED: &str = "the session token was refused: send user and password";

/// A token stands for a password and for nothing else: where certificates are asked for, it says nothing. Nor does it beside
/// a hook, which is to be asked: the keys are shared by all snapshots, and may already be those of one without a hook.
fn by_token(snapshot: &Arc<Snapshot>, origin: &Origin, hello: &Hello, as_of: u64) -> Option<Proven> {
    if hello.token.is_empty() || snapshot.hook.is_some() || !asks_for_password(snapshot, origin) {
        return None;
    }
    let opened = snapshot.tokens().open(hello, &snapshot.users, SystemTime::now());
    let Bearer { user, left, is_due } = opened.ok()?;
    let token = if is_due { Token::Due } else { Token::Kept(left) };
    let identity = Identity::by(By::PasswordFile, user);
    Some(Proven { identity, login: None, token, snapshot: Arc::clone(snapshot), as_of })
}

fn asks_for_password(snapshot: &Snapshot, origin: &Origin) -> bool {
    let listener = snapshot.listener(&origin.listener);
    listener.is_some_and(|listener| listener.settings.authentication == Authentication::Password)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        auth::{self, hook::parrot::parrot},
        request::Protocol,
        settings::{Hook, Listener, Settings},
        transport::tls::PeerIdentity,
    };

    fn settings(authentication: Authentication) -> Settings {
        let plain = Listener::plain("edge", ([127, 0, 0, 1], 0).into());
        let listeners = vec![Listener { authentication, ..plain }];
        let hook = parrot("{\"verdict\":\"not_mine\"}");
        Settings { listeners, backends: vec![hook], ..Settings::default() }
    }

    fn with_hook(settings: &mut Settings, certificates: bool) {
        settings.auth.hook = Some(Hook { certificates, ..Hook::new("accounts") });
    }

    fn reload(gateway: &Gateway, change: impl FnOnce(&mut Settings)) {
        let mut settings = gateway.snapshot().settings.clone();
        change(&mut settings);
        let reloaded = gateway.snapshot().rebuild(settings).unwrap().install();
        gateway.snapshot.store(Arc::new(reloaded));
    }

    fn origin() -> Origin {
        Origin::new("edge".into(), ([127, 0, 0, 1], 1).into(), Protocol::LinkTcp, true)
    }

    /// Without user and password.
    fn bare() -> Hello {
        let session_secret = vec![7; 16].into();
        Hello { client_id: "phone".to_owned(), session_secret, epoch: 1, ..Hello::default() }
    }

    fn with_password() -> Hello {
        Hello { user: "ada".to_owned(), password: "right".to_owned(), ..bare() }
    }

    fn write(users: &std::path::Path, password: &[u8]) {
        std::fs::write(users, auth::password_line("ada", password).unwrap()).unwrap();
    }

    #[tokio::test]
    async fn a_token_for_a_password_does_not_outlive_its_change_meanwhile() {
        let users = tempfile::NamedTempFile::new().unwrap();
        write(users.path(), b"right");
        let mut settings = settings(Authentication::Password);
        settings.auth.password_file = Some(users.path().to_owned());
        let gateway = Gateway::build(settings).unwrap();
        let proven = prove(&gateway, &origin(), &with_password()).await.unwrap();
        write(users.path(), b"changed");
        reload(&gateway, |_| {});
        let mut welcome = Welcome::default();
        proven.give_token(&gateway, &with_password(), &mut welcome);
        assert!(!welcome.token.is_empty());
        let shown = Hello { token: welcome.token, ..bare() };
        assert!(prove(&gateway, &origin(), &shown).await.is_err());
    }

    #[tokio::test]
    async fn what_stands_for_a_password_goes_round_no_hook() {
        let users = tempfile::NamedTempFile::new().unwrap();
        write(users.path(), b"right");
        let mut settings = settings(Authentication::Password);
        settings.auth.password_file = Some(users.path().to_owned());
        let gateway = Gateway::build(settings).unwrap();
        let given = |proven: &Proven| {
            let mut welcome = Welcome::default();
            proven.give_token(&gateway, &with_password(), &mut welcome);
            welcome.token
        };
        let proven = prove(&gateway, &origin(), &with_password()).await.unwrap();
        let token = given(&proven);
        assert!(proven.login.is_some() && !token.is_empty());
        for has_hook in [true, false] {
            reload(&gateway, |settings| match has_hook {
                true => with_hook(settings, false),
                false => settings.auth.hook = None,
            });
            let shown = Hello { token: token.clone(), ..bare() };
            assert_eq!(prove_cheaply(&gateway, &origin(), &shown).is_none(), has_hook);
            assert_eq!(prove(&gateway, &origin(), &shown).await.is_err(), has_hook);
            let both = Hello { token: token.clone(), ..with_password() };
            let proven = prove(&gateway, &origin(), &both).await.unwrap();
            assert_eq!(proven.identity.by, By::PasswordFile);
            assert_eq!(matches!(proven.token, Token::Kept(_)), !has_hook, "the hook was asked");
            let proven = prove(&gateway, &origin(), &with_password()).await.unwrap();
            assert_eq!((proven.login.is_none(), given(&proven).is_empty()), (has_hook, has_hook));
        }
    }

    #[tokio::test]
    async fn keys_of_a_reload_without_the_hook_open_no_way_round_it() {
        let users = tempfile::NamedTempFile::new().unwrap();
        write(users.path(), b"right");
        let mut settings = settings(Authentication::Password);
        settings.auth.password_file = Some(users.path().to_owned());
        let gateway = Gateway::build(settings).unwrap();
        let given = |proven: &Proven| {
            let mut welcome = Welcome::default();
            proven.give_token(&gateway, &with_password(), &mut welcome);
            welcome.token
        };
        let token = given(&prove(&gateway, &origin(), &with_password()).await.unwrap());
        assert!(!token.is_empty());
        reload(&gateway, |settings| with_hook(settings, false));
        let mut without = gateway.snapshot().settings.clone();
        without.auth.hook = None;
        drop(gateway.snapshot().rebuild(without).unwrap().install());
        let shown = Hello { token, ..bare() };
        assert!(prove(&gateway, &origin(), &shown).await.is_err(), "the hook is in force");
        let proven = prove(&gateway, &origin(), &with_password()).await.unwrap();
        assert!(given(&proven).is_empty());
    }

    #[tokio::test]
    async fn early_data_waits_where_the_hook_judges_certificates() {
        let gateway = Gateway::build(settings(Authentication::Certificate)).unwrap();
        let identity = PeerIdentity {
            common_name: Some("ada".into()),
            names: Vec::new(),
            fingerprint_sha256: [1; 32],
            authority: None,
            client_cert: None,
        };
        let origin = Origin { identity: Some(Arc::new(identity)), ..origin() };
        assert!(prove_cheaply(&gateway, &origin, &bare()).is_some());
        for judges in [false, true] {
            reload(&gateway, |settings| with_hook(settings, judges));
            assert_eq!(prove_cheaply(&gateway, &origin, &bare()).is_none(), judges);
            assert!(prove(&gateway, &origin, &bare()).await.is_ok(), "it leaves them to their certificate");
        }
    }
}
