//! The picker as a router of the simulator, the policies that are compared, and the traces.

pub mod picker;
pub mod policies;
pub mod traces;

use forebay_routing_sim::{Conditions, Report, Trace, run};

use crate::{picker::PickerRouter, policies::Policy};

/// Runs one policy in virtual time.
///
/// # Errors
///
/// Invalid conditions, or a pick of a pod that is not a member.
pub fn simulate(
    policy: &Policy,
    trace: &Trace,
    conditions: &Conditions,
    seed: u64,
) -> Result<Report, String> {
    let mut make = |_replica| -> Box<dyn forebay_routing_sim::Router> {
        Box::new(PickerRouter::new(policy.pipeline.clone()))
    };
    let result = run(trace, conditions, seed, &mut make).map_err(|error| error.to_string())?;
    Ok(Report::of(&result))
}
