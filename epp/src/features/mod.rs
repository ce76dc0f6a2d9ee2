//! A prompt in messages, between a gateway that reads the body and a picker in another process.
//!
//! The gateway hashes the prompt while it scans the body, and the picker gets the hashes: 8 bytes for 256 bytes of prompt.
//! Bodies do not travel to the picker and back.
//!
//! # Negotiation
//!
//! A gateway says with each stream that it can send prompts
//! ([`SENDS_PROMPT`](forebay_grpc::names::SENDS_PROMPT)). A picker whose pipeline reads prompts says so with each decision
//! ([`TAKES_PROMPT`](forebay_grpc::names::TAKES_PROMPT)). The gateway sends prompts on the connection on which it got such a
//! decision, until the connection ends or a decision says nothing of it. Everything else is the Endpoint Picker Protocol:
//! the first request on a connection, other gateways, other pickers, and other versions.
//!
//! A picker believes a prompt on the same terms as all metadata: it comes from who may open streams (with client CAs: who
//! has a certificate), never from headers of the request. A prompt on a stream that did not announce it is not read.
//!
//! # Messages
//!
//! The first [`proto::Prompt`](forebay_grpc::proto::Prompt) comes with the request headers, with what was read so far, so a
//! body that is there needs no further message. While the picker does not reply, the gateway reads on and sends what is new
//! at the same points at which a picker that reads the body looks at it: when the prompt has grown by an eighth. A new
//! prompt is decided after its first blocks, and a long shared prefix where it differs. After the decision one more message
//! has the blocks up to the end of the body, so that the picker knows what the endpoint holds.
//!
//! The hashes depend on the model, the salt and the tools. If those follow the messages in the body, the hashes are sent
//! again, or only then.

mod receiver;
mod sender;
#[cfg(test)]
mod tests;

pub use receiver::{FeaturesError, MAX_BLOCKS, ReceivedPrompt};
pub use sender::PromptSender;
