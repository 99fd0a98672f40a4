//! What one user may have of outcomes in the store.

use towline_protocols::link::{Ack, Execution::MayHaveRun, RpcErrorKind::OutcomeExpired};

use super::{durable::answered, *};
use crate::{session::record::parse_push_key, store::Table};

/// A connection of one of a user's clients.
fn open(rig: &Rig, client: &str, user: Option<&str>, hello: Hello) -> Opened {
    let mut session_ids = rig.session_ids.borrow_mut();
    let session_id = session_ids.entry(client.to_owned()).or_default();
    let hello = Hello { client_id: client.to_owned(), session_id: *session_id, ..hello };
    let opened = rig.sessions.open(&hello, user.map(Arc::from)).unwrap();
    *session_id = opened.session_id;
    opened
}

/// Sequence numbers that the store holds outcomes of.
async fn stored(rig: &Rig) -> Vec<(String, u64)> {
    rig.store.barrier().await.unwrap();
    let keys = rig.store.scan(Table::Outcomes).unwrap().into_iter().map(|(key, _)| key);
    let outcomes = keys.map(|key| {
        let (client_id, seq) = parse_push_key(&key).unwrap();
        (client_id.to_owned(), seq)
    });
    outcomes.filter(|(_, seq)| *seq > 0).collect()
}

fn names(stored: &[(String, u64)]) -> Vec<(&str, u64)> {
    stored.iter().map(|(client, seq)| (&**client, *seq)).collect()
}

#[tokio::test]
async fn a_full_share_loses_the_oldest_outcome_of_its_user_and_of_nobody_else() {
    let rig = Rig::with(|settings| settings.session.user_durable_outcomes_max = 2);
    let bob = open(&rig, "tablet", Some("bob"), hello(1));
    answered(&bob.lease, 1).await;
    let phone = open(&rig, "phone", Some("ann"), hello(1));
    let watch = open(&rig, "watch", Some("ann"), hello(1));
    answered(&phone.lease, 1).await;
    answered(&watch.lease, 1).await;
    assert_eq!(rig.limit_hits("session.user_durable_outcomes_max"), 0);
    let mut newest = answered(&watch.lease, 2).await;
    assert_eq!(rig.limit_hits("session.user_durable_outcomes_max"), 1);
    assert_eq!(drain(&mut newest), "h paid t.");
    let error = refused(&phone.lease, 1);
    assert_eq!((error.kind, error.execution), (OutcomeExpired, MayHaveRun));
    for (lease, seq) in [(&watch.lease, 1), (&watch.lease, 2), (&bob.lease, 1)] {
        assert_eq!(drain(&mut again(lease, seq)), "h paid t.");
    }
    assert_eq!(names(&stored(&rig).await), [("tablet", 1), ("watch", 1), ("watch", 2)]);
}

#[tokio::test]
async fn a_share_is_full_by_bytes_too_and_what_is_acknowledged_leaves_it() {
    let rig = Rig::new();
    let first = open(&rig, "phone", Some("ann"), hello(1));
    answered(&first.lease, 1).await;
    let bytes = rig.sessions.context.durable.bytes();
    let rig = Rig::with(|settings| settings.session.user_durable_bytes_max = 2 * bytes);
    let phone = open(&rig, "phone", Some("ann"), hello(1));
    for seq in 1..3 {
        answered(&phone.lease, seq).await;
    }
    phone.lease.acknowledge(&Ack { floor: 1, seqs: vec![] });
    answered(&phone.lease, 3).await;
    assert_eq!(rig.limit_hits("session.user_durable_bytes_max"), 0);
    answered(&phone.lease, 4).await;
    assert_eq!(rig.limit_hits("session.user_durable_bytes_max"), 1);
    assert_eq!(
        (refused(&phone.lease, 2).kind, drain(&mut again(&phone.lease, 3))),
        (OutcomeExpired, "h paid t.".to_owned())
    );
    assert_eq!(rig.sessions.context.durable.bytes(), 2 * bytes);
    drop(phone);
    rig.advance(rig.settings.session.expiry);
    assert_eq!(rig.sessions.context.durable.bytes(), 0);
    let phone = open(&rig, "phone", Some("ann"), hello(2));
    for seq in 5..7 {
        answered(&phone.lease, seq).await;
    }
    assert_eq!(rig.limit_hits("session.user_durable_bytes_max"), 1, "its session took them out of the share");
}

#[tokio::test]
async fn a_share_goes_on_after_a_restart_and_a_smaller_one_loses_its_oldest() {
    let rig = Rig::with(|settings| settings.session.user_durable_outcomes_max = 3);
    for (client, seq) in [("phone", 1), ("watch", 1), ("watch", 2)] {
        let epoch = seq;
        let named = waiting(epoch, &[(1, 0)]);
        let opened = open(&rig, client, Some("ann"), if epoch == 1 { hello(1) } else { named });
        answered(&opened.lease, seq).await;
        rig.advance(Duration::from_secs(1));
    }
    let mut rig = rig.restart().await;
    let watch = open(&rig, "watch", Some("ann"), waiting(3, &[(1, 0), (2, 0)]));
    answered(&watch.lease, watch.seq_min + 1).await;
    assert_eq!(rig.limit_hits("session.user_durable_outcomes_max"), 1);
    let phone = open(&rig, "phone", Some("ann"), waiting(2, &[(1, 0)]));
    assert!(phone.resumed);
    let refusals: Vec<_> = phone.refused.iter().map(|(seq, it)| (*seq, it.kind, it.execution)).collect();
    assert_eq!(refusals, [(1, OutcomeExpired, MayHaveRun)]);
    drop((watch, phone));

    rig.settings.session.user_durable_outcomes_max = 1;
    let rig = rig.restart().await;
    assert_eq!(rig.limit_hits("session.user_durable_outcomes_max"), 2);
    let left = stored(&rig).await;
    assert!(matches!(&left[..], [(client, 257..)] if client == "watch"), "{left:?}");
}

#[tokio::test]
async fn sessions_without_a_user_share_nothing() {
    let rig = Rig::with(|settings| settings.session.user_durable_outcomes_max = 1);
    let opened = open(&rig, "phone", None, hello(1));
    for seq in 1..4 {
        answered(&opened.lease, seq).await;
    }
    assert_eq!(drain(&mut again(&opened.lease, 1)), "h paid t.");
    assert_eq!(rig.limit_hits("session.user_durable_outcomes_max"), 0);
}
