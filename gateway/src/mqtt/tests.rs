//! What the broker does without being asked by a connection.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;

use crate::{
    control::reload,
    gateway::Gateway,
    hub::{Delivered, Delivery, Mailbox, Message, ShareStrategy, SubscribeOptions},
    mqtt,
    settings::Settings,
};

/// Counts what it is given.
#[derive(Default)]
struct Inbox(Mutex<usize>);

impl Mailbox for Inbox {
    fn deliver(&self, _: &Arc<Message>, _: &Delivery<'_>) -> Delivered {
        *self.0.lock() += 1;
        Delivered::Sent
    }

    fn is_connected(&self) -> bool {
        true
    }
}

fn inbox(gateway: &Gateway, client: &str, filter: &str) -> Arc<Inbox> {
    let inbox = Arc::new(Inbox::default());
    gateway.hub.register(&client.into(), None, inbox.clone()).unwrap();
    gateway.hub.subscribe(client, filter, SubscribeOptions::default()).unwrap();
    inbox
}

fn settings(change: impl FnOnce(&mut Settings)) -> Settings {
    let mut settings = Settings::default();
    change(&mut settings);
    settings
}

#[tokio::test]
async fn the_strategy_of_shared_subscriptions_is_in_force_before_the_first_mqtt_client_and_after_a_reload() {
    let sticky = settings(|settings| settings.mqtt.share_strategy = ShareStrategy::Sticky);
    let gateway = Gateway::build(sticky).unwrap();
    let members = ["a", "b"].map(|client| inbox(&gateway, client, "$share/g/t"));
    let message = Message { topic: "t".into(), publisher: Some("p".into()), ..Message::default() };
    let message = Arc::new(message);
    let publish = || {
        for _ in 0..4 {
            gateway.hub.publish(&message);
        }
        let mut counts = members.each_ref().map(|member| std::mem::take(&mut *member.0.lock()));
        counts.sort_unstable();
        counts
    };
    assert_eq!(publish(), [0, 4]);
    reload::apply(&gateway, settings(|_| ())).unwrap();
    assert_eq!(publish(), [2, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_shorter_sys_interval_is_obeyed_within_a_minute() {
    let every = |seconds| settings(|settings| settings.mqtt.sys_interval = Duration::from_secs(seconds));
    let gateway = Gateway::build(every(3600)).unwrap();
    let listener = inbox(&gateway, "listener", "$SYS/broker/uptime");
    mqtt::ensure_watched(&gateway);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(*listener.0.lock(), 1);
    reload::apply(&gateway, every(600)).unwrap();
    tokio::time::sleep(Duration::from_secs(598)).await;
    assert_eq!(*listener.0.lock(), 1);
    tokio::time::sleep(Duration::from_secs(62)).await;
    assert_eq!(*listener.0.lock(), 2);
    reload::apply(&gateway, every(10)).unwrap();
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert!(*listener.0.lock() >= 7, "{}", listener.0.lock());
}
