//! A router as JSON lines on stdin and stdout, for simulators and routers in other processes.
//!
//! Each input line is an object with one member, the name of the event; `at_ns` is virtual time and never decreases:
//!
//! ```json
//! {"members":{"at_ns":0,"members":[{"endpoint":0,"incarnation":0}]}}
//! {"signals":{"at_ns":51000000,"endpoint":0,"signals":{"kernel":{…},"engine":{…}}}}
//! {"request":{"at_ns":60000000,"id":0,"prompt":["00000000000000a1","00000000000000b2"],"prompt_tokens":100,
//!   "prompt_bytes":400,"max_tokens":256,"session":7}}
//! {"first_byte":{"at_ns":95000000,"id":0}}
//! {"end":{"at_ns":99000000,"id":0,"outcome":"completed"}}
//! ```
//!
//! Each `request` is answered by one output line before the next input line is read; no other event is answered:
//!
//! ```json
//! {"pick":{"at_ns":60000000,"id":0,"endpoint":0,"scores":[[0,0.5]]}}
//! ```
//!
//! - `members` replaces the members of the pool. It comes before the first `request`.
//! - `signals`: [`KernelView`](crate::KernelView) and [`EngineView`](crate::EngineView); a missing one is not available.
//!   Times in them are virtual times as well.
//! - `prompt`: one hash per [`UNIT_TOKENS`](crate::UNIT_TOKENS) tokens, of the unit and everything before it, as 16
//!   hexadecimal digits. The last unit may be partial.
//! - `session` may be missing. `outcome` is `completed`, `failed`, or `timed_out`.
//! - `scores`: endpoint and score, higher is better, if the router has them.

mod messages;
mod recorder;
mod serve;

pub use messages::{Decision, End, FirstByte, Input, Members, Pick, Prompt, SignalsOf};
pub use recorder::{Recorder, Recording};
pub use serve::{WireError, serve};
