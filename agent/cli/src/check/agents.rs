//! Agents: one on every node with pods of a pool, reachable, and counting in the kernel.

use std::collections::{BTreeMap, BTreeSet};

use forebay_resources::{Kind, Pod, takes_requests};

use super::{
    advice::{Advice, quote},
    class::install,
    finding::{Finding, Object, or_ok},
    installation::{AgentState, Installation},
};

pub(super) fn check(installation: &Installation) -> Vec<Finding> {
    let mut findings = pods(installation);
    match &installation.agents {
        None => {}
        Some(Err(why)) => findings.push(Finding::not_checked(
            Object::all("Agents"),
            format!("reachability: {why}"),
            "run `forebay nodes`, or name the agents with --agents ADDRESS:PORT",
        )),
        Some(Ok(states)) if states.is_empty() => {}
        Some(Ok(states)) => {
            findings.extend(or_ok(states.iter().filter_map(check_agent).collect(), || {
                let message = format!("{} reachable, counting in the kernel", states.len());
                Finding::ok(Object::all("Agents"), message)
            }));
        }
    }
    findings
}

fn pods(installation: &Installation) -> Vec<Finding> {
    // A folder does not say where its pods run.
    if !installation.is_cluster() || !installation.knows(Kind::Pod, None) {
        return Vec::new();
    }
    let selector = &installation.agent_selector;
    let agents: Vec<_> = installation.agent_pods().collect();
    if agents.is_empty() {
        let message =
            format!("no Pod has the label {selector}: pickers use engine metrics and their own picks only");
        return vec![Finding::warning(Object::all("Agents"), message, install(installation))];
    }
    let covered: BTreeSet<&str> = agents.iter().filter_map(|(_, pod)| node(pod)).collect();
    let mut findings = Vec::new();
    for (node, count) in nodes_of_pools(installation) {
        if !covered.contains(node) {
            let message = format!("runs {count} pods of InferencePools and no agent ({selector})");
            let fix = format!(
                "let the agents' DaemonSet run there (chart values agent.nodeSelector, agent.tolerations): kubectl describe daemonset -A -l {selector}"
            );
            findings.push(Finding::error(Object::named("Node", node), message, fix));
        }
    }
    for (key, pod) in agents.iter().filter(|(_, pod)| !takes_requests(pod)) {
        let message = format!("the agent of node {} is not Ready", node(pod).unwrap_or("?"));
        let (namespace, name) = (quote(&key.namespace), quote(&key.name));
        let fix = Advice::Command(format!(
            "kubectl describe pod -n {namespace} {name}; kubectl logs -n {namespace} {name}"
        ));
        findings.push(Finding::error(Object::new("Pod", key), message, fix));
    }
    // Pods that could not be listed may run on other nodes.
    let pools = installation.snapshot.inference_pools.keys();
    let knows_nodes = installation.knows(Kind::InferencePool, None)
        && pools.into_iter().all(|pool| installation.knows(Kind::Pod, Some(&pool.namespace)));
    or_ok(findings, || {
        let where_they_run =
            if knows_nodes { "on every node with pods of an InferencePool" } else { "where they run" };
        Finding::ok(Object::all("Agents"), format!("{} Ready, {where_they_run}", agents.len()))
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

fn check_agent(state: &AgentState) -> Option<Finding> {
    let object = Object::named("Agent", &state.name);
    if let Some(problem) = &state.problem {
        let message = format!("is not reachable: {problem}");
        return Some(Finding::error(
            object,
            message,
            "read its log; with TLS, set --tls-cert, --tls-key and --tls-ca",
        ));
    }
    let reason = state.kernel_off.as_ref()?;
    let message = format!("does not count in the kernel: {reason}");
    Some(Finding::warning(object, message, "fix the cause; until then it only scrapes engine metrics"))
}
