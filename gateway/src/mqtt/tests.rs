//! What the broker does without being asked by a connection.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, ReadBuf};

use crate::{
    control::reload,
    gateway::Gateway,
    hub::{Delivered, Delivery, Mailbox, Message, ShareStrategy, SubscribeOptions},
    mqtt,
    request::{Origin, Protocol},
    settings::{Listener, Settings},
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

/// Counts how often something is written to it.
struct Counted(DuplexStream, Arc<AtomicUsize>);

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.1.fetch_add(1, Ordering::Relaxed);
        Pin::new(&mut self.0).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// An MQTT 3.1.1 client that is greeted, and how often it was written to.
async fn client(gateway: &Arc<Gateway>, id: u8) -> (DuplexStream, Arc<AtomicUsize>) {
    let (mut near, far) = tokio::io::duplex(4096);
    let writes = Arc::new(AtomicUsize::new(0));
    let origin = Origin::new("edge".into(), ([127, 0, 0, 1], 1).into(), Protocol::Mqtt, false);
    let far = Counted(far, writes.clone());
    tokio::spawn(mqtt::serve(gateway.clone(), Arc::new(origin), far, Bytes::new()));
    near.write_all(b"\x10\x0d\0\x04MQTT\x04\x02\0\0\0\x01").await.unwrap();
    near.write_all(&[id]).await.unwrap();
    near.read_exact(&mut [0; 4]).await.unwrap();
    (near, writes)
}

/// What a subscriber gets, in how many writes, when five publish `burst` in one turn, with room for `queue_max` messages of
/// its own. On one thread of the kind that serves: a task that another one wakes goes before those that are ready.
async fn published_in_one_turn(burst: &'static [u8], queue_max: usize) -> (Vec<u8>, usize) {
    let listeners = vec![Listener::plain("edge", ([127, 0, 0, 1], 0).into())];
    let mut settings = Settings { listeners, ..Settings::default() };
    settings.mqtt.queue_max = queue_max;
    let gateway = Gateway::build(settings).unwrap();
    let publishing = async move {
        let (mut subscriber, writes) = client(&gateway, b's').await;
        subscriber.write_all(b"\x82\x06\0\x01\0\x01t\0").await.unwrap();
        subscriber.read_exact(&mut [0; 5]).await.unwrap();
        let mut publishers = Vec::new();
        for id in b'a'..=b'e' {
            publishers.push(client(&gateway, id).await.0);
        }
        let before = writes.load(Ordering::Relaxed);
        for publisher in &mut publishers {
            publisher.write_all(burst).await.unwrap();
        }
        let mut came = vec![0; 5 * burst.len()];
        subscriber.read_exact(&mut came).await.unwrap();
        (came, writes.load(Ordering::Relaxed) - before)
    };
    // What is lost is waited for in vain.
    tokio::time::timeout(Duration::from_secs(60), tokio::spawn(publishing)).await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_several_publish_in_one_turn_leaves_in_one_write() {
    let (came, writes) = published_in_one_turn(b"\x30\x04\0\x01tx", 1000).await;
    assert_eq!((&came[..6], writes), (&b"\x30\x04\0\x01tx"[..], 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_queue_that_fills_within_a_turn_is_not_waited_with() {
    let burst = b"\x30\x04\0\x01tx\x30\x04\0\x01ty\x30\x04\0\x01tz";
    // All of them come.
    let (_, writes) = published_in_one_turn(burst, 8).await;
    assert!(writes > 1, "{writes}");
}
