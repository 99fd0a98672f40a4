//! What gateways are believed to hold of this client, so that HELLO names it by its hash instead of carrying it.
//! Believed only: a gateway that does not hold it says so (UNKNOWN_REFERENCE), and is told everything at once.

use std::{
    fmt::Write as _,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use towline_protocols::{
    compress::DICTIONARIES_MAX,
    hpack::{HeaderDictionary, HeaderShelf},
    link::{DictionaryKind, Header, Hello, Offer, SESSION_HEADERS_HASH_BYTES, SessionHeaders, Welcome},
};

use crate::{config::Endpoint, disk::Disk};

/// Gateways that are remembered, the newest first.
const GATEWAYS_MAX: usize = 16;
/// Refusals in a row, with nothing named and known between them, after which an address is told everything until the
/// app starts again: behind it are several gateways that do not know of each other.
const REFUSALS_MAX: u8 = 2;
/// A session is not counted on to the last second that the gateway keeps it.
const MARGIN: Duration = Duration::from_secs(10);

/// Every gateway's part, and where it is kept.
pub(crate) struct Known {
    gateways: Vec<Gateway>,
    disk: Option<Arc<Disk>>,
    /// What the disk was given last.
    written: String,
}

/// What one address has said.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Gateway {
    endpoint: Endpoint,
    headers: Option<KeptHeaders>,
    /// Ids of the header dictionaries that it holds and wants to be named, the most preferred first.
    dictionaries: Vec<u64>,
    refusals: u8,
    /// The last connection ended without a word: it may have been refused.
    doubted: bool,
}

/// Session headers that the gateway keeps with the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct KeptHeaders {
    hash: [u8; SESSION_HEADERS_HASH_BYTES],
    /// When a connection was there last.
    seen: SystemTime,
    /// How long after that the gateway keeps the session.
    kept: Duration,
}

impl Known {
    /// What an earlier run of the app has learnt. What cannot be read is forgotten: it costs bytes only.
    pub(crate) fn open(identity_file: Option<&Path>) -> Self {
        let disk = identity_file.map(|path| Disk::beside(path, ".gateways"));
        let bytes = disk.as_ref().and_then(|disk| disk.read(FILE_BYTES_MAX));
        let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
        let gateways = text.as_deref().and_then(parse).unwrap_or_default();
        let written = self::text(&gateways);
        Self { gateways, disk: disk.map(Arc::new), written }
    }

    /// Says in HELLO what the gateway at `endpoint` has to be told, and names the rest.
    pub(crate) fn greet(
        &mut self,
        endpoint: &Endpoint,
        headers: &[Header],
        spelled: &SessionHeaders,
        hello: &mut Hello,
        now: SystemTime,
    ) {
        let gateway = self.gateway(endpoint);
        if gateway.may_name() && gateway.headers.is_some_and(|kept| kept.is(spelled) && kept.lasts(now)) {
            hello.session_headers_hash = spelled.hash().to_vec().into();
        } else {
            hello.session_headers = headers.to_vec();
        }
    }

    /// The header dictionary to name to the gateway that is greeted: the first of its order that is held here. 0: none.
    pub(crate) fn header_dictionary(&self, held: &HeaderShelf) -> u64 {
        let gateway = self.gateways.first().filter(|gateway| gateway.may_name());
        let wanted = gateway.map_or(&[][..], |gateway| &gateway.dictionaries);
        wanted.iter().copied().find(|&id| held.get(id).is_some()).unwrap_or(0)
    }

    /// The gateway took the client in.
    pub(crate) fn on_welcome(
        &mut self,
        endpoint: &Endpoint,
        spelled: &SessionHeaders,
        hello: &Hello,
        welcome: &Welcome,
        now: SystemTime,
    ) {
        let gateway = self.gateway(endpoint);
        gateway.doubted = false;
        if hello.refers() {
            gateway.refusals = 0;
        }
        let kept = Duration::from_secs(welcome.session_headers_kept_s.into());
        let is_kept = !kept.is_zero() && !spelled.is_empty();
        gateway.headers = is_kept.then_some(KeptHeaders { hash: *spelled.hash(), seen: now, kept });
        gateway.dictionaries = welcome.header_dictionaries.iter().copied().take(DICTIONARIES_MAX).collect();
        self.write();
    }

    /// The gateway that was greeted last says what it wants to be used from now on.
    pub(crate) fn on_offer(&mut self, offer: &Offer) {
        let headers = offer.dictionaries.iter().filter(|it| it.kind() == DictionaryKind::Headers);
        let ids = headers.filter_map(|it| Some(HeaderDictionary::id_of(it.hash[..].try_into().ok()?)));
        if let Some(gateway) = self.gateways.first_mut() {
            gateway.dictionaries = ids.take(DICTIONARIES_MAX).collect();
            self.write();
        }
    }

    /// The connection has ended. If nothing was heard on it, it may have been refused.
    pub(crate) fn on_line_end(&mut self, endpoint: &Endpoint, was_online: bool, now: SystemTime) {
        let gateway = self.gateway(endpoint);
        gateway.doubted = !was_online;
        if was_online && let Some(kept) = &mut gateway.headers {
            kept.seen = now;
            self.write();
        }
    }

    /// The gateway does not hold what it was believed to.
    pub(crate) fn on_refused(&mut self, endpoint: &Endpoint) {
        let gateway = self.gateway(endpoint);
        (gateway.headers, gateway.dictionaries) = (None, Vec::new());
        gateway.refusals = gateway.refusals.saturating_add(1);
        self.write();
    }

    /// The part of one gateway, which is the newest from now on.
    fn gateway(&mut self, endpoint: &Endpoint) -> &mut Gateway {
        let place = self.gateways.iter().position(|gateway| gateway.endpoint == *endpoint);
        let gateway = match place {
            Some(place) => self.gateways.remove(place),
            None => Gateway::new(endpoint.clone()),
        };
        self.gateways.truncate(GATEWAYS_MAX - 1);
        self.gateways.insert(0, gateway);
        &mut self.gateways[0]
    }

    fn write(&mut self) {
        let Some(disk) = &self.disk else { return };
        let text = text(&self.gateways);
        if text == self.written {
            return;
        }
        self.written.clone_from(&text);
        disk.put(text.into_bytes());
    }
}

impl Gateway {
    fn new(endpoint: Endpoint) -> Self {
        Self { endpoint, headers: None, dictionaries: Vec::new(), refusals: 0, doubted: false }
    }

    /// Takes in a line of the file, but for the address.
    fn learn(&mut self, fact: &str) -> Option<()> {
        match fact.split(' ').collect::<Vec<_>>()[..] {
            ["headers", hash, seen, kept] => {
                let seconds = |text: &str| text.parse().ok().map(Duration::from_secs);
                let hash = u128::from_str_radix(hash, 16).ok()?.to_be_bytes();
                let seen = UNIX_EPOCH.checked_add(seconds(seen)?)?;
                self.headers = Some(KeptHeaders { hash, seen, kept: seconds(kept)? });
            }
            ["dictionary", id] => self.dictionaries.push(u64::from_str_radix(id, 16).ok()?),
            _ => return None,
        }
        Some(())
    }

    fn may_name(&self) -> bool {
        !self.doubted && self.refusals < REFUSALS_MAX
    }
}

impl KeptHeaders {
    fn is(&self, spelled: &SessionHeaders) -> bool {
        self.hash == *spelled.hash()
    }

    /// Not where the clock was set back: nobody knows how long it was.
    fn lasts(&self, now: SystemTime) -> bool {
        now.duration_since(self.seen).is_ok_and(|away| away + MARGIN < self.kept)
    }
}

/// The file beside the identity file.
///
/// ```text
/// towline-gateways 1
/// edge.example:443 headers 00112233445566778899aabbccddeeff 1790000000 3600
/// edge.example:443 dictionary 0011223344556677
/// ```
///
/// Lines for what each gateway keeps: of headers the hash, when a connection was there last, and for how long; of header
/// dictionaries the id, in its order.
const FIRST_LINE: &str = "towline-gateways 1";
/// Far more than the gateways that are remembered can fill.
const FILE_BYTES_MAX: usize = 64 << 10;

fn text(gateways: &[Gateway]) -> String {
    let mut text = format!("{FIRST_LINE}\n");
    for gateway in gateways {
        if let Some(KeptHeaders { hash, seen, kept }) = gateway.headers {
            let seen = seen.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            let hash = hash.iter().fold(String::new(), |mut hex, byte| {
                // Writing to a string cannot fail.
                let _ = write!(hex, "{byte:02x}");
                hex
            });
            let _ = writeln!(text, "{} headers {hash} {seen} {}", gateway.endpoint, kept.as_secs());
        }
        for id in &gateway.dictionaries {
            let _ = writeln!(text, "{} dictionary {id:016x}", gateway.endpoint);
        }
    }
    text
}

fn parse(text: &str) -> Option<Vec<Gateway>> {
    let mut lines = text.lines();
    if lines.next() != Some(FIRST_LINE) {
        return None;
    }
    let mut gateways: Vec<Gateway> = Vec::new();
    for line in lines.take(GATEWAYS_MAX * (1 + DICTIONARIES_MAX)) {
        let (endpoint, fact) = line.split_once(' ')?;
        let endpoint: Endpoint = endpoint.parse().ok()?;
        if gateways.last().is_none_or(|gateway| gateway.endpoint != endpoint) {
            gateways.push(Gateway::new(endpoint));
        }
        gateways.last_mut()?.learn(fact)?;
    }
    Some(gateways)
}

#[cfg(test)]
mod tests {
    use towline_protocols::link::OfferedDictionary;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn headers(token: &'static str) -> Vec<Header> {
        vec![Header { name: "x-token".into(), value: token.into() }]
    }

    fn edge(host: &str) -> Endpoint {
        Endpoint { host: host.to_owned(), port: 443 }
    }

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_790_000_000 + seconds)
    }

    /// Whether HELLO names the headers instead of spelling them out.
    fn names(known: &mut Known, endpoint: &Endpoint, headers: &[Header], now: SystemTime) -> bool {
        let mut hello = Hello::default();
        known.greet(endpoint, headers, &SessionHeaders::of(headers), &mut hello, now);
        assert_ne!(hello.session_headers_hash.is_empty(), hello.session_headers.is_empty());
        hello.refers()
    }

    fn welcome(known: &mut Known, endpoint: &Endpoint, headers: &[Header], kept: Duration, now: SystemTime) {
        let spelled = SessionHeaders::of(headers);
        let mut hello = Hello::default();
        known.greet(endpoint, headers, &spelled, &mut hello, now);
        let session_headers_kept_s = kept.as_secs() as u32;
        let welcome = Welcome { session_headers_kept_s, ..Welcome::default() };
        known.on_welcome(endpoint, &spelled, &hello, &welcome, now);
    }

    #[test]
    fn headers_are_named_where_they_are_kept_and_as_long() {
        let mut known = Known::open(None);
        let [old, new] = [headers("old"), headers("new")];
        assert!(!names(&mut known, &edge("a"), &old, at(0)));
        welcome(&mut known, &edge("a"), &old, HOUR, at(0));
        assert!(names(&mut known, &edge("a"), &old, at(10)));
        assert!(!names(&mut known, &edge("a"), &new, at(10)), "others");
        assert!(!names(&mut known, &edge("b"), &old, at(10)), "another gateway");
        assert!(!names(&mut known, &edge("a"), &old, at(3595)), "the session is about to be forgotten");
        known.on_line_end(&edge("a"), true, at(3000));
        assert!(names(&mut known, &edge("a"), &old, at(6000)), "it counts from the connection's end");
        assert!(!names(&mut known, &edge("a"), &old, at(2000)), "the clock was set back");
        welcome(&mut known, &edge("a"), &old, Duration::ZERO, at(6000));
        assert!(!names(&mut known, &edge("a"), &old, at(6001)), "not kept any more");
    }

    #[test]
    fn who_refuses_is_told_everything_and_after_the_second_time_always() {
        let mut known = Known::open(None);
        let headers = headers("t");
        for again in [true, false] {
            welcome(&mut known, &edge("a"), &headers, HOUR, at(0));
            assert!(names(&mut known, &edge("a"), &headers, at(1)));
            known.on_refused(&edge("a"));
            assert!(!names(&mut known, &edge("a"), &headers, at(2)));
            welcome(&mut known, &edge("a"), &headers, HOUR, at(3));
            assert_eq!(names(&mut known, &edge("a"), &headers, at(4)), again);
        }
    }

    #[test]
    fn the_header_dictionary_is_the_first_of_the_gateways_order_that_is_held() {
        let folder = tempfile::tempdir().unwrap();
        let identity = folder.path().join("identity");
        let dictionary = |version: &str| {
            let text = format!("towline headers 1\nx-app-version: {version}\n");
            Arc::new(HeaderDictionary::parse(text).unwrap())
        };
        let (old, new, unheld) = (dictionary("1"), dictionary("2"), dictionary("3"));
        let held = HeaderShelf::default();
        held.replace(vec![Arc::clone(&old), Arc::clone(&new)]);
        let mut known = Known::open(Some(&identity));
        let named = |known: &mut Known, host: &str| {
            known.greet(&edge(host), &[], &SessionHeaders::of(&[]), &mut Hello::default(), at(0));
            known.header_dictionary(&held)
        };
        assert_eq!(named(&mut known, "a"), 0);
        let header_dictionaries = vec![unheld.id(), old.id()];
        let word = Welcome { header_dictionaries, ..Welcome::default() };
        known.on_welcome(&edge("a"), &SessionHeaders::of(&[]), &Hello::default(), &word, at(0));
        assert_eq!((named(&mut known, "a"), named(&mut known, "b")), (old.id(), 0));
        assert_eq!(named(&mut Known::open(Some(&identity)), "a"), old.id(), "after a restart");
        let offer = |dictionaries: &[&Arc<HeaderDictionary>]| Offer {
            dictionaries: dictionaries
                .iter()
                .map(|it| OfferedDictionary {
                    hash: it.hash().to_vec().into(),
                    kind: DictionaryKind::Headers.into(),
                    ..OfferedDictionary::default()
                })
                .collect(),
        };
        assert_eq!(named(&mut known, "a"), old.id());
        known.on_offer(&offer(&[&new, &old]));
        assert_eq!(named(&mut known, "a"), new.id());
        known.on_offer(&offer(&[]));
        assert_eq!(named(&mut known, "a"), 0, "withdrawn");
        known.on_offer(&offer(&[&new]));
        known.on_refused(&edge("a"));
        assert_eq!(named(&mut known, "a"), 0, "it does not hold it");
    }

    #[test]
    fn a_connection_that_ended_without_a_word_may_have_been_refused() {
        let mut known = Known::open(None);
        let headers = headers("t");
        welcome(&mut known, &edge("a"), &headers, HOUR, at(0));
        known.on_line_end(&edge("a"), false, at(1));
        assert!(!names(&mut known, &edge("a"), &headers, at(2)));
        welcome(&mut known, &edge("a"), &headers, HOUR, at(3));
        assert!(names(&mut known, &edge("a"), &headers, at(4)));
    }

    #[test]
    fn what_was_learnt_is_there_after_a_restart_and_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let identity = folder.path().join("identity");
        let headers = headers("t");
        let mut first = Known::open(Some(&identity));
        for n in 0..20 {
            welcome(&mut first, &edge(&format!("node-{n}")), &headers, HOUR, at(n));
        }
        let mut second = Known::open(Some(&identity));
        assert_eq!(second.gateways, first.gateways);
        assert_eq!(second.gateways.len(), GATEWAYS_MAX);
        assert!(names(&mut second, &edge("node-19"), &headers, at(30)));
        let file = folder.path().join("identity.gateways");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = std::fs::metadata(&file).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "where the client connects is its owner's business");
        }
        std::fs::write(file, "towline-gateways 1\nrubbish\n").unwrap();
        assert_eq!(Known::open(Some(&identity)).gateways, []);
    }
}
