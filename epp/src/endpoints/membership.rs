//! Follows the members of the pool in the resource store.

use std::sync::Arc;

use forebay_resources::{LabelSelector, ObjectKey, Store};
use tracing::Instrument as _;

use super::Endpoints;
use crate::Error;

/// Sets the current members before it returns, so that the first pick sees them. The returned future then follows the
/// store until it is dropped.
pub(crate) fn follow_members(
    store: Arc<Store>,
    pool: ObjectKey,
    endpoints: Arc<Endpoints>,
) -> impl Future<Output = ()> + Send {
    let mut generations = store.subscribe();
    let pool_name = pool.clone();
    let update = move || {
        let snapshot = store.snapshot();
        let exists = snapshot.inference_pools.contains_key(&pool);
        endpoints.set_members(exists.then(|| snapshot.pool_endpoints(&pool)));
    };
    update();
    let span = tracing::debug_span!("members", pool = %pool_name);
    let follow = async move {
        while generations.changed().await.is_ok() {
            update();
        }
    };
    follow.instrument(span)
}

/// Parses `name=value[,name=value…]`.
pub(crate) fn parse_selector(text: &str) -> Result<LabelSelector, Error> {
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=')?;
        (!name.trim().is_empty()).then(|| (name.trim().to_owned(), value.trim().to_owned()))
    };
    let match_labels = text.split(',').map(pair).collect::<Option<_>>();
    Ok(LabelSelector { match_labels: match_labels.ok_or_else(|| Error::Selector(text.into()))? })
}
