//! Who is measured: each server in front of each backend, and the backends themselves.

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use rustls::ClientConfig;

use super::{
    RequestsArgs,
    client::{Client, Http1, Link},
    crowd::{Crowd, Target},
    http2::Http2,
};
use crate::{
    beside::{
        ground::Ground,
        servers::{Answer, Listener, Own, Server, Towline, haproxy, nghttpx, nginx, own},
        table::TOWLINE,
    },
    plan::Protocol,
    wire::tls,
};

/// One server in one case.
pub(super) struct Seat {
    pub(super) case: &'static str,
    pub(super) name: &'static str,
    /// The backend that its latency is compared with.
    pub(super) backend: &'static str,
    /// `None` is the backend itself.
    pub(super) server: Option<Arc<Result<Server, String>>>,
    pub(super) is_link: bool,
    address: SocketAddr,
    tls: Option<Arc<ClientConfig>>,
    speaks: Speaks,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Speaks {
    Http1,
    Http2,
    Link,
    /// gRPC over the link.
    LinkGrpc,
}

/// The seats, and the backends that they need.
pub(super) struct Stage {
    pub(super) seats: Vec<Seat>,
    _backends: Vec<Server>,
}

const TO_HTTP1: &str = "-> HTTP/1.1";
const TO_H2C: &str = "-> h2c";
const TO_GRPC: &str = "-> gRPC";
const LINK: &str = "towline (link)";
/// A gRPC request's message.
const MESSAGE_BYTES: usize = 100;

/// Starts what the wanted cases need.
pub(super) fn seats(args: &RequestsArgs, ground: &Ground) -> Result<Stage, String> {
    let backend = |which| own(ground, which, ground.cores.load);
    let (plain, grpc) = (backend(Own::Light)?, backend(Own::LightGrpc)?);
    let files = &ground.certificates.ecdsa;
    let towline = |kind: &str, backend| {
        let mut towline = Towline::default();
        towline.listen(Listener { name: "edge", files: Some(files), quic: false, extra: "" })?;
        towline.forward_to(kind, backend);
        towline.start(ground)
    };
    let mut maker = Maker {
        seats: Vec::new(),
        h2: tls_of(ground, Protocol::Http2)?,
        link: tls_of(ground, Protocol::Link)?,
    };
    for (case, kind, answer) in [
        (TO_HTTP1, "http1", Answer::Backend(plain.address)),
        (TO_H2C, "http2", Answer::Http2Backend(plain.address)),
    ] {
        maker.direct(case, plain.address, if case == TO_H2C { Speaks::Http2 } else { Speaks::Http1 });
        let gateway = Arc::new(towline(kind, plain.address));
        maker.seat(case, TOWLINE, gateway.clone(), Speaks::Http2);
        maker.seat(case, LINK, gateway, Speaks::Link);
        if case == TO_HTTP1 {
            maker.seat(case, "nginx", Arc::new(nginx(ground, files, answer, "")), Speaks::Http2);
        }
        maker.seat(case, "haproxy", Arc::new(haproxy(ground, files, answer, "", "")), Speaks::Http2);
        maker.seat(case, "nghttpx", Arc::new(nghttpx(ground, files, answer)), Speaks::Http2);
    }
    maker.direct(TO_GRPC, grpc.address, Speaks::Http2);
    maker.seat(TO_GRPC, LINK, Arc::new(towline("grpc", grpc.address)), Speaks::LinkGrpc);
    let mut seats = maker.seats;
    let wanted: Vec<_> = seats
        .iter()
        .filter(|seat| seat.server.is_some() && args.common.wants(&seat.named()))
        .map(|seat| seat.case)
        .collect();
    seats.retain(|seat| match &seat.server {
        Some(_) => args.common.wants(&seat.named()),
        None => wanted.contains(&seat.case),
    });
    Ok(Stage { seats, _backends: vec![plain, grpc] })
}

struct Maker {
    seats: Vec<Seat>,
    h2: Arc<ClientConfig>,
    link: Arc<ClientConfig>,
}

impl Maker {
    fn direct(&mut self, case: &'static str, address: SocketAddr, speaks: Speaks) {
        let (name, backend) = ("backend", case);
        self.seats.push(Seat {
            case,
            name,
            backend,
            server: None,
            is_link: false,
            address,
            tls: None,
            speaks,
        });
    }

    fn seat(
        &mut self,
        case: &'static str,
        name: &'static str,
        server: Arc<Result<Server, String>>,
        speaks: Speaks,
    ) {
        // A server that did not start has no address; its row says why.
        let address = (*server).as_ref().map_or(([127, 0, 0, 1], 0).into(), |server| server.address);
        let is_link = matches!(speaks, Speaks::Link | Speaks::LinkGrpc);
        let tls = Some(Arc::clone(if is_link { &self.link } else { &self.h2 }));
        let server = Some(server);
        self.seats.push(Seat { case, name, backend: case, server, is_link, address, tls, speaks });
    }
}

fn tls_of(ground: &Ground, protocol: Protocol) -> Result<Arc<ClientConfig>, String> {
    tls::config(&ground.certificates.ca, protocol).map(Arc::new)
}

impl Seat {
    /// What `--only` picks by.
    fn named(&self) -> String {
        format!("{} {}", self.case, self.name)
    }

    /// Opens its connections.
    pub(super) fn crowd(&self, args: &RequestsArgs) -> Result<Crowd, String> {
        if let Some(server) = &self.server {
            server.as_ref().as_ref().map_err(String::clone)?;
        }
        let client_id = |index| format!("load-{}-{index}", crate::clock::now());
        let message = Bytes::from(vec![b'q'; MESSAGE_BYTES]);
        let clients = (0..args.connections).map(|index| match self.speaks {
            Speaks::Http1 => Client::Http1(Http1::default()),
            Speaks::Http2 => Client::Http2(Http2::new(self.tls.is_some())),
            Speaks::Link => Client::Link(Box::new(Link::new(client_id(index), None))),
            Speaks::LinkGrpc => Client::Link(Box::new(Link::new(client_id(index), Some(message.clone())))),
        });
        Crowd::open(&Target { address: self.address, tls: self.tls.clone() }, clients)
    }
}
