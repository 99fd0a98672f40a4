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

/// What is known of each filter.
pub(super) type Known = Vec<Option<Leave>>;

impl Asked {
    /// Without asking the hook.
    ///
    /// # Errors
    /// It has to be asked: what is known of each filter so far. What is denied is counted already.
    pub(super) fn now(gateway: &Gateway, origin: &Origin, filters: &[Filter]) -> Result<Self, Known> {
        if gateway.snapshot().acl.is_open() {
            return Ok(Self { permitted: Vec::new(), denied: Vec::new(), count: filters.len() });
        }
        let leaves =
            filters.iter().map(|filter| gateway.permits_now(origin, Action::Subscribe, &filter.filter));
        let known: Known = leaves.collect();
        match known.iter().copied().collect() {
            Some(leaves) => Ok(Self::with(filters, leaves)),
            None => Err(known),
        }
    }

    /// With the hook asked where it has to be.
    pub(super) async fn of(gateway: &Gateway, origin: &Origin, filters: &[Filter]) -> Self {
        match Self::now(gateway, origin, filters) {
            Ok(asked) => asked,
            Err(known) => Self::ask(gateway, origin, filters, &known).await,
        }
    }

    /// With the hook asked about what [`Asked::now`] does not know.
    pub(super) async fn ask(gateway: &Gateway, origin: &Origin, filters: &[Filter], known: &Known) -> Self {
        let topics: Vec<&str> = filters.iter().map(|filter| &*filter.filter).collect();
        Self::with(filters, gateway.permits_each(origin, Action::Subscribe, &topics, known).await)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        auth::hook::parrot::parrot,
        request::Protocol,
        settings::{AclRule, Hook, Listener, Permission, Settings},
    };

    #[tokio::test]
    async fn what_is_denied_counts_once_also_beside_what_the_hook_is_asked_about() {
        let rule = |name: &str, permission, topic: &str| AclRule {
            topics: vec![topic.to_owned()],
            ..AclRule::new(name, permission)
        };
        let mut settings = Settings {
            listeners: vec![Listener::plain("edge", ([127, 0, 0, 1], 0).into())],
            backends: vec![parrot("{\"verdict\":\"allow\"}")],
            ..Settings::default()
        };
        settings.auth.hook = Some(Hook::new("accounts"));
        settings.acl.rules =
            vec![rule("closed", Permission::Deny, "closed"), rule("asked", Permission::Ask, "asked")];
        let gateway = Gateway::build(settings).unwrap();
        let origin = Origin::new("edge".into(), ([127, 0, 0, 1], 1).into(), Protocol::LinkTcp, true);
        let filters = ["closed", "asked"].map(|filter| Filter { filter: filter.to_owned(), qos: 0 });
        let denied = || gateway.metrics.acl_denials.with_label_values(&["subscribe", "closed"]).get();
        let Err(known) = Asked::now(&gateway, &origin, &filters) else { panic!("nobody was asked") };
        let asked = Asked::ask(&gateway, &origin, &filters, &known).await;
        assert_eq!((asked.permitted.len(), asked.denied.len(), denied()), (1, 1, 1));
        // The answer is kept now.
        assert!(Asked::now(&gateway, &origin, &filters).is_ok());
        assert_eq!(denied(), 2);
    }
}
