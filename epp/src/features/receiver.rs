use std::borrow::Cow;

use forebay_grpc::{names::PROMPT_TYPE, proto};
use forebay_openai::MAX_PROMPT_BLOCKS;
use prost::Message as _;

use crate::schedule::{MAX_BODY_BYTES, Prompt, PromptSource};

/// Maximum blocks of a prompt: those of the messages, and those of what comes before them.
pub const MAX_BLOCKS: usize = 2 * MAX_PROMPT_BLOCKS;

/// Why a message about a prompt cannot be used.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum FeaturesError {
    /// Not the type that was agreed on.
    #[error("has the type {0:?}, expected {PROMPT_TYPE}")]
    Type(String),
    /// Not a valid protobuf message.
    #[error("cannot be decoded: {0}")]
    Undecodable(prost::DecodeError),
    /// Over the limit.
    #[error("has {0} blocks, at most {MAX_BLOCKS} are accepted")]
    TooManyBlocks(usize),
    /// Refers to blocks that were not sent.
    #[error("keeps {kept} blocks of the messages before it, which had {known}")]
    UnknownBlocks {
        /// `kept_blocks`
        kept: usize,
        /// Blocks that were received.
        known: usize,
    },
    /// `prompt_bytes` contradicts the blocks.
    #[error("has {blocks} blocks of {} bytes in {bytes} bytes", Prompt::BLOCK_BYTES)]
    TooShort {
        /// Number of blocks.
        blocks: usize,
        /// `prompt_bytes`
        bytes: u64,
    },
    /// A size over the limit.
    #[error("has a size of {0} bytes, at most {MAX_BODY_BYTES} are accepted")]
    TooLarge(u64),
    /// `read_share` is not between 0 and 1.
    #[error("has a read share of {0}, expected 0 to 1")]
    Share(f64),
    /// The message before it was the last one.
    #[error("follows the end of the prompt")]
    AfterEnd,
}

/// The prompt of a request whose body a gateway reads.
#[derive(Debug)]
pub struct ReceivedPrompt {
    prompt: Prompt,
    key: Option<u64>,
    read_share: Option<f64>,
    is_ended: bool,
    must_decide: bool,
    reports_first_byte: bool,
    /// The last block was not compared yet.
    is_untried: bool,
    divergence: Option<u64>,
}

impl ReceivedPrompt {
    /// Before the first message. `reports_first_byte`: see [`PromptReader`](crate::schedule::PromptReader).
    pub fn new(reports_first_byte: bool) -> Self {
        Self {
            prompt: Prompt::default(),
            key: None,
            read_share: None,
            is_ended: false,
            must_decide: false,
            reports_first_byte,
            is_untried: false,
            divergence: None,
        }
    }

    /// Takes the next message. Returns the number of blocks in it.
    ///
    /// # Errors
    ///
    /// The message is not valid. Nothing of it was taken.
    pub fn receive(&mut self, message: &proto::Any) -> Result<usize, FeaturesError> {
        if message.type_url != PROMPT_TYPE {
            return Err(FeaturesError::Type(message.type_url.chars().take(100).collect()));
        }
        let news = proto::Prompt::decode(&message.value[..]).map_err(FeaturesError::Undecodable)?;
        let kept = self.check(&news)?;
        self.prompt.blocks.truncate(kept);
        self.prompt.blocks.extend_from_slice(&news.blocks);
        self.prompt.bytes = news.prompt_bytes;
        self.prompt.body_bytes = news.body_bytes;
        self.prompt.is_streamed = news.is_streamed && self.reports_first_byte;
        self.key = news.key;
        self.read_share = news.read_share;
        self.is_ended = news.is_ended;
        self.must_decide = news.must_decide;
        self.is_untried |= !news.blocks.is_empty();
        Ok(news.blocks.len())
    }

    /// Whether the gateway waits for a decision with what is known.
    pub fn must_decide(&self) -> bool {
        self.must_decide
    }

    /// Returns the number of blocks that the message keeps.
    fn check(&self, news: &proto::Prompt) -> Result<usize, FeaturesError> {
        let (kept, known) = (news.kept_blocks as usize, self.prompt.blocks.len());
        let blocks = kept + news.blocks.len();
        let least_bytes = blocks as u64 * Prompt::BLOCK_BYTES;
        let largest = news.prompt_bytes.max(news.body_bytes);
        if self.is_ended {
            Err(FeaturesError::AfterEnd)
        } else if kept > known {
            Err(FeaturesError::UnknownBlocks { kept, known })
        } else if blocks > MAX_BLOCKS {
            Err(FeaturesError::TooManyBlocks(blocks))
        } else if largest > MAX_BODY_BYTES {
            Err(FeaturesError::TooLarge(largest))
        } else if news.prompt_bytes < least_bytes {
            Err(FeaturesError::TooShort { blocks, bytes: news.prompt_bytes })
        } else {
            match news.read_share {
                Some(share) if !(0.0..=1.0).contains(&share) => Err(FeaturesError::Share(share)),
                _ => Ok(kept),
            }
        }
    }
}

impl PromptSource for ReceivedPrompt {
    fn is_ended(&self) -> bool {
        self.is_ended
    }

    fn read_share(&self) -> Option<f64> {
        self.read_share
    }

    fn prompt(&self) -> Cow<'_, Prompt> {
        Cow::Borrowed(&self.prompt)
    }

    fn key(&self) -> Option<u64> {
        self.key
    }

    fn block_to_try(&mut self) -> Option<u64> {
        self.prompt.blocks.last().copied().filter(|_| std::mem::take(&mut self.is_untried))
    }

    fn divergence(&self) -> Option<u64> {
        self.divergence
    }

    fn diverged(&mut self) {
        self.divergence = self.divergence.or(self.key);
    }
}
