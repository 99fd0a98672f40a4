//! A client that proves itself anew while it is connected (MQTT 5, section 4.12.1).

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use towline_protocols::mqtt::{Binary, MqttError, ReasonCode, Secret};

use super::{Driver, End, asking::Asked};
use crate::{
    auth::{Identity, Refusal},
    mqtt::{
        attachment::ends_at,
        client::{Closing, UNPROVEN},
        enhanced::{Exchange, Step},
    },
    request::Origin,
};

const NOT_PROVEN: Closing =
    Closing { reason: ReasonCode::NotAuthorized, text: "the client did not prove who it is again" };
const NOBODY_SAYS: Closing =
    Closing { reason: ReasonCode::ServerBusy, text: "who the client is cannot be found out at the moment" };

impl<S: AsyncRead + AsyncWrite + Unpin> Driver<S> {
    /// Follows AUTH. "If the re-authentication fails, the Client or Server SHOULD send DISCONNECT with an appropriate
    /// Reason Code, and MUST close the Network Connection" [MQTT-4.12.1-2].
    pub(super) fn authenticate_again(&mut self, is_new: bool, data: Option<Secret>) -> Result<(), End> {
        let gateway = self.attachment.gateway.clone();
        if is_new {
            let method = {
                let mut inner = self.attachment.client.lock();
                let Some((connection, _)) = inner.current(self.attachment.epoch) else { return Ok(()) };
                connection.method().cloned().unwrap_or_default()
            };
            let exchange = Exchange::begin(&gateway, &self.origin, method.as_str());
            self.exchange = Some(Box::new(exchange.map_err(|_| End::Closed(NOT_PROVEN))?));
        }
        let Some(mut exchange) = self.exchange.take() else {
            let rule = "4.12.1: AUTH with reason 0x18 where no authentication was begun";
            return Err(End::Broken(MqttError::protocol(rule)));
        };
        let origin = Arc::clone(&self.origin);
        let client = Arc::clone(&self.attachment.client);
        self.asking = Some(Box::pin(async move {
            let data = data.as_ref().map(|data| &data.0[..]).unwrap_or_default();
            let as_of = gateway.withdrawals.count();
            let step = exchange.step(&gateway, &origin, &client.id, data).await;
            Asked::Authenticated(exchange, step, as_of)
        }));
        Ok(())
    }

    /// Goes on once it is known what the client's data is worth.
    pub(super) fn authenticated(
        &mut self,
        exchange: Box<Exchange>,
        step: Result<Step, Refusal>,
        as_of: u64,
    ) -> Result<(), End> {
        let refused = |refusal: Refusal| match refusal.is_temporary() {
            true => End::Closed(NOBODY_SAYS),
            false => End::Closed(NOT_PROVEN),
        };
        match step.map_err(refused)? {
            Step::Continue(data) => {
                self.exchange = Some(exchange);
                self.say(ReasonCode::ContinueAuthentication, Some(data));
            }
            Step::Done(identity, proof) => {
                // The session is its user's.
                if identity.user != self.attachment.client.user {
                    return Err(End::Closed(NOT_PROVEN));
                }
                self.adopt(identity);
                if self.attachment.gateway.withdrawals.count() != as_of {
                    return Err(End::Closed(UNPROVEN));
                }
                self.say(ReasonCode::Success, proof);
            }
        }
        Ok(())
    }

    /// What is known of the client from now on, and for how long.
    fn adopt(&mut self, identity: Identity) {
        let Identity { claims, until, by, .. } = identity;
        self.origin = Arc::new(Origin { claims, by, ..Origin::clone(&self.origin) });
        let mut inner = self.attachment.client.lock();
        if inner.current(self.attachment.epoch).is_some() {
            inner.origin = Some(self.origin.clone());
            inner.expires = until.map(ends_at);
            if let Some(will) = &mut inner.will {
                will.origin = self.origin.clone();
            }
        }
        drop(inner);
        // The end may be nearer than it was.
        self.stay();
    }

    fn say(&self, reason: ReasonCode, data: Option<Vec<u8>>) {
        let data = data.and_then(|data| Binary::new(data).ok()).map(Secret);
        let mut inner = self.attachment.client.lock();
        if let Some((connection, _)) = inner.current(self.attachment.epoch) {
            connection.authenticate(reason, data);
        }
    }
}
