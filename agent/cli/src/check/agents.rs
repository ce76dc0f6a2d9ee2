//! The agents: one on every node that has pods of a pool, and what they say.

use std::collections::{BTreeMap, BTreeSet};

use forebay_resources::{Kind, Pod, takes_requests};

use super::{
    class::INSTALL,
    finding::{Finding, Place, or_ok},
    installation::{AgentAnswer, Installation},
};

pub(super) fn check(installation: &Installation) -> Vec<Finding> {
    let mut findings = pods(installation);
    match &installation.agents {
        None => {}
        Some(Err(why)) => findings.push(Finding::not_checked(
            Place::all("Agents"),
            format!("whether they answer: {why}"),
            "`forebay nodes` asks them alone; --agents ADDRESS:PORT goes another way",
        )),
        Some(Ok(answers)) => {
            findings.extend(or_ok(answers.iter().filter_map(judge).collect(), || {
                let what = format!("{} answer, and count in the kernel", answers.len());
                Finding::ok(Place::all("Agents"), what)
            }));
        }
    }
    findings
}

fn pods(installation: &Installation) -> Vec<Finding> {
    // Of a folder, somebody else knows where its pods run.
    if !installation.is_cluster() || !installation.knows(Kind::Pod, None) {
        return Vec::new();
    }
    let selector = &installation.agent_selector;
    let agents: Vec<_> = installation.agent_pods().collect();
    if agents.is_empty() {
        let what =
            format!("no Pod has the label {selector}: pods are picked by what pickers know themselves");
        return vec![Finding::warning(Place::all("Agents"), what, INSTALL)];
    }
    let covered: BTreeSet<&str> = agents.iter().filter_map(|(_, pod)| node(pod)).collect();
    let mut findings = Vec::new();
    for (node, count) in nodes_of_pools(installation) {
        if !covered.contains(node) {
            let what = format!("runs {count} pods of InferencePools and no agent ({selector})");
            let fix = format!(
                "let the agents' DaemonSet run there (--set agent.nodeSelector, agent.tolerations): kubectl describe daemonset -A -l {selector}"
            );
            findings.push(Finding::error(Place::named("Node", node), what, fix));
        }
    }
    for (key, pod) in agents.iter().filter(|(_, pod)| !takes_requests(pod)) {
        let what = format!("the agent of node {} is not Ready", node(pod).unwrap_or("?"));
        let fix =
            format!("kubectl describe pod -n {0} {1}; kubectl logs -n {0} {1}", key.namespace, key.name);
        findings.push(Finding::error(Place::new("Pod", key), what, fix));
    }
    or_ok(findings, || {
        let what = format!("{} Ready, on every node that has pods of an InferencePool", agents.len());
        Finding::ok(Place::all("Agents"), what)
    })
}

fn nodes_of_pools(installation: &Installation) -> BTreeMap<&str, usize> {
    let mut nodes = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for pool in installation.snapshot.inference_pools.keys() {
        for (key, pod) in installation.pool_pods(pool) {
            if let Some(node) = node(pod)
                && seen.insert(key)
            {
                *nodes.entry(node).or_default() += 1;
            }
        }
    }
    nodes
}

fn node(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}

fn judge(answer: &AgentAnswer) -> Option<Finding> {
    let place = Place::named("Agent", &answer.name);
    if let Some(problem) = &answer.problem {
        let what = format!("does not answer: {problem}");
        return Some(Finding::error(
            place,
            what,
            "look into its log; with TLS, give --tls-cert, --tls-key and --tls-ca",
        ));
    }
    let reason = answer.kernel_off.as_ref()?;
    let what = format!("does not count in the kernel: {reason}");
    Some(Finding::warning(place, what, "mend what the reason names; until then it only scrapes"))
}
