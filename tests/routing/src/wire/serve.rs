use std::{
    collections::BTreeSet,
    io::{self, BufRead, Read, Write},
};

use super::{Decision, Input, Pick};
use crate::router::{RequestId, Router, Time, UNIT_TOKENS};

/// Longest line. A prompt of a million tokens has 300 KB.
const MAX_LINE_BYTES: u64 = 16 << 20;

#[derive(Debug, thiserror::Error)]
pub enum WireError {
    #[error("line {line}: {field}: {problem}")]
    Invalid { line: u64, field: String, problem: String },
    #[error("cannot read line {line}: {error}")]
    Read { line: u64, error: io::Error },
    #[error("cannot write the pick of line {line}: {error}")]
    Write { line: u64, error: io::Error },
}

/// Feeds the events of `input` to the router and writes its picks, until the end of the input. Stops at the first line
/// that is not valid.
pub fn serve(
    router: &mut dyn Router,
    mut input: impl BufRead,
    mut output: impl Write,
) -> Result<(), WireError> {
    let mut order = Order::default();
    let mut text = Vec::new();
    for line in 1.. {
        text.clear();
        let read = (&mut input).take(MAX_LINE_BYTES + 1).read_until(b'\n', &mut text);
        match read.map_err(|error| WireError::Read { line, error })? {
            0 => break,
            length if length as u64 > MAX_LINE_BYTES => {
                let problem = format!("longer than {MAX_LINE_BYTES} bytes");
                return Err(WireError::Invalid { line, field: "line".to_owned(), problem });
            }
            _ if text.trim_ascii().is_empty() => continue,
            _ => {}
        }
        let event = parse(&text)
            .and_then(|event| order.check(&event).map(|()| event))
            .map_err(|(field, problem)| WireError::Invalid { line, field, problem })?;
        if let Some(pick) = apply(router, event) {
            write(&mut output, pick).map_err(|error| WireError::Write { line, error })?;
        }
    }
    Ok(())
}

fn write(output: &mut impl Write, pick: Pick) -> io::Result<()> {
    let mut text = serde_json::to_vec(&Decision::Pick(pick))?;
    text.push(b'\n');
    output.write_all(&text)?;
    output.flush()
}

type Problem = (String, String);

fn parse(text: &[u8]) -> Result<Input, Problem> {
    let mut json = serde_json::Deserializer::from_slice(text);
    let event = serde_path_to_error::deserialize(&mut json)
        .map_err(|error| (error.path().to_string(), error.inner().to_string()))?;
    json.end().map_err(|error| ("line".to_owned(), error.to_string()))?;
    Ok(event)
}

fn apply(router: &mut dyn Router, event: Input) -> Option<Pick> {
    let now = event.at();
    match event {
        Input::Members(event) => router.set_members(now, &event.members),
        Input::Signals(event) => router.observe(now, event.endpoint, &event.signals),
        Input::FirstByte(event) => router.first_byte(now, event.id),
        Input::End(event) => router.end(now, event.id, event.outcome),
        Input::Request(event) => {
            let id = event.id;
            let endpoint = router.pick(now, &event.request());
            return Some(Pick { at_ns: now, id, endpoint, scores: router.scores() });
        }
    }
    None
}

/// Rules between lines, so that a router need not check them.
#[derive(Default)]
struct Order {
    last: Time,
    has_members: bool,
    open: BTreeSet<RequestId>,
}

impl Order {
    fn check(&mut self, event: &Input) -> Result<(), Problem> {
        let at = event.at();
        let problem = |field: &str, problem: String| Err((field.to_owned(), problem));
        if at < self.last {
            return problem("at_ns", format!("{} is earlier than {} before", at.as_ns(), self.last.as_ns()));
        }
        self.last = at;
        match event {
            Input::Members(event) => self.has_members = !event.members.is_empty(),
            Input::Signals(_) => {}
            Input::Request(event) => {
                if !self.has_members {
                    return problem("request", "the pool has no members; send `members` first".to_owned());
                }
                let units = event.prompt_tokens.div_ceil(UNIT_TOKENS) as usize;
                if event.prompt.len() != units {
                    let found = event.prompt.len();
                    return problem(
                        "request.prompt",
                        format!("{found} hashes for {} tokens, expected {units}", event.prompt_tokens),
                    );
                }
                if !self.open.insert(event.id) {
                    return problem("request.id", format!("request {} is still open", event.id.0));
                }
            }
            Input::FirstByte(event) if !self.open.contains(&event.id) => {
                return problem("first_byte.id", format!("request {} is not open", event.id.0));
            }
            Input::FirstByte(_) => {}
            Input::End(event) => {
                if !self.open.remove(&event.id) {
                    return problem("end.id", format!("request {} is not open", event.id.0));
                }
            }
        }
        Ok(())
    }
}
