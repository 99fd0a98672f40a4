//! Which protocol a peer speaks, from the first bytes it sends.

/// What the first bytes of a connection say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Detection {
    /// A TLS record with a ClientHello.
    Tls,
    /// The link protocol's TCP preface.
    Link,
    /// An MQTT CONNECT packet.
    Mqtt,
    /// An HTTP/1 request line.
    Http1,
    /// The HTTP/2 connection preface.
    Http2,
    /// The bytes so far begin one of these, and more are needed to say which.
    NeedMore,
    /// None of these, whatever follows.
    Unknown,
}
