use std::{future::pending, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{io::DuplexStream, time::sleep};

use crate::{Client, ClientConfig, Dial, Dialed, Dialing, Endpoint, FirstFlight};

/// Nobody is anywhere, but for a gateway that takes connections and says nothing.
#[derive(Default)]
struct Dialer {
    asked: Mutex<Vec<String>>,
    taken: Mutex<Vec<DuplexStream>>,
}

impl Dial for Dialer {
    fn dial(&self, endpoint: &Endpoint, _: FirstFlight) -> Dialing {
        self.asked.lock().push(endpoint.host.clone());
        if endpoint.host != "mute" {
            return Box::pin(pending());
        }
        let (near, far) = tokio::io::duplex(1 << 16);
        self.taken.lock().push(far);
        Box::pin(async { Ok(Dialed { stream: Box::new(near), early: 0 }) })
    }
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_was_mute_once_has_its_turn_again_where_nobody_is_at_the_others() {
    let dialer = Arc::new(Dialer::default());
    let endpoints = ["gone-1", "mute", "gone-2"].map(|host| Endpoint { host: host.into(), port: 443 });
    let mut config = ClientConfig::plaintext(endpoints.to_vec());
    config.dialer = Some(Arc::clone(&dialer) as _);
    config.seed = Some(1);
    // As where a gateway may be running a call: behind others one has no time to answer in.
    config.strategies.race.gateway_staggers = 100;
    let _client = Client::start(config).unwrap();
    sleep(Duration::from_secs(3600)).await;
    let asked = dialer.asked.lock();
    let times = asked.iter().filter(|host| *host == "mute").count();
    assert!(times > 5, "{asked:?}");
}
