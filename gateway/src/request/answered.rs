//! A response whose head is final.

use forebay_openai::{ResponseFormat, Restore};
use http::{Response, header};
use http_body::Body as _;

use super::forwarded::Forwarded;
use crate::error::Error;
use crate::forward::PooledBody;
use crate::headers::remove_hop_by_hop;
use crate::response::ResponseState;

#[derive(Debug)]
pub(super) struct Answered {
    pub(super) response: Response<PooledBody>,
    pub(super) state: ResponseState,
}

impl Answered {
    /// Lets the picker and the filters change the response head.
    #[expect(clippy::manual_async_fn, reason = "an async fn would store its argument twice")]
    pub(super) fn new(stage: Forwarded<'_>) -> impl Future<Output = Result<Self, Error>> + Send {
        async move {
            let Forwarded { context, forwarded, mut session, filters, rewrite, adds_usage, deadline } = stage;
            let (mut parts, mut body) = forwarded.response.into_parts();
            remove_hop_by_hop(&mut parts.headers);
            let has_body = !body.is_end_stream();
            if let Some(open) = session {
                let budget = &context.proxy.budget;
                session = Some(open.on_response(&mut parts, forwarded.endpoint, &mut body, budget).await?);
            }
            filters.change_response(&mut parts.headers);
            let restore = match rewrite {
                Some(rewrite) if has_body => {
                    Restore::new(&mut parts.headers, &rewrite.client_model).map(Box::new)
                }
                _ => None,
            };
            let is_stream = ResponseFormat::of(&parts.headers) == Some(ResponseFormat::Events);
            let usage_filter = (adds_usage && is_stream).then(Box::default);
            if usage_filter.is_some() {
                parts.headers.remove(header::CONTENT_LENGTH);
            }
            let state = ResponseState { session, restore, usage_filter, deadline };
            Ok(Self { response: Response::from_parts(parts, body), state })
        }
    }
}
