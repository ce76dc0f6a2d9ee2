use forebay_grpc::proto;

use crate::schedule::{PromptReader, PromptSource as _};

/// Says what is new of a prompt since the last message.
#[derive(Debug)]
pub struct PromptSender {
    reader: PromptReader,
    /// The blocks that the picker has.
    sent: Vec<u64>,
    /// The blocks that it has after the message that [`PromptSender::message`] returned.
    offered: Vec<u64>,
}

impl PromptSender {
    /// Sends what `reader` reads.
    pub fn new(reader: PromptReader) -> Self {
        Self { reader, sent: Vec::new(), offered: Vec::new() }
    }

    /// What was read.
    pub fn reader(&self) -> &PromptReader {
        &self.reader
    }

    /// Reads the next bytes of the body.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.reader.feed(bytes);
    }

    /// Says that the body has ended.
    pub fn finish(&mut self) {
        self.reader.finish();
    }

    /// Whether enough was read since the last call to change the decision.
    pub fn has_news(&mut self) -> bool {
        self.reader.block_to_try().is_some()
    }

    /// The message with what is new. The picker is assumed to have it after [`PromptSender::sent`].
    pub fn message(&mut self, must_decide: bool) -> proto::Prompt {
        let key = self.reader.key();
        let mut prompt = self.reader.prompt().into_owned();
        if key.is_none() && !self.reader.is_ended() {
            // The hashes would be those of another model.
            prompt.blocks.clear();
        }
        let kept = self.sent.iter().zip(&prompt.blocks).take_while(|(sent, block)| sent == block).count();
        let blocks = prompt.blocks[kept..].to_vec();
        self.offered = prompt.blocks;
        proto::Prompt {
            // At most the sum of two limits.
            kept_blocks: u32::try_from(kept).unwrap_or(u32::MAX),
            blocks,
            key,
            prompt_bytes: prompt.bytes,
            body_bytes: prompt.body_bytes,
            read_share: self.reader.read_share(),
            is_streamed: prompt.is_streamed,
            is_ended: self.reader.is_ended(),
            must_decide,
        }
    }

    /// The last message was sent.
    pub fn sent(&mut self) {
        self.sent = std::mem::take(&mut self.offered);
    }
}
