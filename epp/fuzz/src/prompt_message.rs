//! Prompts in messages: any messages are taken or refused as the protocol says, and a prompt that is sent arrives.

use forebay_epp::features::{MAX_BLOCKS, PromptSender, ReceivedPrompt};
use forebay_epp::schedule::{MAX_BODY_BYTES, Prompt, PromptReader, PromptSource as _};
use forebay_grpc::names::PROMPT_TYPE;
use forebay_grpc::proto::{self, Any};
use http::HeaderMap;
use prost::Message as _;

/// Receives messages, each behind its length in two bytes. Then sends a prompt that is read from the bytes as a body, in
/// pieces that the first byte selects.
pub fn prompt_message(data: &[u8]) {
    let (seed, data) = forebay_fuzz::seed(data);
    receive(data);
    travel(data, seed);
}

/// What a receiver knows.
#[derive(Clone, Debug, Default, PartialEq)]
struct Known {
    prompt: Prompt,
    key: Option<u64>,
    read_share: Option<f64>,
    is_ended: bool,
    must_decide: bool,
}

impl Known {
    fn of(received: &ReceivedPrompt) -> Self {
        Self {
            prompt: received.prompt().into_owned(),
            key: received.key(),
            read_share: received.read_share(),
            is_ended: received.is_ended(),
            must_decide: received.must_decide(),
        }
    }

    /// What is known after the message. `None` if it is invalid.
    fn after(&self, message: &[u8]) -> Option<Self> {
        let news = proto::Prompt::decode(message).ok()?;
        let mut blocks = self.prompt.blocks.get(..news.kept_blocks as usize)?.to_vec();
        blocks.extend(&news.blocks);
        let holds = blocks.len() as u64 <= news.prompt_bytes / Prompt::BLOCK_BYTES;
        let sizes = [news.prompt_bytes, news.body_bytes].iter().all(|bytes| *bytes <= MAX_BODY_BYTES);
        let share = news.read_share.is_none_or(|share| (0.0..=1.0).contains(&share));
        let is_valid = !self.is_ended && blocks.len() <= MAX_BLOCKS && holds && sizes && share;
        is_valid.then_some(Self {
            prompt: Prompt {
                blocks,
                bytes: news.prompt_bytes,
                body_bytes: news.body_bytes,
                is_streamed: news.is_streamed,
            },
            key: news.key,
            read_share: news.read_share,
            is_ended: news.is_ended,
            must_decide: news.must_decide,
        })
    }
}

fn receive(mut data: &[u8]) {
    let mut received = ReceivedPrompt::new(true);
    let mut known = Known::default();
    while let Some((length, rest)) = data.split_first_chunk() {
        let (message, rest) = rest.split_at(usize::from(u16::from_be_bytes(*length)).min(rest.len()));
        data = rest;
        let taken = received.receive(&wire(message.to_vec()));
        let after = known.after(message);
        assert_eq!(taken.is_ok(), after.is_some(), "{taken:?}");
        if let Some(after) = after {
            let has_blocks = proto::Prompt::decode(message).is_ok_and(|news| !news.blocks.is_empty());
            assert_eq!(received.block_to_try(), after.prompt.blocks.last().copied().filter(|_| has_blocks));
            known = after;
        }
        assert_eq!(received.block_to_try(), None, "a block is compared once");
        assert_eq!(Known::of(&received), known);
    }
}

fn travel(body: &[u8], seed: u8) {
    let reader = || {
        let reader = PromptReader::new("/v1/chat/completions", &HeaderMap::new()).unwrap();
        reader.with_length(Some(body.len() as u64))
    };
    let mut sender = PromptSender::new(reader());
    let mut received = ReceivedPrompt::new(true);
    for piece in forebay_fuzz::pieces(body, seed) {
        sender.feed(piece);
        received.receive(&wire(sender.message(false).encode_to_vec())).unwrap();
        sender.sent();
    }
    sender.finish();
    received.receive(&wire(sender.message(false).encode_to_vec())).unwrap();
    let mut whole = reader();
    whole.feed(body);
    whole.finish();
    assert_eq!((received.prompt(), received.key()), (whole.prompt(), whole.key()));
}

fn wire(value: Vec<u8>) -> Any {
    Any { type_url: PROMPT_TYPE.to_owned(), value }
}
