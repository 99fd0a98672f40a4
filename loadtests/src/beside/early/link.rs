//! The SDK's first answer, on a first connection and after a break, through a relay that delays.

use std::{net::SocketAddr, time::Duration};

use tokio::time::{Instant, sleep, timeout};
use towline_client::{CallRequest, Client, ClientConfig, ConnectionState, Endpoint, Transports};

use super::relay::Relay;

/// Long beside what the machine adds, so that dividing by it counts round trips.
const ONE_WAY: Duration = Duration::from_millis(150);
const TIMEOUT: Duration = Duration::from_secs(20);
/// Tickets come after the handshake, and the acknowledgement of the first answer goes.
const SETTLE: u32 = 6;

/// Round trips of the first connection and of the one after a break, TCP's handshake included; and whether the
/// latter had early data.
pub(super) fn round_trips(server: SocketAddr, roots_pem: Vec<u8>) -> Result<(f64, f64, bool), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| error.to_string())?.block_on(Box::pin(measure(server, roots_pem)))
}

async fn measure(server: SocketAddr, roots_pem: Vec<u8>) -> Result<(f64, f64, bool), String> {
    let relay = Relay::start(server, ONE_WAY).await.map_err(|error| error.to_string())?;
    let endpoint = Endpoint { host: relay.address.ip().to_string(), port: relay.address.port() };
    let mut config = ClientConfig::new(vec![endpoint], roots_pem);
    config.transports = Transports::Tcp;
    let client = Client::start(config).map_err(|error| error.to_string())?;
    let first = answered(&client, &relay).await?;
    sleep(ONE_WAY * SETTLE).await;
    relay.cut();
    let mut states = client.states();
    let offline = states.wait_for(|state| matches!(state, ConnectionState::Offline { .. }));
    timeout(TIMEOUT, offline).await.map_err(|_| "still online")?.map_err(|error| error.to_string())?;
    // The call waits for a line when the network comes back, as one does that an app makes in a tunnel.
    let network = async {
        relay.restore();
        client.network_changed(towline_client::Network::default());
        Ok(())
    };
    let (again, ()) = tokio::try_join!(answered(&client, &relay), network)?;
    let early = matches!(&*client.states().borrow(), ConnectionState::Online { early_data: true, .. });
    Ok((first, again, early))
}

async fn answered(client: &Client, relay: &Relay) -> Result<f64, String> {
    let call = client.call(CallRequest::http(http::Method::GET, "/bytes/100", bytes::Bytes::new()));
    timeout(TIMEOUT, call).await.map_err(|_| "no answer")?.map_err(|error| error.to_string())?;
    let took = Instant::now() - relay.accepted().ok_or("no connection")?;
    Ok(1.0 + (took.as_secs_f64() / (2.0 * ONE_WAY.as_secs_f64())).round())
}
