//! Starts a gateway on its settings and ends it: what `main` and in-process tests call.

use std::{mem, net::SocketAddr, sync::Arc};

use parking_lot::Mutex;
use tokio::{task::JoinHandle, time::Instant};

use crate::{
    control::{admin::Admin, certificates, experiments, policy},
    dictionaries,
    gateway::{Gateway, StartError},
    listener, mqtt, session, upstream, withdrawal,
};

/// A running gateway. Dropping it leaves the gateway running; call [`Serving::drain`] to end it.
pub struct Serving {
    /// The shared state.
    pub gateway: Arc<Gateway>,
    /// What listens where, in the order of the settings.
    pub listeners: Vec<Bound>,
    /// The admin listener's address.
    pub admin: SocketAddr,
    /// The accept loops.
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

/// The sockets of one listener; TCP and UDP share one port number, also when port 0 was asked for.
#[derive(Clone, Debug)]
pub struct Bound {
    /// Name in the configuration.
    pub name: Arc<str>,
    /// The address.
    pub address: SocketAddr,
    /// Whether TCP listens there.
    pub tcp: bool,
    /// Whether QUIC listens there.
    pub quic: bool,
}

/// Opens every listener of the gateway's settings and starts to serve.
///
/// # Errors
/// Names the listener that could not be opened; nothing listens then.
pub async fn serve(gateway: Arc<Gateway>) -> Result<Serving, StartError> {
    policy::restore(&gateway)?;
    let snapshot = gateway.snapshot.load_full();
    let admin = Admin::bind(snapshot.settings.admin.bind).await?;
    let open = listener::open(&snapshot.settings.listeners, &gateway)?;
    let listeners = open.iter().map(|open| open.bound.clone()).collect();
    let tasks = open.into_iter().flat_map(|listener| listener.serve(&gateway)).collect();
    tokio::spawn(session::sweep(Arc::downgrade(&gateway)));
    tokio::spawn(certificates::watch(Arc::downgrade(&gateway)));
    tokio::spawn(dictionaries::watch(Arc::downgrade(&gateway)));
    tokio::spawn(experiments::watch(Arc::downgrade(&gateway)));
    tokio::spawn(upstream::watch(Arc::downgrade(&gateway)));
    tokio::spawn(withdrawal::watch_keys(Arc::downgrade(&gateway)));
    mqtt::ensure_watched(&gateway);
    let address = admin.address;
    admin.serve(Arc::clone(&gateway));
    Ok(Serving { gateway, listeners, admin: address, tasks: Mutex::new(tasks) })
}

impl Serving {
    /// The address of the listener called `name`.
    pub fn address(&self, name: &str) -> Option<SocketAddr> {
        self.listeners.iter().find(|bound| &*bound.name == name).map(|bound| bound.address)
    }

    /// Stops accepting, tells clients to go elsewhere, lets running requests finish within
    /// `drain_timeout`, and closes the rest. Returns how many connections were closed at the deadline.
    pub async fn drain(&self) -> usize {
        let timeout = self.gateway.snapshot().settings.drain_timeout;
        self.gateway.metrics.drains.inc();
        self.gateway.drain.begin(Instant::now() + timeout);
        let closed = self.gateway.drain.finished().await;
        let tasks = mem::take(&mut *self.tasks.lock());
        for task in tasks {
            // Cancelled or panicked, it has nothing more to say.
            let _ = task.await;
        }
        self.gateway.upstreams.close().await;
        experiments::write(&self.gateway);
        if let Err(error) = self.gateway.store.barrier().await {
            tracing::error!(%error, "what clients were still to get could not be stored");
        }
        closed
    }
}
