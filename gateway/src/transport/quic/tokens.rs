//! Address validation tokens (RFC 9000, section 8.1.3): a client that was here before need not prove again, when
//! the gateway is under load, that it can be reached where it says.

use std::{
    collections::HashSet,
    sync::{Arc, LazyLock},
    time::{Duration, SystemTime},
};

use aws_lc_rs::{hkdf, rand};
use parking_lot::Mutex;
use quinn::{ServerConfig, TokenLog, TokenReuseError, ValidationTokenConfig};

/// How long a token is good for: most addresses of mobile networks change within a day.
const LIFETIME: Duration = Duration::from_secs(86_400);
/// Each connection gets this many, one for the next.
const PER_CONNECTION: u32 = 1;
/// Tokens used within one [`LIFETIME`] that are remembered, 16 octets each in a table: 2 MB at most, twice.
/// Behind it tokens are worth nothing, and their clients take the round trip.
const USED_MAX: usize = 1 << 16;

/// Makes tokens of this process open on all of its listeners, and through reloads.
pub(super) fn configure(config: &mut ServerConfig) {
    // Without random numbers every configuration keeps a key of its own.
    if let Some(key) = &*KEY {
        config.token_key(Arc::clone(key) as _);
    }
    let mut tokens = ValidationTokenConfig::default();
    tokens.lifetime(LIFETIME).log(Arc::clone(&*USED) as _).sent(PER_CONNECTION);
    config.validation_token_config(tokens);
}

static KEY: LazyLock<Option<Arc<hkdf::Prk>>> = LazyLock::new(|| {
    let mut secret = [0; 64];
    rand::fill(&mut secret).ok()?;
    Some(Arc::new(hkdf::Salt::new(hkdf::HKDF_SHA256, &[]).extract(&secret)))
});

static USED: LazyLock<Arc<UsedTokens>> = LazyLock::new(|| Arc::new(UsedTokens::new(USED_MAX)));

/// Which tokens were used, so that each opens once: in two halves, each for a [`LIFETIME`].
struct UsedTokens(Mutex<Halves>);

struct Halves {
    recent: HashSet<u128>,
    older: HashSet<u128>,
    /// Tokens issued from then on are among the recent.
    since: SystemTime,
    max: usize,
}

impl UsedTokens {
    fn new(max: usize) -> Self {
        let (recent, older) = (HashSet::new(), HashSet::new());
        Self(Mutex::new(Halves { recent, older, since: SystemTime::UNIX_EPOCH, max }))
    }
}

impl TokenLog for UsedTokens {
    fn check_and_insert(
        &self,
        nonce: u128,
        issued: SystemTime,
        lifetime: Duration,
    ) -> Result<(), TokenReuseError> {
        let mut halves = self.0.lock();
        if issued.duration_since(halves.since).is_ok_and(|age| age >= lifetime) {
            // What is older than a lifetime opens no more, so it need not be known.
            halves.older = std::mem::take(&mut halves.recent);
            halves.since = issued;
        }
        let known = halves.older.contains(&nonce) || halves.recent.len() >= halves.max;
        if known || !halves.recent.insert(nonce) { Err(TokenReuseError) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_opens_once_and_a_full_log_opens_none() {
        let log = UsedTokens::new(2);
        let now = SystemTime::UNIX_EPOCH + 100 * LIFETIME;
        let uses = |nonce, issued| log.check_and_insert(nonce, issued, LIFETIME).is_ok();
        assert!(uses(1, now) && !uses(1, now));
        assert!(uses(2, now + LIFETIME / 2) && !uses(3, now), "two are remembered");
        let later = now + LIFETIME;
        assert!(uses(4, later) && !uses(2, now + LIFETIME / 2), "what still opens is known still");
        assert!(uses(1, later + LIFETIME), "what expired is quinn's to refuse");
    }
}
