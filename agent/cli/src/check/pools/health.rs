//! What agents have seen of the pods that are Ready: a probe may succeed where requests fail.

use std::collections::BTreeMap;

use forebay_resources::{InferencePool, ObjectKey};
use forebay_telemetry::v1::{Endpoint, KernelLoad};

use super::{
    super::{
        advice::{Advice, quote},
        finding::{Finding, Object},
        installation::Installation,
    },
    Checked,
};

/// Maximum pods in a message.
const MAX_SHOWN: usize = 3;
/// Minimum responses with status 4xx, and none with 2xx, that are reported: a few may be the client's fault.
const MIN_CLIENT_ERRORS: u64 = 10;

/// What is known of the pool's endpoints.
#[derive(Default)]
struct Seen<'a> {
    /// Pods by the reason why their metrics cannot be scraped.
    unscraped: BTreeMap<&'a str, Vec<&'a ObjectKey>>,
    scraped: usize,
    responding: usize,
    failing: Vec<(&'a ObjectKey, &'a KernelLoad)>,
    unreported: usize,
}

pub(super) fn check<'a>(
    installation: &'a Installation,
    key: &ObjectKey,
    pool: &InferencePool,
    ready: &[&'a ObjectKey],
) -> Checked {
    let mut seen = Seen::default();
    for pod in ready {
        for port in &pool.spec.target_ports {
            let endpoint = installation.endpoints.get(&((*pod).clone(), port.number.get()));
            seen.add(pod, endpoint);
        }
    }
    let mut findings: Vec<Finding> =
        seen.unscraped.iter().map(|(why, pods)| unscraped(key, why, pods)).collect();
    findings.extend(seen.failing.iter().map(|(pod, load)| failing(pod, load)));
    Checked { findings, summary: (!ready.is_empty()).then(|| seen.summary()) }
}

impl<'a> Seen<'a> {
    fn add(&mut self, pod: &'a ObjectKey, endpoint: Option<&'a Endpoint>) {
        let Some(endpoint) = endpoint else {
            self.unreported += 1;
            return;
        };
        match &endpoint.engine_off {
            Some(why) => self.unscraped.entry(why).or_default().push(pod),
            None => self.scraped += usize::from(endpoint.engine.is_some()),
        }
        let Some(load) = &endpoint.kernel else { return };
        if load.responses_2xx > 0 {
            self.responding += 1;
        } else if load.responses_5xx > 0 || load.responses_4xx >= MIN_CLIENT_ERRORS {
            self.failing.push((pod, load));
        }
    }

    /// What is known, and what is not.
    fn summary(&self) -> String {
        let mut parts = vec![
            format!("metrics scraped at {} endpoints", self.scraped),
            format!("successful responses seen at {}", self.responding),
        ];
        if self.unreported > 0 {
            parts.push(format!(
                "{} not reported by an agent: whether they respond is not known",
                self.unreported
            ));
        }
        parts.join(", ")
    }
}

fn unscraped(key: &ObjectKey, why: &str, pods: &[&ObjectKey]) -> Finding {
    let names: Vec<&str> = pods.iter().take(MAX_SHOWN).map(|pod| pod.name.as_str()).collect();
    let more = if pods.len() > MAX_SHOWN { ", …" } else { "" };
    let message = format!(
        "{} of its Ready endpoints cannot be scraped (Pod {}{more}): {why}",
        pods.len(),
        names.join(", ")
    );
    let fix = "check that spec.targetPorts is the port of the model server, and that it serves /metrics there without \
        authentication; until then pickers do not see its queue and cache";
    Finding::warning(Object::new("InferencePool", key), message, fix)
}

fn failing(pod: &ObjectKey, load: &KernelLoad) -> Finding {
    let message = format!(
        "is Ready and responds with errors only: of its responses to POST requests, as far as its agent has seen, 0 have \
         status 2xx, {} 4xx, {} 5xx",
        load.responses_4xx, load.responses_5xx
    );
    let (namespace, name) = (quote(&pod.namespace), quote(&pod.name));
    let fix = Advice::Command(format!("kubectl logs -n {namespace} {name} --all-containers --tail=50"));
    Finding::warning(Object::new("Pod", pod), message, fix)
}
