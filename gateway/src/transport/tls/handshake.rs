//! A server's handshake, without I/O: the client's bytes go in, the answer is asked for. rustls does the
//! handshake; what it leaves open is done here.
//!
//! ```text
//!  ClientHello ──> rustls: ServerHello ... Finished ──> from here on this side's records are sealed here,
//!                    │                                    and rustls' own (tickets, alerts) sealed again
//!                    ├──> [early data] ──> read before the handshake ends
//!  Finished    ──> rustls: tickets ──> Done: the record layer takes both directions over
//! ```
//!
//! rustls is shown one record at a time, so that it never opens one that is the record layer's.

use std::{io::IoSlice, sync::Arc};

use rustls::{
    Error, PeerMisbehaved, ServerConfig, SupportedCipherSuite, Tls13CipherSuite,
    server::{ServerConnectionData, UnbufferedServerConnection},
    unbuffered::{ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus},
};
use towline_protocols::tls::{
    Alert, ClientHello,
    record::{
        ALERT, APPLICATION_DATA, CHANGE_CIPHER_SPEC, HANDSHAKE, HEADER_BYTES, Header, PROTECTED_BYTES_MAX,
    },
};

use super::{
    buffers::{BUFFER_BYTES, Buffer},
    early::{self, EarlyData, EarlyOutcome},
    keys,
    record::{Direction, Gather, OVERHEAD_BYTES, Records},
    secrets::{self, Secrets},
};

/// A client's second flight with less than this is a Finished, which costs next to nothing to process.
const CHEAP_RECORD_BYTES: usize = 128;

/// One handshake.
pub(super) struct Machine {
    connection: UnbufferedServerConnection,
    /// What the client sent and rustls did not use up.
    input: Option<Box<Buffer>>,
    /// How much of `input` rustls was shown: whole records.
    shown: usize,
    /// To be sent, in this order.
    pub(super) output: Vec<u8>,
    /// Early data that nobody read yet.
    early: Vec<u8>,
    early_data: EarlyData,
    secrets: Secrets,
    /// Since the server's Finished, if the record layer knows the suite.
    sealer: Option<Sealer>,
}

/// This side's records, while rustls believes that it writes them.
struct Sealer {
    suite: &'static Tls13CipherSuite,
    direction: Direction,
    /// What rustls sealed under the same secret; none of it was sent, so no nonce is used twice.
    rustls_sequence: u64,
}

/// How far the handshake came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// It goes on when the client sends more.
    Blocked,
    /// As before, and early data can be read.
    Early,
    /// It is over; [`Machine::finish`] yields the connection.
    Done,
}

/// The handshake failed. Its alert, if the client deserves one, stands at the end of the output.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Failure(pub(super) String);

/// What a handshake leaves behind.
pub(super) enum Connection {
    /// TLS 1.3 with a suite that the record layer knows.
    Own(Records),
    /// Anything else stays with rustls.
    Kept(Box<UnbufferedServerConnection>),
}

/// A handshake that is over.
pub(super) struct Finished {
    pub(super) connection: Connection,
    /// What the client sent behind its Finished.
    pub(super) input: Option<Box<Buffer>>,
}

impl Machine {
    /// Begins with the records that hold `hello`.
    ///
    /// # Errors
    /// `config` cannot be used.
    pub(super) fn new(
        config: Arc<ServerConfig>,
        hello: &ClientHello<'_>,
        input: Vec<u8>,
    ) -> Result<Self, Failure> {
        let early_data = EarlyData::offered(hello, config.max_early_data_size);
        let connection = UnbufferedServerConnection::new(config).map_err(|error| failure(&error))?;
        Ok(Self {
            connection,
            input: Buffer::holding(input),
            shown: 0,
            output: Vec::new(),
            early: Vec::new(),
            early_data,
            secrets: Secrets::default(),
            sealer: None,
        })
    }

    /// Goes on with what the client sent so far.
    ///
    /// # Errors
    /// The handshake is over for good; what stands in `output` should still be sent.
    pub(super) fn advance(&mut self) -> Result<Progress, Failure> {
        loop {
            self.process()?;
            if !self.connection.is_handshaking() {
                return Ok(Progress::Done);
            }
            if !self.show_next_record()? {
                let early = !self.early.is_empty();
                return Ok(if early { Progress::Early } else { Progress::Blocked });
            }
        }
    }

    /// Whether [`Machine::advance`] may take long: it makes or verifies a signature, or a shared secret.
    pub(super) fn is_costly(&self) -> bool {
        let next = self.input.as_ref().map_or(0, |input| input.filled().len() - self.shown);
        !self.secrets.are_known() || next > CHEAP_RECORD_BYTES
    }

    /// Where to put what the client sends; never empty.
    ///
    /// # Errors
    /// A message of the client is longer than a buffer.
    pub(super) fn input(&mut self) -> Result<&mut Box<Buffer>, Failure> {
        if self.input.as_ref().is_some_and(|input| input.filled().len() >= BUFFER_BYTES) {
            self.alert(Alert::DecodeError);
            return Err(Failure(format!("a handshake message is longer than {BUFFER_BYTES} bytes")));
        }
        let input = self.input.take().map_or_else(Buffer::take, Buffer::grow);
        Ok(self.input.insert(input))
    }

    /// The client is waited for: keeps no more room than what it sent takes.
    pub(super) fn release(&mut self) {
        self.input = self.input.take().and_then(Buffer::shrink);
    }

    /// Early data that the client sent.
    pub(super) fn early(&mut self) -> &mut Vec<u8> {
        &mut self.early
    }

    /// Seals `content` behind what stands in `output` already, to be sent before the handshake ends (RFC 8446,
    /// section 4.4.4, "0.5-RTT data"). `None` before the server's Finished, or if that is not possible.
    pub(super) fn seal_early(&mut self, content: &mut Gather<'_>, length: usize) -> Option<usize> {
        let sealer = self.sealer.as_mut()?;
        append(&mut self.output, sealer, APPLICATION_DATA, content, length).ok()
    }

    /// Tells the client why the handshake fails.
    fn alert(&mut self, alert: Alert) {
        // rustls' count of records stays unknown where the record layer does not take over; there the peer is
        // told by the close alone.
        if self.sealer.is_some() || !self.secrets.are_known() {
            append_alert(&mut self.output, self.sealer.as_mut(), alert);
        }
    }

    /// What became of early data.
    pub(super) fn early_outcome(&self) -> EarlyOutcome {
        self.early_data.outcome()
    }

    pub(super) fn connection(&self) -> &UnbufferedServerConnection {
        &self.connection
    }

    /// The connection that the handshake made.
    ///
    /// # Errors
    /// The secrets are not known, which rustls rules out.
    pub(super) fn finish(self) -> Result<Finished, Failure> {
        let connection = match self.sealer {
            None => Connection::Kept(Box::new(self.connection)),
            Some(Sealer { suite, direction, .. }) => {
                let read = self.secrets.client.direction();
                let read = read.ok_or_else(|| Failure("no traffic secret".to_owned()))?;
                Connection::Own(Records::new(suite, read, direction))
            }
        };
        Ok(Finished { connection, input: self.input.and_then(Buffer::shrink) })
    }

    /// Lets rustls work on what it was shown until it wants more.
    fn process(&mut self) -> Result<(), Failure> {
        let unused = self.shown;
        let mut made = Vec::new();
        loop {
            let (status, captured) = self.step();
            let (discard, blocked) = match status {
                Step { discard, outcome: Outcome::Made(record) } => {
                    made.push(record);
                    (discard, false)
                }
                Step { discard, outcome: Outcome::Goes } => (discard, false),
                Step { discard, outcome: Outcome::Blocked } => (discard, true),
                Step { discard, outcome: Outcome::Failed(error) } => {
                    self.discard(discard);
                    return Err(self.fail(&error, made));
                }
            };
            if captured.are_known() {
                self.secrets = captured;
            }
            self.discard(discard);
            if blocked {
                break;
            }
        }
        self.send(made)?;
        self.drop_skipped(unused);
        Ok(())
    }

    /// One call of rustls, whose answer borrows from half of `self`.
    fn step(&mut self) -> (Step, Secrets) {
        let Self { connection, input, shown, early, early_data, .. } = self;
        let shown = input.as_mut().map_or(&mut [][..], |input| input.part(0..*shown));
        secrets::capture(|| {
            early_data.decide(|| {
                let UnbufferedStatus { discard, state, .. } = connection.process_tls_records(shown);
                Step { discard, outcome: Outcome::of(state, early) }
            })
        })
    }

    fn discard(&mut self, count: usize) {
        if let Some(input) = &mut self.input {
            input.consume(count);
            self.shown = self.shown.saturating_sub(count);
        }
    }

    /// Sends what rustls made. The flight that ends with the server's Finished is the last that goes out as
    /// rustls sealed it.
    fn send(&mut self, made: Vec<Vec<u8>>) -> Result<(), Failure> {
        for record in made {
            match &mut self.sealer {
                None => self.output.extend_from_slice(&record),
                Some(sealer) => {
                    let offer = self.early_data.ticket_bytes();
                    sealer.reseal(record, offer, &mut self.output).map_err(alert_failure)?;
                }
            }
        }
        if self.sealer.is_none() && self.secrets.are_known() {
            self.sealer = self.sealer();
        }
        Ok(())
    }

    fn sealer(&self) -> Option<Sealer> {
        let SupportedCipherSuite::Tls13(suite) = self.connection.negotiated_cipher_suite()? else {
            return None;
        };
        if !keys::serves(suite) {
            return None;
        }
        Some(Sealer { suite, direction: self.secrets.server.direction()?, rustls_sequence: 0 })
    }

    /// Shows rustls one more record, if there is a whole one.
    fn show_next_record(&mut self) -> Result<bool, Failure> {
        let Some(input) = &self.input else { return Ok(false) };
        let rest = &input.filled()[self.shown..];
        let Some(header) = Header::read(rest) else { return Ok(false) };
        if !(CHANGE_CIPHER_SPEC..=APPLICATION_DATA).contains(&header.content_type) {
            self.alert(Alert::UnexpectedMessage);
            return Err(Failure(format!("a record of type {}", header.content_type)));
        }
        if header.length > PROTECTED_BYTES_MAX {
            self.alert(Alert::RecordOverflow);
            return Err(Failure(format!("a record of {} bytes is too long", header.length)));
        }
        let total = HEADER_BYTES + header.length;
        let Some(record) = rest.get(..total) else { return Ok(false) };
        if self.early_data.may_be_skipped()
            && header.content_type == APPLICATION_DATA
            && self.opens_as_handshake(record)
        {
            self.early_data.is_over();
        }
        self.shown += total;
        Ok(true)
    }

    /// rustls skips rejected early data without saying so (RFC 8446, section 4.2.10), and would try the same
    /// records again with the next.
    fn drop_skipped(&mut self, shown_before: usize) {
        let nothing_used = shown_before > 0 && self.shown == shown_before;
        if nothing_used && self.early_data.may_be_skipped() && self.sealer.is_some() {
            self.discard(shown_before);
        }
    }

    fn opens_as_handshake(&self, record: &[u8]) -> bool {
        let Some(SupportedCipherSuite::Tls13(suite)) = self.connection.negotiated_cipher_suite() else {
            return false;
        };
        let mut copy = record.to_vec();
        let mut direction = self.secrets.client_handshake.direction();
        direction.as_mut().is_some_and(|direction| direction.open(suite, &mut copy).is_ok())
    }

    /// Fetches the alert that rustls made for its error, or makes one where rustls forgot.
    fn fail(&mut self, error: &Error, mut made: Vec<Vec<u8>>) -> Failure {
        let is_last = |record: &Vec<u8>| matches!(record.first(), Some(&(ALERT | APPLICATION_DATA)));
        // Asked no further than the alert: behind it, rustls would look at the bad record once more.
        while !made.last().is_some_and(is_last) {
            let (Step { outcome: Outcome::Made(record), .. }, _) = self.step() else { break };
            made.push(record);
        }
        let told = made.last().is_some_and(is_last);
        let sent = self.send(made).is_ok();
        if let (false, Some(alert)) = (told && sent, missing_alert(error)) {
            self.alert(alert);
        }
        failure(error)
    }
}

/// What a call of rustls led to.
struct Step {
    /// Octets of the input that are used up.
    discard: usize,
    outcome: Outcome,
}

enum Outcome {
    /// A record to be sent.
    Made(Vec<u8>),
    /// There may be more.
    Goes,
    /// There is no more without input.
    Blocked,
    Failed(Error),
}

impl Outcome {
    fn of(state: Result<ConnectionState<'_, '_, ServerConnectionData>, Error>, early: &mut Vec<u8>) -> Self {
        match state {
            Err(error) => Self::Failed(error),
            Ok(ConnectionState::EncodeTlsData(mut data)) => encode(&mut data),
            Ok(ConnectionState::TransmitTlsData(data)) => {
                data.done();
                Self::Goes
            }
            Ok(ConnectionState::ReadEarlyData(mut data)) => {
                while let Some(Ok(record)) = data.next_record() {
                    early.extend_from_slice(record.payload);
                }
                Self::Goes
            }
            Ok(ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_)) => Self::Blocked,
            // A closure alert before the handshake's end, and states that this version does not have.
            Ok(_) => Self::Failed(Error::General("closed during the handshake".to_owned())),
        }
    }
}

fn encode(data: &mut EncodeTlsData<'_, ServerConnectionData>) -> Outcome {
    let length = match data.encode(&mut []) {
        Err(EncodeError::InsufficientSize(size)) => size.required_size,
        _ => return Outcome::Goes,
    };
    let mut record = vec![0; length];
    match data.encode(&mut record) {
        Ok(_) => Outcome::Made(record),
        Err(error) => Outcome::Failed(Error::General(error.to_string())),
    }
}

impl Sealer {
    /// Opens a record of rustls' and seals it again, in turn with those that were sealed here, and with the
    /// offer of early data in its tickets.
    fn reseal(&mut self, mut record: Vec<u8>, early_bytes: u32, output: &mut Vec<u8>) -> Result<(), Alert> {
        if record.first() != Some(&APPLICATION_DATA) {
            output.extend_from_slice(&record);
            return Ok(());
        }
        let sequence = self.rustls_sequence;
        self.rustls_sequence += 1;
        let opened = self.direction.reopen(self.suite, sequence, &mut record)?;
        let content = &record[HEADER_BYTES..HEADER_BYTES + opened.length];
        let rewritten = match opened.content_type {
            HANDSHAKE => early::offer_early_data(content, early_bytes),
            _ => None,
        };
        let content = rewritten.as_deref().unwrap_or(content);
        let slices = [IoSlice::new(content)];
        append(output, self, opened.content_type, &mut Gather::new(&slices), content.len()).map(drop)
    }
}

fn append(
    output: &mut Vec<u8>,
    sealer: &mut Sealer,
    content_type: u8,
    content: &mut Gather<'_>,
    length: usize,
) -> Result<usize, Alert> {
    let start = output.len();
    output.resize(start + length + OVERHEAD_BYTES, 0);
    sealer.direction.seal(sealer.suite, content_type, content, length, &mut output[start..])
}

/// In plaintext before the server's Finished.
fn append_alert(output: &mut Vec<u8>, sealer: Option<&mut Sealer>, alert: Alert) {
    let message = alert.encode();
    match sealer {
        Some(sealer) => {
            let slices = [IoSlice::new(&message)];
            let _ = append(output, sealer, ALERT, &mut Gather::new(&slices), message.len());
        }
        None => {
            output.extend_from_slice(&Header { content_type: ALERT, length: message.len() }.encode());
            output.extend_from_slice(&message);
        }
    }
}

/// For errors that rustls returns without telling the peer.
fn missing_alert(error: &Error) -> Option<Alert> {
    match error {
        // The peer gave up; it needs no answer.
        Error::AlertReceived(_) => None,
        Error::PeerMisbehaved(
            PeerMisbehaved::TooManyEmptyFragments
            | PeerMisbehaved::TooManyWarningAlertsReceived
            | PeerMisbehaved::MessageInterleavedWithHandshakeMessage
            | PeerMisbehaved::RejectedEarlyDataInterleavedWithHandshakeMessage
            | PeerMisbehaved::KeyEpochWithPendingFragment,
        ) => Some(Alert::UnexpectedMessage),
        Error::PeerMisbehaved(_) => Some(Alert::IllegalParameter),
        Error::InvalidMessage(_) => Some(Alert::DecodeError),
        Error::PeerIncompatible(_) => Some(Alert::HandshakeFailure),
        _ => Some(Alert::InternalError),
    }
}

fn failure(error: &Error) -> Failure {
    Failure(error.to_string())
}

fn alert_failure(alert: Alert) -> Failure {
    Failure(format!("{alert:?}"))
}
