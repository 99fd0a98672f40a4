//! The beginning of a connection: CONNECT, authentication, CONNACK.

use std::{future::poll_fn, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use towline_protocols::mqtt::{
    Binary, Connect, MqttError, ReasonCode, Secret, Text, Version,
    session::{Answer, Greeting, Settings},
};

use super::{
    attachment::{Admitted, Attachment, Parting},
    client::UNPROVEN,
    departures,
    driver::Driver,
    enhanced::{Exchange, Step},
    io, subscribe,
};
use crate::{
    auth::{Credentials, DenyReason, Identity, Refusal},
    early,
    gateway::Gateway,
    request::Origin,
};

/// How often, and how long after each other, it is looked whether a client's older connection has ended.
const LEAVE_LOOKS_MAX: u32 = 10;
const LEAVE_LOOK: Duration = Duration::from_millis(2);
/// Bytes that a CONNACK with a text of the hook's may have.
const TEXT_PACKET_BYTES: u32 = 1024;
/// How long a refused client is given to read why.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(5);

/// Brings a connection to the point where its session goes on; `None` when it was refused.
pub(super) async fn greet<S>(
    gateway: Arc<Gateway>,
    origin: Arc<Origin>,
    mut stream: S,
    first_bytes: Bytes,
    park_after: Option<Duration>,
) -> Option<Driver<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    departures::ensure_watched(&gateway);
    let mut settings = gateway.mqtt.settings(&gateway);
    let mut input = BytesMut::from(first_bytes);
    let greeting = Greeting::new(&settings, super::now());
    let connect = match read_connect(&greeting, &mut stream, &mut input, &settings).await? {
        Ok(connect) => connect,
        Err((error, version)) => {
            tracing::debug!(peer = %origin.peer, %error, "MQTT client refused");
            refuse(&mut stream, version, error.reason.into(), None).await;
            return None;
        }
    };
    if let Err(why) = early::wait(&gateway, &origin).await {
        tracing::debug!(peer = %origin.peer, %why, "MQTT client gone");
        return None;
    }
    let mut arrival =
        Arrival { gateway: &gateway, origin: &origin, stream, input, greeting, settings: &settings };
    let as_of = gateway.withdrawals.count();
    let proven = arrival.prove(&connect).await?;
    let Arrival { mut stream, input, .. } = arrival;
    let admitted = match proven {
        Ok((identity, proof)) => {
            settings = gateway.upstreams.introduce(&gateway.store, &connect, settings);
            let admitted = admit(&gateway, &origin, &connect, identity, proof, &settings).await;
            admitted.map_err(Refused::from)
        }
        Err(refused) => Err(refused),
    };
    match admitted {
        Ok((attachment, origin)) => {
            if gateway.withdrawals.count() != as_of || !gateway.snapshot().trusts(&origin) {
                // By what it was admitted may be what was withdrawn, and it came behind those who were looked for.
                attachment.client.close(&UNPROVEN);
            }
            Some(Driver::new(attachment, origin, settings, stream, input, park_after))
        }
        Err(refused) => {
            let Refused { reason, .. } = refused;
            tracing::debug!(peer = %origin.peer, ?reason, "MQTT client refused");
            let elsewhere = (reason == ReasonCode::UseAnotherServer)
                .then(|| departures::server_reference(&gateway))
                .flatten();
            // [MQTT-3.2.2-19]: it must not make CONNACK larger than the client takes.
            let takes_text =
                connect.properties.packet_bytes_max.is_none_or(|max| max.get() >= TEXT_PACKET_BYTES);
            let refused = Refused { text: refused.text.filter(|_| takes_text), ..refused };
            refuse(&mut stream, Some(connect.version), refused, elsewhere).await;
            None
        }
    }
}

/// `None` when the peer went away. An error comes with the version that can be told of it, if the client speaks one.
async fn read_connect<S: AsyncRead + Unpin>(
    greeting: &Greeting,
    stream: &mut S,
    input: &mut BytesMut,
    settings: &Settings,
) -> Option<Result<Box<Connect>, (MqttError, Option<Version>)>> {
    loop {
        let version = Greeting::version(input, settings);
        match greeting.handle_bytes(input, settings) {
            Ok(Some(connect)) => return Some(Ok(connect)),
            Ok(None) => {}
            Err(error) => return Some(Err((error, version))),
        }
        let read = poll_fn(|cx| io::poll_read(stream, cx, input));
        match tokio::time::timeout_at(greeting.poll_timeout().into(), read).await {
            Ok(Ok(1..)) => {}
            Ok(Ok(0) | Err(_)) => return None,
            Err(_) => {
                if let Err(error) = greeting.handle_timeout(super::now()) {
                    return Some(Err((error, None)));
                }
            }
        }
    }
}

/// A client that has not proved who it is.
struct Arrival<'a, S> {
    gateway: &'a Arc<Gateway>,
    origin: &'a Origin,
    stream: S,
    input: BytesMut,
    greeting: Greeting,
    settings: &'a Settings,
}

/// Who the client is, and the last word of extended authentication.
type Proven = (Identity, Option<Secret>);

/// What a client is told that is not admitted.
struct Refused {
    reason: ReasonCode,
    /// The hook's.
    text: Option<Text>,
}

impl From<ReasonCode> for Refused {
    fn from(reason: ReasonCode) -> Self {
        Self { reason, text: None }
    }
}

impl Refused {
    fn new(version: Version, refusal: &Refusal) -> Self {
        let text = match refusal {
            Refusal::Denied(_, Some(text)) => Text::try_from(&**text).ok(),
            _ => None,
        };
        let reason = match (version, reason(refusal)) {
            (Version::V5, reason) => reason,
            // 3.1.1 means by 4 that the data are malformed; who is not admitted is told 5.
            (_, ReasonCode::BadUserNameOrPassword | ReasonCode::Banned) => ReasonCode::NotAuthorized,
            (_, ReasonCode::ServerBusy) => ReasonCode::ServerUnavailable,
            (_, reason) => reason,
        };
        Self { reason, text }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Arrival<'_, S> {
    /// `None` when the client went away.
    async fn prove(&mut self, connect: &Connect) -> Option<Result<Proven, Refused>> {
        if self.gateway.drain.is_draining() {
            let reference = departures::server_reference(self.gateway);
            let can_go = connect.version == Version::V5 && reference.is_some();
            let reason = if can_go { ReasonCode::UseAnotherServer } else { ReasonCode::ServerUnavailable };
            return Some(Err(reason.into()));
        }
        match &connect.properties.authentication_method {
            Some(method) => self.exchange(connect, method).await,
            None => Some(check_password(self.gateway, self.origin, connect).await),
        }
    }

    /// Extended authentication, within the time that CONNECT has.
    async fn exchange(&mut self, connect: &Connect, method: &Text) -> Option<Result<Proven, Refused>> {
        let mut exchange = match Exchange::begin(self.gateway, self.origin, method.as_str()) {
            Ok(exchange) => exchange,
            Err(reason) => return Some(Err(reason.into())),
        };
        let mut data = connect.properties.authentication_data.clone();
        // Why it was not admitted is not for the client to know.
        let refused = |refusal: &Refusal| match reason(refusal) {
            ReasonCode::BadUserNameOrPassword => ReasonCode::NotAuthorized.into(),
            _ => Refused::new(connect.version, refusal),
        };
        let client_id = connect.client_id.as_str();
        loop {
            let said = data.as_ref().map(|data| &data.0[..]).unwrap_or_default();
            match exchange.step(self.gateway, self.origin, client_id, said).await {
                Err(refusal) => return Some(Err(refused(&refusal))),
                Ok(Step::Done(identity, proof)) => return Some(Ok((identity, proof.and_then(secret)))),
                Ok(Step::Continue(challenge)) => {
                    data = match self.challenge(method, challenge).await? {
                        Ok(data) => data,
                        Err(reason) => return Some(Err(reason.into())),
                    }
                }
            }
        }
    }

    /// Sends a challenge and waits for what the client says to it.
    async fn challenge(
        &mut self,
        method: &Text,
        challenge: Vec<u8>,
    ) -> Option<Result<Option<Secret>, ReasonCode>> {
        let mut out = BytesMut::new();
        Greeting::challenge(method.clone(), secret(challenge)?, &mut out);
        let deadline = self.greeting.poll_timeout().into();
        let written = async {
            self.stream.write_all(&out).await?;
            self.stream.flush().await
        };
        tokio::time::timeout_at(deadline, written).await.ok()?.ok()?;
        loop {
            match self.greeting.handle_answer(method, &mut self.input, self.settings) {
                Ok(Some(Answer::Data(data))) => return Some(Ok(data)),
                Ok(Some(Answer::Left)) => return None,
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(peer = %self.origin.peer, %error, "MQTT client refused");
                    return Some(Err(error.reason));
                }
            }
            let read = poll_fn(|cx| io::poll_read(&mut self.stream, cx, &mut self.input));
            match tokio::time::timeout_at(deadline, read).await {
                Ok(Ok(1..)) => {}
                Ok(Ok(0) | Err(_)) => return None,
                Err(_late) => return Some(Err(ReasonCode::NotAuthorized)),
            }
        }
    }
}

/// Apart from the arrival, which others cannot look at while it waits.
async fn check_password(gateway: &Gateway, origin: &Origin, connect: &Connect) -> Result<Proven, Refused> {
    let credentials = Credentials {
        client_id: connect.client_id.as_str(),
        user: connect.user_name.as_ref().map(Text::as_str),
        password: connect.password.as_ref().map(|secret| &secret.0[..]).unwrap_or_default(),
    };
    let identity = gateway.authenticate(origin, credentials).await;
    identity.map(|identity| (identity, None)).map_err(|refusal| Refused::new(connect.version, &refusal))
}

fn reason(refusal: &Refusal) -> ReasonCode {
    match refusal {
        Refusal::Unauthorized | Refusal::Denied(DenyReason::Credentials, _) => {
            ReasonCode::BadUserNameOrPassword
        }
        Refusal::Denied(DenyReason::NotAuthorized, _) => ReasonCode::NotAuthorized,
        Refusal::Denied(DenyReason::ClientId, _) => ReasonCode::ClientIdentifierNotValid,
        Refusal::Denied(DenyReason::Banned, _) => ReasonCode::Banned,
        Refusal::TooManyGuesses | Refusal::Denied(DenyReason::Busy, _) => ReasonCode::ServerBusy,
        Refusal::Unavailable => ReasonCode::ServerUnavailable,
    }
}

/// What a method says is far below the length that a packet can carry.
fn secret(data: Vec<u8>) -> Option<Secret> {
    Binary::new(data).ok().map(Secret)
}

async fn admit(
    gateway: &Arc<Gateway>,
    origin: &Origin,
    connect: &Connect,
    identity: Identity,
    proof: Option<Secret>,
    settings: &Arc<Settings>,
) -> Result<(Attachment, Arc<Origin>), ReasonCode> {
    // All is asked before anything changes: a client that is refused loses nothing, and no older connection either.
    let held = subscribe::judge_held(gateway, connect, origin, &identity).await?;
    let_leave(gateway, connect.client_id.as_str()).await;
    let admitted = gateway.mqtt.attach(gateway, connect, origin, identity, proof, settings)?;
    let Admitted { mut attachment, origin, waits } = admitted;
    if waits && let Err(error) = gateway.store.barrier().await {
        tracing::warn!(client_id = %attachment.client.id, %error, "an MQTT session could not be stored");
        // The will is that of a CONNECT that was not accepted.
        attachment.detach(Parting::Left);
        return Err(ReasonCode::ServerUnavailable);
    }
    if let Err(reason) = subscribe::forgo(&attachment, &origin, held).await {
        attachment.detach(Parting::Left);
        return Err(reason);
    }
    if gateway.drain.is_draining() {
        // It came while the others were sent away.
        attachment.client.close(&departures::SHUTTING_DOWN);
    }
    Ok((attachment, origin))
}

/// Gives an older connection of the client a moment to end by itself. A client that takes leave and is back at once may be
/// read here before its DISCONNECT is read there: its will would be published, and a session that it has ended go on.
async fn let_leave(gateway: &Gateway, client_id: &str) {
    for _ in 0..LEAVE_LOOKS_MAX {
        if gateway.hub.is_connected(client_id) != Some(true) {
            break;
        }
        tokio::time::sleep(LEAVE_LOOK).await;
    }
}

async fn refuse<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    version: Option<Version>,
    Refused { reason, text }: Refused,
    server_reference: Option<Text>,
) {
    let mut out = BytesMut::new();
    Greeting::refuse(version, reason, text, server_reference, &mut out);
    let farewell = async {
        stream.write_all(&out).await?;
        stream.shutdown().await?;
        io::read_to_end(stream).await
    };
    // Whether it reads that or not, the connection is over.
    let _ = tokio::time::timeout(REFUSAL_TIMEOUT, farewell).await;
}
