//! The configuration of the plugins: `EndpointPickerConfig` documents of the Gateway API Inference Extension and of llm-d.
//!
//! | module | task |
//! |---|---|
//! | `preset` | the policies that have a name |
//! | `pipeline` | a document becomes a [`Pipeline`] |
//! | `registry` | the known types of plugins |
//! | `refused`, `no_effect` | types without an implementation, with the reason |
//! | `file` | the fields of a document |
//! | `error` | errors with the path of the field |

mod error;
mod file;
mod no_effect;
mod pipeline;
mod preset;
mod refused;
mod registry;

#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;

pub use self::{
    error::Error,
    pipeline::{Config, Notice, Options},
    preset::Policy,
};
#[cfg(doc)]
use crate::schedule::Pipeline;
