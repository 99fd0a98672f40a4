//! Session tokens, so that the password is sent to a gateway once and not with every connection.

mod vault;

use std::{
    collections::VecDeque,
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use towline_protocols::link::{Hello, Welcome};

use self::vault::{Kept, Vault};
use crate::{
    config::{ClientConfig, Credentials, Endpoint},
    identity::Identity,
};

/// Gateways whose token is kept; beyond, the oldest is forgotten.
const GATEWAYS_MAX: usize = 16;

/// The newest token of each gateway, the newest of all last; with an identity file, for the next run of the app too.
#[derive(Default)]
pub(crate) struct Tokens {
    held: VecDeque<Held>,
    vault: Option<Vault>,
}

struct Held {
    gateway: Endpoint,
    token: Bytes,
    until: Instant,
}

impl Tokens {
    /// With what an earlier run of the app has kept for the same credentials.
    pub(crate) fn open(config: &ClientConfig, identity: &Identity) -> Self {
        let (Some(path), Some(credentials)) = (&config.identity_file, &config.credentials) else {
            return Self::default();
        };
        let vault = Vault::beside(path, identity, credentials);
        let kept = vault.as_ref().map(Vault::read).unwrap_or_default();
        let (now, today) = (Instant::now(), SystemTime::now());
        let held = kept.into_iter().rev().take(GATEWAYS_MAX).rev().filter_map(|kept| {
            let until = now.checked_add(kept.until.duration_since(today).ok()?)?;
            Some(Held { gateway: kept.gateway, token: kept.token.into(), until })
        });
        Self { held: held.collect(), vault }
    }

    /// Puts into HELLO what proves who the client is to `gateway`: its own token, or else the password, with the
    /// token of another gateway that may share its keys.
    pub(crate) fn prove(
        &self,
        gateway: &Endpoint,
        credentials: Option<&Credentials>,
        now: Instant,
        hello: &mut Hello,
    ) {
        let Some(credentials) = credentials else { return };
        let mut valid = self.held.iter().filter(|held| held.until > now);
        let own = valid.clone().find(|held| held.gateway == *gateway);
        if let Some(held) = own.or_else(|| valid.next_back()) {
            hello.token = held.token.clone();
        }
        if own.is_none() {
            hello.user.clone_from(&credentials.user);
            hello.password.clone_from(&credentials.password);
        }
    }

    /// What WELCOME of `gateway` brings: a token, or how long the one opens that HELLO showed.
    pub(crate) fn learn(&mut self, gateway: &Endpoint, hello: &Hello, welcome: &Welcome, now: Instant) {
        let before = self.forget(gateway);
        let token = if welcome.token.is_empty() { &hello.token } else { &welcome.token };
        if !token.is_empty() && welcome.token_life_s > 0 {
            let (token, until) = (token.clone(), now + Duration::from_secs(welcome.token_life_s.into()));
            if self.held.len() >= GATEWAYS_MAX {
                self.held.pop_front();
            }
            self.held.push_back(Held { gateway: gateway.clone(), token, until });
        }
        let after = self.held.back().filter(|held| held.gateway == *gateway);
        if before.as_ref() != after.map(|held| &held.token) {
            self.keep(now);
        }
    }

    /// Follows CLOSE UNAUTHORIZED: whether the password was not tried, and will be on the next connection.
    pub(crate) fn refused(&mut self, gateway: &Endpoint, hello: &Hello) -> bool {
        let untried = !hello.token.is_empty() && hello.user.is_empty() && hello.password.is_empty();
        if self.forget(gateway).is_some() {
            self.keep(Instant::now());
        }
        untried
    }

    /// The token that is forgotten.
    fn forget(&mut self, gateway: &Endpoint) -> Option<Bytes> {
        let place = self.held.iter().position(|held| held.gateway == *gateway)?;
        self.held.remove(place).map(|held| held.token)
    }

    fn keep(&self, now: Instant) {
        let Some(vault) = &self.vault else { return };
        let today = SystemTime::now();
        let kept = self.held.iter().map(|held| Kept {
            gateway: held.gateway.clone(),
            token: held.token.to_vec(),
            until: today + held.until.saturating_duration_since(now),
        });
        vault.write(&kept.collect::<Vec<_>>());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gateway(port: u16) -> Endpoint {
        Endpoint { host: "edge".into(), port }
    }

    fn issued(token: &'static str) -> Welcome {
        Welcome { token: token.into(), token_life_s: 60, ..Welcome::default() }
    }

    /// Token and password of the HELLO to a gateway.
    fn proof(tokens: &Tokens, port: u16, now: Instant) -> (String, String) {
        let credentials = Credentials { user: "ada".into(), password: "pw".into() };
        let mut hello = Hello::default();
        tokens.prove(&gateway(port), Some(&credentials), now, &mut hello);
        assert_eq!(hello.user.is_empty(), hello.password.is_empty());
        (String::from_utf8(hello.token.to_vec()).unwrap(), hello.password)
    }

    fn pair(token: &str, password: &str) -> (String, String) {
        (token.to_owned(), password.to_owned())
    }

    #[test]
    fn a_gateways_own_token_stands_for_the_password_until_it_ends() {
        let (mut tokens, now) = (Tokens::default(), Instant::now());
        assert_eq!(proof(&tokens, 1, now), pair("", "pw"));
        tokens.learn(&gateway(1), &Hello::default(), &issued("a"), now);
        assert_eq!(proof(&tokens, 1, now), pair("a", ""));
        assert_eq!(proof(&tokens, 1, now + Duration::from_secs(60)), pair("", "pw"));
        tokens.learn(&gateway(1), &Hello::default(), &issued("b"), now);
        assert_eq!(proof(&tokens, 1, now), pair("b", ""));
    }

    #[test]
    fn another_gateway_is_shown_the_newest_token_beside_the_password_and_alone_once_it_took_it() {
        let (mut tokens, now) = (Tokens::default(), Instant::now());
        tokens.learn(&gateway(1), &Hello::default(), &issued("a"), now);
        tokens.learn(&gateway(2), &Hello::default(), &issued("b"), now);
        assert_eq!(proof(&tokens, 3, now), pair("b", "pw"));
        let hello = Hello { token: "b".into(), password: "pw".into(), ..Hello::default() };
        tokens.learn(&gateway(3), &hello, &Welcome::default(), now);
        assert_eq!(proof(&tokens, 3, now), pair("b", "pw"), "it was the password that opened");
        tokens.learn(&gateway(3), &hello, &Welcome { token_life_s: 9, ..Welcome::default() }, now);
        assert_eq!(proof(&tokens, 3, now), pair("b", ""));
        assert_eq!(proof(&tokens, 1, now), pair("a", ""));
    }

    #[test]
    fn a_refused_token_is_forgotten_and_the_password_is_tried_once() {
        let (mut tokens, now) = (Tokens::default(), Instant::now());
        tokens.learn(&gateway(1), &Hello::default(), &issued("a"), now);
        assert!(tokens.refused(&gateway(1), &Hello { token: "a".into(), ..Hello::default() }));
        assert_eq!(proof(&tokens, 1, now), pair("", "pw"));
        assert!(!tokens.refused(&gateway(1), &Hello { password: "pw".into(), ..Hello::default() }));
        let both = Hello { token: "a".into(), password: "pw".into(), ..Hello::default() };
        assert!(!tokens.refused(&gateway(1), &both));
        let user_alone = Hello { token: "a".into(), user: "ada".into(), ..Hello::default() };
        assert!(!tokens.refused(&gateway(1), &user_alone), "an empty password was tried too");
    }

    #[test]
    fn the_next_run_shows_what_was_kept_for_the_same_credentials_and_the_file_tells_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("identity");
        let config = |user: &str, password: &str| {
            let mut config = ClientConfig::plaintext(vec![gateway(1)]);
            config.identity_file = Some(path.clone());
            config.credentials = Some(Credentials { user: user.into(), password: password.into() });
            config
        };
        let ours = config("ada", "pw");
        let identity = Identity::open(&ours).unwrap();
        let shown = |config: &ClientConfig, identity: &Identity| {
            let mut hello = Hello::default();
            let tokens = Tokens::open(config, identity);
            tokens.prove(&gateway(1), config.credentials.as_ref(), Instant::now(), &mut hello);
            (hello.token, hello.password.is_empty())
        };
        let nothing = (Bytes::new(), false);
        let (mut tokens, now) = (Tokens::open(&ours, &identity), Instant::now());
        (0..40).for_each(|port| tokens.learn(&gateway(port), &Hello::default(), &issued("secret"), now));
        tokens.learn(&gateway(1), &Hello::default(), &issued("secret"), now);
        assert_eq!(shown(&ours, &identity), (Bytes::from_static(b"secret"), true));
        for (user, password) in [("ada", "wrong"), ("bob", "pw"), ("adap", "w")] {
            assert_eq!(shown(&config(user, password), &identity), nothing, "{user} {password}");
        }
        let another = ClientConfig { identity_file: Some(folder.path().join("other")), ..ours.clone() };
        assert_eq!(shown(&ours, &Identity::open(&another).unwrap()), nothing, "another secret");

        let file = folder.path().join("identity.tokens");
        let bytes = std::fs::read(&file).unwrap();
        let holds = |text: &[u8]| bytes.windows(text.len()).any(|part| part == text);
        assert!(!holds(b"secret") && !holds(b"736563726574") && !holds(b"edge"));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        }
        for place in [0, MAGIC_AND_NONCE - 1, bytes.len() - 1] {
            let mut bent = bytes.clone();
            bent[place] ^= 1;
            std::fs::write(&file, bent).unwrap();
            assert_eq!(shown(&ours, &identity), nothing, "byte {place}");
        }
        std::fs::write(&file, &bytes[..10]).unwrap();
        assert_eq!(shown(&ours, &identity), nothing);

        let mut tokens = Tokens::open(&ours, &identity);
        tokens.learn(&gateway(1), &Hello::default(), &issued("a"), now);
        tokens.refused(&gateway(1), &Hello { token: "a".into(), ..Hello::default() });
        assert_eq!(shown(&ours, &identity), nothing, "what was refused");
        let ended = Welcome { token: "a".into(), token_life_s: 1, ..Welcome::default() };
        let long_ago = now.checked_sub(Duration::from_secs(2)).unwrap_or(now);
        tokens.learn(&gateway(1), &Hello::default(), &ended, long_ago);
        tokens.keep(now);
        assert_eq!(shown(&ours, &identity), nothing, "what has ended");
    }

    const MAGIC_AND_NONCE: usize = 4 + 12;

    #[test]
    fn few_gateways_are_remembered_and_nothing_without_credentials() {
        let (mut tokens, now) = (Tokens::default(), Instant::now());
        (0..40).for_each(|port| tokens.learn(&gateway(port), &Hello::default(), &issued("a"), now));
        assert_eq!(tokens.held.len(), GATEWAYS_MAX);
        let mut hello = Hello::default();
        tokens.prove(&gateway(39), None, now, &mut hello);
        assert_eq!(hello, Hello::default());
    }
}
