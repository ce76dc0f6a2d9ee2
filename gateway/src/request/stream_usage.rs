//! Asks engines for the usage of streams: OpenAI's API reports it only with `stream_options.include_usage`.

use std::time::Instant;

use bytes::Bytes;
use forebay_openai::{GenerationOptions, RequestKind};
use http::{HeaderValue, header, request};

use super::context::Context;
use super::proxy::StreamUsage;
use crate::error::Error;
use crate::hold::HeldBody;

/// Whether the usage of the request is to be known.
pub(super) fn wants_usage(context: &Context<'_>) -> bool {
    let proxy = context.proxy;
    let is_wanted = match proxy.stream_usage {
        StreamUsage::Never => false,
        StreamUsage::Always => true,
        StreamUsage::Auto => context.counts_tokens || proxy.logs.has_usage(),
    };
    is_wanted && !context.reserves
}

/// Adds `include_usage` to a request for a stream whose client did not ask for it. Bodies that are too large to be held are
/// not changed. True if the client must not see the usage.
pub(super) async fn add_usage(
    context: &mut Context<'_>,
    head: &mut request::Parts,
    body: &mut HeldBody,
) -> Result<bool, Error> {
    let kind = RequestKind::of_path(head.uri.path());
    if !matches!(kind, Some(RequestKind::ChatCompletions | RequestKind::Completions))
        || !body.is_replayable()
        || !GenerationOptions::can_read(&head.headers)
    {
        return Ok(false);
    }
    let start = Instant::now();
    body.read_all().await?;
    context.observe_read(start);
    let whole = body.contiguous();
    let change = GenerationOptions::read(&whole).and_then(|options| options.with_usage(&whole));
    let Some((at, text)) = change else { return Ok(false) };
    body.replace([whole.slice(..at.start), Bytes::from(text), whole.slice(at.end..)])?;
    // The usage cannot be removed from a compressed response.
    head.headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    Ok(true)
}
