//! Key sets that are loaded from servers.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use forebay_resources::ObjectKey;

use super::keys::JwtKeys;
use crate::table::server_tls::ServerTls;

/// Identifies a key set on a server: policies that name the same one share it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JwksId {
    /// The Service.
    pub service: ObjectKey,
    /// Port of the Service.
    pub port: u16,
    /// Path and query, with the slash.
    pub path: String,
}

/// `namespace/name:port/path`, for labels and logs.
impl fmt::Display for JwksId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}{}", self.service, self.port, self.path)
    }
}

/// A key set on a server, as one table has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteJwks {
    /// What is loaded.
    pub id: JwksId,
    /// Ready endpoints of the Service. Empty if it cannot be used.
    pub endpoints: Vec<SocketAddr>,
    /// `None`: without TLS.
    pub tls: Option<ServerTls>,
    /// Time after which the set is loaded again.
    pub refresh: Duration,
}

/// The key sets that were loaded from servers.
pub trait RemoteKeys {
    /// The keys that were loaded last. `None` if none were ever loaded.
    fn loaded(&self, id: &JwksId) -> Option<Arc<JwtKeys>>;

    /// A token names a key that the set does not have. It is loaded again soon. Does not wait.
    fn refresh(&self, id: &JwksId);
}
