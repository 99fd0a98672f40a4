//! A gateway that crashes and comes back on the same disk, under a clock that the test moves.

use std::{sync::Arc, time::Duration};

use tokio::task::JoinHandle;
use towline_gateway::{
    gateway::Gateway,
    mqtt,
    settings::Settings,
    store::{Fault, Memory, Store, Writer},
};
use towline_protocols::mqtt::*;

use crate::mqtt_support::{Client, connect_for, settings};

pub const SECOND: Duration = Duration::from_secs(1);
/// How long the disk takes for a commit.
const COMMIT: Duration = Duration::from_millis(1);

pub struct Bed {
    memory: Memory,
    settings: Settings,
    pub fault: Fault,
    pub gateway: Arc<Gateway>,
    disk: Disk,
}

enum Disk {
    /// Writes on its own.
    Turning(JoinHandle<()>),
    /// Writes when the test says so.
    Held(Writer),
    /// Gone with its gateway.
    Over,
}

impl Bed {
    pub fn new() -> Self {
        Self::with(settings())
    }

    pub fn with(settings: Settings) -> Self {
        let fault = Fault::default();
        let memory = Memory::with(&fault).unwrap();
        let (gateway, writer) = start(&memory, &settings);
        Self { memory, settings, fault, gateway, disk: turning(writer) }
    }

    /// From here on nothing is durable until [`Bed::write`].
    pub async fn hold(&mut self) {
        // What was written so far is.
        self.gateway.store.barrier().await.unwrap();
        self.crash();
        let (gateway, writer) = start(&self.memory, &self.settings);
        (self.gateway, self.disk) = (gateway, Disk::Held(writer));
    }

    /// Makes durable what waits.
    pub fn write(&self) {
        let Disk::Held(writer) = &self.disk else { panic!("the disk turns on its own") };
        writer.write();
    }

    /// The gateway ends between two writes, and is back.
    pub fn restart(&mut self) {
        self.crash();
        let (gateway, writer) = start(&self.memory, &self.settings);
        (self.gateway, self.disk) = (gateway, turning(writer));
    }

    /// The same after the disk has failed: its file is opened anew.
    pub fn reopen(&mut self) {
        self.memory = self.memory.after_power_loss(&self.fault).unwrap();
        self.restart();
    }

    /// The gateway ends after all that it has written is durable, and is back.
    pub async fn settle_and_restart(&mut self) {
        self.gateway.store.barrier().await.unwrap();
        self.restart();
    }

    /// A gateway on the same disk, or why there is none.
    pub fn try_start(&mut self) -> Result<Arc<Gateway>, String> {
        self.crash();
        let (store, _writer) = Store::by_hand(&self.memory);
        Gateway::with_store(self.settings.clone(), store).map_err(|error| error.to_string())
    }

    fn crash(&mut self) {
        if let Disk::Turning(task) = std::mem::replace(&mut self.disk, Disk::Over) {
            task.abort();
        }
    }

    /// A client with a session of a minute.
    pub async fn client(&self, id: &str) -> (Client, bool) {
        let (client, connack) = Client::connect(&self.gateway, connect_for(60, id)).await;
        (client, connack.session_present)
    }

    /// A client whose session is there already.
    pub async fn back(&self, id: &str) -> Client {
        let (client, is_present) = self.client(id).await;
        assert!(is_present, "the session of {id} is gone");
        client
    }

    /// A client that has subscribed to `filter` with a session of a minute, and left.
    pub async fn absent_subscriber(&self, id: &str, filter: &str, qos: QoS) {
        let (mut client, _) = self.client(id).await;
        assert_eq!(client.subscribe(filter, qos).await, qos.granted());
        client.leave().await;
    }

    /// Publishes with QoS 1 and waits for PUBACK.
    pub async fn publish(&self, topic: &str, payload: &str) {
        let mut publisher = Client::v5(&self.gateway, "publisher").await;
        assert_eq!(publisher.publish_acked(topic, payload).await, ReasonCode::Success);
        publisher.leave().await;
    }
}

fn start(memory: &Memory, settings: &Settings) -> (Arc<Gateway>, Writer) {
    let (store, writer) = Store::by_hand(memory);
    let gateway = Gateway::with_store(settings.clone(), store).unwrap();
    mqtt::ensure_watched(&gateway);
    (gateway, writer)
}

fn turning(writer: Writer) -> Disk {
    Disk::Turning(tokio::spawn(async move {
        loop {
            tokio::time::sleep(COMMIT).await;
            writer.write();
        }
    }))
}

/// Lets a second pass, in which everybody does what is due.
pub async fn settle() {
    tokio::time::sleep(SECOND).await;
}

/// The payloads of the next PUBLISH packets, which are acknowledged.
pub async fn payloads(client: &mut Client, count: usize) -> Vec<String> {
    let mut payloads = Vec::new();
    for _ in 0..count {
        let publish = client.expect_publish().await;
        payloads.push(String::from_utf8(publish.payload.to_vec()).unwrap());
    }
    payloads
}

pub fn ack(id: PacketId) -> Ack {
    Ack::new(id, ReasonCode::Success)
}
