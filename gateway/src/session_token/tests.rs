//! What a token opens, and what voids it.

use std::{fs, time::UNIX_EPOCH};

use super::*;
use crate::{auth, key_ring::key_line, metrics::Metrics, settings::Tls};

const LIFE: Duration = Duration::from_secs(3600);
const MINUTE: Duration = Duration::from_secs(60);

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn settings(life: Duration, ticket_keys: Option<&Path>) -> Settings {
    let mut settings = Settings::default();
    settings.session.token_life = life;
    settings.tls = Tls { ticket_keys: ticket_keys.map(PathBuf::from), ..Tls::default() };
    settings
}

/// A gateway's tokens, and its users.
struct Node {
    tokens: SessionTokens,
    metrics: Metrics,
    users: Users,
}

impl Node {
    fn new(settings: &Settings) -> Self {
        let metrics = Metrics::new();
        let tokens = SessionTokens::new(settings, None, metrics.session_tokens.clone(), now()).unwrap();
        Self { tokens, metrics, users: users("correct horse") }
    }

    fn issue(&self, hello: &Hello) -> Hello {
        let token = self.tokens.issue(hello, "ada", &self.users, now()).unwrap();
        Hello { token, ..hello.clone() }
    }

    #[track_caller]
    fn check(&self, hello: &Hello, at: SystemTime, expected: Result<bool, TokenRefused>) {
        let label = expected.map_or_else(TokenRefused::label, |_| "opened");
        let before = self.count(label);
        let opened = self.tokens.open(hello, &self.users, at);
        assert!(opened.as_ref().is_ok_and(|bearer| &*bearer.user == "ada") || opened.is_err());
        assert_eq!(opened.map(|bearer| bearer.is_due), expected);
        assert_eq!(self.count(label), before + 1);
    }

    fn count(&self, outcome: &str) -> u64 {
        self.metrics.session_tokens.with_label_values(&[outcome]).get()
    }
}

fn users(password: &str) -> Users {
    let lines = [("ada", password), ("bob", "pw")];
    let lines = lines.map(|(user, password)| auth::password_line(user, password.as_bytes()).unwrap());
    Users::parse(&lines.join("\n")).unwrap()
}

fn hello() -> Hello {
    Hello { client_id: "phone-7".into(), session_secret: vec![7; 16].into(), ..Hello::default() }
}

#[test]
fn a_token_opens_for_its_client_and_is_renewed_in_the_second_half_of_its_life() {
    let node = Node::new(&settings(LIFE, None));
    let hello = node.issue(&hello());
    node.check(&hello, now(), Ok(false));
    node.check(&Hello { user: "ada".into(), ..hello.clone() }, now() + LIFE / 2, Ok(false));
    node.check(&hello, now() + LIFE / 2 + MINUTE, Ok(true));
    node.check(&hello, now() + LIFE, Ok(true));
    assert_eq!(node.count("issued"), 1);
}

#[test]
fn a_token_that_is_forged_cut_or_anothers_does_not_open() {
    let node = Node::new(&settings(LIFE, None));
    let hello = node.issue(&hello());
    for index in 0..hello.token.len() {
        let mut touched = hello.token.to_vec();
        touched[index] ^= 1;
        let expected = if index < 4 { TokenRefused::Unknown } else { TokenRefused::Forged };
        node.check(&Hello { token: touched.into(), ..hello.clone() }, now(), Err(expected));
        let expected = if index < 4 { TokenRefused::Unknown } else { TokenRefused::Forged };
        node.check(&Hello { token: hello.token.slice(..index), ..hello.clone() }, now(), Err(expected));
    }
    let forged = Err(TokenRefused::Forged);
    node.check(&Hello { client_id: "phone-8".into(), ..hello.clone() }, now(), forged);
    node.check(&Hello { session_secret: vec![8; 16].into(), ..hello.clone() }, now(), forged);
    node.check(&Hello { user: "bob".into(), ..hello }, now(), Err(TokenRefused::OtherUser));
}

#[test]
fn a_token_ends_with_its_life_and_when_its_password_changes() {
    let mut node = Node::new(&settings(LIFE, None));
    let hello = node.issue(&hello());
    node.check(&hello, now() + LIFE + 3 * MINUTE, Err(TokenRefused::Expired));
    node.check(&hello, now() - 2 * MINUTE, Err(TokenRefused::Expired));
    // The same password again is another line.
    node.users = users("correct horse");
    node.check(&hello, now(), Err(TokenRefused::Revoked));
    let again = node.issue(&hello);
    node.check(&again, now(), Ok(false));
    node.users = Users::default();
    node.check(&again, now(), Err(TokenRefused::Revoked));
    assert_eq!(node.tokens.issue(&hello, "ada", &node.users, now()), None, "nobody is left to have one");
}

#[test]
fn keys_rotate_and_the_old_one_opens_for_the_life_of_its_tokens() {
    let node = Node::new(&settings(LIFE, None));
    let old = node.issue(&hello());
    node.tokens.tend(now() + LIFE);
    let new = node.issue(&hello());
    assert_ne!(old.token[..4], new.token[..4]);
    node.check(&old, now() + LIFE, Ok(true));
    node.tokens.tend(now() + 2 * LIFE);
    node.check(&old, now() + LIFE, Err(TokenRefused::Unknown));
}

#[test]
fn nodes_with_one_key_file_take_each_others_tokens_until_the_key_is_taken_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys");
    let (old, new) = (key_line().unwrap(), key_line().unwrap());
    fs::write(&path, old.as_str()).unwrap();
    let settings = settings(LIFE, Some(&path));
    let a = Node::new(&settings);
    let b = Node { users: a.users.clone(), ..Node::new(&settings) };
    let stranger = Node { users: a.users.clone(), ..Node::new(&self::settings(LIFE, None)) };
    let hello = a.issue(&hello());
    b.check(&hello, now(), Ok(false));
    stranger.check(&hello, now(), Err(TokenRefused::Unknown));
    let reread = || b.tokens.install(b.tokens.prepare(&settings, now()).unwrap());
    fs::write(&path, format!("{}\n{}", *new, *old)).unwrap();
    reread();
    b.check(&hello, now(), Ok(false));
    fs::write(&path, new.as_str()).unwrap();
    reread();
    b.check(&hello, now(), Err(TokenRefused::Unknown));
}

#[test]
fn without_a_life_no_token_is_issued_and_none_taken() {
    let node = Node::new(&settings(LIFE, None));
    let hello = node.issue(&hello());
    node.tokens.install(node.tokens.prepare(&settings(Duration::ZERO, None), now()).unwrap());
    assert_eq!(node.tokens.issue(&hello, "ada", &node.users, now()), None);
    node.check(&hello, now(), Err(TokenRefused::Off));
}

#[test]
fn own_keys_are_kept_where_a_listener_asks_for_passwords() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = settings(LIFE, None);
    let open = |settings: &Settings| {
        SessionTokens::new(settings, Some(folder.path()), Metrics::new().session_tokens, now()).unwrap()
    };
    let path = folder.path().join(KEY_FILE);
    open(&settings);
    assert!(!path.exists());
    let mut listener = crate::settings::Listener::plain("door", ([127, 0, 0, 1], 0).into());
    listener.authentication = Authentication::Password;
    settings.listeners.push(listener);
    let (hello, users) = (hello(), users("pw"));
    let token = open(&settings).issue(&hello, "ada", &users, now()).unwrap();
    let hello = Hello { token, ..hello };
    assert!(open(&settings).open(&hello, &users, now()).is_ok(), "after a restart");
}

/// The example of PROTOCOL.md.
#[test]
fn the_documented_token_opens() {
    let text = include_str!("../../../protocols/PROTOCOL.md");
    let block = |name: &str| {
        let block = text.split(&format!("```{name}\n")).nth(1).unwrap();
        block.split("```").next().unwrap().to_owned()
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys");
    fs::write(&path, block("token-key")).unwrap();
    let mut node = Node::new(&settings(LIFE, Some(&path)));
    node.users = Users::parse(&block("token-user")).unwrap();
    let digits: String = block("token").split_whitespace().collect();
    let digits = digits.as_bytes().chunks(2);
    let token: Vec<u8> =
        digits.map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap()).collect();
    let hello = Hello { token: token.into(), ..hello() };
    node.check(&hello, now() + MINUTE, Ok(false));
    node.check(&hello, now() + LIFE + 2 * MINUTE, Err(TokenRefused::Expired));
}
