//! The push API: `towline.push.v1.Push`, served on the admin listener.

use std::sync::Arc;

use axum::Router;

use crate::gateway::Gateway;

/// The service's routes, to be merged into the admin listener's.
pub fn router(gateway: Arc<Gateway>) -> Router {
    drop(gateway);
    Router::new()
}
