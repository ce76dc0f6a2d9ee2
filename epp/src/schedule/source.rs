use std::borrow::Cow;

use super::prompt::Prompt;

/// The prompt of a request, as far as it is known: read from the body, or received in messages.
pub trait PromptSource {
    /// Whether the body was read to its end.
    fn is_ended(&self) -> bool;

    /// The share of the body that was read. `None` if its size is not known.
    fn read_share(&self) -> Option<f64>;

    /// The model that the body names. `None`: the request headers name it.
    fn model(&self) -> Option<&str> {
        None
    }

    /// The prompt as far as it is known. The size of the rest is estimated from the size of the body.
    fn prompt(&self) -> Cow<'_, Prompt>;

    /// Hash of what the blocks depend on besides the turns: model, cache salt, context. `None` until the model is known.
    fn key(&self) -> Option<u64>;

    /// The last block that is known, if it is worth a look since the last call.
    fn block_to_try(&mut self) -> Option<u64>;

    /// The key at the first block that no endpoint holds. `None` before it.
    fn divergence(&self) -> Option<u64>;

    /// No endpoint holds the last block.
    fn diverged(&mut self);

    /// Whether members that changed the keys followed the block at which the prompt differs from all others. `None` if the
    /// end or such a block was not reached.
    fn changed_after_divergence(&self) -> Option<bool> {
        let before = self.divergence().filter(|_| self.is_ended())?;
        Some(self.key() != Some(before))
    }
}
