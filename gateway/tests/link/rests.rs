//! Answers of one message that no connection lives long enough to bring whole.

use http::{HeaderName, HeaderValue};
use towline_client::{Client, ConnectionState, Transports};

use crate::{
    bed::{BOTH, Bed, call, endpoint, online},
    metered::Metered,
};

const ANSWER_BYTES: usize = 240 << 10;
/// What passes before the client changes to another connection.
const LIFE_BYTES: usize = 56 << 10;
/// Each connection brings a quarter of that at the least: the rest is of the one before, or handshake, or half a frame.
const CONNECTIONS_MAX: usize = ANSWER_BYTES / (LIFE_BYTES / 4);

async fn arrives(transports: Transports) {
    let bed = Bed::start().await;
    let link = Metered::start(bed.address("edge"), transports).await;
    let mut config = bed.config(transports);
    config.endpoints = vec![endpoint(link.address())];
    let client = Client::start(config).unwrap();
    online(&client).await;
    link.hold();
    let mut request = call("Flood", "");
    for (name, value) in [("x-count", 1), ("x-bytes", ANSWER_BYTES)] {
        request.headers.insert(HeaderName::from_static(name), HeaderValue::from(value));
    }
    let caller = client.clone();
    let mut running = tokio::spawn(async move { caller.call(request).await });
    let (mut connections, mut begun) = (1, link.passed());
    let response = loop {
        tokio::select! {
            biased;
            response = &mut running => break response.unwrap().unwrap(),
            () = link.step() => {}
        }
        let is_online = matches!(*client.states().borrow(), ConnectionState::Online { .. });
        if is_online && link.passed() - begun > LIFE_BYTES {
            assert!(connections < CONNECTIONS_MAX, "{transports:?}: it begins again each time");
            client.reconnect();
            (connections, begun) = (connections + 1, link.passed());
        }
    };
    assert!(connections > 3, "{transports:?}: {connections} connections brought it");
    assert_eq!(response.into_grpc().unwrap().len(), ANSWER_BYTES);
    assert_eq!(bed.backend.counts("Flood").started, 1);
    link.release();
}

#[tokio::test]
async fn what_has_arrived_of_an_answer_is_not_sent_again() {
    for transports in BOTH {
        arrives(transports).await;
    }
}
