//! A request in the form in which it is sent upstream.

use std::time::Instant;

use forebay_routing::{Backend, Mirror, Rule};
use http::request;

use super::access::source;
use super::authority::Authority;
use super::context::Context;
use super::filters::AppliedFilters;
use super::rewrite::Rewrite;
use super::routed::Routed;
use super::stream_usage::{add_usage, wants_usage};
use crate::error::Error;
use crate::hold::HeldBody;
use crate::observe::MirrorResult;
use crate::pick::SubsetHint;

#[derive(Debug)]
pub(super) struct Prepared<'a> {
    pub(super) context: Context<'a>,
    pub(super) head: Box<request::Parts>,
    pub(super) body: Box<HeldBody>,
    pub(super) authority: Authority,
    pub(super) rule: &'a Rule,
    pub(super) backend: &'a Backend,
    pub(super) filters: AppliedFilters<'a>,
    pub(super) rewrite: Option<Rewrite>,
    /// Restricts the endpoints.
    pub(super) hint: Option<SubsetHint>,
    /// The gateway asked for the usage of the stream, not the client.
    pub(super) adds_usage: bool,
}

impl<'a> Prepared<'a> {
    /// Applies request filters and the model rewrite, sends mirrors, and asks for usage.
    #[expect(clippy::manual_async_fn, reason = "an async fn would store its argument twice")]
    pub(super) fn new(routed: Routed<'a>) -> impl Future<Output = Result<Self, Error>> + Send {
        async move {
            let Routed { mut context, mut head, mut body, filters, backend, matched, model, .. } = routed;
            filters.change_request(&mut head, matched.prefix_bytes);
            // Internal headers are obeyed only if they come from a trusted client or from the operator's filters.
            let obeys_headers = routed.is_trusted || filters.change_request_headers();
            let rewrite = Rewrite::choose(
                backend,
                &mut head.headers,
                model.as_ref(),
                routed.alias_target,
                obeys_headers,
            )?;
            if let Some(rewrite) = &rewrite {
                if let Some(caller) = &routed.caller {
                    rewrite.authorize(caller, source(context.via), &head.headers)?;
                }
                let start = Instant::now();
                rewrite.apply(&mut head.headers, &mut body).await?;
                context.observe_read(start);
            }
            let hint = match backend {
                Backend::Pool(_) if obeys_headers => SubsetHint::take(&mut head.headers),
                _ => None,
            };
            // A reservation sends nothing to any endpoint.
            if !context.reserves {
                for mirror in filters.mirrors() {
                    send_mirror(&context, mirror, &head, &mut body).await?;
                }
            }
            let adds_usage = model.is_some()
                && wants_usage(&context)
                && add_usage(&mut context, &mut head, &mut body).await?;
            let (authority, rule) = (routed.authority, matched.rule);
            Ok(Self { context, head, body, authority, rule, backend, filters, rewrite, hint, adds_usage })
        }
    }
}

/// Sends a copy if the whole body can be held. Waits for the body only.
async fn send_mirror(
    context: &Context<'_>,
    mirror: &Mirror,
    head: &request::Parts,
    body: &mut HeldBody,
) -> Result<(), Error> {
    let proxy = context.proxy;
    if mirror.closed_by.is_some() {
        proxy.metrics.mirrored(MirrorResult::Closed);
        return Ok(());
    }
    if !body.is_replayable() {
        proxy.metrics.mirrored(MirrorResult::Skipped);
        return Ok(());
    }
    body.read_all().await?;
    proxy.mirrors.send(&mirror.backend, head, body.frames(), proxy.budget.open());
    Ok(())
}
