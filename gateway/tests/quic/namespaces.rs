//! A phone and a gateway in network namespaces, with two networks between them.
//!
//! ```text
//!  phone 10.77.0.2 ──── veth ──── 10.77.0.1 gateway
//!        10.78.0.2 ──── veth ──── 10.78.0.1    │ 10.99.0.1 on its loopback
//! ```

use std::{fs::File, net::Ipv4Addr, process::Command, thread};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::bed::{Bed, client, echo};

const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);

/// Two namespaces; gone with the value.
struct Networks {
    phone: String,
    edge: String,
}

impl Networks {
    /// Says why not, where the machine does not let this test make namespaces.
    fn make() -> Result<Self, String> {
        let id = std::process::id();
        let networks = Self { phone: format!("towline-phone-{id}"), edge: format!("towline-edge-{id}") };
        let (phone, edge) = (&networks.phone, &networks.edge);
        ip(&format!("netns add {phone}"))?;
        ip(&format!("netns add {edge}"))?;
        for net in [77, 78] {
            let (near, far) = (format!("tlp{net}x{}", id % 10_000), format!("tle{net}x{}", id % 10_000));
            ip(&format!("link add {near} netns {phone} type veth peer name {far} netns {edge}"))?;
            ip(&format!("-n {phone} address add 10.{net}.0.2/24 dev {near}"))?;
            ip(&format!("-n {edge} address add 10.{net}.0.1/24 dev {far}"))?;
            ip(&format!("-n {phone} link set {near} up"))?;
            ip(&format!("-n {edge} link set {far} up"))?;
        }
        ip(&format!("-n {edge} address add {GATEWAY}/32 dev lo"))?;
        ip(&format!("-n {edge} link set lo up"))?;
        ip(&format!("-n {phone} link set lo up"))?;
        networks.attach(77)?;
        Ok(networks)
    }

    /// The phone reaches the gateway by network 10.`net`.0.0 from now on, and by no other.
    fn attach(&self, net: u8) -> Result<(), String> {
        ip(&format!("-n {} route replace {GATEWAY}/32 via 10.{net}.0.1", self.phone))
    }

    /// The phone's address in a network is gone.
    fn leave(&self, net: u8) -> Result<(), String> {
        let (phone, id) = (&self.phone, std::process::id() % 10_000);
        ip(&format!("-n {phone} address del 10.{net}.0.2/24 dev tlp{net}x{id}"))
    }
}

impl Drop for Networks {
    fn drop(&mut self) {
        for namespace in [&self.phone, &self.edge] {
            let _ = ip(&format!("netns delete {namespace}"));
        }
    }
}

fn ip(arguments: &str) -> Result<(), String> {
    let output = Command::new("ip").args(arguments.split(' ')).output();
    let output = output.map_err(|error| format!("iproute2 is needed: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("ip {arguments}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

/// Runs on a thread of its own, whose sockets are the namespace's.
fn inside<T: Send + 'static>(
    namespace: &str,
    what: impl Future<Output = T> + Send + 'static,
) -> thread::JoinHandle<T> {
    let handle = File::open(format!("/run/netns/{namespace}")).unwrap();
    thread::spawn(move || {
        move_into_link_name_space(std::os::fd::AsFd::as_fd(&handle), Some(LinkNameSpaceType::Network))
            .unwrap();
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(what)
    })
}

/// What is counted at the end: moves of connections, and handshakes.
struct Counted {
    migrations: u64,
    handshakes: u64,
}

/// A gateway that ends when the sender is dropped.
fn gateway(
    networks: &Networks,
) -> (std::net::SocketAddr, Vec<u8>, tokio::sync::oneshot::Sender<()>, thread::JoinHandle<Counted>) {
    let (tell, told) = std::sync::mpsc::channel();
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let running = inside(&networks.edge, async move {
        let bed = Bed::on(GATEWAY.into(), |_| {}).await;
        tell.send((bed.address(), bed.ca.clone())).unwrap();
        let _ = ended.await;
        let metrics = &bed.gateway().metrics;
        Counted {
            migrations: metrics.quic_migrations.with_label_values(&["edge"]).get(),
            handshakes: metrics.handshakes.with_label_values(&["edge", "ok"]).get(),
        }
    });
    let (address, ca) = told.recv().unwrap();
    (address, ca, end, running)
}

/// The client's address changes in the middle of a call; `told` by the app, or noticed by nobody.
fn check(told: bool) {
    let networks = match Networks::make() {
        Ok(networks) => networks,
        Err(why) => {
            return eprintln!("SKIPPED: no network namespaces here ({why}); run as root with iproute2");
        }
    };
    let (address, ca, end, running) = gateway(&networks);
    let phone = networks.phone.clone();
    let calls = inside(&phone, async move {
        let client = client(address, ca);
        assert_eq!(echo(&client, "before", 0).await, "before");
        let caller = client.clone();
        let during = tokio::spawn(async move { echo(&caller, "during", 1500).await });
        // The request is with the gateway when its answer to another one is here.
        assert_eq!(echo(&client, "sent", 0).await, "sent");
        networks.attach(78).unwrap();
        networks.leave(77).unwrap();
        if told {
            client.network_changed(towline_client::Network::default());
        } else {
            assert_eq!(echo(&client, "after", 0).await, "after");
        }
        let during = during.await.unwrap();
        drop(client);
        (during, networks)
    });
    let (during, _networks) = calls.join().unwrap();
    drop(end);
    let counted = running.join().unwrap();
    assert_eq!(during, "during");
    assert_eq!((counted.migrations, counted.handshakes), (1, 1), "one move, and the same connection");
}

#[test]
fn a_call_completes_when_the_address_changes_under_the_client() {
    check(false);
}

#[test]
fn a_call_completes_when_the_app_says_that_the_network_changed() {
    check(true);
}
