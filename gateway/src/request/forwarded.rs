//! A request that was sent to an endpoint, whose response head has arrived.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Instant;

use forebay_resources::AppProtocol;
use forebay_routing::{Backend, PoolPicker};

use super::context::Context;
use super::filters::AppliedFilters;
use super::prepared::Prepared;
use super::rewrite::Rewrite;
use crate::error::Error;
use crate::forward::{self, SendPlan};
use crate::pick::{Decision, Joined, Session, Wanted, read_prompt};

/// Maximum endpoints of a Service that are tried.
const SERVICE_ENDPOINTS: usize = 3;

#[derive(Debug)]
pub(super) struct Forwarded<'a> {
    pub(super) context: Context<'a>,
    pub(super) forwarded: forward::Forwarded,
    pub(super) session: Option<Session>,
    pub(super) filters: AppliedFilters<'a>,
    pub(super) rewrite: Option<Rewrite>,
    /// The gateway asked for the usage of the stream, not the client.
    pub(super) adds_usage: bool,
    /// When the timeouts of the route expire.
    pub(super) deadline: Option<Instant>,
}

impl<'a> Forwarded<'a> {
    /// Picks endpoints and sends the request, until the response head arrives or the route's timeout expires.
    #[expect(clippy::manual_async_fn, reason = "an async fn would store its argument twice")]
    pub(super) fn new(mut prepared: Prepared<'a>) -> impl Future<Output = Result<Self, Error>> + Send {
        async move {
            let arrived = prepared.context.record.arrived();
            let timeouts = prepared.rule.timeouts;
            prepared.context.record.propagate(&mut prepared.head.headers);
            let forwarding = forward(&mut prepared);
            let (forwarded, session) = match timeouts.request {
                None => forwarding.await?,
                Some(limit) => tokio::time::timeout_at((arrived + limit).into(), forwarding)
                    .await
                    .map_err(|_| Error::RequestTimeout { limit })??,
            };
            let deadlines = [
                timeouts.request.map(|limit| arrived + limit),
                timeouts.backend_request.map(|limit| forwarded.sent + limit),
            ];
            let Prepared { context, filters, rewrite, adds_usage, .. } = prepared;
            context.record.served_by(forwarded.endpoint);
            let deadline = deadlines.into_iter().flatten().min();
            Ok(Self { context, forwarded, session, filters, rewrite, adds_usage, deadline })
        }
    }
}

async fn forward(prepared: &mut Prepared<'_>) -> Result<(forward::Forwarded, Option<Session>), Error> {
    let Decided { decision, protocol, at } = decide(prepared).await?;
    let Decision { endpoints, mut session, chosen_by, body_share } = decision;
    let Prepared { context, head, body, rule, .. } = prepared;
    context.observe_sending(&endpoints, chosen_by, body_share, at);
    let plan = SendPlan {
        endpoints: &endpoints,
        protocol,
        timeout: rule.timeouts.backend_request,
        retry: rule.retry.as_ref(),
    };
    let mut sending = pin!(context.proxy.forwarder.send(head, body, plan));
    let forwarded = poll_fn(|cx| {
        if let Some(session) = &mut session {
            session.send_rest_of_prompt(cx);
        }
        sending.as_mut().poll(cx)
    })
    .await
    .inspect_err(|error| {
        if let Some(session) = &mut session {
            session.broken(error.is_upstream());
        }
    })?;
    context.observe_forwarded(&forwarded, at);
    Ok((forwarded, session))
}

pub(super) struct Decided {
    pub(super) decision: Decision,
    protocol: AppProtocol,
    /// When the decision was made.
    pub(super) at: Instant,
}

/// Chooses endpoints: at random for a Service, by the picker for a pool.
pub(super) async fn decide(prepared: &mut Prepared<'_>) -> Result<Decided, Error> {
    let Prepared { context, head, body, authority, backend, rewrite, hint, .. } = prepared;
    let mut start = Instant::now();
    let pool = match backend {
        Backend::Invalid(reason) => return Err(Error::Backend(reason)),
        Backend::Service(service) => {
            let endpoints = service.random_endpoints(SERVICE_ENDPOINTS);
            let decision = Decision::random(endpoints);
            return Ok(Decided { decision, protocol: service.protocol, at: start });
        }
        Backend::Pool(pool) => pool,
    };
    let picker = &context.proxy.picker;
    let explains = context.record.is_explained();
    let proxy = context.proxy;
    let has_joined = |endpoint: &SocketAddr| proxy.has_ready(&pool.key, endpoint);
    let mut wanted = Wanted {
        hint: hint.as_ref(),
        explains,
        reserves: context.reserves,
        joined: Some(Joined::new(&has_joined)),
        explanation: None,
    };
    if let Some(rewrite) = rewrite {
        rewrite.announce(&mut head.headers);
    }
    let decision = match &pool.picker {
        PoolPicker::Service(service) => {
            let host = authority.as_str();
            // Boxed, so that it adds nothing to the future of requests that are picked in process.
            Box::pin(picker.ask(pool, service, head, host, body, &mut wanted)).await.map_err(Error::from)
        }
        PoolPicker::InProcess(_) => match context.routes.schedulers.get(pool.index) {
            Some(Some(scheduler)) => {
                let prompt = read_prompt(scheduler, head, body).await?;
                start = context.observe_prompt(start);
                picker.schedule(pool, scheduler, &mut wanted, body, prompt).map_err(Error::from)
            }
            _ => Err(Error::Backend("the in-process picker of its pool could not be started")),
        },
    };
    if rewrite.is_some() {
        Rewrite::remove_announcement(&mut head.headers);
    }
    let at = Instant::now();
    context.observe_picked(at.duration_since(start), wanted.explanation.as_deref());
    Ok(Decided { decision: decision?, protocol: pool.protocol, at })
}
