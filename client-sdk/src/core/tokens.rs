//! Session tokens, so that the password is sent to a gateway once and not with every connection.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::Bytes;
use towline_protocols::link::{Hello, Welcome};

use crate::config::{Credentials, Endpoint};

/// Gateways whose token is kept; beyond, the oldest is forgotten.
const GATEWAYS_MAX: usize = 16;

/// The newest token of each gateway, the newest of all last. In memory: after a restart of the app the password
/// makes another.
#[derive(Default)]
pub(crate) struct Tokens {
    held: VecDeque<Held>,
}

struct Held {
    gateway: Endpoint,
    token: Bytes,
    until: Instant,
}

impl Tokens {
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
        self.forget(gateway);
        let token = if welcome.token.is_empty() { &hello.token } else { &welcome.token };
        if token.is_empty() || welcome.token_life_s == 0 {
            return;
        }
        let (token, until) = (token.clone(), now + Duration::from_secs(welcome.token_life_s.into()));
        if self.held.len() >= GATEWAYS_MAX {
            self.held.pop_front();
        }
        self.held.push_back(Held { gateway: gateway.clone(), token, until });
    }

    /// Follows CLOSE UNAUTHORIZED: whether the password was not tried, and will be on the next connection.
    pub(crate) fn refused(&mut self, gateway: &Endpoint, hello: &Hello) -> bool {
        let untried = !hello.token.is_empty() && hello.user.is_empty() && hello.password.is_empty();
        self.forget(gateway);
        untried
    }

    fn forget(&mut self, gateway: &Endpoint) {
        self.held.retain(|held| held.gateway != *gateway);
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
    fn few_gateways_are_remembered_and_nothing_without_credentials() {
        let (mut tokens, now) = (Tokens::default(), Instant::now());
        (0..40).for_each(|port| tokens.learn(&gateway(port), &Hello::default(), &issued("a"), now));
        assert_eq!(tokens.held.len(), GATEWAYS_MAX);
        let mut hello = Hello::default();
        tokens.prove(&gateway(39), None, now, &mut hello);
        assert_eq!(hello, Hello::default());
    }
}
