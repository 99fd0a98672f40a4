//! A TCP proxy that writes down what clients say first, and holds back what a test wants held.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, tcp::OwnedReadHalf, tcp::OwnedWriteHalf},
    sync::watch,
};

/// What passed on each connection, one after the other.
type Notes = watch::Sender<Vec<Vec<u8>>>;

/// What clients may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passage {
    /// Say everything.
    Free,
    /// Say what they can before the gateway has answered.
    FirstFlight,
    /// Say nothing; it is written down.
    Held,
    /// Not even connect.
    Shut,
}

/// The proxy; dropping it ends its connections.
pub struct Tape {
    address: SocketAddr,
    passage: watch::Sender<Passage>,
    cuts: watch::Sender<u64>,
    flights: Notes,
    answers: Notes,
}

impl Tape {
    pub async fn start(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (passage, cuts) = (watch::Sender::new(Passage::Free), watch::Sender::new(0));
        let (flights, answers) = (watch::Sender::new(Vec::new()), watch::Sender::new(Vec::new()));
        let (seen, gone) = (passage.subscribe(), cuts.subscribe());
        let written = (flights.clone(), answers.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if *seen.borrow() != Passage::Shut {
                    tokio::spawn(relay(client, upstream, seen.clone(), gone.clone(), written.clone()));
                }
            }
        });
        Self { address, passage, cuts, flights, answers }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn set(&self, passage: Passage) {
        self.passage.send_replace(passage);
    }

    /// Ends every connection of this moment.
    pub fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Connections taken so far.
    pub fn connections(&self) -> usize {
        self.flights.borrow().len()
    }

    /// The first flight of connection `place`, once something of it is there.
    pub async fn flight(&self, place: usize) -> Vec<u8> {
        noted(&self.flights, place).await
    }

    /// What the gateway said first on connection `place`, once it has said something.
    pub async fn answer(&self, place: usize) -> Vec<u8> {
        noted(&self.answers, place).await
    }
}

async fn noted(list: &Notes, place: usize) -> Vec<u8> {
    let there = |noted: &Vec<Vec<u8>>| noted.get(place).is_some_and(|bytes| !bytes.is_empty());
    list.subscribe().wait_for(there).await.unwrap()[place].clone()
}

async fn relay(
    client: TcpStream,
    upstream: SocketAddr,
    passage: watch::Receiver<Passage>,
    mut cuts: watch::Receiver<u64>,
    (flights, answers): (Notes, Notes),
) {
    cuts.mark_unchanged();
    let Ok(server) = TcpStream::connect(upstream).await else { return };
    let mut place = 0;
    flights.send_modify(|flights| {
        place = flights.len();
        flights.push(Vec::new());
    });
    answers.send_modify(|answers| answers.resize(answers.len().max(place + 1), Vec::new()));
    let answered = Arc::new(AtomicBool::new(false));
    let (client_in, client_out) = client.into_split();
    let (server_in, server_out) = server.into_split();
    let note = |bytes: &[u8]| flights.send_modify(|flights| flights[place].extend_from_slice(bytes));
    let note_answer = |bytes: &[u8]| answers.send_modify(|answers| answers[place] = bytes.to_vec());
    tokio::select! {
        _ = cuts.changed() => {}
        () = async {
            tokio::join!(
                up(client_in, server_out, passage, &answered, note),
                down(server_in, client_out, &answered, note_answer),
            );
        } => {}
    }
}

async fn up(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut passage: watch::Receiver<Passage>,
    answered: &AtomicBool,
    note: impl Fn(&[u8]),
) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let first = !answered.load(Ordering::SeqCst);
        if first {
            note(&buffer[..count]);
        }
        let passes = |passage: &Passage| match passage {
            Passage::Free => true,
            Passage::FirstFlight => first,
            Passage::Held | Passage::Shut => false,
        };
        if passage.wait_for(passes).await.is_err() || to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}

async fn down(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, answered: &AtomicBool, note: impl Fn(&[u8])) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if !answered.swap(true, Ordering::SeqCst) {
            note(&buffer[..count]);
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}

/// Sends a flight once more on a connection of its own, waits for the gateway's answer to it, and leaves.
pub async fn replay(gateway: SocketAddr, flight: &[u8]) {
    let mut stream = TcpStream::connect(gateway).await.unwrap();
    stream.write_all(flight).await.unwrap();
    let mut answer = [0; 1024];
    assert!(stream.read(&mut answer).await.unwrap() > 0, "the gateway answers a ClientHello");
}
