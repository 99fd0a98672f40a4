//! The one task of a connection: waits for bytes, for the session and for the time, and tells the machine.

mod early;
#[cfg(test)]
mod tests;

use std::{
    io,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use bytes::BytesMut;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    time::{sleep_until, timeout},
};
use towline_protocols::{
    link::{CloseCode, Control, Event, Hello, LinkError, RpcError, Subscribed},
    policy::Transport,
};

use self::early::Beginning;
use super::{
    attendance::{self, Attendance, Done, Told},
    config::goaway,
    door::{self, Admission},
    io::{BURST_BYTES, Moved, move_bytes, write},
    quic_stream::QuicStreams,
    requests::TcpRequests,
};
use crate::{
    backend::{CLIENT_TURNS, turns},
    drain::DrainWatch,
    early::InVain,
    gateway::Gateway,
    request::Origin,
    session::{Consumer, SessionEvent},
    transport::{give_buffer, take_buffer},
};

/// How long the last words may take to leave.
const LAST_WORDS_MAX: Duration = Duration::from_secs(1);
/// What a client has sent before it hears a CLOSE: its windows, and frames around it.
const UNREAD_BYTES_MAX: usize = 1 << 20;
/// A connection that was quiet for this long gives its memory back.
const QUIET: Duration = Duration::from_secs(5);

/// How requests are bound to the transport.
pub(super) enum Binding {
    Tcp(Box<TcpRequests>),
    Quic(Box<QuicStreams>),
}

/// One connection.
pub(super) struct Driver<S> {
    gateway: Arc<Gateway>,
    origin: Arc<Origin>,
    stream: S,
    binding: Binding,
    input: BytesMut,
    out: BytesMut,
    flush_due: bool,
    /// The machine may have something new to say.
    write_first: bool,
    /// Once HELLO was followed.
    attendance: Option<Box<Attendance>>,
    /// Until HELLO was followed and the handshake is complete.
    beginning: Option<Box<Beginning>>,
    /// The silence after which it may park; `None` never does.
    park_after: Option<Duration>,
    /// When to give memory back; `None` when that was done.
    quiet_at: Option<Instant>,
    goaway_sent: bool,
}

/// What woke the driver.
enum Wake {
    Moved(io::Result<Moved>),
    Session(SessionEvent),
    Done(Done),
    /// Backends took bytes, or a stream came or went.
    Requests,
    /// The handshake is complete.
    Established,
    /// It never will be.
    Abandoned(InVain),
    Time,
    Drain,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Driver<S> {
    pub(super) fn new(
        gateway: Arc<Gateway>,
        origin: Arc<Origin>,
        stream: S,
        binding: Binding,
        input: BytesMut,
        park_after: Option<Duration>,
    ) -> Self {
        let limit = gateway.snapshot().settings.limits.first_message_timeout;
        Self {
            gateway,
            origin,
            stream,
            binding,
            input,
            out: BytesMut::new(),
            flush_due: false,
            write_first: true,
            attendance: None,
            beginning: Some(Box::new(Beginning::Hello { due: super::now() + limit })),
            park_after,
            quiet_at: None,
            goaway_sent: false,
        }
    }

    /// Goes on with a connection that was parked.
    pub(super) fn resume(self, attendance: Attendance) -> Self {
        Self { attendance: Some(Box::new(attendance)), beginning: None, ..self }
    }

    /// Serves until either side ends the connection, or until it may park.
    pub(super) async fn drive(&mut self) -> Rest {
        let mut drain = self.gateway.drain.watch();
        let mut end = self.handle_input().await;
        while end.is_ok() {
            let wake = self.wait(&mut drain).await;
            end = self.follow(wake).await;
        }
        if let Err(End::Quiet) = end {
            return Rest::Quiet;
        }
        let mut lingers = false;
        if let Err(End::Broken(error)) = end {
            self.report(&error);
            lingers = error.code == CloseCode::UnknownReference;
            self.binding.control().close(error.code, &error.rule);
        }
        let now = super::now();
        self.binding.poll_transmit(now, &mut self.out, usize::MAX);
        // A peer that is gone hears nothing.
        let _ = timeout(LAST_WORDS_MAX, Box::pin(self.say_last_words(lingers))).await;
        Rest::Ended
    }

    /// Its parts, to be parked; `None` before HELLO.
    pub(super) fn into_parts(self) -> Option<(S, Binding, Attendance)> {
        Some((self.stream, self.binding, *self.attendance?))
    }

    pub(super) fn stream(&self) -> &S {
        &self.stream
    }

    /// Offers the machine's bytes to the socket and waits for whatever comes first.
    async fn wait(&mut self, drain: &mut DrainWatch) -> Wake {
        self.fill();
        // Most answers fit into the socket at once: no need to look at everything else before. Only one
        // time in a row, so that a fast reader does not keep the driver from everything else.
        if std::mem::take(&mut self.write_first)
            && let Poll::Ready(moved) = self.try_write()
        {
            return Wake::Moved(moved);
        }
        let due = self.next_timeout();
        let goaway_due = !self.goaway_sent && self.attendance.is_some();
        let admitted = self.attendance.is_some();
        tokio::select! {
            moved = move_bytes(&mut self.stream, &mut self.input, &mut self.out, &mut self.flush_due) => {
                Wake::Moved(moved)
            }
            wake = attended(&mut self.attendance) => wake,
            wake = early::over(&mut self.beginning) => wake,
            () = self.binding.wake(admitted) => Wake::Requests,
            // Made anew each time: tokio wakes its thread when a timer that was moved was due before.
            () = sleep_until(due.into()) => Wake::Time,
            _ = drain.draining(), if goaway_due => Wake::Drain,
        }
    }

    /// Writes without waiting. Where it has to wait, the stream must be asked again by who can be woken.
    fn try_write(&mut self) -> Poll<io::Result<Moved>> {
        let mut nobody = Context::from_waker(Waker::noop());
        write(&mut self.stream, &mut self.out, &mut self.flush_due, &mut nobody)
    }

    async fn follow(&mut self, wake: Wake) -> Result<(), End> {
        self.write_first = !matches!(wake, Wake::Moved(Ok(Moved::Wrote)));
        if !matches!(wake, Wake::Time) {
            self.quiet_at = Some(super::now() + self.park_after.unwrap_or(QUIET));
        }
        match wake {
            Wake::Moved(Ok(Moved::Read(0)) | Err(_)) => return Err(End::Gone),
            Wake::Moved(Ok(Moved::Read(_))) => return self.handle_input().await,
            Wake::Moved(Ok(Moved::Wrote)) => {}
            Wake::Session(event) => {
                // What other requests are answered at this moment leaves in the same records and system call.
                turns(CLIENT_TURNS).await;
                self.follow_session(event)?;
            }
            Wake::Done(done) => {
                if let Some(attendance) = &mut self.attendance {
                    attendance.on_done(self.binding.control(), done);
                }
            }
            Wake::Established => {}
            Wake::Abandoned(why) => return Err(early::abandoned(why)),
            Wake::Requests => self.binding.serve_requests(self.attendance.as_deref()),
            Wake::Time => self.on_time()?,
            Wake::Drain => self.send_goaway(),
        }
        self.follow_events().await
    }

    /// Follows all that the session has to say. Ends, since a request says no more than that it has parts until
    /// some of them are taken, and none are once its stream's window is full.
    fn follow_session(&mut self, first: SessionEvent) -> Result<(), End> {
        let mut next = Some(first);
        while let Some(event) = next {
            match event {
                SessionEvent::Ready(seq) => self.binding.send_answer(seq),
                SessionEvent::Pushes => {
                    if let Some(attendance) = &mut self.attendance {
                        attendance.send_pushes(self.binding.control());
                    }
                }
                SessionEvent::Policy => {
                    if let Some(attendance) = &mut self.attendance {
                        attendance.send_policy(self.binding.control());
                    }
                }
                SessionEvent::Revoked(why) => return Err(attendance::revoked(why).into()),
            }
            next = self.attendance.as_ref().and_then(|attendance| attendance.door.lease.poll_event());
        }
        Ok(())
    }

    async fn handle_input(&mut self) -> Result<(), End> {
        self.quiet_at = Some(super::now() + self.park_after.unwrap_or(QUIET));
        let handled = self.binding.handle_bytes(super::now(), &mut self.input);
        if self.input.is_empty() {
            // An idle connection owns no buffer.
            self.input = BytesMut::new();
        }
        // What came before a fault still counts.
        self.follow_events().await?;
        handled.map_err(|error| {
            if error.code == CloseCode::UnknownReference {
                door::count_reference(&self.gateway, "header_dictionary", "unknown");
            }
            error.into()
        })
    }

    async fn follow_events(&mut self) -> Result<(), End> {
        loop {
            if self.is_early() {
                Box::pin(self.leave_early()).await?;
            }
            match self.binding.poll_event() {
                None => return Ok(()),
                Some(Event::Hello(hello)) if self.origin.handshake.is_complete() => {
                    self.beginning = None;
                    Box::pin(self.login(&hello)).await?;
                }
                Some(event) => self.follow_event(event)?,
            }
        }
    }

    fn follow_event(&mut self, event: Event) -> Result<(), End> {
        match event {
            Event::Close { .. } => return Err(End::Gone),
            Event::Hello(hello) => self.greet_early(hello)?,
            event if self.is_early() => self.follow_early(event)?,
            event => {
                // The machine lets nothing pass before HELLO.
                let Some(attendance) = &mut self.attendance else { return Ok(()) };
                if let Some(event) = self.binding.on_event(attendance, event) {
                    attendance.on_event(self.binding.control(), event)?;
                }
            }
        }
        Ok(())
    }

    async fn login(&mut self, hello: &Hello) -> Result<(), LinkError> {
        let admission = door::login(Arc::clone(&self.gateway), &self.origin, hello).await?;
        self.attend(admission, hello);
        Ok(())
    }

    /// Says WELCOME, and serves the client from now on.
    fn attend(&mut self, mut admission: Admission, hello: &Hello) {
        admission.prefer_dictionaries(self.binding.control());
        admission.offer_silence(hello.facts.as_ref(), self.binding.transport());
        admission.ask_for_facts(hello);
        self.binding.welcome(&mut admission);
        let Admission { door, subscriptions, .. } = admission;
        self.subscribed(door.subscribed(subscriptions));
        let door = Arc::new(door);
        tracing::debug!(client = &**door.lease.session().client_id(), agent = hello.agent, "welcome");
        let mut attendance = Attendance::new(door, Told::default());
        if self.origin.handshake.is_complete() {
            attendance.learn(hello);
            attendance.send_policy(self.binding.control());
        }
        attendance.send_offer(self.binding.control(), hello.endpoint_list);
        self.attendance = Some(Box::new(attendance));
    }

    fn subscribed(&mut self, subscribed: Subscribed) {
        if !subscribed.results.is_empty() {
            self.binding.control().subscribed(subscribed);
        }
    }

    fn on_time(&mut self) -> Result<(), End> {
        let now = super::now();
        if self.hello_due().is_some_and(|due| due <= now) {
            self.gateway.metrics.limit_hit("limits.first_message_timeout");
            let rule = "HELLO must come within first_message_timeout";
            return Err(LinkError::new(CloseCode::ProtocolError, rule).into());
        }
        if self.shutdown().is_some_and(|shutdown| shutdown <= now) {
            return Err(LinkError::new(CloseCode::Shutdown, "the gateway is shut down").into());
        }
        if self.expires().is_some_and(|expires| expires <= now) {
            let text = "what proved who the client is has expired";
            let may_return = self.attendance.as_ref().is_some_and(|attendance| attendance.door.may_return);
            let code = if may_return { CloseCode::Unavailable } else { CloseCode::Unauthorized };
            return Err(LinkError::new(code, text).into());
        }
        let is_quiet = self.quiet_at.take_if(|at| *at <= now).is_some();
        if is_quiet {
            self.out = BytesMut::from(&self.out[..]);
            self.binding.compact();
        }
        if let Some(attendance) = &mut self.attendance {
            attendance.send_policy(self.binding.control());
        }
        self.binding.control().handle_timeout(now)?;
        // Who is told of a drain stays, to be told of its end.
        let parks = is_quiet && self.park_after.is_some() && !self.goaway_sent && self.is_idle();
        if parks { Err(End::Quiet) } else { Ok(()) }
    }

    /// Whether nothing is buffered here and nothing is under way. What the session has for the client is asked
    /// when the connection parks.
    fn is_idle(&self) -> bool {
        let has_bytes = !self.input.is_empty() || !self.out.is_empty() || self.flush_due;
        let is_open = self.beginning.is_none() && self.origin.handshake.is_complete();
        is_open
            && !has_bytes
            && self.attendance.as_ref().is_some_and(|held| held.is_idle())
            && self.binding.is_idle()
    }

    fn send_goaway(&mut self) {
        self.goaway_sent = true;
        let goaway = goaway(&self.gateway.snapshot().settings);
        self.binding.control().goaway(goaway);
    }

    fn fill(&mut self) {
        if let Some(attendance) = &mut self.attendance {
            attendance.resume_pushes(self.binding.control());
            attendance.send_offer(self.binding.control(), None);
        }
        if self.out.len() < BURST_BYTES {
            let room = BURST_BYTES - self.out.len();
            if self.out.is_empty() {
                give_buffer(std::mem::take(&mut self.out));
                self.out = take_buffer();
            }
            self.binding.poll_transmit(super::now(), &mut self.out, room);
        }
        // An idle connection owns no buffer.
        if self.out.is_empty() {
            give_buffer(std::mem::take(&mut self.out));
        }
    }

    fn next_timeout(&mut self) -> Instant {
        let hello = self.hello_due();
        let machine = self.binding.control().poll_timeout();
        let due =
            [hello, machine, self.quiet_at, self.expires(), self.shutdown()].into_iter().flatten().min();
        due.unwrap_or_else(|| super::now() + NOTHING_DUE)
    }

    /// When it is closed, once its client was asked to leave.
    fn shutdown(&self) -> Option<Instant> {
        let deadline = self.goaway_sent.then(|| self.gateway.drain.deadline()).flatten();
        deadline.map(tokio::time::Instant::into_std)
    }

    /// When the client has to have proved itself anew.
    fn expires(&self) -> Option<Instant> {
        self.attendance.as_ref()?.door.expires
    }

    /// HELLO must have come by then.
    fn hello_due(&self) -> Option<Instant> {
        match self.beginning.as_deref() {
            Some(Beginning::Hello { due }) => Some(*due),
            _ => None,
        }
    }

    /// A client that must hear the CLOSE is read from until it has gone: TCP resets a connection that is closed with
    /// bytes unread, and the reset may overtake what was written.
    async fn say_last_words(&mut self, lingers: bool) -> io::Result<()> {
        self.stream.write_all_buf(&mut self.out).await?;
        self.stream.shutdown().await?;
        let mut read_max = if lingers { UNREAD_BYTES_MAX } else { 0 };
        while read_max > 0 {
            self.input.clear();
            let read = self.stream.read_buf(&mut self.input).await?;
            read_max = if read == 0 { 0 } else { read_max.saturating_sub(read) };
        }
        Ok(())
    }

    fn report(&self, error: &LinkError) {
        let limit = match error.code {
            CloseCode::FrameTooLarge => Some("limits.frame_bytes_max"),
            CloseCode::HeartbeatMissed => Some("session.heartbeat_max"),
            CloseCode::FlowControl => Some("session.stream_window"),
            CloseCode::Overload => Some("control_bytes_max"),
            _ => None,
        };
        if let Some(limit) = limit {
            self.gateway.metrics.limit_hit(limit);
        }
        if let Some(held_back) = self.gateway.refusals.pass(super::now()) {
            tracing::info!(peer = %self.origin.peer, held_back, "link connection closed: {error}");
        }
    }
}

/// A look at the clock where no machine asks for one.
const NOTHING_DUE: Duration = Duration::from_secs(600);

/// How a driver's run ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rest {
    /// The connection is over.
    Ended,
    /// It has been quiet for a while.
    Quiet,
}

/// Why a connection ends.
enum End {
    /// It does not: it may park.
    Quiet,
    /// The peer is gone, or said good-bye.
    Gone,
    /// A rule was broken, or this side has to go: CLOSE says why.
    Broken(LinkError),
}

impl From<LinkError> for End {
    fn from(error: LinkError) -> Self {
        Self::Broken(error)
    }
}

/// Waits for the session, or for a publish to be done; for ever before HELLO.
async fn attended(attendance: &mut Option<Box<Attendance>>) -> Wake {
    let Some(attendance) = attendance else { return std::future::pending().await };
    let door = Arc::clone(&attendance.door);
    tokio::select! {
        event = door.lease.next_event() => Wake::Session(event),
        done = attendance.done() => Wake::Done(done),
    }
}

impl Binding {
    fn control(&mut self) -> &mut Control {
        match self {
            Self::Tcp(requests) => requests.machine.control(),
            Self::Quic(streams) => &mut streams.machine,
        }
    }

    fn transport(&self) -> Transport {
        match self {
            Self::Tcp(_) => Transport::Tcp,
            Self::Quic(_) => Transport::Quic,
        }
    }

    fn handle_bytes(&mut self, now: Instant, input: &mut BytesMut) -> Result<(), LinkError> {
        match self {
            Self::Tcp(requests) => requests.machine.handle_bytes(now, input),
            Self::Quic(streams) => {
                if streams.path.look() {
                    streams.machine.moved();
                }
                streams.machine.handle_bytes(now, input)
            }
        }
    }

    fn poll_event(&mut self) -> Option<Event> {
        match self {
            Self::Tcp(requests) => requests.machine.poll_event(),
            Self::Quic(streams) => streams.machine.poll_event(),
        }
    }

    fn poll_transmit(&mut self, now: Instant, out: &mut BytesMut, bytes_max: usize) {
        match self {
            Self::Tcp(requests) => requests.machine.poll_transmit(now, out, bytes_max),
            Self::Quic(streams) => streams.machine.poll_transmit(now, out, bytes_max),
        };
    }

    fn welcome(&mut self, admission: &mut Admission) {
        match self {
            Self::Tcp(requests) => requests.welcome(admission),
            // Clients ask for earlier answers on streams of their own.
            Self::Quic(streams) => streams.machine.welcome(std::mem::take(&mut admission.welcome)),
        }
    }

    /// Answers of earlier requests follow WELCOME when the handshake is complete.
    fn await_answers(&mut self, seqs: &[u64]) {
        match self {
            Self::Tcp(requests) => requests.await_answers(seqs),
            Self::Quic(_) => {}
        }
    }

    /// The answers that [`Binding::await_answers`] announced.
    fn resume(&mut self, attached: Vec<Consumer>, refused: &[(u64, RpcError)]) {
        match self {
            Self::Tcp(requests) => requests.resume(attached, refused),
            Self::Quic(_) => {}
        }
    }

    /// Whether request `seq` is being answered here.
    fn carries(&self, seq: u64) -> bool {
        match self {
            Self::Tcp(requests) => requests.carries(seq),
            Self::Quic(_) => false,
        }
    }

    /// Gives back what an event holds that nobody will follow.
    fn discard(&mut self, event: &Event) {
        match self {
            Self::Tcp(requests) => requests.discard(event),
            Self::Quic(_) => {}
        }
    }

    /// Follows what concerns a request; gives back what does not, and what has to wait.
    fn on_event(&mut self, attendance: &Attendance, event: Event) -> Option<Event> {
        match self {
            Self::Tcp(requests) => requests.on_event(&attendance.door, event),
            Self::Quic(_) => Some(event),
        }
    }

    fn send_answer(&mut self, seq: u64) {
        match self {
            Self::Tcp(requests) => requests.send_answer(seq),
            // The task of the request's stream waits for it itself.
            Self::Quic(_) => {}
        }
    }

    /// Waits for something to do for requests. Safe to cancel.
    async fn wake(&mut self, admitted: bool) {
        match self {
            Self::Tcp(requests) => requests.credits.changed().await,
            Self::Quic(streams) if admitted => streams.wake().await,
            Self::Quic(_) => std::future::pending().await,
        }
    }

    fn serve_requests(&mut self, attendance: Option<&Attendance>) {
        match (self, attendance) {
            (Self::Tcp(requests), _) => _ = requests.give_credit(),
            (Self::Quic(streams), Some(attendance)) => streams.serve(&attendance.door),
            (Self::Quic(_), None) => {}
        }
    }

    fn is_idle(&self) -> bool {
        match self {
            Self::Tcp(requests) => requests.is_idle(),
            Self::Quic(_) => false,
        }
    }

    fn compact(&mut self) {
        match self {
            Self::Tcp(requests) => requests.compact(),
            Self::Quic(streams) => streams.machine.compact(),
        }
    }
}
