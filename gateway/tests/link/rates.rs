//! Apps that publish faster than their listener admits.

use futures_util::future::join_all;
use towline_client::Client;
use towline_gateway::settings::Rates;

use crate::bed::{Bed, online};

fn hits(bed: &Bed) -> u64 {
    bed.gateway().metrics.limit_hits.with_label_values(&["listeners.rate.device_messages"]).get()
}

async fn limited(rate: Rates) -> (Bed, Client) {
    let bed = Bed::with(|settings| {
        for listener in &mut settings.listeners {
            listener.rate = rate;
        }
    })
    .await;
    let client = Client::start(bed.plain(bed.address("plain"))).unwrap();
    online(&client).await;
    (bed, client)
}

#[tokio::test]
async fn what_an_app_publishes_waits_for_its_rate_and_is_taken() {
    let (bed, client) = limited(Rates { device_messages: 1, ..Rates::default() }).await;
    let mut pushes = client.pushes();
    client.subscribe("t").await.unwrap();
    // All at once, so that it is too fast however slow the machine is.
    let published = join_all(["1", "2", "3"].map(|payload| client.publish("t", payload))).await;
    assert!(published.iter().all(Result::is_ok));
    for payload in ["1", "2", "3"] {
        assert_eq!(&pushes.next().await.unwrap().payload[..], payload.as_bytes());
    }
    assert!(hits(&bed) >= 1);
}
