//! What a session subscribes to.

use towline_protocols::link::{Filter, Subscribed, proto::subscribed::Result as SubscribeResult};

use super::LinkSession;
use crate::hub::SubscribeOptions;

/// The link delivers at most once or at least once.
const QOS_MAX: u32 = 1;

/// What came of a change of subscriptions.
pub struct Changed {
    /// For the client.
    pub subscribed: Subscribed,
    /// Filters that the session did not hold before: their retained messages are due.
    pub new: Vec<(String, SubscribeOptions)>,
}

impl LinkSession {
    /// HELLO's filters replace those of the connection before.
    /// Also says whether anything is different now, which the store must know.
    pub(super) fn replace_subscriptions(&self, wanted: &[Filter]) -> (Changed, bool) {
        let held = self.context.hub.subscriptions(self.client_id());
        let is_wanted = |filter: &str| wanted.iter().any(|wanted| wanted.filter == filter);
        let obsolete: Vec<_> =
            held.iter().map(|(filter, _)| filter).filter(|filter| !is_wanted(filter)).cloned().collect();
        let mut changed = self.change_subscriptions(wanted, &obsolete);
        changed.subscribed.results.drain(..obsolete.len());
        let differs = sorted(held) != sorted(self.context.hub.subscriptions(self.client_id()));
        (changed, differs)
    }

    /// Removes, then adds; one result for each, in that order.
    pub(super) fn change_subscriptions(&self, add: &[Filter], remove: &[String]) -> Changed {
        let mut results = Vec::with_capacity(add.len() + remove.len());
        results.extend(remove.iter().map(|filter| self.unsubscribe(filter)));
        let mut new = Vec::new();
        results.extend(add.iter().map(|filter| self.subscribe(filter, &mut new)));
        Changed { subscribed: Subscribed { results }, new }
    }

    fn unsubscribe(&self, filter: &str) -> SubscribeResult {
        let error = match self.context.hub.unsubscribe(self.client_id(), filter) {
            true => String::new(),
            false => "there was no such subscription".to_owned(),
        };
        SubscribeResult { filter: filter.to_owned(), qos: 0, error }
    }

    fn subscribe(&self, wanted: &Filter, new: &mut Vec<(String, SubscribeOptions)>) -> SubscribeResult {
        let hub = &self.context.hub;
        let qos = wanted.qos.min(QOS_MAX);
        let result = |error: String| SubscribeResult { filter: wanted.filter.clone(), qos, error };
        let options = SubscribeOptions { qos: qos as u8, ..SubscribeOptions::default() };
        match hub.subscribe(self.client_id(), &wanted.filter, options) {
            Err(error) => result(error.to_string()),
            Ok(true)
                if hub.subscription_count(self.client_id())
                    > self.context.settings.load().subscriptions_max =>
            {
                hub.unsubscribe(self.client_id(), &wanted.filter);
                self.context.limit_hit("session.subscriptions_max");
                result("too many subscriptions (session.subscriptions_max)".to_owned())
            }
            Ok(is_new) => {
                if is_new {
                    new.push((wanted.filter.clone(), options));
                }
                result(String::new())
            }
        }
    }
}

fn sorted(mut subscriptions: Vec<(String, SubscribeOptions)>) -> Vec<(String, SubscribeOptions)> {
    subscriptions.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    subscriptions
}
