//! What is written of each request.

use std::sync::Arc;

use forebay_usage::UsageLog;

use super::access::AccessLog;

/// The logs of requests. Both are off by default.
#[derive(Clone, Debug, Default)]
pub(crate) struct Logs {
    pub(crate) access: Option<Arc<AccessLog>>,
    pub(crate) usage: Option<Arc<UsageLog>>,
}

impl Logs {
    /// Whether the usage of requests is written.
    pub(crate) fn has_usage(&self) -> bool {
        self.access.is_some() || self.usage.is_some()
    }
}
