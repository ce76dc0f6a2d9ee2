//! Whether the engine of an endpoint works: one verdict for pickers, CLI and metrics.
//!
//! An engine can hang for hours behind a server that answers probes and scrapes. What counts as **progress** is only what
//! the engine itself does: content of a response (kernel), or a change of its counters of steps, tokens and requests
//! (scrape). The rules, in order:
//!
//! | observation | verdict |
//! |---|---|
//! | the engine sleeps | stalled |
//! | responses have begun, and no progress for far longer than the pace of the engine | stalled; suspect while the engine reports no request, because its reader may be slow |
//! | no scrape was ever answered, and no response was ever seen | suspect: the engine is probably loading |
//! | scrapes are no longer answered | suspect |
//! | requests wait for their first content, and no progress | suspect; stalled when the GPUs are idle or no step ends for a minute |
//! | otherwise | alive, or unknown without a source that could tell |
//!
//! A request that waits may rightly wait for minutes, so silence alone never makes it stalled. A doubt about progress stays
//! until there is some, or until the engine had nothing to do for a while: it is then tried again.

mod history;
mod pace;
#[cfg(test)]
mod tests;

pub use history::History;
