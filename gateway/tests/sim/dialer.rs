//! The ways from an app to the gateways, and who listens on them to send again what they heard.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use quinn::AsyncUdpSocket;
use tokio::{io::AsyncWriteExt as _, time::sleep};
use towline_client::{BindUdp, Dial, Dialed, Dialing, Endpoint, FirstFlight, Network, ShortCalls};
use towline_gateway::transport::Handshake;

use crate::{
    determinism,
    lists::Place,
    network::{self, Sees, Tap},
    world::World,
};

/// Connections with POSTs that somebody remembers.
const POSTS_REMEMBERED: usize = 32;
/// How long somebody who sends a thing again waits for what comes of it.
const REPLAY_LASTS: Duration = Duration::from_secs(5);

/// The ways of one life of an app.
#[derive(Clone)]
pub(crate) struct Dialer {
    pub(crate) world: Arc<World>,
    pub(crate) client: usize,
    pub(crate) life: u32,
}

impl BindUdp for Dialer {
    fn bind_udp(&self, gateway: SocketAddr) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        self.bind_udp_on(&Network::default(), gateway)
    }

    fn bind_udp_on(&self, network: &Network, gateway: SocketAddr) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        if !self.world.is_alive(self.life) {
            return Err(io::ErrorKind::NetworkUnreachable.into());
        }
        self.goes_to(self.knocks(network, &gateway.ip().to_string()), false);
        self.world.note("a UDP socket is bound");
        Ok(self.world.datagrams.bind_client())
    }
}

impl Dial for Dialer {
    fn dial(&self, endpoint: &Endpoint, flight: FirstFlight) -> Dialing {
        self.dial_on(&Network::default(), endpoint, flight)
    }

    fn dial_on(&self, network: &Network, endpoint: &Endpoint, flight: FirstFlight) -> Dialing {
        let (dialer, network, host) = (self.clone(), network.clone(), endpoint.host.clone());
        Box::pin(async move {
            match dialer.knocks(&network, &host) {
                Some(gateway) => dialer.dial(gateway, flight).await,
                None => dialer.finds_nobody(&host).await,
            }
        })
    }

    fn carries_http(&self) -> bool {
        self.world.plan.posts != ShortCalls::Off
    }

    fn dial_http(&self, endpoint: &Endpoint) -> Dialing {
        self.dial_http_on(&Network::default(), endpoint)
    }

    fn dial_http_on(&self, network: &Network, endpoint: &Endpoint) -> Dialing {
        let (dialer, network, host) = (self.clone(), network.clone(), endpoint.host.clone());
        Box::pin(async move {
            match dialer.knocks(&network, &host) {
                Some(gateway) => dialer.dial_http(gateway).await,
                None => dialer.finds_nobody(&host).await,
            }
        })
    }
}

impl Dialer {
    /// Somebody is wanted there. The gateway that it is, if anybody is there.
    fn knocks(&self, network: &Network, host: &str) -> Option<usize> {
        let place = Place::of(host);
        self.world.knocks(self.client, self.life, network.kind, place);
        place.gateway()
    }

    /// Somewhere where no gateway is.
    async fn finds_nobody(&self, host: &str) -> io::Result<Dialed> {
        sleep(2 * self.world.plan.quality.delay).await;
        match Place::of(host) {
            Place::Closed => Err(io::ErrorKind::ConnectionRefused.into()),
            _ => std::future::pending().await,
        }
    }

    /// TCP's and TLS' round trips, and early data where chance wants it.
    async fn dial(&self, gateway: usize, flight: FirstFlight) -> io::Result<Dialed> {
        let world = &self.world;
        self.goes_to(Some(gateway), false);
        world.state().model.dials(self.client, determinism::elapsed());
        let round_trip = 2 * world.plan.quality.delay;
        sleep(round_trip).await;
        self.lives().await;
        if world.state().link_blocked {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let early = if world.draw() < world.plan.early { flight() } else { None };
        let Some(early) = early else {
            sleep(round_trip).await;
            return dialed(self.connect(gateway, Handshake::complete())?, 0);
        };
        world.note(format!("{} bytes fly", early.len()));
        // Also where nobody takes it: the app cannot know.
        world.state().model.carried.push((self.client, determinism::elapsed()));
        world.remember_flight(gateway, &early);
        let odds = world.draw();
        if odds < 0.2 {
            // The gateway does not take it, and the handshake goes on.
            let lost = (self.client, determinism::elapsed());
            world.state().model.flights_lost.push(lost);
            sleep(round_trip).await;
            return dialed(self.connect(gateway, Handshake::complete())?, 0);
        }
        let (completion, handshake) = Handshake::pending();
        let mut stream = self.connect(gateway, handshake)?;
        stream.write_all(&early).await?;
        sleep(round_trip).await;
        if odds < 0.4 {
            // The handshake breaks: nobody knows what became of the flight.
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let late = world.draw_time(round_trip);
        tokio::spawn(async move {
            sleep(late).await;
            completion.complete();
        });
        dialed(stream, early.len())
    }

    /// The same for POSTs, which are no early data.
    async fn dial_http(&self, gateway: usize) -> io::Result<Dialed> {
        let world = &self.world;
        self.goes_to(Some(gateway), true);
        sleep(4 * world.plan.quality.delay).await;
        self.lives().await;
        let (client, server, cutter) =
            network::connection(world.plan.quality, &mut world.state().chance.fork());
        let mut state = world.state();
        let Some((_, held)) = &mut state.gateways[gateway] else {
            return Err(io::ErrorKind::ConnectionRefused.into());
        };
        held.serve_http(server);
        let tap = Tap::default();
        state.posts.push((gateway, Arc::clone(&tap)));
        if state.posts.len() > POSTS_REMEMBERED {
            state.posts.remove(0);
        }
        state.connections.retain(|(_, cutter)| !cutter.is_over());
        state.connections.push((gateway, cutter));
        state.note(&format!("connected to {gateway} for POSTs"));
        drop(state);
        dialed(client.tapped(tap), 0)
    }

    /// A connection of the link.
    fn connect(&self, gateway: usize, handshake: Handshake) -> io::Result<network::End> {
        let mut state = self.world.state();
        if !state.living_apps.contains(&self.life) {
            return Err(io::ErrorKind::NetworkUnreachable.into());
        }
        let (client, server, cutter) = network::connection(self.world.plan.quality, &mut state.chance);
        let Some((_, held)) = &mut state.gateways[gateway] else {
            return Err(io::ErrorKind::ConnectionRefused.into());
        };
        held.serve(server, handshake);
        state.model.carried.push((self.client, determinism::elapsed()));
        state.connections.retain(|(_, cutter)| !cutter.is_over());
        state.connections.push((gateway, cutter));
        state.note(&format!("connected to {gateway}"));
        Ok(client)
    }

    fn goes_to(&self, gateway: Option<usize>, for_post: bool) {
        let at = determinism::elapsed();
        if let Some(gateway) = gateway {
            self.world.state().model.goes_to(self.client, gateway, for_post, at);
        }
    }

    /// What an app waits for that has died never comes.
    async fn lives(&self) {
        if !self.world.is_alive(self.life) {
            std::future::pending().await
        }
    }
}

fn dialed(stream: network::End, early: usize) -> io::Result<Dialed> {
    Ok(Dialed { stream: Box::new(stream), early })
}

impl World {
    fn is_alive(&self, life: u32) -> bool {
        self.state().living_apps.contains(&life)
    }

    fn remember_flight(&self, gateway: usize, flight: &Bytes) {
        let mut state = self.state();
        let life = state.gateways[gateway].as_ref().map(|(life, _)| *life);
        state.flights.extend(life.map(|life| (life, flight.clone())));
    }

    /// The network lets POSTs alone pass, or all.
    pub(crate) fn block_link(&self, blocked: bool) {
        self.state().link_blocked = blocked;
        self.datagrams.block(blocked);
        if blocked {
            self.cut_all(Sees::Reset, Sees::Reset);
        }
    }

    /// Somebody sends again what they have heard.
    pub(crate) fn replay(self: &Arc<Self>) {
        if self.plan.posts == ShortCalls::Off || self.draw() < 0.5 {
            self.replay_flight();
        } else {
            self.replay_posts();
        }
    }

    /// An earlier first flight, whose handshake will never be complete.
    fn replay_flight(self: &Arc<Self>) {
        let mut state = self.state();
        let state = &mut *state;
        let mut taken = Vec::new();
        for (place, gateway) in state.gateways.iter().enumerate() {
            let Some((life, _)) = gateway else { continue };
            taken
                .extend(state.flights.iter().filter(|(of, _)| of == life).map(|(_, it)| (place, it.clone())));
        }
        let Some((place, flight)) = state.chance.choice(taken) else { return };
        let (mut stream, server, _) = network::connection(self.plan.quality, &mut state.chance);
        let (completion, handshake) = Handshake::pending();
        let Some((_, gateway)) = &mut state.gateways[place] else { return };
        gateway.serve(server, handshake);
        state.note(&format!("a flight of {} bytes is sent again", flight.len()));
        tokio::spawn(async move {
            // It may be cut off any time.
            let _ = stream.write_all(&flight).await;
            sleep(REPLAY_LASTS).await;
            drop((stream, completion));
        });
    }

    /// The POSTs of a connection, to where they went.
    fn replay_posts(self: &Arc<Self>) {
        let mut state = self.state();
        let state = &mut *state;
        let Some((place, tap)) = state.chance.choice(&state.posts) else { return };
        let (place, posts) = (*place, tap.lock().unwrap().clone());
        let (mut stream, server, cutter) = network::connection(self.plan.quality, &mut state.chance);
        let Some((_, gateway)) = &mut state.gateways[place] else { return };
        gateway.serve_http(server);
        state.connections.push((place, cutter));
        state.note(&format!("POSTs of {} bytes are sent again", posts.len()));
        tokio::spawn(async move {
            let _ = stream.write_all(&posts).await;
            sleep(REPLAY_LASTS).await;
            drop(stream);
        });
    }
}
