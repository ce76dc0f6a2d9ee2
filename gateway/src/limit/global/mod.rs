//! Rate limits that a server counts (`traffic.rateLimit.global`), over Envoy's rate limit protocol.
//!
//! Requests are counted when they are admitted. Tokens are known later: before a request, the server is asked whether some
//! are left, and after it, told what it has used. So requests in flight may use more than is left, as with every gateway
//! that speaks this protocol.

mod message;
mod metrics;
mod reports;
mod servers;

use std::sync::Arc;
use std::time::Duration;

use forebay_resources::ObjectKey;
use forebay_routing::{DescriptorValues, GlobalLimit, Measure, PolicyLimits, Variables};

use self::message::{Code, Descriptor, Entry, Hits, Request, Response, Status};
pub(crate) use self::metrics::{CallResult, LimitServerMetrics};
pub(crate) use self::reports::LimitReports;
use self::servers::LimitServer;
pub(crate) use self::servers::{LimitServerRegistry, LimitServers};
use super::standing::Standing;

/// Time after which a client may try again, if the server does not say it.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A server has said that a limit is reached.
#[derive(Clone, Debug, thiserror::Error)]
#[error(
    "a limit of {} of the domain {domain} (AgentgatewayPolicy {policy}) is reached; try again in {} s",
    measure.name(),
    .retry_after.as_secs_f64().ceil()
)]
pub(crate) struct GlobalExceeded {
    pub(crate) policy: ObjectKey,
    domain: String,
    pub(crate) measure: Measure,
    pub(crate) retry_after: Duration,
    pub(crate) standings: Vec<Standing>,
}

/// Why a server does not let a request through.
#[derive(Debug)]
pub(crate) enum GlobalRejection {
    Exceeded(Box<GlobalExceeded>),
    /// It gives no answer, and the policy rejects requests then.
    Unavailable(ObjectKey),
}

/// What a server is asked about a request.
#[derive(Debug)]
pub(crate) struct Question<'a> {
    policy: &'a ObjectKey,
    limit: &'a GlobalLimit,
    /// Never empty.
    descriptors: Vec<DescriptorValues>,
}

/// A server has let a request through.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(super) standings: Vec<Standing>,
    pub(super) tokens: Option<TokenReport>,
}

/// The descriptors that count the tokens of a request.
#[derive(Debug)]
pub(super) struct TokenReport {
    server: Arc<LimitServer>,
    reports: LimitReports,
    request: Request,
}

impl TokenReport {
    /// The request has used so many tokens.
    pub(super) fn send(mut self, tokens: u64) {
        if tokens > 0 {
            for descriptor in &mut self.request.descriptors {
                descriptor.hits = Some(Hits { value: tokens });
            }
            self.reports.report(&self.server, self.request);
        }
    }
}

impl<'a> Question<'a> {
    /// `set`: position of the limits in the policy. `None` if no server counts the request.
    pub(crate) fn new(policy: &'a PolicyLimits, set: usize, variables: &Variables<'_>) -> Option<Self> {
        let limit = policy.sets.get(set)?.global.as_ref()?;
        let descriptors = limit.descriptors(variables);
        (!descriptors.is_empty()).then_some(Self { policy: &policy.policy, limit, descriptors })
    }

    /// Asks the server. Tokens are reported to it later through `reports`.
    pub(crate) async fn ask(
        self,
        servers: &LimitServers,
        reports: &LimitReports,
    ) -> Result<Answer, GlobalRejection> {
        let Some(server) = servers.get(&self.limit.server) else { return self.unanswered() };
        let mut request = self.request();
        let Ok(response) = server.ask(&request).await else {
            server.count(CallResult::Failed);
            return self.unanswered();
        };
        let standings = self.standings(&response);
        if let Some((measure, retry_after)) = self.exceeded(&response) {
            server.count(CallResult::OverLimit);
            return Err(GlobalRejection::Exceeded(Box::new(GlobalExceeded {
                policy: self.policy.clone(),
                domain: self.limit.domain.clone(),
                measure,
                retry_after,
                standings,
            })));
        }
        server.count(CallResult::Allowed);
        let mut counted = self.descriptors.iter().map(|it| it.measure == Measure::Tokens);
        request.descriptors.retain(|_| counted.next() == Some(true));
        let has_tokens = !request.descriptors.is_empty();
        let tokens =
            has_tokens.then(|| TokenReport { server: server.clone(), reports: reports.clone(), request });
        Ok(Answer { standings, tokens })
    }

    /// What is left of the limits, with the descriptor of each. Nothing is counted. Empty if the server gives no answer.
    pub(crate) async fn read(self, servers: &LimitServers) -> Vec<(DescriptorValues, Standing)> {
        let mut request = self.request();
        for descriptor in &mut request.descriptors {
            descriptor.hits = Some(Hits { value: 0 });
        }
        let Some(server) = servers.get(&self.limit.server) else { return Vec::new() };
        let Ok(response) = server.ask(&request).await else {
            server.count(CallResult::Failed);
            return Vec::new();
        };
        server.count(CallResult::Read);
        let standing = |(values, status): (DescriptorValues, &Status)| {
            let standing = standing(values.measure, status)?;
            Some((values, standing))
        };
        self.descriptors.into_iter().zip(&response.statuses).filter_map(standing).collect()
    }

    /// By `failureMode`.
    fn unanswered(&self) -> Result<Answer, GlobalRejection> {
        if self.limit.fails_open {
            return Ok(Answer::default());
        }
        Err(GlobalRejection::Unavailable(self.policy.clone()))
    }

    fn request(&self) -> Request {
        let descriptor = |values: &DescriptorValues| {
            let entry = |(key, value): &(String, String)| Entry { key: key.clone(), value: value.clone() };
            let hits = match values.measure {
                Measure::Requests => values.cost,
                Measure::Tokens => 0,
            };
            let entries = values.entries.iter().map(entry).collect();
            Descriptor { entries, hits: Some(Hits { value: hits }) }
        };
        let descriptors = self.descriptors.iter().map(descriptor).collect();
        Request { domain: self.limit.domain.clone(), descriptors }
    }

    /// What is counted by the limit that opens last of those that are reached, and the time until then.
    fn exceeded(&self, response: &Response) -> Option<(Measure, Duration)> {
        let statuses = self.descriptors.iter().zip(&response.statuses);
        let reached = statuses.filter(|(values, status)| is_reached(values.measure, status));
        let reached = reached.map(|(values, status)| (values.measure, until_reset(status)));
        let last = reached.max_by_key(|(_, until)| *until);
        let measure = self.descriptors.first().map_or(Measure::Requests, |it| it.measure);
        let is_over = response.overall_code == Code::OverLimit as i32;
        last.or_else(|| is_over.then_some((measure, RETRY_AFTER)))
    }

    fn standings(&self, response: &Response) -> Vec<Standing> {
        let statuses = self.descriptors.iter().zip(&response.statuses);
        statuses.filter_map(|(values, status)| standing(values.measure, status)).collect()
    }
}

/// `None` if the server has no limit for the descriptor.
fn standing(measure: Measure, status: &Status) -> Option<Standing> {
    Some(Standing {
        measure,
        limit: status.current_limit?.requests_per_unit.into(),
        remaining: status.limit_remaining.into(),
        reset_after: status.until_reset.map_or(Duration::ZERO, |it| it.duration()),
    })
}

/// Of tokens nothing was added, so a limit of which nothing is left is not over yet.
fn is_reached(measure: Measure, status: &Status) -> bool {
    let is_used_up = status.current_limit.is_some() && status.limit_remaining == 0;
    status.code == Code::OverLimit as i32 || (measure == Measure::Tokens && is_used_up)
}

fn until_reset(status: &Status) -> Duration {
    status.until_reset.map_or(RETRY_AFTER, |it| it.duration().max(RETRY_AFTER))
}
