//! What the backend of a push is told of it.

use super::*;

/// Push and state of each receipt, and why it was dropped.
fn told(rig: &Rig) -> Vec<String> {
    let queue = rig.sessions.receipts().queue("shop").unwrap();
    let mut number = 0;
    std::iter::from_fn(|| {
        let receipt = queue.after(number)?;
        number = receipt.number;
        let name = ["", "accepted", "sent", "acknowledged", "expired", "dropped"][usize::from(receipt.state)];
        let text = format!("{} {} {name} {}", receipt.client_id, receipt.push_id, receipt.reason);
        Some(text.trim().to_owned())
    })
    .collect()
}

fn with_receipt(rig: &Rig, push_id: &str, message: Message) -> Arc<Message> {
    let ticket = rig.sessions.receipts().ticket("shop", push_id, false).unwrap();
    Arc::new(Message { receipt: Some(Arc::new(ticket)), ..message })
}

fn ordinary() -> Message {
    (*push("x")).clone()
}

#[test]
fn each_step_is_told_to_a_backend_that_wants_all() {
    let rig = Rig::new();
    drop(rig.open(&hello(1)));
    let ticket = rig.sessions.receipts().ticket("shop", "a", true).unwrap();
    rig.hub.push_to_client("phone", &Arc::new(Message { receipt: Some(Arc::new(ticket)), ..ordinary() }));
    let opened = rig.open(&hello(2));
    let id = opened.lease.next_push().unwrap().id;
    opened.lease.push_ack(Priority::NORMAL, id).unwrap();
    assert_eq!(told(&rig), ["phone a accepted", "phone a sent", "phone a acknowledged"]);
}

#[tokio::test]
async fn an_acknowledgement_is_told_also_when_the_gateway_was_started_again_before_it() {
    let rig = Rig::new();
    let opened = rig.open(&hello(1));
    rig.hub.push_to_client("phone", &with_receipt(&rig, "a", ordinary()));
    let id = opened.lease.next_push().unwrap().id;
    drop(opened);
    let rig = rig.restart().await;
    drop(rig.open(&taken(&rig, &[0, 0, 0, id], hello(2))));
    assert_eq!(told(&rig), ["phone a acknowledged"]);
}

#[test]
fn what_is_given_up_is_told_with_its_reason() {
    let rig = Rig::with(|settings| settings.session.pushes_max = 1);
    drop(rig.open(&hello(1)));
    let push = |push_id, message| rig.hub.push_to_client("phone", &with_receipt(&rig, push_id, message));
    push("fleeting", Message { qos: 0, ..ordinary() });
    push("full", ordinary());
    push("keyed", Message { collapse_key: Some("k".into()), ..ordinary() });
    push("newer", Message { collapse_key: Some("k".into()), ..ordinary() });
    let expires = Some(rig.clock.now() + Duration::from_secs(9));
    push("brief", Message { expires, ..ordinary() });
    rig.advance(Duration::from_secs(10));
    assert!(texts(&rig.open(&hello(2)).lease).is_empty());
    push("unread", ordinary());
    assert_eq!(rig.advance(Duration::from_secs(3601)), 1);
    assert_eq!(
        told(&rig),
        [
            "phone fleeting dropped away",
            "phone full dropped session.pushes_max",
            "phone keyed dropped replaced",
            "phone newer dropped session.pushes_max",
            "phone brief expired",
            "phone unread dropped session_ended"
        ]
    );
}

#[test]
fn one_attempt_that_broke_is_told_as_lost() {
    let rig = Rig::new();
    let opened = rig.open(&hello(1));
    rig.hub.push_to_client("phone", &with_receipt(&rig, "a", Message { qos: 0, ..ordinary() }));
    assert_eq!(texts(&opened.lease), ["x"]);
    drop(opened);
    assert_eq!(told(&rig), ["phone a dropped connection_lost"]);
}
