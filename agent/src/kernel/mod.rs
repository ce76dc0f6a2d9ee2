//! The kernel's side of a node: loads the programs, attaches them to pods' cgroups,
//! reads what they counted.
//!
//! Maps and links are pinned (`DIR/v1/…`) where a bpffs is mounted, so counting goes
//! on while no agent runs, and the next agent adopts what it finds.

mod attach;
mod clock;
mod events;
mod load;
mod pins;
mod read;

pub use attach::{WatchError, Watched};
pub use clock::boottime_ns;
pub use events::Events;
pub use load::{KeepPins, Kernel, KernelOff, Options};
pub use read::{Counted, Quantiles};
