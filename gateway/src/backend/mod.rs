//! Where requests and messages end: named backends with their connections.

use crate::settings;

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
}
