use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::router::{BlockHash, EndpointId, Member, Outcome, Request, RequestId, Signals, Time};

/// A line of input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Input {
    Members(Members),
    Signals(SignalsOf),
    Request(Prompt),
    FirstByte(FirstByte),
    End(End),
}

impl Input {
    pub fn at(&self) -> Time {
        match self {
            Self::Members(Members { at_ns, .. })
            | Self::Signals(SignalsOf { at_ns, .. })
            | Self::Request(Prompt { at_ns, .. })
            | Self::FirstByte(FirstByte { at_ns, .. })
            | Self::End(End { at_ns, .. }) => *at_ns,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Members {
    pub at_ns: Time,
    pub members: Vec<Member>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignalsOf {
    pub at_ns: Time,
    pub endpoint: EndpointId,
    pub signals: Signals,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prompt {
    pub at_ns: Time,
    pub id: RequestId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<u64>,
    pub prompt: Vec<BlockHash>,
    pub prompt_tokens: u32,
    pub prompt_bytes: u32,
    pub max_tokens: u32,
}

impl Prompt {
    pub(super) fn new(at_ns: Time, request: &Request) -> Self {
        Self {
            at_ns,
            id: request.id,
            session: request.session,
            prompt: request.prompt.to_vec(),
            prompt_tokens: request.prompt_tokens,
            prompt_bytes: request.prompt_bytes,
            max_tokens: request.max_tokens,
        }
    }

    pub(super) fn request(self) -> Request {
        Request {
            id: self.id,
            session: self.session,
            prompt: Arc::from(self.prompt),
            prompt_tokens: self.prompt_tokens,
            prompt_bytes: self.prompt_bytes,
            max_tokens: self.max_tokens,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FirstByte {
    pub at_ns: Time,
    pub id: RequestId,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct End {
    pub at_ns: Time,
    pub id: RequestId,
    pub outcome: Outcome,
}

/// A line of output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    Pick(Pick),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pick {
    pub at_ns: Time,
    pub id: RequestId,
    pub endpoint: EndpointId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scores: Option<Vec<(EndpointId, f64)>>,
}
