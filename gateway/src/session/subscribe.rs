//! What a session subscribes to.

use towline_protocols::link::{Filter, Subscribed, proto::subscribed::Result as SubscribeResult};

use super::LinkSession;
use crate::hub::SubscribeOptions;

/// The link delivers at most once or at least once.
const QOS_MAX: u32 = 1;

impl LinkSession {
    /// HELLO's filters replace those of the connection before.
    pub(super) fn replace_subscriptions(&self, wanted: &[Filter]) -> Subscribed {
        let hub = &self.context.hub;
        let held = hub.subscriptions(self.client_id());
        if held.is_empty() && wanted.is_empty() {
            return Subscribed::default();
        }
        let is_wanted = |filter: &str| wanted.iter().any(|wanted| wanted.filter == filter);
        let obsolete: Vec<_> =
            held.into_iter().map(|(filter, _)| filter).filter(|filter| !is_wanted(filter)).collect();
        let mut subscribed = self.change_subscriptions(wanted, &obsolete);
        subscribed.results.drain(..obsolete.len());
        subscribed
    }

    /// Removes, then adds; one result for each, in that order.
    pub(super) fn change_subscriptions(&self, add: &[Filter], remove: &[String]) -> Subscribed {
        let mut results = Vec::with_capacity(add.len() + remove.len());
        for filter in remove {
            let error = match self.context.hub.unsubscribe(self.client_id(), filter) {
                true => String::new(),
                false => "there was no such subscription".to_owned(),
            };
            results.push(SubscribeResult { filter: filter.clone(), qos: 0, error });
        }
        results.extend(add.iter().map(|filter| self.subscribe(filter)));
        self.persist();
        Subscribed { results }
    }

    fn subscribe(&self, wanted: &Filter) -> SubscribeResult {
        let hub = &self.context.hub;
        let qos = wanted.qos.min(QOS_MAX);
        let result = |error: String| SubscribeResult { filter: wanted.filter.clone(), qos, error };
        let options = SubscribeOptions { qos: qos as u8, ..SubscribeOptions::default() };
        match hub.subscribe(self.client_id(), &wanted.filter, options) {
            Err(error) => result(error.to_string()),
            Ok(true)
                if hub.subscription_count(self.client_id()) > self.context.settings.subscriptions_max =>
            {
                hub.unsubscribe(self.client_id(), &wanted.filter);
                self.context.limit_hit("session.subscriptions_max");
                result("too many subscriptions (session.subscriptions_max)".to_owned())
            }
            Ok(_) => result(String::new()),
        }
    }
}
