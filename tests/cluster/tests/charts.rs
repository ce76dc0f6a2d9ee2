//! The charts, as helm renders them: what each program may do in a cluster, and the switches for clusters
//! that are not like the one that the other tests run in.

use std::collections::{BTreeMap, BTreeSet};

use forebay_agent::{
    node::{OWNER_RULES, RULES},
    resources::cluster::Rule,
};
use forebay_cluster_tests::charts::helm;
use forebay_epp::{AGENT_RULES, POOL_RULES};
use forebay_gateway::{READ_RULES, STATUS_RULES, WRITE_RULES};
use serde_json::Value;

const SYSTEM: &str = "forebay-system";
const MODELS: &str = "llm-d";

/// What may be done, as `verb resource.group [name]`, by namespace; an empty one is the whole cluster.
type Rights = BTreeMap<String, BTreeSet<String>>;

fn right(verb: &str, resource: &str, group: &str, name: Option<&str>) -> String {
    let dot = if group.is_empty() { "" } else { "." };
    let name = name.map_or_else(String::new, |name| format!(" {name}"));
    format!("{verb} {resource}{dot}{group}{name}")
}

/// What the constants say, which the tests on an API server alone run with; of nothing but `name` if there is one.
fn of_rules<'a>(rules: impl IntoIterator<Item = &'a Rule>, name: Option<&str>) -> BTreeSet<String> {
    let mut rights = BTreeSet::new();
    for rule in rules {
        for (group, resource) in
            rule.api_groups.iter().flat_map(|group| rule.resources.iter().map(move |it| (group, it)))
        {
            rights.extend(rule.verbs.iter().map(|verb| right(verb, resource, group, name)));
        }
    }
    rights
}

fn texts(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str)
}

/// What the chart grants each service account, by its name.
fn granted(objects: &[Value]) -> BTreeMap<String, Rights> {
    let mut accounts: BTreeMap<String, Rights> = BTreeMap::new();
    for binding in objects.iter().filter(|it| it["kind"].as_str().is_some_and(|it| it.ends_with("Binding"))) {
        let namespace = binding["metadata"]["namespace"].as_str().unwrap_or_default();
        let reference = &binding["roleRef"];
        let role = objects.iter().find(|it| {
            it["kind"] == reference["kind"]
                && it["metadata"]["name"] == reference["name"]
                && it["metadata"]["namespace"].as_str().unwrap_or_default() == namespace
        });
        let role = role.unwrap_or_else(|| panic!("no role for {binding}"));
        let mut rights = BTreeSet::new();
        for rule in role["rules"].as_array().into_iter().flatten() {
            let names: Vec<Option<&str>> = match &rule["resourceNames"] {
                Value::Null => vec![None],
                names => texts(names).map(Some).collect(),
            };
            for group in texts(&rule["apiGroups"]) {
                for resource in texts(&rule["resources"]) {
                    for verb in texts(&rule["verbs"]) {
                        rights.extend(names.iter().map(|name| right(verb, resource, group, *name)));
                    }
                }
            }
        }
        for subject in binding["subjects"].as_array().into_iter().flatten() {
            assert_eq!(subject["kind"], "ServiceAccount", "{binding}");
            let account = subject["name"].as_str().unwrap_or_default().to_owned();
            accounts
                .entry(account)
                .or_default()
                .entry(namespace.to_owned())
                .or_default()
                .extend(rights.clone());
        }
    }
    accounts
}

fn rights<const N: usize>(by_namespace: [(&str, BTreeSet<String>); N]) -> Rights {
    by_namespace.map(|(namespace, rights)| (namespace.to_owned(), rights)).into()
}

#[test]
fn every_program_may_do_what_its_code_does_and_no_more() {
    let Some(helm) = helm() else { return };
    let gateway = rights([
        ("", of_rules(READ_RULES.iter().chain(STATUS_RULES), None)),
        (SYSTEM, of_rules(WRITE_RULES, None)),
    ]);
    let agent = rights([("", of_rules(RULES, None)), (SYSTEM, of_rules(OWNER_RULES, Some("forebay-agent")))]);
    let expected = BTreeMap::from([
        ("forebay-agent".to_owned(), agent.clone()),
        ("forebay-gateway".to_owned(), gateway.clone()),
    ]);
    assert_eq!(granted(&helm.render("forebay", SYSTEM, &[])), expected);
    assert_eq!(
        granted(&helm.render("forebay", SYSTEM, &["gateway.enabled=false"])),
        BTreeMap::from([("forebay-agent".to_owned(), agent)])
    );
    let picker = rights([(MODELS, of_rules(POOL_RULES, None)), (SYSTEM, of_rules(AGENT_RULES, None))]);
    let pool = ["inferencePool.modelServers.matchLabels.app=a"];
    assert_eq!(
        granted(&helm.render("inferencepool", MODELS, &pool)),
        BTreeMap::from([("inferencepool-epp".to_owned(), picker)])
    );

    // Secrets are the gateway's as far as it is told.
    let of_secrets = |right: &String| right.ends_with(" secrets");
    let without = |rights: &BTreeSet<String>| -> BTreeSet<String> {
        rights.iter().filter(|right| !of_secrets(right)).cloned().collect()
    };
    let secrets = || gateway[""].iter().filter(|right| of_secrets(right)).cloned();
    let own_only = rights([
        ("", without(&gateway[""])),
        (SYSTEM, gateway[SYSTEM].iter().cloned().chain(secrets()).collect()),
    ]);
    let none = rights([("", without(&gateway[""])), (SYSTEM, gateway[SYSTEM].clone())]);
    for (switch, expected) in [("namespace", own_only), ("none", none)] {
        let objects =
            helm.render("forebay", SYSTEM, &["agent.enabled=false", &format!("gateway.tlsSecrets={switch}")]);
        assert_eq!(granted(&objects)["forebay-gateway"], expected, "gateway.tlsSecrets={switch}");
    }
}
