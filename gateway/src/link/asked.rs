//! Topic filters that a client asks for, and which of them it may have.

use std::borrow::Cow;

use towline_protocols::link::{Filter, Hello, proto::subscribed::Result as SubscribeResult};

use crate::{access::Action, gateway::Gateway, request::Origin};

/// The filters of a HELLO or SUBSCRIBE.
pub(super) struct Asked {
    pub(super) permitted: Vec<Filter>,
    /// With its place among all.
    denied: Vec<(usize, Filter)>,
    count: usize,
}

impl Asked {
    pub(super) fn of(gateway: &Gateway, origin: &Origin, filters: &[Filter]) -> Self {
        let mut asked = Self { permitted: Vec::new(), denied: Vec::new(), count: filters.len() };
        if gateway.snapshot().acl.is_open() {
            return asked;
        }
        for (at, filter) in filters.iter().enumerate() {
            match gateway.permits(origin, Action::Subscribe, &filter.filter) {
                true => asked.permitted.push(filter.clone()),
                false => asked.denied.push((at, filter.clone())),
            }
        }
        asked
    }

    /// Whether the client may have all of them.
    pub(super) fn is_permitted(&self) -> bool {
        self.denied.is_empty()
    }

    /// HELLO without what the client may not have.
    pub(super) fn permitted_of<'h>(&self, hello: &'h Hello) -> Cow<'h, Hello> {
        match self.is_permitted() {
            true => Cow::Borrowed(hello),
            false => Cow::Owned(Hello { topics: self.permitted.clone(), ..hello.clone() }),
        }
    }

    /// Puts the denied among the results of the others, which are the last of `results`.
    pub(super) fn tell_denied(self, results: &mut Vec<SubscribeResult>) {
        let permitted = self.count - self.denied.len();
        // A connection that lost its session is told nothing.
        let Some(first) = results.len().checked_sub(permitted) else { return };
        for (at, Filter { filter, qos }) in self.denied {
            let error = "it is not permitted to subscribe to that".to_owned();
            results.insert(first + at, SubscribeResult { filter, qos, error });
        }
    }
}
