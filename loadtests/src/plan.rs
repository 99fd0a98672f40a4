//! What a run does, as plain validated values. The parent makes it from the command line and sends it
//! to its workers.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

/// A whole run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Where to connect: one target, or the two that `compare` takes in turn.
    pub targets: Vec<Target>,
    /// Connections to each target, over all workers.
    pub connections: usize,
    /// Connections that one worker opens at a time.
    pub opening_max: usize,
    /// Bound on opening one connection, handshakes included.
    pub connect_timeout: Duration,
    /// What is done on them.
    pub work: Work,
    /// How fast.
    pub pace: Pace,
    /// Bound on one operation.
    pub timeout: Duration,
}

/// One server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Target {
    /// How the report calls it.
    pub name: String,
    /// Its address.
    pub address: SocketAddr,
    /// Host for SNI, certificate check and `:authority`.
    pub host: String,
    /// What carries the protocol.
    pub transport: Transport,
    /// What is spoken.
    pub protocol: Protocol,
    /// CA certificates (PEM) for TLS and QUIC.
    pub ca: Option<PathBuf>,
}

/// What carries the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// TLS 1.3 over TCP
    Tls,
    /// QUIC
    Quic,
    /// TCP in plaintext
    Plain,
}

/// What is spoken on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// Nothing: the transport alone.
    None,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2, with prior knowledge in plaintext.
    Http2,
    /// MQTT 3.1.1.
    Mqtt,
    /// towline/1.
    Link,
}

/// What is done on the connections.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Work {
    /// Nothing: they are held open.
    Hold,
    /// Requests, each answered once.
    Request(RequestWork),
    /// Publishes.
    Mqtt(MqttWork),
}

/// One request, sent again and again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RequestWork {
    /// Path of the HTTP request, or of the gRPC method.
    pub path: String,
    /// A unary gRPC call; otherwise a plain POST (GET when `body` is empty).
    pub grpc: bool,
    /// The body, or the gRPC message.
    pub body: Vec<u8>,
}

/// Who publishes to whom. Connections are numbered publishers first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MqttWork {
    /// Connections that publish.
    pub publishers: usize,
    /// Connections that subscribe.
    pub subscribers: usize,
    /// Publisher `i` reaches subscriber `i` alone; otherwise every publisher reaches every subscriber.
    pub pairs: bool,
    /// 0, 1 or 2.
    pub qos: u8,
    /// Payload bytes, at least the eight of the send time.
    pub bytes: usize,
    /// A closed loop goes on when messages have arrived, not when they were taken. For one worker process.
    pub windowed: bool,
    /// Delivery counts from the moment a message was sent, not from when it was due: it is the server's alone, and how late
    /// the generator was stands apart.
    pub from_sent: bool,
    /// First level of the topics and of the client ids, unique per run.
    pub run: String,
}

/// How fast operations are sent.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Pace {
    /// So many per second over all connections, whatever the answers do.
    Open {
        /// Operations per second.
        rate: f64,
        /// Operations in flight per connection; those above wait, and their wait is counted.
        in_flight: usize,
    },
    /// The next when one is answered.
    Closed {
        /// Operations in flight per connection.
        in_flight: usize,
    },
}

impl MqttWork {
    /// All connections.
    pub fn connections(&self) -> usize {
        self.publishers + self.subscribers
    }

    /// Whether connection `index` publishes.
    pub fn publishes(&self, index: usize) -> bool {
        index < self.publishers
    }

    /// The topic of publisher `index`.
    pub fn topic(&self, index: usize) -> String {
        if self.pairs { format!("{}/pair/{index}", self.run) } else { format!("{}/all/{index}", self.run) }
    }

    /// The filter of connection `index`, which subscribes.
    pub fn filter(&self, index: usize) -> String {
        let subscriber = index - self.publishers;
        if self.pairs { self.topic(subscriber) } else { format!("{}/all/+", self.run) }
    }

    /// How many subscribers get each publish.
    pub fn copies(&self) -> u64 {
        if self.pairs { 1 } else { self.subscribers as u64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work(publishers: usize, subscribers: usize, pairs: bool) -> MqttWork {
        MqttWork {
            publishers,
            subscribers,
            pairs,
            qos: 0,
            bytes: 64,
            windowed: false,
            from_sent: false,
            run: "r".into(),
        }
    }

    #[test]
    fn in_pairs_each_subscriber_hears_its_own_publisher() {
        let work = work(3, 3, true);
        for publisher in 0..3 {
            assert_eq!(work.topic(publisher), work.filter(3 + publisher));
        }
        assert_eq!(work.copies(), 1);
    }

    #[test]
    fn otherwise_every_subscriber_hears_every_publisher() {
        let work = work(100, 10, false);
        assert_eq!(work.filter(100), work.filter(109));
        assert_eq!(work.copies(), 10);
        assert!(work.publishes(99) && !work.publishes(100));
    }
}
