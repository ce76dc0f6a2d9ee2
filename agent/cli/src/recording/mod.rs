//! `forebay record`, and the player of its files for `--replay`.

mod amount;
mod player;
mod record;

pub(crate) use amount::{At, duration};
pub(crate) use player::Player;
pub(crate) use record::{Options, run};
