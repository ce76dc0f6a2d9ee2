//! The policies that are compared: configurations of the picker.

use std::sync::Arc;

use forebay_epp::{
    config::{Config, Error, Options, Policy as Named},
    schedule::Pipeline,
};
use forebay_routing_sim::EngineSpec;

/// A name and what decides.
pub struct Policy {
    pub name: &'static str,
    document: &'static str,
    pub pipeline: Arc<Pipeline>,
}

impl Policy {
    fn new(name: &'static str, document: &'static str, engine: &EngineSpec) -> Result<Self, Error> {
        let config = Config::parse(&calibrated(document, engine, 1.0), Options::default())?;
        Ok(Self { name, document, pipeline: Arc::new(config.pipeline) })
    }

    /// The configuration with which a picker process has this policy, on engines with `speed` times the speed of `engine`.
    pub fn document(&self, engine: &EngineSpec, speed: f64) -> String {
        calibrated(self.document, engine, speed)
    }
}

/// The document with the calibration that llm-d asks for: the throughput by one prefill chunk, timed on an idle pod.
fn calibrated(document: &str, engine: &EngineSpec, speed: f64) -> String {
    let chunk = engine.max_num_batched_tokens;
    let throughput = f64::from(chunk) / (engine.step_ns(chunk, 0, 0) / 1e9);
    let value = |field: &str, value: &str| match field.trim() {
        "peakPrefillThroughput" => Some(throughput * speed),
        "maxTTFTPenaltyMs" => Some(value.trim().parse::<f64>().ok()? / speed),
        _ => None,
    };
    let lines = document.lines().map(|line| {
        let calibrated = line.split_once(':').and_then(|(field, old)| Some((field, value(field, old)?)));
        calibrated.map_or_else(|| line.to_owned(), |(field, value)| format!("{field}: {value:.0}"))
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The policy that is compared with the others.
pub const FOREBAY: &str = "forebay";

/// The fewest requests of all clients, as the kernel counts them.
const LEAST_REQUEST_OF_ALL: &str = "apiVersion: llm-d.ai/v1
kind: EndpointPickerConfig
plugins:
  - type: active-request-scorer
    parameters: {ofAllClients: true}
  - type: max-score-picker
schedulingProfiles:
  - name: default
    plugins:
      - pluginRef: active-request-scorer
      - pluginRef: max-score-picker
";

/// All policies. Those that need a calibration get the one of `engine`.
///
/// # Errors
///
/// None: a test builds each.
pub fn all(engine: &EngineSpec) -> Result<Vec<Policy>, Error> {
    let policies = [
        (FOREBAY, Named::Forebay.document()),
        ("round robin", Named::RoundRobin.document()),
        ("random", Named::Random.document()),
        ("least request", Named::LeastRequest.document()),
        ("least request (kernel)", LEAST_REQUEST_OF_ALL),
        ("llm-d blend", Named::LlmDDefault.document()),
        ("llm-d sticky", Named::LlmDSticky.document()),
        ("LMetric", Named::LMetric.document()),
        ("Dynamo", Named::Dynamo.document()),
        ("Dynamo agentic", Named::DynamoAgentic.document()),
    ];
    policies.into_iter().map(|(name, document)| Policy::new(name, document, engine)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_configurations_with_the_speed_of_the_engines() {
        let engine = EngineSpec::qwen3_32b_2xh100();
        let mut documents = 0;
        for policy in all(&engine).unwrap() {
            let document = policy.document(&engine, 8.0);
            documents += 1;
            Config::parse(&document, Options::default())
                .unwrap_or_else(|error| panic!("{}: {error}", policy.name));
            if policy.name == "llm-d sticky" {
                assert!(document.contains("peakPrefillThroughput: 127424\n"), "{document}");
                assert!(document.contains("maxTTFTPenaltyMs: 2250\n"), "{document}");
            }
        }
        assert_eq!(documents, 10, "all policies");
    }
}
