//! Checks of the simulator with simple routers.

mod conditions;
mod load;
mod routers;
mod speed;
mod traces;
mod wire;
