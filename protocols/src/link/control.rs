//! What a connection carries beside its requests: introduction, heartbeat, pushes, drain, policy.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::BytesMut;

use super::{
    Ack, CloseCode, Config, Event, GoAway, Hello, LinkError, Peer, Policy, Publish, Push, RpcError,
    StreamSettings, Subscribe, Subscribed, Welcome,
};

/// The machine of a connection's control frames; on QUIC, of the control stream.
///
/// Within a TCP [`super::Connection`] only the commands are used; its `handle_*` and `poll_*` include this
/// machine's.
#[derive(Debug)]
pub struct Control {
    config: Arc<Config>,
    peer: Peer,
}

impl Control {
    /// A client's control stream on QUIC; `hello` comes from [`super::client::Session::hello`].
    pub fn client(config: Arc<Config>, hello: Hello, now: Instant) -> Self {
        _ = (hello, now);
        Self { config, peer: Peer::default() }
    }

    /// A server's control stream on QUIC.
    pub fn server(config: Arc<Config>, now: Instant) -> Self {
        _ = now;
        Self { config, peer: Peer::default() }
    }

    /// Takes all whole frames off `input`. After an error a CLOSE is ready to be transmitted and
    /// everything else is over.
    pub fn handle_bytes(&mut self, now: Instant, input: &mut BytesMut) -> Result<(), LinkError> {
        _ = (now, input);
        Ok(())
    }

    /// The next event. To be asked until `None` after each `handle_*`.
    pub fn poll_event(&mut self) -> Option<Event> {
        None
    }

    /// Appends what is to be sent to `out`, about `bytes_max` at the most (a frame is never cut), and
    /// says how much that was.
    pub fn poll_transmit(&mut self, now: Instant, out: &mut BytesMut, bytes_max: usize) -> usize {
        _ = (now, out, bytes_max);
        0
    }

    /// When [`Control::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    /// The time has come: sends a beat, or finds that the peer broke its promise.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), LinkError> {
        _ = now;
        Ok(())
    }

    /// Server: takes the client in. Limits, dictionaries, heartbeat and agent are filled in from the
    /// configuration.
    pub fn welcome(&mut self, welcome: Welcome) {
        _ = welcome;
    }

    /// Client: how often it gives a sign of life on a quiet connection; HELLO promised the first. The
    /// server's maximum is kept in any case.
    pub fn set_heartbeat(&mut self, now: Instant, interval: Duration) {
        _ = (now, interval);
    }

    /// Sends a PING; the answer is [`Event::Rtt`].
    pub fn ping(&mut self, now: Instant) {
        _ = now;
    }

    /// Client: outcomes that were taken.
    pub fn ack(&mut self, ack: Ack) {
        _ = ack;
    }

    /// Server: queues a push behind those before it. An error when it is larger than the client takes.
    pub fn push(&mut self, push: &Push) -> Result<(), RpcError> {
        _ = push;
        Ok(())
    }

    /// Client: pushes up to `id` were taken.
    pub fn push_ack(&mut self, id: u64) {
        _ = id;
    }

    /// Client: publishes a message. An error when it is larger than the server takes.
    pub fn publish(&mut self, publish: &Publish) -> Result<(), RpcError> {
        _ = publish;
        Ok(())
    }

    /// Server: answers a publish of quality 1.
    pub fn published(&mut self, id: u64, error: Option<&str>) {
        _ = (id, error);
    }

    /// Client: changes subscriptions.
    pub fn subscribe(&mut self, subscribe: Subscribe) {
        _ = subscribe;
    }

    /// Server: answers a change of subscriptions.
    pub fn subscribed(&mut self, subscribed: Subscribed) {
        _ = subscribed;
    }

    /// Server: asks the client to go elsewhere.
    pub fn goaway(&mut self, goaway: GoAway) {
        _ = goaway;
    }

    /// Server: sends a policy.
    pub fn policy(&mut self, policy: Policy) {
        _ = policy;
    }

    /// Client: says whether the policy is in use.
    pub fn policy_ack(&mut self, revision: u64, result: Result<(), &str>) {
        _ = (revision, result);
    }

    /// Says why and ends the connection: nothing is handled or sent behind the CLOSE.
    pub fn close(&mut self, code: CloseCode, text: &str) {
        _ = (code, text);
    }

    /// Bytes of pushes or publishes that are queued: their sender waits while this is beyond what it
    /// wants to have in memory.
    pub fn queued_bytes(&self) -> usize {
        0
    }

    /// What is known of the peer.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Whether a CLOSE was sent or received.
    pub fn is_closed(&self) -> bool {
        false
    }

    /// What a request's stream on this QUIC connection needs to know.
    pub fn stream_settings(&self) -> StreamSettings {
        StreamSettings { config: self.config.clone(), peer: self.peer.clone() }
    }
}
