//! Who sends a request.

use std::sync::Arc;

use super::certificate::ClientCertificate;
use super::jwt::Jwt;
use super::keys::ApiKey;

/// Who sends a request, as far as the policies authenticate it.
#[derive(Clone, Debug, Default)]
pub struct Identity<'a> {
    /// The key of the caller.
    pub key: Option<&'a Arc<ApiKey>>,
    /// The token of the caller.
    pub jwt: Option<Arc<Jwt>>,
    /// The certificate of its connection.
    pub certificate: Option<Arc<ClientCertificate>>,
}
