//! How fast the simulator is. `cargo test --release -p forebay-routing-sim --test simulator -- --ignored --nocapture`

use std::time::Instant;

use crate::routers::RoundRobin;
use forebay_routing_sim::{EngineSpec, Report, Scenario, Time, run, trace::SharedPrompts};

#[test]
#[ignore = "a measurement; needs a release build"]
fn an_hour_of_trace() {
    for pods in [8_usize, 64, 256] {
        let per_s = 4.0 * pods as f64;
        let requests = (per_s * 3600.0) as usize;
        let short = SharedPrompts {
            prefix_tokens: 2_000,
            question_tokens: 500,
            output_tokens: 200,
            ..Default::default()
        };
        let trace = SharedPrompts { requests, requests_per_s: per_s, ..short }.generate(1);
        let spec = EngineSpec::qwen3_32b_2xh100();
        for scenario in [Scenario::Plain, Scenario::FourReplicas] {
            let conditions = scenario.conditions(&spec, pods, Time::from_s(1800));
            let begin = Instant::now();
            let result = run(&trace, &conditions, 1, &mut |_| Box::new(RoundRobin::default())).unwrap();
            let report = Report::of(&result);
            let end = result.records.last().unwrap().ended_at.as_secs_f64();
            let wall = begin.elapsed().as_secs_f64();
            println!(
                "{pods} pods, {}: {requests} requests, {:.0} virtual s in {wall:.2} s, {:.2} virtual h per s; \
                 TTFT p90 {:.0} ms, hits {:.2}",
                scenario.name(),
                end,
                end / 3600.0 / wall,
                report.ttft_p90_ms,
                report.prefix_hit_share
            );
        }
    }
}
