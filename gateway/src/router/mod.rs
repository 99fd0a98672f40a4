//! Which request goes where: the table of routes, and the one road that every request takes through it
//! whatever front it came in by.

mod road;
mod table;
mod topic;

use std::{sync::Arc, time::Duration};

use http::uri::PathAndQuery;

pub(crate) use self::road::{admit, kind_name, observe};
pub use self::{
    road::handle,
    table::{RouteError, RouteTable},
    topic::{InvalidFilter, TopicFilter},
};
use crate::backend::Backend;

/// One rule of the table, with its backend at hand.
#[derive(Debug)]
pub struct Route {
    /// Unique name, used in metrics.
    pub name: Arc<str>,
    /// Where its requests or messages go. Shared by all routes to the same backend.
    pub backend: Arc<Backend>,
    /// Topic routes to a gRPC or HTTP backend: the path that is called.
    pub call: Option<PathAndQuery>,
    /// Bound on the time to the answer's head; `None` takes the backend's.
    pub timeout: Option<Duration>,
    /// Refuses what came over an unencrypted transport.
    pub encrypted_only: bool,
    /// Running it twice does no harm.
    pub idempotent: bool,
}

impl Route {
    /// The time that the backend has to begin its answer.
    pub fn timeout(&self) -> Duration {
        self.timeout.unwrap_or(self.backend.settings().timeout)
    }
}
