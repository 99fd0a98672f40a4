use towline_crypto::signing::SigningKey;
use towline_protocols::{endpoints::ListSignature, link::DictionaryKind};

use super::*;
use crate::core::now;

fn edge(host: &str) -> Endpoint {
    Endpoint { host: host.to_owned(), port: 443 }
}

pub(crate) fn entry(host: &str) -> ListedEndpoint {
    let (name, region) = (Some("edge.example".to_owned()), None);
    ListedEndpoint {
        host: host.into(),
        port: 443,
        quic: true,
        tcp: true,
        priority: 0,
        weight: 1,
        name,
        region,
    }
}

pub(crate) fn signed(key: &SigningKey, serial: u64, age_days: i64, entries: Vec<ListedEndpoint>) -> Bytes {
    let issued_s = wall::since_1970().as_secs().saturating_add_signed(-age_days * 86_400);
    let list = EndpointList { serial, issued_s, expires_s: issued_s + 30 * 86_400, entries };
    let text = list.text();
    let signature = ListSignature { key: key.public().id(), bytes: key.sign(text.as_bytes()) };
    (text + &signature.line()).into()
}

/// The list that is held is no longer to be used.
pub(crate) fn expire(listed: &Listed) {
    let mut state = listed.state.lock();
    let list = state.held.as_mut().unwrap();
    (list.issued_s, list.expires_s) = (1, 2);
}

fn config(keys: &[&SigningKey]) -> ClientConfig {
    let mut config = ClientConfig::plaintext(vec![edge("edge.example")]);
    config.endpoint_lists.keys = keys.iter().map(|key| key.public()).collect();
    config.seed = Some(7);
    config
}

fn listed(config: &ClientConfig) -> Listed {
    Listed::open(config, &Identity::open(config).unwrap())
}

fn offered(list: &Bytes, version: u64) -> OfferedDictionary {
    OfferedDictionary {
        hash: sha256(list).to_vec().into(),
        kind: DictionaryKind::Endpoints.into(),
        bytes: list.len() as u32,
        version,
        ..OfferedDictionary::default()
    }
}

#[test]
fn a_list_is_taken_by_signature_serial_and_time_and_no_other() {
    let (key, other) = (SigningKey::generate().unwrap(), SigningKey::generate().unwrap());
    let listed = listed(&config(&[&key]));
    let accept = |list: &Bytes| listed.accept(list);
    let of = |serial, age_days| signed(&key, serial, age_days, vec![entry("a")]);
    assert_eq!(accept(&signed(&other, 5, 0, vec![entry("a")])), Err(Refused::Signature));
    assert!(matches!(accept(&of(5, 30)), Err(Refused::Time(_))), "expired");
    assert!(matches!(accept(&of(5, -2)), Err(Refused::Time(_))), "from the future");
    assert!(matches!(accept(&Bytes::from_static(b"rubbish")), Err(Refused::NoList(_))));
    assert_eq!((listed.serial(), listed.turns(now())), (Some(0), Vec::new()));
    assert_eq!(accept(&of(5, 0)), Ok(5));
    assert_eq!(listed.turns(now()), [edge("a")]);
    let changed = String::from_utf8(of(6, 0).to_vec()).unwrap().replacen("endpoint a", "endpoint b", 1);
    assert_eq!(accept(&changed.into()), Err(Refused::Signature));
    assert_eq!(accept(&of(5, 1)), Err(Refused::Serial(5, 5)));
    assert_eq!(accept(&of(4, 0)), Err(Refused::Serial(4, 5)), "a replay");
    assert_eq!(accept(&of(6, 0)), Ok(6));
}

#[test]
fn without_keys_nothing_is_taken_and_what_is_no_list_is_fetched_once() {
    let key = SigningKey::generate().unwrap();
    let list = signed(&key, 5, 0, vec![entry("a")]);
    let off = listed(&config(&[]));
    assert!(off.serial().is_none() && !off.wants(&offered(&list, 5)));
    let listed = listed(&config(&[&SigningKey::generate().unwrap()]));
    assert!(listed.wants(&offered(&list, 5)));
    listed.take(&list);
    assert!(!listed.wants(&offered(&list, 5)), "of another key");
    assert!(listed.wants(&offered(&signed(&key, 6, 0, vec![entry("a")]), 6)));
    let large = OfferedDictionary { bytes: ENDPOINT_LIST_BYTES_MAX as u32 + 1, ..offered(&list, 7) };
    assert!(!listed.wants(&large));
}

#[test]
fn a_list_names_no_certificate_that_the_app_does_not_allow() {
    let key = SigningKey::generate().unwrap();
    let named = |host: &str, name: Option<&str>| ListedEndpoint {
        name: name.map(str::to_owned),
        tcp: false,
        ..entry(host)
    };
    let entries = vec![
        named("192.0.2.7", Some("edge.example")),
        named("evil.example", None),
        named("192.0.2.8", Some("evil.example")),
        named("a.other.example", None),
        named("a.b.other.example", None),
        named("edge.example", Some("a.other.example")),
    ];
    let mut config = config(&[&key]);
    config.endpoint_lists.names = vec!["*.other.example".into()];
    let listed = listed(&config);
    listed.take(&signed(&key, 1, 0, entries));
    let info = listed.info().unwrap();
    let places = ["192.0.2.7", "a.other.example", "edge.example"].map(edge);
    assert_eq!((&*info.endpoints, info.left_out, info.is_current), (&places[..], 3, true));
    assert_eq!(listed.name_of(&edge("192.0.2.7")), "edge.example");
    assert_eq!(listed.name_of(&edge("192.0.2.8")), "192.0.2.8", "as if there were no list");
    assert_eq!(listed.transports_of(&edge("192.0.2.7")), (true, false));
    let own = edge("edge.example");
    assert_eq!((listed.name_of(&own), listed.transports_of(&own)), ("edge.example".into(), (true, true)));
    for wrong in ["", "*.", "a b", "*", "a.*.example"] {
        let lists = EndpointLists { names: vec![wrong.into()], ..EndpointLists::default() };
        assert!(lists.check().is_err(), "{wrong:?}");
    }
}

#[test]
fn a_list_outlives_the_app_sealed_and_is_no_older_then() {
    let (folder, key) = (tempfile::tempdir().unwrap(), SigningKey::generate().unwrap());
    let mut config = config(&[&key]);
    config.identity_file = Some(folder.path().join("identity"));
    let (old, young) = (signed(&key, 4, 0, vec![entry("a")]), signed(&key, 5, 0, vec![entry("b")]));
    listed(&config).take(&young);
    let file = folder.path().join("identity.endpoints");
    let kept = std::fs::read(&file).unwrap();
    assert!(!kept.windows(8).any(|bytes| bytes == b"endpoint"), "where clients go is nobody's business");
    let again = listed(&config);
    assert_eq!((again.serial(), again.turns(now())), (Some(5), vec![edge("b")]));
    assert_eq!(again.accept(&old), Err(Refused::Serial(4, 5)));
    config.endpoint_lists.keys = vec![SigningKey::generate().unwrap().public()];
    assert_eq!(listed(&config).serial(), Some(0), "the key is trusted no more");
    config.endpoint_lists.keys = vec![key.public()];
    std::fs::write(&file, &kept[1..]).unwrap();
    assert_eq!(listed(&config).serial(), Some(0), "a broken file");
}

#[test]
fn behind_its_expiry_a_list_vouches_for_nobody() {
    let key = SigningKey::generate().unwrap();
    let listed = listed(&config(&[&key]));
    let named = |host: &str| listed.is_still_named(&edge(host));
    assert!(named("a"), "without a list, GOAWAY must have named it");
    listed.take(&signed(&key, 1, 0, vec![entry("a"), entry("b")]));
    assert!(named("a") && named("left-out"));
    expire(&listed);
    assert!(!named("a") && named("edge.example"));
    listed.on_advice(&[edge("b")]);
    assert!(!named("a") && named("b"));
    listed.on_advice(&(0..2 * ADVISED_MAX).map(|host| edge(&host.to_string())).collect::<Vec<_>>());
    assert!(!named("b") && named("0"));
    assert_eq!(listed.state.lock().advised.len(), ADVISED_MAX);
}

#[test]
fn places_come_by_region_priority_and_weight() {
    let key = SigningKey::generate().unwrap();
    let place = |host: &str, region: Option<&str>, priority, weight| ListedEndpoint {
        region: region.map(str::to_owned),
        priority,
        weight,
        ..entry(host)
    };
    let entries = vec![
        place("far", Some("cn"), 0, 1),
        place("second", None, 9, 1),
        place("near", Some("eu"), 9, 1),
        place("often", None, 0, 9),
        place("seldom", None, 0, 1),
    ];
    let mut config = config(&[&key]);
    config.app.region = "eu".into();
    let listed = listed(&config);
    listed.take(&signed(&key, 1, 0, entries));
    let mut often = 0;
    for _ in 0..1000 {
        let turns: Vec<_> = listed.turns(now()).into_iter().map(|endpoint| endpoint.host).collect();
        assert_eq!((&*turns[0], &turns[3..]), ("near", &["second".to_owned(), "far".to_owned()][..]));
        often += usize::from(turns[1] == "often");
    }
    assert!((850..950).contains(&often), "{often} of 1000 at nine to one");
}

#[test]
fn places_that_fail_while_others_are_reached_are_left_alone_for_a_while() {
    let (key, start) = (SigningKey::generate().unwrap(), now());
    let listed = listed(&config(&[&key]));
    listed.take(&signed(&key, 1, 0, vec![entry("a")]));
    let (place, own) = (edge("a"), edge("edge.example"));
    let minutes = |count: u64| start + Duration::from_secs(60 * count);
    let is_used = |at| !listed.turns(at).is_empty();
    let both = [place.clone(), own.clone()];
    listed.on_race(&both, Some(&own), start);
    assert!(is_used(start), "once may be chance");
    listed.on_race(&both, Some(&own), start);
    assert!(!is_used(minutes(4)) && is_used(minutes(5)));
    listed.on_race(&both, Some(&own), minutes(5));
    assert!(!is_used(minutes(14)) && is_used(minutes(15)), "twice as long");
    listed.on_race(&both, Some(&place), minutes(15));
    listed.on_race(&both, Some(&own), minutes(15));
    assert!(is_used(minutes(15)), "it was reached, and counts from the beginning");
    // Where nobody is reached, what is reached next tells.
    listed.on_race(&both, None, minutes(16));
    listed.on_network_changed();
    listed.on_race(std::slice::from_ref(&own), Some(&own), minutes(16));
    assert!(is_used(minutes(16)), "another network");
    listed.on_race(&both, None, minutes(17));
    listed.on_race(std::slice::from_ref(&own), Some(&own), minutes(17));
    assert!(!is_used(minutes(17)));
    listed.take(&signed(&key, 2, 0, vec![entry("a")]));
    assert!(is_used(minutes(17)), "the operator says so anew");
}

/// The example of PROTOCOL.md.
#[test]
fn the_documented_list_is_signed_by_the_documented_key() {
    let text = include_str!("../../../protocols/PROTOCOL.md");
    let list = text.split("```endpoint-list\n").nth(1).unwrap().split("```").next().unwrap();
    let key = text.split("\nThe key ").nth(1).unwrap().split(' ').next().unwrap();
    let byte = |at: usize| u8::from_str_radix(&key[2 * at..2 * at + 2], 16).unwrap();
    let key = PublicKey::from_bytes(std::array::from_fn(byte));
    let list = verified(&[key], list.as_bytes()).unwrap();
    assert_eq!((list.serial, list.entries[1].server_name()), (8, "edge-1.example"));
}
