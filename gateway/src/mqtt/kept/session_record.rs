//! How a session lies in the store: under its client id, since a client has one at the most.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Buf, BufMut};

use super::record::{VERSION, get_message, put_message};
use crate::{
    hub::Message,
    mqtt::clock,
    session::record::{get_bytes, get_text, put_bytes, put_text, text},
};

/// What a session is after a restart.
#[derive(Clone, Debug)]
pub(in crate::mqtt) struct SessionRecord {
    /// Names what else is kept of the session; 0 when that is nothing but its will.
    pub(in crate::mqtt) number: u64,
    pub(in crate::mqtt) user: Option<Arc<str>>,
    /// Session expiry interval.
    pub(in crate::mqtt) expiry: Duration,
    /// Bound on what its connection has in flight.
    pub(in crate::mqtt) in_flight_max: u16,
    /// `None` while it has a connection.
    pub(in crate::mqtt) away: Option<Away>,
    pub(in crate::mqtt) will: Option<WillRecord>,
}

/// A session without a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::mqtt) struct Away {
    /// When it ends; `None` is never.
    pub(in crate::mqtt) ends: Option<Instant>,
    /// Messages behind this position were never sent.
    pub(in crate::mqtt) sent: u64,
}

#[derive(Clone, Debug)]
pub(in crate::mqtt) struct WillRecord {
    pub(in crate::mqtt) message: Message,
    pub(in crate::mqtt) expiry: Option<u32>,
    pub(in crate::mqtt) delay: Duration,
    /// `None` while nothing has happened to its client, or until the gateway is back.
    pub(in crate::mqtt) due: Option<Instant>,
    /// Where the client had connected, for the routes of topics.
    pub(in crate::mqtt) listener: Arc<str>,
    pub(in crate::mqtt) peer: SocketAddr,
    pub(in crate::mqtt) encrypted: bool,
}

const AWAY: u8 = 1;
const WILL: u8 = 2;
const ENCRYPTED: u8 = 4;

impl SessionRecord {
    pub(in crate::mqtt) fn encode(&self) -> Vec<u8> {
        let will = self.will.as_ref();
        let mut flags = u8::from(self.away.is_some()) * AWAY;
        flags |= u8::from(will.is_some()) * WILL;
        flags |= u8::from(will.is_some_and(|will| will.encrypted)) * ENCRYPTED;
        let mut out = vec![VERSION, flags];
        out.put_u64(self.number);
        put_text(&mut out, self.user.as_deref());
        out.put_u64(milliseconds(self.expiry));
        out.put_u16(self.in_flight_max);
        if let Some(away) = &self.away {
            put_instant(&mut out, away.ends);
            out.put_u64(away.sent);
        }
        if let Some(will) = will {
            put_message(&mut out, &will.message);
            // A interval of 0xFFFFFFFF seconds is one that is not reached either.
            out.put_u32(will.expiry.unwrap_or(u32::MAX));
            out.put_u64(milliseconds(will.delay));
            put_instant(&mut out, will.due);
            put_bytes(&mut out, will.listener.as_bytes());
            put_bytes(&mut out, will.peer.to_string().as_bytes());
        }
        out
    }

    /// `None` when the record is not one of this version.
    pub(in crate::mqtt) fn decode(mut input: &[u8]) -> Option<Self> {
        let input = &mut input;
        (input.try_get_u8().ok()? == VERSION).then_some(())?;
        let flags = input.try_get_u8().ok()?;
        let mut record = Self {
            number: input.try_get_u64().ok()?,
            user: get_text(input)?,
            expiry: interval(input.try_get_u64().ok()?),
            in_flight_max: input.try_get_u16().ok()?,
            away: None,
            will: None,
        };
        if flags & AWAY != 0 {
            record.away = Some(Away { ends: get_instant(input)?, sent: input.try_get_u64().ok()? });
        }
        if flags & WILL != 0 {
            record.will = Some(WillRecord {
                message: get_message(input)?,
                expiry: Some(input.try_get_u32().ok()?).filter(|seconds| *seconds != u32::MAX),
                delay: interval(input.try_get_u64().ok()?),
                due: get_instant(input)?,
                listener: text(get_bytes(input)?)?,
                peer: text(get_bytes(input)?)?.parse().ok()?,
                encrypted: flags & ENCRYPTED != 0,
            });
        }
        input.is_empty().then_some(record)
    }
}

/// For ever, in milliseconds.
const FOREVER: u64 = u64::MAX;

fn milliseconds(interval: Duration) -> u64 {
    u64::try_from(interval.as_millis()).unwrap_or(FOREVER)
}

fn interval(milliseconds: u64) -> Duration {
    if milliseconds == FOREVER { Duration::MAX } else { Duration::from_millis(milliseconds) }
}

fn put_instant(out: &mut Vec<u8>, instant: Option<Instant>) {
    out.put_u64(instant.map_or(FOREVER, |instant| clock().unix_ms(instant)));
}

fn get_instant(input: &mut &[u8]) -> Option<Option<Instant>> {
    let unix_ms = input.try_get_u64().ok()?;
    Some((unix_ms != FOREVER).then(|| clock().instant(unix_ms)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_comes_back_as_it_was() {
        let instant = clock().instant(clock().unix_ms(crate::mqtt::now()));
        let will = WillRecord {
            message: Message { topic: "gone".into(), qos: 1, ..Message::default() },
            expiry: Some(7),
            delay: Duration::from_secs(5),
            due: Some(instant),
            listener: "devices".into(),
            peer: ([127, 0, 0, 1], 1883).into(),
            encrypted: true,
        };
        let connected = SessionRecord {
            number: u64::MAX,
            user: Some("ann".into()),
            expiry: Duration::MAX,
            in_flight_max: 64,
            away: None,
            will: Some(will.clone()),
        };
        let away = SessionRecord {
            away: Some(Away { ends: Some(instant), sent: 1 << 40 }),
            expiry: Duration::from_secs(60),
            will: Some(WillRecord { expiry: None, due: None, encrypted: false, ..will }),
            ..connected.clone()
        };
        let forever = Some(Away { ends: None, sent: 0 });
        let bare = SessionRecord { number: 0, user: None, will: None, away: forever, ..away.clone() };
        for record in [connected, away, bare] {
            let encoded = record.encode();
            assert_eq!(format!("{:?}", SessionRecord::decode(&encoded)), format!("{:?}", Some(&record)));
            for cut in 0..encoded.len() {
                assert!(SessionRecord::decode(&encoded[..cut]).is_none(), "cut at {cut}");
            }
        }
    }
}
