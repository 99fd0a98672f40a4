//! Where requests and messages end: named backends with their connections.

mod publish;

use http::Response;

pub use self::publish::{Reply, publish};
use crate::{
    error::{Execution, RpcError, RpcErrorKind},
    request::{Body, Request},
    router::Route,
    settings,
};

/// One configured backend and its connections. Made once, shared by its routes, kept over reloads that
/// do not change it.
#[derive(Debug)]
pub struct Backend {
    settings: settings::Backend,
}

impl Backend {
    /// Makes no connection yet.
    pub fn new(settings: settings::Backend) -> Self {
        Self { settings }
    }

    /// As configured.
    pub fn settings(&self) -> &settings::Backend {
        &self.settings
    }

    /// Takes a request to the backend and brings the head of the answer back; its body streams.
    pub(crate) async fn call(&self, route: &Route, _request: Request) -> Result<Response<Body>, RpcError> {
        let message = format!("backend {} of route {} is not connected", self.settings.name, route.name);
        Err(RpcError::new(RpcErrorKind::BackendUnavailable, Execution::NotRun, message))
    }
}
