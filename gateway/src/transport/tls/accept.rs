//! A server's TLS handshake on a socket: reads, lets the machine work, writes.

use std::{io, mem, sync::Arc, time::Duration};

use rustls::{HandshakeKind, ServerConfig, pki_types::CertificateDer};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout},
};
use towline_protocols::tls::{
    Alert, ClientHello, RecordSizes, hello_from_records,
    record::{ALERT, Header},
};

use super::{
    TlsStream,
    early::EarlyOutcome,
    handshake::{Failure, Machine, Progress},
    offload,
    stream::State,
    zero_rtt::ZeroRtt,
};

/// How long a refused peer may take to read its alert.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);
/// What a refused peer may still send meanwhile, octets.
const SCRAPPED_MAX: usize = 256 * 1024;

/// A connection whose ClientHello came, whole.
pub struct Hello {
    tcp: TcpStream,
    /// The records that carry it, and what came behind them.
    bytes: Vec<u8>,
}

/// Why there is no TLS connection. The peer was told.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The peer did, or sent, what it may not.
    #[error("{0}")]
    Peer(String),
    /// The socket failed or was closed.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// A handshake that came far enough.
pub struct Accepted {
    /// The connection.
    pub stream: TlsStream,
    /// What became of early data.
    pub early_data: EarlyOutcome,
    /// Whether a session was resumed.
    pub resumed: bool,
    /// The client's chain, verified now or when the session began.
    pub peer_certificates: Option<Vec<CertificateDer<'static>>>,
}

impl Hello {
    /// Reads until the ClientHello, of which `first_bytes` were read already, is whole. What waits for more holds
    /// no buffer but what came.
    ///
    /// # Errors
    /// It is none, or the socket ended.
    pub async fn read(mut tcp: TcpStream, first_bytes: &[u8]) -> Result<Self, HandshakeError> {
        let mut bytes = first_bytes.to_vec();
        let refused = loop {
            match whole(&bytes) {
                Ok(true) => return Ok(Self { tcp, bytes }),
                Ok(false) if tcp.read_buf(&mut bytes).await? == 0 => {
                    return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
                }
                Ok(false) => {}
                Err(refused) => break refused,
            }
        };
        let (alert, why) = refused;
        say_farewell(&mut tcp, &plaintext(alert)).await;
        Err(HandshakeError::Peer(why))
    }

    /// Lets `look` look at the ClientHello.
    pub fn look<T>(&self, look: impl FnOnce(&ClientHello<'_>) -> T) -> T {
        // Both were checked when the last byte of it came.
        let message = hello_from_records(&self.bytes).ok().flatten().unwrap_or_default();
        look(&ClientHello::parse(&message).unwrap_or_default())
    }

    /// Refuses the client.
    pub async fn refuse(mut self, alert: Alert, why: &impl ToString) -> HandshakeError {
        say_farewell(&mut self.tcp, &plaintext(alert)).await;
        HandshakeError::Peer(why.to_string())
    }

    /// Does the handshake, until its end or until there is early data to read, which may go on until `deadline`.
    ///
    /// # Errors
    /// It failed, and the peer was told why.
    pub async fn accept(
        self,
        config: Arc<ServerConfig>,
        sizes: RecordSizes,
        deadline: Instant,
    ) -> Result<Accepted, HandshakeError> {
        let mut machine = self.begin(config)?;
        let mut tcp = self.tcp;
        let mut progress = Progress::Blocked;
        let result = loop {
            let result;
            (machine, result) = advance(machine).await?;
            progress = match result {
                Ok(progress) => progress,
                Err(failure) => break Err(failure),
            };
            tcp.write_all(&machine.output).await?;
            machine.output = Vec::new();
            if progress != Progress::Blocked {
                break Ok(());
            }
            if let Err(failure) = receive(&mut tcp, &mut machine).await? {
                break Err(failure);
            }
        };
        match result {
            Ok(()) => accepted(tcp, *machine, progress, sizes, deadline),
            Err(failure) => {
                say_farewell(&mut tcp, &machine.output).await;
                Err(failure.into())
            }
        }
    }

    fn begin(&self, config: Arc<ServerConfig>) -> Result<Box<Machine>, HandshakeError> {
        let bytes = self.bytes.clone();
        Ok(Box::new(self.look(|hello| Machine::new(config, hello, bytes))?))
    }
}

/// Lets the machine work, elsewhere if that takes long.
async fn advance(
    mut machine: Box<Machine>,
) -> Result<(Box<Machine>, Result<Progress, Failure>), HandshakeError> {
    if !machine.is_costly() {
        let progress = machine.advance();
        return Ok((machine, progress));
    }
    let work = move || {
        let progress = machine.advance();
        (machine, progress)
    };
    offload::run(work).await.ok_or_else(bug)
}

/// Waits for more from the client, without a buffer.
async fn receive(tcp: &mut TcpStream, machine: &mut Machine) -> io::Result<Result<(), Failure>> {
    machine.release();
    loop {
        tcp.readable().await?;
        let input = match machine.input() {
            Ok(input) => input,
            Err(failure) => return Ok(Err(failure)),
        };
        match tcp.try_read(input.free()) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                input.fill(count);
                return Ok(Ok(()));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => machine.release(),
            Err(error) => return Err(error),
        }
    }
}

fn accepted(
    tcp: TcpStream,
    mut machine: Machine,
    progress: Progress,
    sizes: RecordSizes,
    deadline: Instant,
) -> Result<Accepted, HandshakeError> {
    let connection = machine.connection();
    let alpn = connection.alpn_protocol().map(<[u8]>::to_vec);
    let resumed = connection.handshake_kind() == Some(HandshakeKind::Resumed);
    let peer_certificates = connection.peer_certificates().map(|chain| chain.to_vec());
    let early_data = machine.early_outcome();
    let stream = match progress {
        Progress::Early => {
            TlsStream::zero_rtt(ZeroRtt::start(tcp, machine, deadline, sizes), alpn.as_deref())
        }
        Progress::Blocked | Progress::Done => {
            let early = mem::take(machine.early());
            let state = State::after(machine.finish()?, &[], early, sizes);
            TlsStream::open(tcp, state, alpn.as_deref())
        }
    };
    Ok(Accepted { stream, early_data, resumed, peer_certificates })
}

/// Whether the ClientHello is whole, and one.
fn whole(bytes: &[u8]) -> Result<bool, (Alert, String)> {
    match hello_from_records(bytes) {
        Err(error) => Err((error.alert(), error.to_string())),
        Ok(None) => Ok(false),
        Ok(Some(message)) => match ClientHello::parse(&message) {
            Err(error) => Err((error.alert(), error.to_string())),
            Ok(_) => Ok(true),
        },
    }
}

fn plaintext(alert: Alert) -> Vec<u8> {
    let message = alert.encode();
    [&Header { content_type: ALERT, length: message.len() }.encode()[..], &message].concat()
}

/// Sends the last bytes, and waits until the peer had a chance to read them: closing a socket with unread bytes
/// resets it, and a reset overtakes what was sent.
async fn say_farewell(tcp: &mut TcpStream, last: &[u8]) {
    let farewell = async {
        tcp.write_all(last).await?;
        tcp.shutdown().await?;
        let mut scrap = [0; 1024];
        let mut scrapped = 0;
        while scrapped < SCRAPPED_MAX {
            match tcp.read(&mut scrap).await? {
                0 => break,
                count => scrapped += count,
            }
        }
        io::Result::Ok(())
    };
    // The peer is on its way out either way.
    let _ = timeout(FAREWELL_TIMEOUT, farewell).await;
}

impl From<Failure> for HandshakeError {
    fn from(failure: Failure) -> Self {
        Self::Peer(failure.0)
    }
}

fn bug() -> HandshakeError {
    HandshakeError::Io(io::Error::other("the handshake ended by a bug"))
}
