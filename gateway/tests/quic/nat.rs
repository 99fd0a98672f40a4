//! What stands between a client and the gateway.

use std::{net::SocketAddr, sync::Arc};

use tokio::{
    net::UdpSocket,
    sync::{Mutex, Notify},
};

/// Forwards between one client and the gateway, from a port that can change.
pub struct Nat {
    inside: Arc<UdpSocket>,
    outside: Mutex<Arc<UdpSocket>>,
    client: Mutex<Option<SocketAddr>>,
    gateway: SocketAddr,
    rebound: Notify,
    /// What the client has sent.
    sent: Mutex<Vec<Vec<u8>>>,
}

async fn socket() -> Arc<UdpSocket> {
    Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap())
}

impl Nat {
    pub async fn start(gateway: SocketAddr) -> Arc<Self> {
        let (inside, outside) = (socket().await, Mutex::new(socket().await));
        let nat = Self {
            inside,
            outside,
            client: Mutex::new(None),
            gateway,
            rebound: Notify::new(),
            sent: Mutex::default(),
        };
        let nat = Arc::new(nat);
        tokio::spawn(Arc::clone(&nat).out());
        tokio::spawn(Arc::clone(&nat).back());
        nat
    }

    /// Where clients find the gateway.
    pub fn address(&self) -> SocketAddr {
        self.inside.local_addr().unwrap()
    }

    /// What the client has sent since the last time.
    pub async fn take_sent(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut *self.sent.lock().await)
    }

    /// From now on the client is seen at another port; what is sent to the old one is lost.
    pub async fn rebind(&self) {
        *self.outside.lock().await = socket().await;
        self.rebound.notify_one();
    }

    async fn out(self: Arc<Self>) {
        let mut datagram = vec![0; 65536];
        while let Ok((length, from)) = self.inside.recv_from(&mut datagram).await {
            *self.client.lock().await = Some(from);
            self.sent.lock().await.push(datagram[..length].to_vec());
            let outside = Arc::clone(&*self.outside.lock().await);
            let _ = outside.send_to(&datagram[..length], self.gateway).await;
        }
    }

    async fn back(self: Arc<Self>) {
        let mut datagram = vec![0; 65536];
        loop {
            let outside = Arc::clone(&*self.outside.lock().await);
            tokio::select! {
                Ok((length, _)) = outside.recv_from(&mut datagram) => {
                    if let Some(client) = *self.client.lock().await {
                        let _ = self.inside.send_to(&datagram[..length], client).await;
                    }
                }
                () = self.rebound.notified() => {}
            }
        }
    }
}
