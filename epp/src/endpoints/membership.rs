//! Keeps the members of the pool as the store has them.

use std::sync::Arc;

use forebay_agent::resources::{LabelSelector, ObjectKey, Store};

use super::Endpoints;
use crate::Error;

/// Runs until it is dropped.
pub(crate) async fn follow_members(store: Arc<Store>, pool: ObjectKey, endpoints: Arc<Endpoints>) {
    let mut generations = store.subscribe();
    loop {
        generations.mark_unchanged();
        let snapshot = store.snapshot();
        let exists = snapshot.inference_pools.contains_key(&pool);
        endpoints.set_members(exists.then(|| snapshot.pool_endpoints(&pool)));
        if generations.changed().await.is_err() {
            return;
        }
    }
}

/// `name=value[,name=value…]`
pub(crate) fn parse_selector(text: &str) -> Result<LabelSelector, Error> {
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=')?;
        (!name.trim().is_empty()).then(|| (name.trim().to_owned(), value.trim().to_owned()))
    };
    let match_labels = text.split(',').map(pair).collect::<Option<_>>();
    Ok(LabelSelector { match_labels: match_labels.ok_or_else(|| Error::Selector(text.into()))? })
}
