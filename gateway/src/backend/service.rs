//! A backend inside this process.

use std::{fmt, future::Future, pin::Pin, sync::Arc};

use http::{Request, Response, uri::Scheme};

use super::{Failed, Progress, outgoing::Outgoing};
use crate::{error::RpcError, request::Body};

/// Answers requests without a connection, for those who embed the gateway and for simulations.
#[derive(Clone)]
pub struct Service(pub Arc<dyn Answer>);

/// What a [`Service`] does.
pub trait Answer: Send + Sync {
    /// Answers one request, or says why there is no answer and whether it ran.
    fn answer(&self, request: Request<Body>) -> Answering;
}

/// The answer of a [`Service`], once it is there.
pub type Answering = Pin<Box<dyn Future<Output = Result<Response<Body>, RpcError>> + Send>>;

impl Service {
    pub(super) async fn call(
        &self,
        outgoing: &mut Outgoing,
        progress: &Progress,
    ) -> Result<Response<Body>, Failed> {
        let (head, payload) = outgoing.http2(Scheme::HTTP);
        progress.sent();
        self.0.answer(head.map(|()| Body::new(payload))).await.map_err(Failed::finally)
    }
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Service")
    }
}

impl PartialEq for Service {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Service {}
