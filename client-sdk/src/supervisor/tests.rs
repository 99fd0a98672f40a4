use std::{
    future::pending,
    sync::{Arc, OnceLock},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{io::DuplexStream, time::sleep};

use crate::{Client, ClientConfig, Dial, Dialed, Dialing, Endpoint, FirstFlight, Network, NetworkKind};

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

fn home() -> Network {
    Network::new(NetworkKind::Wifi, "home")
}

/// A gateway that is reached just as the device comes home.
#[derive(Default)]
struct Arrival {
    client: OnceLock<Client>,
    dialed: Mutex<Vec<Network>>,
    taken: Mutex<Vec<DuplexStream>>,
}

impl Dial for Arrival {
    fn dial(&self, _: &Endpoint, _: FirstFlight) -> Dialing {
        unreachable!("the network is told")
    }

    fn dial_on(&self, network: &Network, _: &Endpoint, _: FirstFlight) -> Dialing {
        self.dialed.lock().push(network.clone());
        let (near, far) = tokio::io::duplex(1 << 16);
        self.taken.lock().push(far);
        if *network != home() {
            self.client.get().unwrap().network_changed(home());
        }
        Box::pin(async { Ok(Dialed { stream: Box::new(near), early: 0 }) })
    }
}

#[tokio::test(start_paused = true)]
async fn a_network_that_changes_as_a_connection_is_made_is_not_missed() {
    let dialer = Arc::new(Arrival::default());
    let mut config = ClientConfig::plaintext(vec!["edge:443".parse().unwrap()]);
    config.dialer = Some(Arc::clone(&dialer) as _);
    let client = Client::start(config).unwrap();
    assert!(dialer.client.set(client).is_ok());
    sleep(Duration::from_secs(3)).await;
    assert_eq!(*dialer.dialed.lock(), [Network::default(), home()]);
}
