//! The kernel side of a node: loads the programs, attaches them to the cgroups of pods, and reads what they recorded.
//!
//! Maps and links are pinned under `DIR/v4/…` on a bpffs, so counting continues while no agent runs, and the next agent
//! adopts them. [`forebay_agent_ebpf::maps`] specifies the maps.

mod attach;
mod clock;
mod drift;
mod events;
mod load;
mod open;
mod options;
mod pins;
mod quantiles;
mod read;
mod state;
mod sweep;

pub use attach::{WatchError, Watched};
pub use clock::boottime_ns;
pub use events::Events;
pub use load::KernelOff;
pub use open::OpenRequests;
pub use options::{KeepPins, Options};
pub use quantiles::Quantiles;
pub use read::DropCounters;
pub use state::Kernel;
