//! Features of a prompt: the same for every split and layout, and those of a reader of whole bodies.

use forebay_openai::{
    MAX_CACHE_SALT_BYTES, MAX_PROMPT_BLOCKS, PROMPT_BLOCK_BYTES, PromptScanner, RequestKind, seeded_block,
};
use serde_json::value::RawValue;

use self::reference::Features;

#[path = "../../openai/src/prompt/tests/reference.rs"]
mod reference;

const KINDS: [RequestKind; 5] = [
    RequestKind::ChatCompletions,
    RequestKind::Completions,
    RequestKind::Responses,
    RequestKind::Messages,
    RequestKind::Embeddings,
];

/// Reads a JSON body as each kind of request.
pub fn prompt(data: &[u8]) {
    let (seed, body) = forebay_fuzz::seed(data);
    let pretty = layout(body);
    for kind in KINDS {
        let whole = scan(kind, std::iter::once(body));
        for seed in [0, seed] {
            assert_eq!(scan(kind, forebay_fuzz::pieces(body, seed)), whole, "the split matters");
        }
        if let Some(expected) = Features::expected(kind, body) {
            assert_eq!(whole, expected, "serde_json reads another prompt");
        }
        if let Some(pretty) = &pretty {
            assert_eq!(scan(kind, forebay_fuzz::pieces(pretty, seed)), whole, "whitespace matters");
        }
    }
}

fn scan<'a>(kind: RequestKind, pieces: impl Iterator<Item = &'a [u8]>) -> Features {
    let mut scanner = PromptScanner::new(kind);
    pieces.for_each(|piece| scanner.feed(piece));
    scanner.finish();
    Features::of(&scanner)
}

/// The body with whitespace around every token. `None` if it is not a JSON object.
fn layout(body: &[u8]) -> Option<Vec<u8>> {
    let text = serde_json::from_slice::<&RawValue>(body).ok()?.get();
    let mut spaced = Vec::new();
    let mut at = 0;
    while let Some(byte) = text.as_bytes().get(at) {
        let length = match byte {
            b'"' => reference::string_length(&text[at..]),
            _ => 1,
        };
        let token = &text.as_bytes()[at..at + length];
        match byte {
            b'"' | b'{' | b'}' | b'[' | b']' | b',' | b':' => {
                spaced.extend_from_slice(b" \n");
                spaced.extend_from_slice(token);
                spaced.extend_from_slice(b"\r\t");
            }
            // Whitespace inside a number is another text.
            _ => spaced.extend_from_slice(token),
        }
        at += length;
    }
    text.starts_with('{').then_some(spaced)
}
