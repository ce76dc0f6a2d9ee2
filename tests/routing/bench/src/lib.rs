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
    // Pickers begin at a random endpoint, and some policies are random.
    fastrand::seed(seed);
    let mut make = |_replica| -> Box<dyn forebay_routing_sim::Router> {
        Box::new(PickerRouter::new(policy.pipeline.clone()))
    };
    let result = run(trace, conditions, seed, &mut make).map_err(|error| error.to_string())?;
    Ok(Report::of(&result))
}

#[cfg(test)]
mod tests {
    use forebay_routing_sim::EngineSpec;

    use super::*;

    #[test]
    fn runs_of_one_seed_are_equal() {
        let engine = EngineSpec::qwen3_32b_2xh100();
        let conditions = Conditions::new(vec![engine.clone(); 4]);
        let trace = traces::Name::SharedPrompts.load(None, 150, 0.5, 0).unwrap();
        for policy in ["forebay", "random", "least request (kernel)"] {
            let run = |seed| {
                let policies = policies::all(&engine).unwrap();
                let policy = policies.iter().find(|it| it.name == policy).unwrap();
                simulate(policy, &trace, &conditions, seed).unwrap()
            };
            assert_eq!(run(1), run(1), "{policy}");
        }
    }
}
