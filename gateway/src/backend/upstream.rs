//! x
use crate::settings;
pub(super) struct Upstream;
impl Upstream {
    pub(super) fn new(_s: settings::Backend) -> Self {
        Self
    }
}
