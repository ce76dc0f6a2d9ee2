use forebay_grpc::names::PROMPT_TYPE;
use forebay_grpc::proto;
use http::HeaderMap;
use proptest::prelude::*;
use prost::Message as _;

use super::{FeaturesError, MAX_BLOCKS, PromptSender, ReceivedPrompt};
use crate::schedule::{MAX_BODY_BYTES, Prompt, PromptReader, PromptSource as _};

fn wire(message: &proto::Prompt) -> proto::Any {
    proto::Any { type_url: PROMPT_TYPE.to_owned(), value: message.encode_to_vec() }
}

fn reader() -> PromptReader {
    PromptReader::new("/v1/chat/completions", &HeaderMap::new()).unwrap()
}

/// Sends the body in messages: one after each of `cuts`, and one at the end. Returns what arrived, and the size of all
/// messages.
fn travel(body: &[u8], cuts: &[usize]) -> (ReceivedPrompt, usize) {
    let mut sender = PromptSender::new(reader().with_length(Some(body.len() as u64)));
    let mut received = ReceivedPrompt::new(true);
    let (mut read, mut bytes) = (0, 0);
    for cut in cuts {
        let cut = (*cut).min(body.len());
        sender.feed(&body[read..cut.max(read)]);
        read = read.max(cut);
        let message = wire(&sender.message(false));
        bytes += message.value.len();
        received.receive(&message).unwrap();
        sender.sent();
    }
    sender.feed(&body[read..]);
    sender.finish();
    // Lost before it was sent: the next one has the same.
    let _ = sender.message(false);
    let message = wire(&sender.message(false));
    bytes += message.value.len();
    received.receive(&message).unwrap();
    (received, bytes)
}

fn read(body: &[u8]) -> PromptReader {
    let mut reader = reader().with_length(Some(body.len() as u64));
    reader.feed(body);
    reader.finish();
    reader
}

fn assert_same(received: &ReceivedPrompt, body: &[u8]) {
    let expected = read(body);
    assert_eq!(received.prompt(), expected.prompt());
    assert_eq!((received.key(), received.read_share()), (expected.key(), expected.read_share()));
    assert!(received.is_ended());
}

fn content(bytes: usize) -> String {
    (0..).map(|n| format!("word {n} ")).take(bytes / 8).collect()
}

#[test]
fn the_same_prompt_arrives_whatever_the_order_of_members() {
    let messages = format!(r#""messages":[{{"role":"user","content":"{}"}}]"#, content(20_000));
    let tools = format!(r#""tools":["{}"]"#, content(2_000));
    let [model, salt, stream] = [r#""model":"qwen""#, r#""cache_salt":"secret""#, r#""stream":true"#];
    let orders = [
        [model, salt, &tools, &messages, stream],
        [&messages, model, salt, &tools, stream],
        [model, &messages, stream, &tools, salt],
        [stream, &tools, &messages, salt, model],
        [&messages, &tools, model, &messages, salt],
    ];
    for order in orders {
        let body = format!("{{{}}}", order.join(","));
        for step in [1_000, 7_001, body.len()] {
            let cuts: Vec<usize> = (0..body.len()).step_by(step).collect();
            assert_same(&travel(body.as_bytes(), &cuts).0, body.as_bytes());
        }
    }
}

#[test]
fn blocks_are_not_sent_before_the_model_is_known() {
    let body = format!(r#"{{"messages":[{{"content":"{}"}}],"model":"qwen"}}"#, content(20_000));
    let mut sender = PromptSender::new(reader());
    sender.feed(&body.as_bytes()[..10_000]);
    assert!(!sender.has_news());
    let message = sender.message(false);
    assert_eq!((message.blocks.len(), message.key), (0, None));
    assert!(message.prompt_bytes > 9_000, "the size is known: {}", message.prompt_bytes);
}

#[test]
fn a_long_prompt_costs_its_hashes() {
    let body = format!(r#"{{"model":"qwen","messages":[{{"content":"{}"}}]}}"#, content(220_000));
    let (once, whole) = travel(body.as_bytes(), &[]);
    let cuts: Vec<usize> = (0..body.len()).step_by(16 << 10).collect();
    let (_, parts) = travel(body.as_bytes(), &cuts);
    println!("{} bytes of body: {whole} bytes at once, {parts} in {} messages", body.len(), cuts.len() + 1);
    let hashes = once.prompt().blocks.len() * size_of::<u64>();
    assert!(parts < hashes + 64 * (cuts.len() + 1), "each block once: {parts} bytes for {hashes}");
}

/// Members of a body, one of them malformed.
const MEMBERS: [&str; 6] = [
    r#""model":"a""#,
    r#""model":"b""#,
    r#""cache_salt":"s""#,
    r#""tools":[1]"#,
    r#""messages":null"#,
    r#""bad":}"#,
];

proptest! {
    #[test]
    fn any_split_of_any_body_arrives(
        members in prop::collection::vec(0..MEMBERS.len() + 2, 0..6),
        cuts in prop::collection::vec(0_usize..2_000, 0..5),
    ) {
        let texts = [300, 1_000].map(|bytes| format!(r#""messages":"{}""#, content(bytes)));
        let all: Vec<&str> = MEMBERS.iter().copied().chain(texts.iter().map(String::as_str)).collect();
        let members: Vec<&str> = members.into_iter().map(|index| all[index]).collect();
        let body = format!("{{{}}}", members.join(","));
        assert_same(&travel(body.as_bytes(), &cuts).0, body.as_bytes());
    }

    #[test]
    fn no_bytes_break_the_receiver(messages in prop::collection::vec(prop::collection::vec(any_byte(), 0..60), 1..4)) {
        let mut received = ReceivedPrompt::new(true);
        for value in messages {
            let before = (received.prompt().into_owned(), received.key());
            let message = proto::Any { type_url: PROMPT_TYPE.to_owned(), value };
            if received.receive(&message).is_err() {
                assert_eq!((received.prompt().into_owned(), received.key()), before);
            }
            let prompt = received.prompt();
            assert!(prompt.bytes <= MAX_BODY_BYTES && prompt.body_bytes <= MAX_BODY_BYTES);
            assert!(prompt.blocks.len() as u64 * Prompt::BLOCK_BYTES <= prompt.bytes);
        }
    }
}

fn any_byte() -> impl Strategy<Value = u8> {
    // Tags of the first fields, and small numbers.
    prop_oneof![Just(0x08_u8), Just(0x12), Just(0x20), Just(0x28), Just(0x31), 0_u8..12, any::<u8>()]
}

#[test]
fn invalid_messages_are_refused_with_the_reason() {
    let valid = proto::Prompt { blocks: vec![1, 2], prompt_bytes: 600, ..proto::Prompt::default() };
    let over = MAX_BODY_BYTES + 1;
    type Change = fn(&mut proto::Prompt);
    let cases: [(Change, FeaturesError); 7] = [
        (|it| it.kept_blocks = 3, FeaturesError::UnknownBlocks { kept: 3, known: 2 }),
        (|it| it.prompt_bytes = 511, FeaturesError::TooShort { blocks: 2, bytes: 511 }),
        (|it| it.prompt_bytes = MAX_BODY_BYTES + 1, FeaturesError::TooLarge(over)),
        (|it| it.body_bytes = u64::MAX, FeaturesError::TooLarge(u64::MAX)),
        (|it| it.read_share = Some(1.5), FeaturesError::Share(1.5)),
        (|it| it.read_share = Some(-f64::INFINITY), FeaturesError::Share(-f64::INFINITY)),
        (
            |it| {
                it.blocks = vec![0; MAX_BLOCKS + 1];
                it.prompt_bytes = MAX_BODY_BYTES;
            },
            FeaturesError::TooManyBlocks(MAX_BLOCKS + 1),
        ),
    ];
    for (change, expected) in cases {
        let mut received = ReceivedPrompt::new(true);
        assert_eq!(received.receive(&wire(&valid)), Ok(2));
        let mut message = valid.clone();
        change(&mut message);
        assert_eq!(received.receive(&wire(&message)), Err(expected));
        assert_eq!(received.prompt().blocks, [1, 2], "nothing was taken");
    }
    let mut received = ReceivedPrompt::new(true);
    let mut wrong = wire(&valid);
    wrong.value = b"\xff\xff"[..].into();
    assert!(matches!(received.receive(&wrong), Err(FeaturesError::Undecodable(_))));
    wrong.type_url = "type.googleapis.com/other".to_owned();
    assert_eq!(received.receive(&wrong), Err(FeaturesError::Type("type.googleapis.com/other".to_owned())));
    let ended = proto::Prompt { is_ended: true, ..valid.clone() };
    assert_eq!(received.receive(&wire(&ended)), Ok(2));
    assert_eq!(received.receive(&wire(&valid)), Err(FeaturesError::AfterEnd));
}

#[test]
fn a_share_that_is_no_number_is_refused() {
    let message = proto::Prompt { read_share: Some(f64::NAN), ..proto::Prompt::default() };
    let error = ReceivedPrompt::new(true).receive(&wire(&message)).unwrap_err();
    assert_eq!(error.to_string(), "has a read share of NaN, expected 0 to 1");
}

#[test]
fn a_gateway_that_relays_no_responses_reports_no_first_byte() {
    let body = br#"{"stream":true,"model":"qwen","messages":[]}"#;
    let mut sender = PromptSender::new(reader());
    sender.feed(body);
    for reports_first_byte in [false, true] {
        let mut received = ReceivedPrompt::new(reports_first_byte);
        received.receive(&wire(&sender.message(false))).unwrap();
        assert_eq!(received.prompt().is_streamed, reports_first_byte);
    }
}
