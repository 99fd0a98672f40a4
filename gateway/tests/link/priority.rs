//! A payment beside an image on a slow link.

use std::{pin::pin, time::Duration};

use http::{HeaderName, HeaderValue};
use tokio::time::sleep;
use towline_client::{CallRequest, Client, ConnectionState, Priority, Transports};

use crate::{
    bed::{BOTH, Bed, answer, call, endpoint, online, state},
    metered::Metered,
};

const IMAGE_BYTES: usize = 3 << 20;
/// Of the image when the payment begins.
const BEGUN_BYTES: usize = 200 << 10;
/// What may stand before an urgent answer: buffers of the gateway's socket and of the link, one burst, one frame.
const AHEAD_BYTES_MAX: usize = 192 << 10;

fn image(priority: Priority) -> CallRequest {
    flood(1, IMAGE_BYTES, priority)
}

fn flood(count: usize, bytes: usize, priority: Priority) -> CallRequest {
    let mut request = call("Flood", "").priority(priority);
    for (name, value) in [("x-count", count), ("x-bytes", bytes)] {
        request.headers.insert(HeaderName::from_static(name), HeaderValue::from(value));
    }
    request
}

/// Lets packets pass until that is there.
async fn passing<T>(link: &Metered, mut wanted: impl Future<Output = T> + Unpin) -> T {
    loop {
        tokio::select! {
            biased;
            there = &mut wanted => return there,
            () = link.step() => {}
        }
    }
}

/// Bytes that passed from the moment at which the payment's answer was there until the client had it, while an
/// image of priority `image_priority` comes.
async fn ahead_of_payment(
    transports: Transports,
    payment_priority: Priority,
    image_priority: Priority,
) -> usize {
    let bed = Bed::start().await;
    let link = Metered::start(bed.address("edge"), transports).await;
    let mut config = bed.config(transports);
    config.endpoints = vec![endpoint(link.address())];
    // The client's windows hold nothing back: the order is the gateway's.
    (config.limits.stream_window, config.limits.connection_window) = (8 << 20, 16 << 20);
    let client = Client::start(config).unwrap();
    online(&client).await;
    answer(&client, "Echo", "warm").await;

    link.hold();
    let start = link.passed();
    let caller = client.clone();
    let mut image = tokio::spawn(async move { caller.call(image(image_priority)).await });
    while link.passed() < start + BEGUN_BYTES {
        link.step().await;
    }
    let caller = client.clone();
    let payment = call("Echo", "pay").priority(payment_priority);
    let mut payment = tokio::spawn(async move { caller.call(payment).await });
    bed.backend.wait("Echo", |counts| counts.finished == 2).await;
    let before = link.passed();
    let paid = passing(&link, &mut payment).await;
    let ahead = link.passed() - before;
    assert_eq!(paid.unwrap().unwrap().into_grpc().unwrap(), "pay");
    link.release();
    let image = (&mut image).await.unwrap().unwrap().into_grpc().unwrap();
    assert_eq!(image.len(), IMAGE_BYTES);
    ahead
}

#[tokio::test]
async fn a_payment_is_not_queued_behind_an_image() {
    for transports in BOTH {
        let ahead = ahead_of_payment(transports, Priority::CRITICAL, Priority::BACKGROUND).await;
        assert!(ahead < AHEAD_BYTES_MAX, "{transports:?}: {ahead} bytes went before the payment");
    }
}

/// So the order above is that of urgency. On QUIC what is less urgent goes whenever the image has nothing ready.
#[tokio::test]
async fn what_is_not_urgent_waits() {
    let ahead = ahead_of_payment(Transports::Tcp, Priority::BACKGROUND, Priority::CRITICAL).await;
    assert!(ahead > IMAGE_BYTES / 2, "only {ahead} bytes went before");
}

/// Both answers are recorded when the connection is lost, and begin together on the next one.
async fn keeps_its_urgency(transports: Transports) {
    const PART_BYTES: usize = 16 << 10;
    const PAYMENT_PARTS: usize = 20;
    const IMAGE_PARTS: usize = 36;
    let bed = Bed::start().await;
    let link = Metered::start(bed.address("edge"), transports).await;
    let mut config = bed.config(transports);
    config.endpoints = vec![endpoint(link.address())];
    (config.limits.stream_window, config.limits.connection_window) = (8 << 20, 16 << 20);
    let client = Client::start(config).unwrap();
    online(&client).await;
    link.hold();
    let calls = [(IMAGE_PARTS, Priority::BACKGROUND), (PAYMENT_PARTS, Priority::CRITICAL)].map(
        |(parts, priority)| {
            let caller = client.clone();
            tokio::spawn(async move { caller.call(flood(parts, PART_BYTES, priority)).await })
        },
    );
    bed.backend.wait("Flood", |counts| counts.finished == 2).await;
    let [mut image, mut payment] = calls;

    client.reconnect();
    let again = async {
        state(&client, |state| !matches!(state, ConnectionState::Online { .. })).await;
        online(&client).await;
    };
    passing(&link, pin!(again)).await;
    let before = link.passed();
    let paid = passing(&link, &mut payment).await;
    let passed = link.passed() - before;
    assert_eq!(paid.unwrap().unwrap().messages.len(), PAYMENT_PARTS);
    link.release();
    assert_eq!((&mut image).await.unwrap().unwrap().messages.len(), IMAGE_PARTS);
    let ahead = passed.saturating_sub(PAYMENT_PARTS * PART_BYTES);
    assert!(
        ahead < AHEAD_BYTES_MAX,
        "{transports:?}: {ahead} bytes beside the payment's own passed before it was there"
    );
}

#[tokio::test]
async fn an_answer_that_goes_on_over_another_connection_keeps_its_urgency() {
    for transports in BOTH {
        keeps_its_urgency(transports).await;
    }
}

/// Less urgent ones go on while it waits for its reader.
#[tokio::test]
async fn an_urgent_answer_that_is_taken_slowly_holds_nobody_up() {
    for transports in BOTH {
        let bed = Bed::start().await;
        let client = bed.client(transports);
        online(&client).await;
        let (_sender, mut receiver) = client.stream(flood(5000, 16 << 10, Priority::CRITICAL));
        let mut image = pin!(client.call(flood(1, 1 << 20, Priority::BACKGROUND)));
        let mut taken = 0;
        let there = loop {
            tokio::select! {
                there = &mut image => break there,
                () = sleep(Duration::from_millis(5)) => {
                    taken += usize::from(receiver.message().await.unwrap().is_some());
                }
            }
        };
        assert_eq!(there.unwrap().into_grpc().unwrap().len(), 1 << 20, "{transports:?}");
        assert!(taken < 5000, "{transports:?}");
    }
}
