//! The beginning of a connection: CONNECT, authentication, CONNACK.

use std::{future::poll_fn, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use towline_protocols::mqtt::{
    Connect, MqttError, ReasonCode, Text, Version,
    session::{Greeting, Settings},
};

use super::{
    attachment::{Admitted, Attachment, Parting},
    departures,
    driver::Driver,
    io, subscribe,
};
use crate::{early, gateway::Gateway, request::Origin};

/// How often, and how long after each other, it is looked whether a client's older connection has ended.
const LEAVE_LOOKS_MAX: u32 = 10;
const LEAVE_LOOK: Duration = Duration::from_millis(2);
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
    let settings = gateway.mqtt.settings(&gateway);
    let mut input = BytesMut::from(first_bytes);
    let connect = match read_connect(&mut stream, &mut input, &settings).await? {
        Ok(connect) => connect,
        Err((error, version)) => {
            tracing::debug!(peer = %origin.peer, %error, "MQTT client refused");
            refuse(&mut stream, version, error.reason, None).await;
            return None;
        }
    };
    if let Err(why) = early::wait(&gateway, &origin).await {
        tracing::debug!(peer = %origin.peer, %why, "MQTT client gone");
        return None;
    }
    match admit(&gateway, &origin, &connect, &settings).await {
        Ok((attachment, origin)) => {
            Some(Driver::new(attachment, origin, settings, stream, input, park_after))
        }
        Err(reason) => {
            tracing::debug!(peer = %origin.peer, ?reason, "MQTT client refused");
            let elsewhere = (reason == ReasonCode::UseAnotherServer)
                .then(|| departures::server_reference(&gateway))
                .flatten();
            refuse(&mut stream, Some(connect.version), reason, elsewhere).await;
            None
        }
    }
}

/// `None` when the peer went away. An error comes with the version that can be told of it, if the client speaks one.
async fn read_connect<S: AsyncRead + Unpin>(
    stream: &mut S,
    input: &mut BytesMut,
    settings: &Settings,
) -> Option<Result<Box<Connect>, (MqttError, Option<Version>)>> {
    let greeting = Greeting::new(settings, super::now());
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

async fn admit(
    gateway: &Arc<Gateway>,
    origin: &Origin,
    connect: &Connect,
    settings: &Arc<Settings>,
) -> Result<(Attachment, Arc<Origin>), ReasonCode> {
    if gateway.drain.is_draining() {
        let can_go = connect.version == Version::V5 && departures::server_reference(gateway).is_some();
        return Err(if can_go { ReasonCode::UseAnotherServer } else { ReasonCode::ServerUnavailable });
    }
    let password = connect.password.as_ref().map(|secret| &secret.0[..]).unwrap_or_default();
    let credentials = connect.user_name.as_ref().map(|user| (user.as_str(), password));
    let user = gateway.authenticate(origin, credentials).await.map_err(|_| match connect.version {
        Version::V5 => ReasonCode::BadUserNameOrPassword,
        // 3.1.1 means by 4 that the data are malformed; who is not admitted is told 5.
        _ => ReasonCode::NotAuthorized,
    })?;
    let_leave(gateway, connect.client_id.as_str()).await;
    let admitted = gateway.mqtt.attach(gateway, connect, origin, user, settings)?;
    let Admitted { mut attachment, origin, waits } = admitted;
    if waits && let Err(error) = gateway.store.barrier().await {
        tracing::warn!(client_id = %attachment.client.id, %error, "an MQTT session could not be stored");
        // The will is that of a CONNECT that was not accepted.
        attachment.detach(Parting::Left);
        return Err(ReasonCode::ServerUnavailable);
    }
    subscribe::judge_again(&attachment, &origin);
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
    reason: ReasonCode,
    server_reference: Option<Text>,
) {
    let mut out = BytesMut::new();
    Greeting::refuse(version, reason, server_reference, &mut out);
    let farewell = async {
        stream.write_all(&out).await?;
        stream.shutdown().await?;
        io::read_to_end(stream).await
    };
    // Whether it reads that or not, the connection is over.
    let _ = tokio::time::timeout(REFUSAL_TIMEOUT, farewell).await;
}
