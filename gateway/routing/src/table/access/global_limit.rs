//! Rate limits that a server counts (`traffic.rateLimit.global` of AgentgatewayPolicy).

use std::fmt;
use std::net::SocketAddr;

use forebay_resources::ObjectKey;

use super::expression::Expression;
use super::rate_limit::Measure;
use super::variables::Variables;
use crate::table::server_tls::ServerTls;

/// A server of Envoy's rate limit protocol (`envoy.service.ratelimit.v3`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RateLimitServer {
    /// The Service.
    pub service: ObjectKey,
    /// Port of the Service.
    pub port: u16,
}

/// `namespace/name:port`, for labels and logs.
impl fmt::Display for RateLimitServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.service, self.port)
    }
}

/// What a server is asked about requests.
#[derive(Debug)]
pub struct GlobalLimit {
    /// The server.
    pub server: RateLimitServer,
    /// Ready endpoints of the server's Service. Empty if it cannot be used.
    pub endpoints: Vec<SocketAddr>,
    /// `None`: without TLS.
    pub tls: Option<ServerTls>,
    /// Tells the limits of the server apart.
    pub domain: String,
    /// `FailOpen`: a request is let through if the server does not answer.
    pub fails_open: bool,
    /// Never empty.
    pub(crate) descriptors: Vec<Descriptor>,
}

/// What the server looks its limits up by.
#[derive(Debug)]
pub(crate) struct Descriptor {
    pub(crate) measure: Measure,
    /// Each with its name. Never empty.
    pub(crate) entries: Vec<(String, Expression)>,
    /// Of a request. `None`: 1.
    pub(crate) cost: Option<Expression>,
}

/// The values of a descriptor for one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DescriptorValues {
    /// What its limit counts.
    pub measure: Measure,
    /// Names and values.
    pub entries: Vec<(String, String)>,
    /// What the request counts for, if requests are counted.
    pub cost: u64,
}

impl GlobalLimit {
    /// The descriptors of a request. A descriptor with an entry that has no value, for example because the caller has no
    /// key, is left out, as in Envoy. A cost that is not a number from 0 on is 1.
    pub fn descriptors(&self, variables: &Variables<'_>) -> Vec<DescriptorValues> {
        self.descriptors.iter().filter_map(|descriptor| descriptor.values(variables)).collect()
    }

    /// Whether a descriptor counts tokens.
    pub fn counts_tokens(&self) -> bool {
        self.descriptors.iter().any(|it| it.measure == Measure::Tokens)
    }

    pub(super) fn reads_request(&self) -> bool {
        self.expressions().any(Expression::reads_request)
    }

    pub(super) fn reads_model(&self) -> bool {
        self.expressions().any(Expression::reads_model)
    }

    fn expressions(&self) -> impl Iterator<Item = &Expression> {
        self.descriptors.iter().flat_map(|it| it.entries.iter().map(|(_, value)| value).chain(&it.cost))
    }
}

impl Descriptor {
    fn values(&self, variables: &Variables<'_>) -> Option<DescriptorValues> {
        let value = |(name, expression): &(String, Expression)| {
            Some((name.clone(), expression.evaluate_scalar(variables).ok()?))
        };
        let entries = self.entries.iter().map(value).collect::<Option<_>>()?;
        let cost = self.cost.as_ref().and_then(|cost| cost.evaluate_amount(variables).ok());
        Some(DescriptorValues { measure: self.measure, entries, cost: cost.unwrap_or(1) })
    }
}
