//! Topic filters that a client asks for, and which of them it may have.

use std::borrow::Cow;

use towline_protocols::link::{
    CloseCode, Filter, Hello, LinkError, proto::subscribed::Result as SubscribeResult,
};

use crate::{
    access::{Action, Leave},
    gateway::Gateway,
    request::Origin,
};

/// The filters of a HELLO or SUBSCRIBE.
pub(super) struct Asked {
    pub(super) permitted: Vec<Filter>,
    /// With its place among all, and why.
    denied: Vec<(usize, Filter, Leave)>,
    count: usize,
}

impl Asked {
    /// As far as that is known without asking the hook.
    pub(super) fn now(gateway: &Gateway, origin: &Origin, filters: &[Filter]) -> Option<Self> {
        if gateway.snapshot().acl.is_open() {
            return Some(Self { permitted: Vec::new(), denied: Vec::new(), count: filters.len() });
        }
        let leaves =
            filters.iter().map(|filter| gateway.permits_now(origin, Action::Subscribe, &filter.filter));
        Some(Self::with(filters, leaves.collect::<Option<Vec<_>>>()?))
    }

    /// With the hook asked where it has to be.
    pub(super) async fn of(gateway: &Gateway, origin: &Origin, filters: &[Filter]) -> Self {
        if let Some(asked) = Self::now(gateway, origin, filters) {
            return asked;
        }
        let topics: Vec<&str> = filters.iter().map(|filter| &*filter.filter).collect();
        let leaves = gateway.permits_each(origin, Action::Subscribe, &topics, &[]).await;
        Self::with(filters, leaves)
    }

    fn with(filters: &[Filter], leaves: Vec<Leave>) -> Self {
        let mut asked = Self { permitted: Vec::new(), denied: Vec::new(), count: filters.len() };
        for (at, (filter, leave)) in filters.iter().zip(leaves).enumerate() {
            match leave {
                Leave::Granted => asked.permitted.push(filter.clone()),
                leave => asked.denied.push((at, filter.clone(), leave)),
            }
        }
        asked
    }

    /// Whether the client may have all of them.
    pub(super) fn is_permitted(&self) -> bool {
        self.denied.is_empty()
    }

    /// A session does not begin while nobody can say what its client may have.
    ///
    /// # Errors
    /// CLOSE UNAVAILABLE.
    pub(super) fn must_be_known(&self) -> Result<(), LinkError> {
        match self.denied.iter().any(|(.., leave)| *leave == Leave::Unknown) {
            true => Err(LinkError::new(CloseCode::Unavailable, UNKNOWN)),
            false => Ok(()),
        }
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
        for (at, Filter { filter, qos }, leave) in self.denied {
            let error = match leave {
                Leave::Unknown => UNKNOWN.to_owned(),
                Leave::Denied | Leave::Granted => "it is not permitted to subscribe to that".to_owned(),
            };
            results.insert(first + at, SubscribeResult { filter, qos, error });
        }
    }
}

const UNKNOWN: &str =
    "whether it is permitted to subscribe to that cannot be found out at the moment: try again later";
