#![cfg(unix)]

use std::{
    net::{TcpStream as StdStream, UdpSocket as StdSocket},
    sync::mpsc,
};

use parking_lot::Mutex;
use tokio::{net::TcpListener, time::Instant};
use towline_protocols::policy::NetworkKind;

use super::*;
use crate::Endpoint;

/// What an app does with a socket.
type Step = Box<dyn Fn(SocketHandle<'_>) -> io::Result<()> + Send + Sync>;

struct App {
    step: Step,
    asked: Mutex<Vec<(SocketAddr, Network)>>,
}

impl BindSocket for App {
    fn bind_socket(&self, socket: SocketHandle<'_>, peer: SocketAddr, network: &Network) -> io::Result<()> {
        self.asked.lock().push((peer, network.clone()));
        (self.step)(socket)
    }
}

fn home() -> Network {
    Network::new(NetworkKind::Wifi, "home")
}

/// An app, and the sockets that it binds.
fn app(step: impl Fn(SocketHandle<'_>) -> io::Result<()> + Send + Sync + 'static) -> (Arc<App>, Sockets) {
    let app = Arc::new(App { step: Box::new(step), asked: Mutex::default() });
    let mut config = ClientConfig::plaintext(vec![Endpoint { host: "edge".into(), port: 1 }]);
    config.binder = Some(app.clone());
    (app, Makers::of(&config).on(&home()))
}

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

#[tokio::test]
async fn the_app_gets_the_socket_itself_before_it_is_connected() {
    const TTL: u32 = 7;
    let (app, sockets) = app(|socket| {
        let stream = StdStream::from(socket.try_clone_to_owned()?);
        assert_eq!(stream.peer_addr().unwrap_err().kind(), io::ErrorKind::NotConnected);
        stream.set_ttl(TTL)
    });
    let (_listener, peer) = listener().await;
    assert_eq!(sockets.tcp(peer).await.unwrap().ttl().unwrap(), TTL);
    assert_eq!(*app.asked.lock(), [(peer, home())]);
}

#[tokio::test]
async fn so_it_does_of_datagrams() {
    let (sender, receiver) = mpsc::channel();
    let (app, sockets) = app(move |socket| {
        let socket = StdSocket::from(socket.try_clone_to_owned()?);
        sender.send(socket.local_addr()?).map_err(io::Error::other)
    });
    for peer in ["127.0.0.1:9", "[::1]:9"] {
        let peer = peer.parse().unwrap();
        let socket = sockets.udp(peer).await.unwrap();
        assert_eq!(socket.local_addr().unwrap(), receiver.recv().unwrap());
        assert_eq!(app.asked.lock().pop(), Some((peer, home())));
    }
}

#[tokio::test]
async fn a_refusal_and_a_panic_are_errors_of_that_attempt() {
    let (listener, peer) = listener().await;
    let (_app, sockets) = app(|_| Err(io::Error::new(io::ErrorKind::NetworkDown, "gone for lunch")));
    let error = sockets.tcp(peer).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NetworkDown);
    assert!(error.to_string().contains("did not bind the socket to its network: gone for lunch"), "{error}");
    let error = sockets.udp(peer).await.map(drop).unwrap_err();
    assert!(error.to_string().contains("gone for lunch"), "{error}");

    let (_app, sockets) = app(|_| panic!("of the app's"));
    let error = sockets.tcp(peer).await.unwrap_err();
    assert!(error.to_string().contains("panic"), "{error}");
    let none = timeout(Duration::ZERO, listener.accept()).await;
    assert!(none.is_err(), "nothing was connected");
}

/// Whoever hangs holds the threads of a few sockets, and no attempt for longer than its time.
#[tokio::test(start_paused = true)]
async fn an_app_that_hangs_is_given_up_and_holds_few_threads() {
    let (release, held) = mpsc::channel::<()>();
    let held = Mutex::new(held);
    let (app, sockets) = app(move |_| {
        let _ = held.lock().recv();
        Ok(())
    });
    let peer = "127.0.0.1:9".parse().unwrap();
    let attempts: Vec<_> = (0..BINDS_MAX + 3)
        .map(|_| {
            let sockets = sockets.clone();
            tokio::spawn(async move { sockets.udp(peer).await.map(drop) })
        })
        .collect();
    while app.asked.lock().len() < BINDS_MAX {
        tokio::task::yield_now().await;
    }
    let began = Instant::now();
    tokio::time::advance(BIND_MAX).await;
    for attempt in attempts {
        let error = attempt.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(error.to_string().contains("within 5s"), "{error}");
    }
    assert_eq!((began.elapsed(), app.asked.lock().len()), (BIND_MAX, BINDS_MAX));
    drop(release);
    assert!(sockets.udp(peer).await.is_ok(), "it has come to its senses");
}
