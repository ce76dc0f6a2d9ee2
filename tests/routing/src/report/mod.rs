//! Figures of a run, medians over seeds, and tables of policies.

mod figures;
mod table;

pub use figures::{Report, Spread, Summary};
pub use table::{PolicyRow, table};
