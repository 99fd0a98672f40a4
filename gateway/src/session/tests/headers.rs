//! The header fields that a session keeps for its requests.

use towline_protocols::link::Header;

use super::*;

const TOKEN: &str = "Bearer abcdef";

fn with(epoch: u64, value: &str) -> Hello {
    let field = Header { name: "authorization".into(), value: value.to_owned().into() };
    Hello { session_headers: vec![field], ..hello(epoch) }
}

/// Names what [`with`] spells out.
fn naming(epoch: u64, value: &str) -> Hello {
    let hash = SessionHeaders::of(&with(1, value).session_headers).hash().to_vec();
    Hello { session_headers_hash: hash.into(), ..hello(epoch) }
}

fn value(headers: &Option<Arc<SessionHeaders>>) -> Bytes {
    headers.as_ref().unwrap().iter().next().unwrap().value
}

#[test]
fn a_session_knows_its_headers_by_their_hash() {
    let rig = Rig::new();
    assert_eq!(rig.refusal(&naming(1, TOKEN), None), OpenError::UnknownHeaders);
    assert!(rig.sessions.is_empty(), "nothing was made for it");
    assert!(rig.open(&with(1, TOKEN)).headers_kept);
    let named = rig.open(&naming(2, TOKEN));
    assert_eq!((value(&named.headers), named.headers_kept, named.resumed), (TOKEN.into(), true, true));
    assert_eq!(rig.refusal(&naming(3, "another"), None), OpenError::UnknownHeaders);
    assert!(rig.open(&with(4, "another")).headers_kept);
    assert_eq!(rig.refusal(&naming(5, TOKEN), None), OpenError::UnknownHeaders, "replaced");
    let none = rig.open(&hello(6));
    assert!(none.headers.is_none() && !none.headers_kept);
    assert_eq!(rig.refusal(&naming(7, "another"), None), OpenError::UnknownHeaders, "given up");
    assert_eq!(rig.sessions.held_bytes(), 0);
}

#[test]
fn a_hello_that_names_what_is_not_there_changes_nothing() {
    let rig = Rig::new();
    let holder = rig.open(&with(5, TOKEN));
    let (_producer, _consumer) = run(&holder.lease, 1);
    assert_eq!(rig.refusal(&naming(6, "another"), None), OpenError::UnknownHeaders);
    assert_eq!(holder.lease.poll_event(), None, "the older connection goes on");
    assert_eq!(rig.refusal(&naming(5, "another"), None), OpenError::TakenOver, "an old epoch is that first");
    let stranger = Hello { session_secret: vec![2; 16].into(), ..naming(9, TOKEN) };
    assert_eq!(rig.refusal(&stranger, None), OpenError::WrongSecret);
    assert!(rig.open(&with(6, "another")).resumed, "the refused epoch was not used up");
}

#[test]
fn a_visitor_brings_or_names_headers_and_keeps_to_them() {
    let rig = Rig::new();
    let session_id = rig.open(&with(1, TOKEN)).session_id;
    let visiting = |hello: Hello| Hello { session_id, ..hello };
    assert!(
        rig.sessions.visit(&visiting(naming(2, "another")), None).is_none(),
        "it waits for its handshake"
    );
    let hello = visiting(naming(3, TOKEN));
    let visit = rig.sessions.visit(&hello, None).unwrap();
    assert_eq!((value(&visit.headers), visit.headers_kept), (TOKEN.into(), true));
    // Meanwhile the session gets others; the visitor was told that its own are known.
    rig.open(&with(2, "another"));
    visit.lease.establish(&hello, &[]).unwrap();
    let next = rig.open(&naming(4, TOKEN));
    assert_eq!(value(&next.headers), TOKEN);
}

#[tokio::test]
async fn headers_survive_a_restart_where_only_their_client_can_read_them() {
    let rig = Rig::new();
    rig.open(&with(1, TOKEN));
    let rig = rig.restart().await;
    let stored = rig.store.scan(crate::store::Table::SessionHeaders).unwrap();
    assert_eq!(stored.len(), 1);
    assert!(!stored[0].1.windows(6).any(|part| part == b"Bearer"));
    assert_eq!(rig.refusal(&naming(2, "another"), None), OpenError::UnknownHeaders);
    let named = rig.open(&naming(2, TOKEN));
    assert_eq!((value(&named.headers), named.headers_kept), (TOKEN.into(), true));
    // What a client takes back is gone there, too.
    drop(named);
    drop(rig.open(&hello(3)));
    let rig = rig.restart().await;
    assert_eq!(rig.refusal(&naming(4, TOKEN), None), OpenError::UnknownHeaders);
    assert!(rig.store.scan(crate::store::Table::SessionHeaders).unwrap().is_empty());
}

#[tokio::test]
async fn a_session_that_ends_takes_its_headers_along() {
    let rig = Rig::new();
    drop(rig.open(&with(1, TOKEN)));
    assert!(rig.sessions.held_bytes() > 0);
    assert_eq!(rig.advance(rig.settings.session.expiry), 1);
    assert_eq!(rig.sessions.held_bytes(), 0);
    rig.store.barrier().await.unwrap();
    assert!(rig.store.scan(crate::store::Table::SessionHeaders).unwrap().is_empty());
}

#[test]
fn headers_beyond_the_bound_are_used_and_not_kept() {
    let rig = Rig::with(|settings| settings.session.headers_bytes_max = 64);
    rig.open(&with(1, TOKEN));
    let long = "x".repeat(60);
    let opened = rig.open(&with(2, &long));
    assert_eq!((value(&opened.headers).len(), opened.headers_kept), (60, false));
    assert_eq!((rig.limit_hits("session.headers_bytes_max"), rig.sessions.held_bytes()), (1, 0));
    assert_eq!(rig.refusal(&naming(3, TOKEN), None), OpenError::UnknownHeaders);
}
