//! The traces of the benchmark, with the load of 8 pods.

use std::path::Path;

use clap::ValueEnum;
use forebay_routing_sim::{
    Trace,
    trace::{Agents, Bursts, CodeGeneration, Reasoning, SharedPrompts, TraceError, azure, mooncake},
};

/// A trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Name {
    Mooncake,
    Azure,
    SharedPrompts,
    Agents,
    CodeGeneration,
    Reasoning,
    Bursts,
}

impl Name {
    /// About the first `requests` requests at `load` times the rate.
    pub fn load(self, folder: Option<&Path>, requests: usize, load: f64, seed: u64) -> Result<Trace, String> {
        let file = |read: fn(&Path) -> Result<Trace, TraceError>| {
            let folder = folder.ok_or("--traces names no folder")?;
            let trace = read(folder).map_err(|error| error.to_string())?;
            Ok::<_, String>(trace.first(requests))
        };
        let trace = match self {
            Self::Mooncake => file(mooncake)?,
            Self::Azure => file(azure)?,
            Self::SharedPrompts => SharedPrompts { requests, ..SharedPrompts::default() }.generate(seed),
            Self::Agents => {
                let agents = Agents::default();
                Agents { sessions: requests / agents.turns as usize, ..agents }.generate(seed)
            }
            Self::CodeGeneration => {
                let code = CodeGeneration::default();
                CodeGeneration { sessions: requests / code.turns as usize, ..code }.generate(seed)
            }
            Self::Reasoning => Reasoning { requests, ..Reasoning::default() }.generate(seed),
            Self::Bursts => {
                let bursts = Bursts::default();
                let background = SharedPrompts { requests, ..bursts.background };
                Bursts { background, ..bursts }.generate(seed)
            }
        };
        Ok(trace.at_rate(load * self.near_the_knee()))
    }

    /// Rate at which 8 engines are well used and not overloaded, by the trace's own.
    fn near_the_knee(self) -> f64 {
        match self {
            Self::SharedPrompts => 0.5,
            Self::Bursts => 0.4,
            Self::Mooncake | Self::Azure | Self::Agents | Self::CodeGeneration | Self::Reasoning => 1.0,
        }
    }
}
